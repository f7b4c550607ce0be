"""Splits by patient."""

import json
from pathlib import Path

import pytest
from raw_cases import kits_case, make

from datasets.slices.store import read_index
from datasets.splits import read_split, split_as_asked, split_patients


@pytest.fixture
def kits(tmp_path) -> Path:
    for number in range(4):
        kits_case(tmp_path / "raw", number)
    return tmp_path / "raw"


def test_mode_puts_a_whole_folder_into_one_split(tmp_path):
    for number, split in ((0, "train"), (1, "train"), (2, "test")):
        kits_case(tmp_path / split, number)
    for split in ("train", "test"):
        assert make(tmp_path / split, tmp_path / "out", "--mode", split) == 0
    splits = {record.case: record.split for record in read_index(tmp_path / "out")}
    assert splits == {"case_00000": "train", "case_00001": "train", "case_00002": "test"}


def test_a_split_file_is_obeyed_and_must_name_every_patient(kits, tmp_path, capsys):
    names = [f"case_{number:05d}" for number in range(4)]
    (tmp_path / "split.json").write_text(json.dumps({"train": names[:1], "val": names[1:2], "test": names[2:]}))
    assert make(kits, tmp_path / "out", "--split_file", str(tmp_path / "split.json")) == 0
    assert [r.split for r in read_index(tmp_path / "out") if r.slice == 0] == ["train", "val", "test", "test"]
    kits_case(kits, 4)
    assert make(kits, tmp_path / "out", "--split_file", str(tmp_path / "split.json")) == 2
    assert "case_00004" in capsys.readouterr().err


def test_folds_of_nnunet_are_read_and_cases_stand_for_their_patients(kits, tmp_path, capsys):
    file, names = tmp_path / "splits_final.json", [f"case_{number:05d}" for number in range(4)]
    folds = [{"train": names[:3], "val": [f"{names[3]}.nii.gz"]}, {"train": names[1:], "val": names[:1]}]
    file.write_text(json.dumps(folds))
    for flags, val in ((), names[3]), (("--fold", "1"), names[0]):
        assert make(kits, tmp_path / val, "--split_file", str(file), *flags) == 0
        assert read_split(tmp_path / val / "split.json")["val"] == [val]
        number = len(flags) // 2
        said = f"{file}: fold {number} of 0 to 1 is used, choose another one with --fold; it leaves test empty\n"
        assert capsys.readouterr().err == said
    assert make(kits, tmp_path / "out", "--split_file", str(file), "--fold", "2") == 2
    assert make(kits, tmp_path / "out", "--fold", "1") == 2
    said = (
        f"--fold 2: {file} holds 2 folds: give 0 to 1\nSliceMaker: --fold 1: there is no --split_file to take it from"
    )
    assert capsys.readouterr().err == f"SliceMaker: {said}\n"
    of = {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"}
    file.write_text(json.dumps({"train": ["p1_a", "p1_b.NII"], "test": ["p2"]}))
    assert split_as_asked(file, of, None) == ({"train": ["p1"], "val": [], "test": ["p2"]}, None)
    file.write_text(json.dumps({"train": ["p1_a"], "test": ["p1_b"]}))
    with pytest.raises(ValueError, match="p1 named more than once: a patient belongs to one split"):
        split_as_asked(file, of, None)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"train": ["a"],}', "line 1 column 17: "),
        ('{"train": "abc"}', "not a split file: give JSON with lists train, val, test"),
        ('{"train": ["a", "a"]}', "a named more than once"),
        ("{}", "names no patient"),
    ],
)
def test_what_is_no_split_file_is_refused_with_the_reason(tmp_path, text, what):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ValueError, match=f"{tmp_path / 'split.json'}: {what}"):
        read_split(tmp_path / "split.json")
    (tmp_path / "split.json").write_bytes(b"\xef\xbb\xbf" + b'{"train": ["a"]}')
    assert read_split(tmp_path / "split.json")["train"] == ["a"]


def test_a_published_split_is_not_changed_by_accident(kits, tmp_path, capsys):
    make(kits, tmp_path / "out", "--split", "0.5", "0.25", "0.25")
    before = read_split(tmp_path / "out/split.json")
    assert make(kits, tmp_path / "out") == 0  # without flags the split stays
    assert read_split(tmp_path / "out/split.json") == before
    codes = [make(kits, tmp_path / "out", "--seed", str(seed)) for seed in range(1, 6)]
    assert 2 in codes and "may have seen the new test patients" in capsys.readouterr().err
    kits_case(kits, 4)
    assert make(kits, tmp_path / "out") == 0
    after = read_split(tmp_path / "out/split.json")
    assert all(set(before[name]) <= set(after[name]) for name in before)


@pytest.mark.parametrize("count", range(3, 12))
@pytest.mark.parametrize("ratios", [(0.7, 0.1, 0.2), (0.98, 0.01, 0.01), (0.2, 0.3, 0.5)])
def test_no_split_is_empty_and_no_patient_is_lost(count, ratios):
    patients = {f"p{number}" for number in range(count)}
    split = split_patients(patients, ratios, 0)
    assert all(split.values())
    assert sorted(patient for names in split.values() for patient in names) == sorted(patients)


def test_patients_that_have_a_place_keep_it():
    existing = {"train": ["p0"], "val": ["p1"], "test": [f"p{number}" for number in range(2, 10)]}
    split = split_patients([f"p{number}" for number in range(20)], (0.7, 0.1, 0.2), 0, existing)
    assert all(set(existing[name]) <= set(split[name]) for name in existing)
    assert len(split["test"]) == 8  # full already: 8 > 0.2 * 20


def test_ratios_are_met_and_the_seed_matters():
    patients = [f"p{number}" for number in range(100)]
    split = split_patients(patients, (0.7, 0.1, 0.2), 0)
    assert [len(split[name]) for name in ("train", "val", "test")] == [70, 10, 20]
    assert split == split_patients(reversed(patients), (0.7, 0.1, 0.2), 0)
    assert split != split_patients(patients, (0.7, 0.1, 0.2), 1)
