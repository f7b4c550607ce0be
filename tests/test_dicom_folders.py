"""DICOM as it lies in folders: which files are one series, what is left beside it, and what may be cut short."""

import os
import shutil

import numpy as np
import pytest
from test_dicom import COUNT, ROWS, hounsfield, write_series, write_slice
from tiny_checkpoints import labels_of, predict, record, thresholds, voxels

from datasets.volumes.dicom_tags import INSTANCE, MODALITY, read_tags

__all__ = ["thresholds"]  # a fixture
CT = "1.2.840.10008.5.1.4.1.1.2"
ENDS = [0, (COUNT - 1) * 3 % 11]  # the names of the first and the last slice


def without_prefix(file):
    file.write_bytes(file.read_bytes()[132:])


def explicit(group, element, vr, value):
    data = value.encode() + b" " * (len(value) % 2)
    start = group.to_bytes(2, "little") + element.to_bytes(2, "little") + vr
    return (
        start + (bytes(2) + len(data).to_bytes(4, "little") if vr == b"SQ" else len(data).to_bytes(2, "little")) + data
    )


def other_object(file, sop_class, modality, series="1.2.3.4.5"):
    """A DICOM file without an image, as a structure set or a report is."""
    rows = [(8, 0x16, b"UI", sop_class), (8, 0x60, b"CS", modality), (0x20, 0xE, b"UI", series)]
    body = b"".join(explicit(*row) for row in [(2, 0x10, b"UI", "1.2.840.10008.1.2.1"), *rows])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(128) + b"DICM" + body)


def labels(out, name):
    return voxels(out / f"{name}.nii.gz").T


def test_series_in_deeper_folders_are_cases_named_by_their_way(tmp_path, thresholds):
    for number, way in enumerate(("p1", "p2/CT_abdomen", "p3/study/series", "p1/second")):
        write_series(tmp_path / "in" / way, tags={"0020|000e": f"1.2.{number}"})
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 0
    assert sorted(record(tmp_path / "out")) == ["p1", "p1_second", "p2_CT_abdomen", "p3_study_series"]
    assert all(
        np.array_equal(labels(tmp_path / "out", name), labels_of(hounsfield())) for name in ("p1", "p2_CT_abdomen")
    )


def test_a_series_spread_over_folders_is_one_and_its_copies_are_not(tmp_path, thresholds):
    whole = write_series(tmp_path / "in/whole")
    shutil.copytree(whole, tmp_path / "in/copy")
    for number, file in enumerate(sorted(write_series(tmp_path / "in/spread", tags={"0020|000e": "1.2.9"}).iterdir())):
        (file.parent / str(number // 2)).mkdir(exist_ok=True)
        file.rename(file.parent / str(number // 2) / file.name)
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 0
    assert sorted(record(tmp_path / "out")) == ["copy", "spread", "whole"]
    assert np.array_equal(labels(tmp_path / "out", "spread"), labels_of(hounsfield()))
    stored = record(tmp_path / "out")["spread"]["source"]
    assert (stored["file"], stored["files"]) == ("spread", COUNT)
    os.utime(tmp_path / "in/spread/0/0.dcm")
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 1  # another image than the one predicted


def test_several_series_of_one_folder_are_told_apart_by_their_numbers(tmp_path, thresholds):
    for number in (4, 7):
        folder = write_series(tmp_path / f"{number}", tags={"0020|000e": f"1.2.{number}", "0020|0011": f"{number}"})
        for file in folder.iterdir():
            (tmp_path / "in/ct").mkdir(parents=True, exist_ok=True)
            file.rename(tmp_path / "in/ct" / f"{number}-{file.name}")
    tags = {"0020|000e": "1.2.8", "0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}
    write_slice(tmp_path / "in/ct/scout.dcm", np.zeros((ROWS, 8)), (0, 0, 0), ((1, 0, 0), (0, 0, -1)), tags=tags)
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 0
    assert sorted(record(tmp_path / "out")) == ["ct_4", "ct_7"]
    (note,) = record(tmp_path / "out")["ct_4"]["notes"]
    assert note == "left out, not slices of the series: scout.dcm (localizer)"


def test_files_without_prefix_are_slices_also_at_the_ends(tmp_path, thresholds):
    folder = write_series(tmp_path / "series")
    for name in ENDS:
        without_prefix(folder / f"{name}.dcm")
    assert predict(thresholds, folder, tmp_path / "out") == 0
    assert np.array_equal(labels(tmp_path / "out", "series"), labels_of(hounsfield()))


SPOIL = {
    "empty": lambda file: file.write_bytes(b""),
    "a page of an archive that was down": lambda file: file.write_text("<html>503 Service Unavailable</html>"),
    "cut in its tags": lambda file: file.write_bytes(file.read_bytes()[:300]),
    "cut in its prefix": lambda file: file.write_bytes(file.read_bytes()[:100]),
    "not fetched": lambda file: (file.unlink(), file.symlink_to("../annex/5.dcm")),
    "half downloaded": lambda file: file.write_bytes(file.read_bytes()[:90]) and file.rename(f"{file}.part"),
    "half copied": lambda file: (
        file.write_bytes(file.read_bytes()[:90]) and file.rename(f"{file.parent}/.{file.name}.x1")
    ),
    "packed": lambda file: (file.write_bytes(b"\x1f\x8b" + bytes(90)), file.rename(f"{file}.gz")),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
}


@pytest.mark.parametrize("bare", [False, True], ids=["named .dcm", "without ending"])
@pytest.mark.parametrize("kind", SPOIL)
def test_a_series_with_an_end_that_cannot_be_read_is_refused(tmp_path, thresholds, capsys, kind, bare):
    folder = write_series(tmp_path / "in/bad")
    if bare:
        for file in folder.iterdir():
            file.rename(folder / f"IM{file.stem}")
    SPOIL[kind](folder / (f"IM{ENDS[1]}" if bare else f"{ENDS[1]}.dcm"))
    write_series(tmp_path / "in/good", tags={"0020|000e": "1.2.9"})
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{folder}/") and "it may be a slice: " in line
    assert sorted(record(tmp_path / "out")) == ["good"]


def test_what_cannot_be_a_slice_is_left(tmp_path, thresholds):
    folder = write_series(tmp_path / "series")
    for name in ("README", "viewer.exe", "Thumbs.db", "0.dcm~", "._0.dcm", "0.jpg", "series.json"):
        (folder / name).write_bytes(b"MZ\0\1")
    assert predict(thresholds, folder, tmp_path / "out") == 0
    (note,) = record(tmp_path / "out")["series"]["notes"]
    assert note.endswith("0.dcm~, 0.jpg, README, Thumbs.db and 2 more")


@pytest.mark.parametrize(("closed", "predicted"), [("two/more", ["one"]), ("three", ["one", "two"])])
def test_a_closed_folder_makes_the_series_around_it_doubtful(
    tmp_path, thresholds, capsys, monkeypatch, closed, predicted
):
    for number, name in enumerate(("one", "two")):
        write_series(tmp_path / "in" / name, tags={"0020|000e": f"1.2.{number}"})
    (tmp_path / "in" / closed).mkdir()
    listed = os.scandir

    def refuse(path):
        if path == tmp_path / "in" / closed:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("datasets.scan.os.scandir", refuse)  # root may look into every folder
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}/in/{closed}: cannot be read (Permission denied)")
    assert sorted(record(tmp_path / "out")) == predicted


@pytest.mark.parametrize("series", ["1.2.3.4.5", "1.2.77"])
@pytest.mark.parametrize(
    ("sop_class", "modality", "kind"),
    [
        (f"{CT[:-2]}.481.3", "RTSTRUCT", "RTSTRUCT"),
        (f"{CT[:-2]}.481.2", "RTDOSE", "RTDOSE"),
        (f"{CT[:-2]}.88.67", "SR", "SR"),
        (f"{CT[:-2]}.11.1", "PR", "presentation state"),
        (f"{CT[:-2]}.66.4", "SEG", "SEG"),
        (f"{CT[:-2]}.104.1", "DOC", "encapsulated document"),
        ("1.3.12.2.1107.5.9.1", "CT", "SOP class 1.3.12.2.1107.5.9.1"),
    ],
)
def test_objects_beside_a_series_are_named_and_left(tmp_path, thresholds, capsys, sop_class, modality, kind, series):
    folder = write_series(tmp_path / "series")
    other_object(folder / "RS.0001.dcm", sop_class, modality, series)
    assert predict(thresholds, folder, tmp_path / "out") == 0
    assert record(tmp_path / "out")["series"]["notes"] == [f"left out, not slices of the series: RS.0001.dcm ({kind})"]
    assert f"1 by kind {kind} (RS.0001.dcm)" in capsys.readouterr().out
    assert np.array_equal(labels(tmp_path / "out", "series"), labels_of(hounsfield()))


def test_numbers_that_begin_late_are_noted(tmp_path, thresholds):
    for number in range(2, COUNT):
        tags = {"0020|0013": str(number + 1), "0020|1002": str(COUNT)}
        write_slice(tmp_path / f"series/{number}.dcm", hounsfield()[number], (0, 0, 2 * number), tags=tags)
    assert predict(thresholds, tmp_path / "series", tmp_path / "out") == 0
    begins, fewer = record(tmp_path / "out")["series"]["notes"]
    assert "begins at 3" in begins and f"is {COUNT}, 3 slices are here" in fewer


def test_tags_are_read_past_sequences_of_unknown_length(tmp_path):
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + explicit(8, 0x1150, b"UI", "1.2") + b"\xfe\xff\x0d\xe0" + bytes(4)
    sequence = (8).to_bytes(2, "little") + b"\x40\x11SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0" + bytes(4)
    body = explicit(8, 0x16, b"UI", CT) + explicit(8, 0x60, b"CS", "CT") + sequence + explicit(0x20, 0x13, b"IS", "12")
    (tmp_path / "a").write_bytes(body)
    tags = read_tags(tmp_path / "a")
    assert (tags[MODALITY], tags.number(INSTANCE), tags.whole) == ("CT", 12, True)
    (tmp_path / "a").write_bytes(body[: -len(explicit(0x20, 0x13, b"IS", "12")) - 3])
    assert not read_tags(tmp_path / "a").whole
    (tmp_path / "a").write_bytes(b"\x08\0 a text that begins so")
    assert read_tags(tmp_path / "a") is None
