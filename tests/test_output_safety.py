"""What ImportSlices, MakePhantom and SampleISIC write never replaces what somebody else made."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_cases import kits_case

from datasets.files import alone_in
from scripts import ImportSlices, MakePhantom
from scripts.skin import SampleISIC


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def phantom(out: Path, *flags: str) -> int:
    small = ["--cases", "2", "--slices", "4", "--size", "24", "--jobs", "1"]
    return MakePhantom.main(["--outpath", str(out), *small, *map(str, flags)])


def mistake(path: Path, text: str = "mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("number", [0, 7])  # a case that would be replaced, and one that would be mixed with phantoms
def test_a_phantom_is_not_made_in_a_folder_of_real_cases(tmp_path, number, capsys):
    kits_case(tmp_path, number)
    before = contents(tmp_path)
    assert phantom(tmp_path) == 2
    error = capsys.readouterr().err
    assert f"case_0000{number}: carries no record of this program" in error and error.count("\n") == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("kits.json", ()),
        ("case_00000/notes.txt", ()),
        ("volume-1.nii", ("--layout", "lits")),
        ("segmentation-9.nii.gz", ("--layout", "lits")),
    ],
)
def test_a_phantom_replaces_nothing_that_it_did_not_make(tmp_path, name, flags, capsys):
    mistake(tmp_path / name, '[{"case_id": "case_00000"}]')
    before = contents(tmp_path)
    assert phantom(tmp_path, *flags) == 2
    assert "move it away" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("layout", ["kits", "lits"])
def test_a_phantom_may_replace_a_phantom(tmp_path, layout):
    assert phantom(tmp_path, "--layout", layout) == 0
    once = contents(tmp_path)
    assert phantom(tmp_path, "--layout", layout) == 0
    assert contents(tmp_path) == once
    assert phantom(tmp_path, "--layout", layout, "--seed", 1) == 0
    assert contents(tmp_path) != once and contents(tmp_path).keys() == once.keys()


@pytest.mark.parametrize("out", ["labels", "labels/out", "."])
def test_a_phantom_is_not_made_in_or_around_its_labels(tmp_path, out, capsys):
    assert phantom(tmp_path / "labels") == 0
    before = contents(tmp_path)
    assert MakePhantom.main(["--labels", str(tmp_path / "labels"), "--outpath", str(tmp_path / out)]) == 2
    assert "choose a folder apart from it" in capsys.readouterr().err
    assert contents(tmp_path) == before


def imported(folder: Path, out: str = "store") -> int:
    return ImportSlices.main(["--inpath", str(folder / "raw"), "--outpath", str(folder / out), "--labels", "liver"])


@pytest.fixture
def slices(tmp_path) -> Path:
    for case in range(3):
        for kind in ("images", "masks"):
            (tmp_path / "raw" / kind).mkdir(parents=True, exist_ok=True)
            array = np.full((8, 8), 20 * case + 1, np.uint8)
            Image.fromarray(array).save(tmp_path / f"raw/{kind}/p{case}_0.png")
    return tmp_path


def test_an_import_removes_only_what_a_stopped_import_left(slices, monkeypatch, capsys):
    theirs = mistake(slices / ".store.partial/notes.txt")
    assert imported(slices) == 2
    assert ".store.partial: carries no record of this program: move it away" in capsys.readouterr().err
    assert theirs.read_text() == "mine" and not (slices / "store").exists()
    theirs.unlink()
    monkeypatch.setattr("scripts.ImportSlices.write_catalog", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert imported(slices) == 130
    monkeypatch.undo()
    mistake(slices / ".store.partial/p0/notes.txt")
    assert imported(slices) == 2
    assert "notes.txt: was not made by this program" in capsys.readouterr().err
    (slices / ".store.partial/p0/notes.txt").unlink()
    assert imported(slices) == 0
    assert imported(slices, "again") == 0
    assert contents(slices / "store") == contents(slices / "again")
    assert sorted(path.name for path in slices.iterdir()) == ["again", "raw", "store"]


def test_an_import_goes_neither_into_its_input_nor_beside_another_import(slices, capsys):
    before = contents(slices)
    assert imported(slices, "raw/store") == 2
    assert "lies in the input" in capsys.readouterr().err
    with alone_in(slices / ".store.partial"):
        assert imported(slices) == 2
    assert "another command is writing to it" in capsys.readouterr().err
    assert contents(slices) == before


def test_an_index_replaces_only_an_index(tmp_path, capsys):
    theirs = mistake(tmp_path / "train-metadata.csv", "isic_id,patient_id,target,age\n")
    assert SampleISIC.main(["--root", str(tmp_path), "--out", str(theirs), "--overwrite"]) == 2
    assert "was not made by SampleISIC" in capsys.readouterr().err
    assert contents(tmp_path) == {"train-metadata.csv": b"isic_id,patient_id,target,age\n"}
