"""What predict.py takes for a volume in folders and lists, under which names, and what it says of the rest."""

import nibabel
import numpy as np
import pytest
from raw_cases import KITS, hounsfield, kits_case, save
from test_dicom import write_series
from tiny_checkpoints import folder, predict, record, thresholds

from utils.prediction.search import find_volumes

__all__ = ["folder", "thresholds"]  # fixtures


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def names(path):
    return [case.name for case in find_volumes(path).cases]


def said(path):
    return [str(finding) for finding in find_volumes(path).findings]


def test_endings_count_in_any_case_and_the_rest_is_told_in_one_line(tmp_path):
    for name in ("A.NII.GZ", "b.Nii", "c.nii.gz", "._c.nii.gz", "notes.txt", "deep/d.nii.gz"):
        touch(tmp_path / name)
    assert names(tmp_path) == ["A", "b", "c"]
    (line,) = find_volumes(tmp_path).passed_over
    assert "1 by hidden name (._c.nii.gz)" in line and "1 by ending (1 .txt)" in line and "1 by place (in a sub" in line


def test_labels_are_passed_over_only_beside_their_images(tmp_path):
    for name in ("a.nii", "a_seg.nii", "b_0000.nii", "b_gt.nii", "c_mask.nii", "volume-3.nii", "segmentation-3.nii"):
        touch(tmp_path / "in" / name)
    assert names(tmp_path / "in") == ["a", "b_0000", "c_mask", "volume-3"]
    (line,) = find_volumes(tmp_path / "in").passed_over
    assert "3 by name (labels of an image beside them)" in line
    assert names(touch(tmp_path / "in/a_seg.nii")) == ["a_seg"]  # asked for by its name


def test_kits_and_lits_are_found_as_they_are_unpacked(tmp_path):
    for name in ("dataset/case_00001", "data/case_00002", "case_00003"):
        touch(tmp_path / "kits" / name / "imaging.nii.gz")
        touch(tmp_path / "kits" / name / "segmentation.nii.gz")
    assert sorted(names(tmp_path / "kits")) == ["case_00001", "case_00002", "case_00003"]
    assert names(tmp_path / "kits/case_00003") == ["case_00003"]
    touch(tmp_path / "kits/dataset/case_00002/imaging.nii")
    assert sorted(names(tmp_path / "kits"))[1:] == ["case_00003", "data_case_00002", "dataset_case_00002"]
    touch(tmp_path / "lits/Batch 1/volume-0.nii")
    touch(tmp_path / "lits/Batch 1/segmentation-0.nii")
    assert names(tmp_path / "lits") == ["volume-0"]


def test_two_cases_of_one_name_and_place_are_refused(tmp_path):
    files = [touch(tmp_path / "a.nii"), touch(tmp_path / "a.nii.gz")]
    with pytest.raises(ValueError, match=r"a\.nii\.gz and .*a\.nii are both a: rename or remove one"):
        find_volumes(tmp_path)
    assert names(files[0]) == ["a"]


def test_the_channels_of_a_case_are_not_cases(tmp_path):
    for case in ("BRATS_001", "BRATS_002"):
        for channel in range(4):
            touch(tmp_path / f"many/{case}_000{channel}.nii.gz")
            touch(tmp_path / f"imagesTs/one_000{channel}.nii.gz")
            touch(tmp_path / f"numbered/case_000{channel}.nii.gz")
            touch(tmp_path / f"single/{case}_0000.nii.gz")
    (line,) = said(tmp_path / "many")
    assert "is a channel of a case of 4 files, as are the files of 2 cases: list the file of the channel" in line
    assert names(tmp_path / "many") == [] == names(tmp_path / "imagesTs")
    assert names(tmp_path / "numbered") == [f"case_000{number}" for number in range(4)]
    assert names(tmp_path / "single") == ["BRATS_001_0000", "BRATS_002_0000"]


LISTS = {
    "a byte order mark": "\ufeffcase,image\nfirst,in/a.nii.gz\nsecond,in/b.nii.gz\n".encode(),
    "semicolons, as German Excel writes": b"case;image\r\nfirst;in/a.nii.gz\r\nsecond;in/b.nii.gz\r\n",
    "Unicode text of Excel": "case\timage\nfirst\tin/a.nii.gz\nsecond\tin/b.nii.gz\n".encode("utf-16"),
    "capitals, spaces, empty rows": b"\nImage , CASE\nin/a.nii.gz, first\n\n,\nin/b.nii.gz ,second\n",
    "backslashes": b"case,image\nfirst,in\\a.nii.gz\nsecond,in\\b.nii.gz\n",
    "quotes and a column more": b'case,age,image\n"first",3,"in/a.nii.gz"\nsecond,4,in/b.nii.gz\n',
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_are_read_as_programs_write_them(folder, tmp_path, kind):
    (tmp_path / "cases.CSV").write_bytes(LISTS[kind])
    cases = find_volumes(tmp_path / "cases.CSV").cases
    assert [(case.name, case.path.name) for case in cases] == [("first", "a.nii.gz"), ("second", "b.nii.gz")]
    assert all(case.path.is_file() for case in cases)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"case,image\na,in/a.nii.gz\n\na,in/b.nii.gz\n", "lines 2 and 4 are both a: give each row its own case"),
        (b"name,file\na,in/a.nii.gz\n", "has the columns name, file: give a CSV with the columns case and image"),
        ("case,image\na,in/Fälle.nii.gz\n".encode("latin-1"), "save the list as CSV UTF-8"),
        (b"", "has the columns of an empty file"),
    ],
)
def test_lists_that_cannot_be_meant_say_why(folder, tmp_path, content, message):
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        find_volumes(tmp_path / "cases.csv")


def test_a_list_goes_on_past_what_is_not_there_and_names_folders_of_one_volume(folder, tmp_path, thresholds, capsys):
    kits_case(tmp_path / "kits", 1)
    write_series(tmp_path / "series")
    (tmp_path / "gone.nii.gz").symlink_to("annex/gone")
    rows = [
        "case,image",
        "k,kits/case_00001",
        "s,series",
        "n,nowhere.nii.gz",
        "g,gone.nii.gz",
        "f,in",
        "d,series/0.dcm",
    ]
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    assert predict(thresholds, tmp_path / "cases.csv", tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    for line, words in zip(
        lines,
        (
            "gone.nii.gz: is a link to annex/gone, which is not there",
            "in: holds 3 volumes (a, b, c): give each of them by itself",
            "series/0.dcm: is one DICOM file: give the folder of its series",
            "nowhere.nii.gz: cannot be opened (No such file or directory)",
        ),
        strict=True,
    ):
        assert words in line
    assert sorted(record(tmp_path / "out")) == ["k", "s"]


def test_predictions_are_not_taken_for_inputs(tmp_path, thresholds, capsys):
    lits = tmp_path / "lits"
    save(lits / "Batch 1/volume-0.nii", hounsfield(0))
    for _ in range(2):
        assert predict(thresholds, lits, lits / "predictions") == 0
    assert list(record(lits / "predictions")) == ["volume-0"]
    assert "1 by place (predictions, beside predictions.json) (volume-0.nii.gz)" in capsys.readouterr().out
    assert predict(thresholds, lits, lits) == 2
    assert "lits: is the input: choose another --output" in capsys.readouterr().err


def test_a_folder_with_nothing_says_what_it_holds(tmp_path, thresholds, capsys):
    touch(tmp_path / "in/a.mha")
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no volume in it (passed over: 1 by ending (1 .mha)): give .nii or .nii.gz files" in line


def test_a_header_that_contradicts_itself_is_noted(tmp_path, thresholds):
    image = nibabel.Nifti1Image(hounsfield(0), KITS)
    image.set_qform(KITS, 1)
    image.set_sform(np.diag([-1, 1, 1, 1]) @ KITS, 2)
    nibabel.save(image, file := tmp_path / "a.nii")
    assert predict(thresholds, file, tmp_path / "out") == 0
    assert "are mirror images of each other: the sform counts" in record(tmp_path / "out")["a"]["notes"][0]
