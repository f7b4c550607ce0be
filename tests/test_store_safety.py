"""SliceMaker deletes nothing of the user's, holds its store, and lists what is found now."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from raw_cases import cases_of, contents, hounsfield, kits_case, label_of, make, msd

from datasets.publishing import NotOursError
from datasets.slices.dataset import SliceDataset
from datasets.slices.shards import hold_store
from datasets.slices.store import CASES, read_index, read_manifest, write_slice

FILES = ("split.json", "index.csv", "dataset.json")


@pytest.fixture
def kits(tmp_path) -> Path:
    for number in range(4):
        kits_case(tmp_path / "raw", number)
    return tmp_path / "raw"


@pytest.mark.parametrize("out", ["raw", "raw/out", ".", "raw/case_00000", "link", "link/out"])
def test_an_output_that_is_in_or_around_the_input_is_refused_before_anything_is_written(kits, out, capsys):
    (kits.parent / "link").symlink_to(kits)
    before = contents(kits.parent)
    assert make(kits, kits.parent / out) == 2
    error = capsys.readouterr().err
    assert "choose a folder apart from it" in error and error.count("\n") == 1
    assert contents(kits.parent) == before and not (kits / "out").exists()


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("case_00001", "notes.txt"),
        ("case_00001", "case.json"),
        (".partial-case_00001", "notes.txt"),
        (".old-case_00001", "0000.npz"),
    ],
)
def test_a_folder_of_somebody_else_is_left_and_the_other_cases_are_sliced(kits, tmp_path, place, name, capsys):
    theirs = tmp_path / "out" / place
    theirs.mkdir(parents=True)
    (theirs / name).write_text('{"mine": 1}')
    assert make(kits, tmp_path / "out") == 1
    assert f"{place}: carries no record of this program: move it away" in capsys.readouterr().out
    assert contents(theirs) == {name: b'{"mine": 1}'}
    assert len(cases_of(tmp_path / "out")) == 3


def test_a_file_put_into_a_case_keeps_the_case_from_being_replaced(kits, tmp_path, capsys):
    assert make(kits, tmp_path / "out") == 0
    (tmp_path / "out/case_00001/notes.txt").write_text("mine")
    kits_case(kits, 1, image=hounsfield(9))
    assert make(kits, tmp_path / "out") == 1
    assert "notes.txt: was not made by this program" in capsys.readouterr().out
    assert (tmp_path / "out/case_00001/notes.txt").read_text() == "mine"
    assert "case_00001" not in cases_of(tmp_path / "out")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_somebody_else_is_not_replaced(kits, tmp_path, name, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    assert make(kits, tmp_path / "out") == 2
    assert f"{name}: was not made by SliceMaker" in capsys.readouterr().err
    assert contents(tmp_path / "out") == {name: b"{}"}


def test_one_run_or_shards_of_one_number_hold_a_store(tmp_path):
    def refused(index: int, count: int) -> bool:
        try:
            with hold_store(tmp_path, index, count):
                return False
        except ValueError as error:
            assert "wait" in str(error)
            return True

    with hold_store(tmp_path, 0, 1):
        assert refused(0, 1) and refused(0, 2)
    with ExitStack() as stack:
        for index in (0, 2):
            stack.enter_context(hold_store(tmp_path, index, 3))
        assert refused(0, 3) and refused(0, 1) and refused(1, 2)
        assert not refused(1, 3)
    (tmp_path / ".shard-1-of-5").touch()  # of a killed run
    assert not refused(0, 1) and not refused(0, 2)


def test_a_second_run_into_a_store_is_refused_in_one_line(kits, tmp_path, capsys):
    with hold_store(tmp_path / "out", 0, 1):
        assert make(kits, tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_bad_or_gone_now_is_not_listed_and_comes_back(kits, tmp_path, capsys):
    out = tmp_path / "out"
    assert make(kits, out) == 0
    whole = contents(out)
    shutil.move(kits / "case_00003", tmp_path / "kept")
    label = kits / "case_00002/segmentation.nii.gz"
    sound = label.read_bytes()
    label.write_bytes(sound[:100])
    capsys.readouterr()
    assert make(kits, out) == 1
    said = capsys.readouterr().out
    assert "no longer lists case_00002 (bad now)" in said and "no longer lists case_00003 (not in IN now)" in said
    assert cases_of(out) == ["case_00000", "case_00001"]
    assert {name for name in whole if name.startswith("case")} <= contents(out).keys()
    shutil.move(tmp_path / "kept", kits / "case_00003")
    label.write_bytes(sound)
    assert make(kits, out) == 0
    assert len(cases_of(out)) == 4
    assert contents(out)["split.json"] == whole["split.json"]


def test_a_shard_lists_the_cases_of_others_that_are_as_they_were(kits, tmp_path, capsys):
    out = tmp_path / "out"
    assert make(kits, out) == 0
    (kits / "case_00002/segmentation.nii.gz").write_bytes(b"damaged")
    shutil.rmtree(kits / "case_00003")
    capsys.readouterr()
    assert make(kits, out, "--shard", "1/3") == 0  # case_00001
    assert cases_of(out) == ["case_00000", "case_00001"]
    assert "no longer lists case_00003 (not in IN now)" in capsys.readouterr().out


def test_cases_of_another_folder_stay_listed_and_are_named(kits, tmp_path, capsys):
    kits_case(tmp_path / "more", 7)
    assert make(kits, tmp_path / "out", "--mode", "train") == 0
    assert make(tmp_path / "more", tmp_path / "out", "--mode", "test") == 0
    assert f"also lists 4 cases of other folders, such as case_00000 of {kits}" in capsys.readouterr().out
    assert {record.case: record.split for record in read_index(tmp_path / "out")} == {
        **{f"case_{number:05d}": "train" for number in range(4)},
        "case_00007": "test",
    }


def test_labels_that_are_no_longer_known_are_findings(tmp_path, capsys):
    images = {name: hounsfield(seed) for seed, name in enumerate("abcd")}
    names = {"0": "background", "1": "liver", "2": "tumor"}
    msd(tmp_path / "raw", images, {"0": "CT"}, names)
    out = tmp_path / "out"
    assert make(tmp_path / "raw", out, "--task", "all", dataset="msd") == 0
    description = json.loads((tmp_path / "raw/dataset.json").read_text())
    del description["labels"]["2"]
    (tmp_path / "raw/dataset.json").write_text(json.dumps(description))
    capsys.readouterr()
    assert make(tmp_path / "raw", out, "--task", "all", "--shard", "0/2", dataset="msd") == 1
    assert capsys.readouterr().out.count("unexpected label 2 (known: 0 background, 1 liver)") == 2
    assert read_index(out) == [] and read_manifest(out)["labels"] == {"1": "liver"}


def test_a_store_that_contradicts_itself_is_refused(kits, tmp_path, capsys):
    out = tmp_path / "out"
    assert make(kits, out, "--split", "0.5", "0.25", "0.25") == 0
    SliceDataset(out, "train", crop=None)
    split = json.loads((out / "split.json").read_text())
    moved = split["train"][0]
    edited = {**split, "train": split["train"][1:], "test": [*split["test"], moved]}
    (out / "split.json").write_text(json.dumps(edited))
    with pytest.raises(ValueError, match=f"patient {moved} is in train, and in test in split.json"):
        SliceDataset(out, "train", crop=None)
    assert make(kits, out) == 2
    assert f"puts {moved} in test, index.csv in train" in capsys.readouterr().err
    assert make(kits, out, "--split_file", str(out / "split.json"), "--overwrite") == 0
    assert moved in SliceDataset(out, "test", crop=None).patients
    (out / "split.json").write_text(json.dumps({**edited, "val": [*edited["val"], "case_00009"]}))
    with pytest.raises(ValueError, match=r"is not the split that dataset\.json was written with"):
        SliceDataset(out, "train", crop=None)
    assert make(kits, out) == 0
    SliceDataset(out, "train", crop=None)


def test_an_index_older_than_a_case_is_refused(kits, tmp_path):
    out = tmp_path / "out"
    assert make(kits, out) == 0
    index = (out / "index.csv").read_bytes()
    kits_case(kits, 1, label=(label_of() == 1).astype("uint8"))
    assert make(kits, out) == 0
    (out / "index.csv").write_bytes(index)  # as after a kill before the index was written
    with pytest.raises(ValueError, match="lists case_00001 as it was before"):
        SliceDataset(out, "train", crop=None)
    assert make(kits, out) == 0
    SliceDataset(out, "train", crop=None)


class KilledError(BaseException):
    """Stands in for a kill: nothing that handles errors may see it."""


@pytest.mark.parametrize("step", range(1, 9))
def test_killed_at_any_rename_and_started_again_it_equals_an_uninterrupted_run(tmp_path, monkeypatch, step):
    kits_case(tmp_path / "raw", 0)
    kits_case(tmp_path / "raw", 1)
    out = tmp_path / "out"
    assert make(tmp_path / "raw", out) == 0
    kits_case(tmp_path / "raw", 1, image=hounsfield(9))
    assert make(tmp_path / "raw", tmp_path / "whole") == 0
    done = iter(range(1, 100))
    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(Path, name, _killed_at(getattr(Path, name), done, step))
    with pytest.raises(KilledError):
        make(tmp_path / "raw", out)
    monkeypatch.undo()
    assert (out / "case_00001").exists() or (out / ".old-case_00001/case.json").exists()
    assert make(tmp_path / "raw", out) == 0
    assert contents(out) == contents(tmp_path / "whole") and not list(out.glob(".*"))


def _killed_at(real, done, step):
    def call(self, *arguments, **rest):
        if not rest.get("missing_ok") and next(done) >= step:
            raise KilledError
        return real(self, *arguments, **rest)

    return call


def test_an_earlier_version_comes_back_where_a_kill_left_the_case_out_of_place(kits, tmp_path):
    out = tmp_path / "out"
    assert make(kits, out) == 0
    before = contents(out / "case_00002")
    (out / "case_00002").rename(out / ".old-case_00002")
    (out / ".partial-case_00002").mkdir()
    (kits / "case_00002/imaging.nii.gz").write_bytes(b"damaged since")
    assert make(kits, out) == 1
    assert contents(out / "case_00002") == before and not list(out.glob(".*"))


def test_a_full_disk_names_the_file_and_leaves_the_store_as_it_was(kits, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert make(kits, out) == 0
    before = contents(out)
    kits_case(kits, 3, image=hounsfield(9))

    def full(path, *arguments):
        raise OSError(28, "No space left on device", *([str(path)] if path.suffix == ".npz" else []))

    monkeypatch.setattr("datasets.slices.slicing.write_slice", full)
    real = Path.write_text
    monkeypatch.setattr(
        Path,
        "write_text",
        lambda path, *rest, **named: full(path) if "index" in path.name else real(path, *rest, **named),
    )
    capsys.readouterr()
    assert make(kits, out) == 2
    said, error = capsys.readouterr()
    assert f"{out}/case_00003: No space left on device: free some disk space" in said
    assert error.startswith(f"SliceMaker: {out}/index.csv: No space left on device: free some disk space")
    assert contents(out) == before


def test_a_slice_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "absent/0000.png"
    with pytest.raises(OSError, match=r"0000\.png"):
        write_slice(path, hounsfield(0)[0], label_of()[0])


def test_only_what_this_program_made_is_discarded(tmp_path):
    (tmp_path / "case").mkdir()
    CASES.discard(tmp_path / "case", "case")  # empty
    assert not (tmp_path / "case").exists()
    (tmp_path / "case/deep").mkdir(parents=True)
    (tmp_path / "case/case.json").write_text(json.dumps({"case": "case", "settings": {}}))
    with pytest.raises(NotOursError, match="deep: was not made by this program"):
        CASES.discard(tmp_path / "case", "case")
    (tmp_path / "link").symlink_to(tmp_path / "case")
    with pytest.raises(NotOursError, match="is not a folder"):
        CASES.check(tmp_path / "link", "case")
