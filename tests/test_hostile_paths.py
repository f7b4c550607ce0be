"""Paths that are not what they are called: predict.py says one line about each, and the rest finish."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from raw_cases import KITS, hounsfield, save
from tiny_checkpoints import folder, labels_of, predict, record, thresholds, voxels

from datasets.files import alone_in

__all__ = ["folder", "thresholds"]  # fixtures


def link_in_a_circle(path):
    path.symlink_to(path.name)


ODD = {
    "a folder": (lambda path: path.mkdir(), "holds no DICOM file"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "is a link to nowhere, which is not there"),
    "a link in a circle": (link_in_a_circle, "Too many levels of symbolic links"),
    "a named pipe": (os.mkfifo, "is not a file"),  # to open it would wait for ever
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is not a file"),
}


@pytest.mark.parametrize("listed", [False, True], ids=["in a folder", "in a list"])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_named_as_a_volume_and_is_none_is_told(folder, tmp_path, thresholds, capsys, kind, listed):
    make, said = ODD[kind]
    make(folder / "d.nii.gz")
    (tmp_path / "cases.csv").write_text("case,image\na,in/a.nii.gz\nd,in/d.nii.gz\n")
    assert predict(thresholds, tmp_path / "cases.csv" if listed else folder, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "d.nii.gz: " in line and said in line and "report this" not in line
    assert sorted(record(tmp_path / "out")) == (["a"] if listed else ["a", "b", "c"])


@pytest.mark.parametrize("kind", ODD)
def test_it_is_told_where_it_is_the_whole_input(tmp_path, thresholds, capsys, kind):
    ODD[kind][0](tmp_path / "d.nii.gz")
    assert predict(thresholds, tmp_path / "d.nii.gz", tmp_path / "out") in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "d.nii.gz" in line
    assert not list(tmp_path.glob("out/*"))


def test_an_output_that_is_a_link_in_a_circle_is_told(folder, tmp_path, thresholds, capsys):
    link_in_a_circle(tmp_path / "out")
    assert predict(thresholds, folder, tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/out: " in line


def test_a_subfolder_that_cannot_be_looked_into_is_told(folder, tmp_path, thresholds, capsys, monkeypatch):
    (folder / "closed").mkdir()
    listed = os.scandir

    def closed(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("datasets.scan.os.scandir", closed)  # root may look into every folder
    assert predict(thresholds, folder, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{folder}/closed: cannot be read (Permission denied)")
    assert sorted(record(tmp_path / "out")) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["Fälle ☃ 文.nii.gz", "two  spaces, a comma.nii.gz", "--x.nii.gz", "c\udcff.nii.gz"])
def test_any_name_is_kept(tmp_path, thresholds, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(nibabel.Nifti1Image(hounsfield(0), KITS).to_bytes())
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 0
    (result,) = (tmp_path / "out").glob("*.nii.gz")
    assert result.name == name
    assert list(record(tmp_path / "out")) == [name.removesuffix(".nii.gz")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,in/a\0.nii.gz", "is not a path"),
        ('"a\nb",in/a.nii.gz', "is not a file name"),
        (".a,x", "is not a file name"),
    ],
)
def test_a_list_with_paths_that_cannot_be_is_refused(folder, tmp_path, thresholds, capsys, row, said):
    (tmp_path / "cases.csv").write_text(f"case,image\n{row}\n")
    assert predict(thresholds, tmp_path / "cases.csv", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "line 2" in line and said in line


def test_two_processes_do_not_write_to_one_folder(folder, tmp_path, thresholds, capsys):
    with alone_in(tmp_path / "out"):
        assert predict(thresholds, folder, tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "another command" in line and not list(tmp_path.glob("out/*"))
    assert predict(thresholds, folder, tmp_path / "out") == 0


def test_a_link_to_a_volume_is_that_volume(folder, tmp_path, thresholds):
    (tmp_path / "links").mkdir()
    (tmp_path / "links/x.nii.gz").symlink_to(folder / "a.nii.gz")
    assert predict(thresholds, tmp_path / "links", tmp_path / "out") == 0
    assert np.array_equal(voxels(tmp_path / "out/x.nii.gz"), labels_of(hounsfield(0) // 4))


def test_an_output_that_links_to_its_input_is_refused(folder, tmp_path, thresholds, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.nii.gz").symlink_to(folder / "a.nii.gz")
    before = (folder / "a.nii.gz").read_bytes()
    assert predict(thresholds, folder, tmp_path / "out", "--overwrite") == 2
    assert "is an input" in capsys.readouterr().err
    assert (folder / "a.nii.gz").read_bytes() == before


def test_a_folder_that_holds_itself_is_looked_into_once(tmp_path, thresholds):
    save(tmp_path / "in/a.nii.gz", hounsfield(0))
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 0
    assert list(record(tmp_path / "out")) == ["a"]
