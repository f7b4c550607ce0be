"""KiTS, LiTS and ACDC folders as people have them: capitals, links, closed folders, files of others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from raw_cases import kits_case, make
from test_files import AS_USER, touch

from datasets.slices.selection import unlabeled_patients
from datasets.slices.store import read_index
from datasets.volumes.layouts import find_cases
from scripts import MakePhantom
from utils.recipe.schema import ROOT


def kits(home: Path, *numbers: int) -> Path:
    for number in numbers:
        for name in ("imaging.nii.gz", "segmentation.nii.gz"):
            touch(home / f"case_{number:05d}" / name)
    return home


def names(raw) -> list[str]:
    return [case.case for case in raw.cases]


def said(raw) -> list[tuple[str, str, bool]]:
    """The findings: the last two parts of the path, what, and whether it is bad."""
    return [("/".join(finding.file.parts[-2:]), finding.what, finding.bad) for finding in raw.findings]


@pytest.mark.parametrize("home", ["", "data", "dataset"])
def test_kits_cases_lie_in_the_folder_or_where_the_repositories_have_them(tmp_path, home):
    kits(tmp_path / home, 0, 7)
    spacing = {"x_spacing": 0.8, "y_spacing": 0.9, "z_spacing": 2.5}
    (tmp_path / home / "kits23.json").write_text(json.dumps([{"case_id": "case_00007", "voxel_spacing": spacing}]))
    touch(tmp_path / "starter_code/get.py")
    raw = find_cases("kits", tmp_path)
    assert names(raw) == ["case_00000", "case_00007"] and raw.findings == []
    assert raw.spacings == {"case_00007": (0.8, 0.9, 2.5)}
    assert raw.passed_over == f"{tmp_path}: passed over: 1 by ending (1 .py)"


def test_kits_cases_in_two_places_are_named_and_a_case_in_both_is_used_once(tmp_path):
    kits(tmp_path / "data", 0, 1)
    kits(tmp_path / "dataset", 1, 2)
    raw = find_cases("kits", tmp_path)
    assert [case.image.parent.relative_to(tmp_path).as_posix() for case in raw.cases] == [
        "data/case_00000",
        "data/case_00001",
        "dataset/case_00002",
    ]
    counts = f"2 in {tmp_path / 'data'}, 2 in {tmp_path / 'dataset'}"
    assert said(raw) == [
        (f"{tmp_path.parent.name}/{tmp_path.name}", f"holds cases in several folders ({counts})", False),
        ("dataset/case_00001", f"duplicate of {tmp_path / 'data/case_00001'}, which is used", True),
    ]


def test_kits_names_in_capitals_count_and_other_files_are_named(tmp_path):
    touch(tmp_path / "Case_00003/Imaging.NII.GZ")
    touch(tmp_path / "Case_00003/segmentation.Nii")
    touch(tmp_path / "Case_00003/._imaging.nii.gz")
    touch(tmp_path / "Case_00003/raw/annotation.nii.gz")
    touch(tmp_path / "Case_00003/imaging.nrrd")
    touch(tmp_path / "._case_00004/imaging.nii.gz")
    touch(tmp_path / "patient_5/imaging.nii.gz")
    touch(tmp_path / "case_00006/image.nii.gz")
    raw = find_cases("kits", tmp_path)
    assert names(raw) == ["case_00003"]
    assert said(raw) == [  # a folder without files, or with others, is a case that lacks both
        ("case_00006/imaging.nii.gz", "missing", True),
        ("case_00006/segmentation.nii.gz", "missing, the case has no label", False),
    ]
    assert raw.passed_over == (
        f"{tmp_path}: passed over: 2 by hidden name (such as ._case_00004), 1 by ending (1 .nrrd), "
        "2 by place (such as Case_00003/raw/annotation.nii.gz), 1 by name (image.nii.gz)"
    )


def test_a_dead_link_is_one_finding_and_the_rest_is_sliced(tmp_path, capsys):
    for number in range(3):
        kits_case(tmp_path / "raw", number)
    absent = tmp_path / "raw/case_00001/imaging.nii.gz"
    absent.unlink()
    absent.symlink_to("../.git/annex/objects/b3b0")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "raw/case_00002").rename(tmp_path / "elsewhere/case_00002")
    (tmp_path / "raw/case_00002").symlink_to(tmp_path / "elsewhere/case_00002")
    touch(tmp_path / "raw/notes.txt")
    assert make(tmp_path / "raw", tmp_path / "out") == 1
    shown = capsys.readouterr()
    (line,) = [line for line in shown.out.splitlines() if "case_00001" in line]
    assert line == (
        f"{absent}: is a link to ../.git/annex/objects/b3b0, which is not there: "
        "fetch its content (git annex get, datalad get), or remove the link"
    )
    assert f"{tmp_path / 'raw'}: passed over: 1 by ending (1 .txt)" in shown.err
    assert {record.case for record in read_index(tmp_path / "out")} == {"case_00000", "case_00002"}


def test_closed_folders_end_neither_a_check_nor_slicing(tmp_path):
    for number in range(2):
        kits_case(tmp_path / "raw", number)
    (tmp_path / "raw/case_00000").chmod(0)
    command = [*(AS_USER if os.geteuid() == 0 else []), sys.executable, "scripts/SliceMaker.py", "--dataset", "kits"]
    command += ["--inpath", str(tmp_path / "raw"), "--outpath", str(tmp_path / "out"), "--jobs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (tmp_path / "raw/case_00000").chmod(0o700)
    assert done.returncode == 1 and done.stderr == ""
    assert f"{tmp_path / 'raw/case_00000'}: cannot be read (Permission denied): ask for" in done.stdout
    assert {record.case for record in read_index(tmp_path / "out")} == {"case_00001"}


def test_lits_is_found_in_both_batches_and_a_number_twice_is_kept_out(tmp_path):
    for name in ("Training_Batch1/{}-0.nii", "Training_Batch2/deep/{}-28.NII.GZ", "a/{}-5.nii"):
        touch(tmp_path / name.format("volume"))
        touch(tmp_path / name.format("Segmentation"))
    touch(tmp_path / "b/volume-05.nii")
    touch(tmp_path / "a/volume-9.nii")
    touch(tmp_path / "test-volume-0.nii")
    raw = find_cases("lits", tmp_path)
    assert names(raw) == ["volume-0", "volume-28"]
    assert said(raw) == [
        ("b/volume-05.nii", f"duplicate of {tmp_path / 'a/volume-5.nii'}", True),
        (f"{tmp_path.name}/segmentation-9.nii", "missing, the case has no label", False),
    ]
    assert raw.passed_over == f"{tmp_path}: passed over: 1 by name (test-volume-0.nii)"


def test_acdc_frames_are_found_in_any_spelling_and_compared_with_info(tmp_path):
    for patient, spelling in ((1, "patient001_frame{}.nii.gz"), (2, "Patient002_Frame{}.NII.GZ")):
        folder = tmp_path / f"training/patient{patient:03d}"
        for frame in ("01", "01_gt", "12", "12_gt"):
            touch(folder / spelling.format(frame))
    touch(tmp_path / "training/patient001/patient001_4d.nii.gz")
    (tmp_path / "training/patient001/INFO.CFG").write_bytes(b"Group: M\xfcller\nED: 1\nES: 13\n")
    touch(tmp_path / "copy/patient002_frame12.nii.gz")
    raw = find_cases("acdc", tmp_path)
    assert [(case.case, case.patient) for case in raw.cases] == [
        ("patient001_frame01", "patient001"),
        ("patient001_frame12", "patient001"),
        ("patient002_frame01", "patient002"),
    ]
    absent = "named in Info.cfg, but patient001_frame13.nii.gz is missing"
    twin = tmp_path / "training/patient002/Patient002_Frame12.NII.GZ"
    assert said(raw) == [
        ("copy/Info.cfg", "missing", False),
        ("patient001/patient001_frame13.nii.gz", absent, True),
        ("patient002/Info.cfg", "missing", False),
        (f"patient002/{twin.name}", f"duplicate of {tmp_path / 'copy/patient002_frame12.nii.gz'}", True),
    ]
    assert raw.passed_over == f"{tmp_path}: passed over: 1 by name (patient001_4d.nii.gz)"


def test_where_nothing_is_found_the_line_names_what_was_passed_over(tmp_path):
    touch(tmp_path / "a/deep/kits/case_00000/imaging.nii.gz")
    wanted = r"no kits case found \(passed over: 1 by place \(imaging.nii.gz\)\): expected case_00000/imaging"
    with pytest.raises(ValueError, match=wanted):
        find_cases("kits", tmp_path)
    with pytest.raises(ValueError, match="is a file: give the folder"):
        find_cases("kits", touch(tmp_path / "file"))
    with pytest.raises(ValueError, match="--channel -1: channels are counted from 0"):
        find_cases("kits", tmp_path, -1)


def test_names_that_are_not_utf8_come_back_from_the_store(tmp_path):
    name = os.fsdecode(b"case_M\xfcnchen")
    kits_case(tmp_path / "raw", 0).rename(tmp_path / "raw" / name)
    assert make(tmp_path / "raw", tmp_path / "out") == 0
    assert make(tmp_path / "raw", tmp_path / "out") == 0  # kept: the record is found again
    assert {record.case for record in read_index(tmp_path / "out")} == {name}
    assert all(record.path.is_file() for record in read_index(tmp_path / "out"))
    assert len(unlabeled_patients([name, "case_00001"], 0.5)) == 1


def test_the_phantom_finds_labels_as_slicing_does(tmp_path, capsys):
    for name in ("data/case_00000/segmentation.NII.GZ", "Case_00001/segmentation.nii"):
        touch(tmp_path / name)
    touch(tmp_path / "case_00002/imaging.nii.gz")
    (tmp_path / "case_00003").mkdir()
    (tmp_path / "case_00003/segmentation.nii.gz").symlink_to("nowhere")
    labels, findings = MakePhantom.find_labels(tmp_path)
    assert [label.relative_to(tmp_path).as_posix() for label in labels] == [
        "data/case_00000/segmentation.NII.GZ",
        "Case_00001/segmentation.nii",
    ]
    assert [finding.bad for finding in findings] == [True, False]
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path}: passed over: 1 by missing label (case_00002)"
    flags = ["--outpath", str(tmp_path / "data"), "--labels", str(tmp_path)]
    assert MakePhantom.main(flags) == 2
    assert "data: lies in the input" in capsys.readouterr().err
