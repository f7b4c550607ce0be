"""Soft maps: how exact their codes are; a folder written whole, gone on with, or refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datasets.slices import soft_maps
from datasets.slices.soft_codes import PROBABILITIES, decode, encode
from datasets.slices.soft_maps import MapsWriter, read_maps
from tests.conftest import stored

TEACHER = {"kind": "checkpoint", "path": "runs/big/best.ckpt", "sha256": "ab", "license": None}
PATIENTS = {"0": {"train": ["p1"], "val": ["p2"]}}


def writer(store, folder, classes=("kidney", "tumor"), teacher=TEACHER, patients=PATIENTS, **arguments):
    made_by = {"command": "TeachWith", "version": "1", "teachers": [teacher]}
    return MapsWriter(folder, store, classes, made_by, "CC BY 4.0", patients, **arguments)


def drawn(shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32) / shape[1]


def test_codes_rise_from_exactly_0_to_exactly_1_and_are_their_own():
    assert PROBABILITIES[0] == 0 and PROBABILITIES[255] == 1 and (np.diff(PROBABILITIES) > 0).all()
    np.testing.assert_allclose(PROBABILITIES + PROBABILITIES[::-1], 1, atol=1e-7)
    assert (encode(PROBABILITIES) == np.arange(256)).all()
    assert PROBABILITIES[1] == pytest.approx(6e-5, rel=0.02)


def test_a_decoded_probability_is_at_most_1_of_255_off_and_in_the_tails_half_a_tenth_of_a_logit():
    probability = np.linspace(0, 1, 1_000_001, dtype=np.float32)
    assert np.abs(decode(encode(probability)) - probability).max() < 1 / 255
    small = np.geomspace(7e-5, 0.08, 10_000).astype(np.float32)
    logits = [np.log(p / (1 - p)) for p in (small, decode(encode(small)))]
    assert np.abs(logits[0] - logits[1]).max() < 0.052


def test_what_is_no_probability_is_refused_and_rounding_is_not():
    assert encode(np.float32([-1e-6, 1 + 1e-6])).tolist() == [0, 255]
    for wrong in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match="are not probabilities"):
            encode(np.float32([0.5, wrong]))


def test_maps_are_read_as_they_were_written(slice_store, tmp_path):
    one = writer(slice_store, tmp_path / "maps", cases=["case_00001", "case_00003"])
    assert one.missing == ["case_00001", "case_00003"] and one.needed == 6 * 3 * (44 * 40 + 40 * 48)
    answers = {case: drawn(one.shape(case), number) for number, case in enumerate(one.missing)}
    for case, answer in answers.items():
        one.write(case, answer, [0])
    maps = read_maps(tmp_path / "maps")
    assert maps.classes == ("kidney", "tumor") and maps.license == "CC BY 4.0" and maps.patients == PATIENTS
    assert maps.store["dataset"] == "kits" and maps.made_by["teachers"] == [TEACHER]
    assert list(maps.cases) == ["case_00001", "case_00003"] and maps.cases["case_00001"].teachers == (0,)
    codes = maps.slices("case_00001")
    assert isinstance(codes, np.memmap) and codes.shape == (6, 2, 44, 40)
    assert np.abs(decode(codes) - answers["case_00001"]).max() < 1 / 255


def test_finished_cases_are_passed_over_until_their_slices_change(slice_store, tmp_path):
    one = writer(slice_store, tmp_path / "maps")
    for case in one.missing[:2]:
        one.write(case, drawn(one.shape(case)), [0])
    assert writer(slice_store, tmp_path / "maps").missing == one.missing[2:]
    image, label = stored(slice_store, "case_00000", 2)
    np.savez(slice_store / "case_00000/0002.npz", image=image, label=0 * label)  # the label is not what maps lie on
    assert writer(slice_store, tmp_path / "maps").missing == one.missing[2:]
    np.savez(slice_store / "case_00000/0002.npz", image=image + 1, label=label)
    again = writer(slice_store, tmp_path / "maps")
    assert again.missing == ["case_00000", *one.missing[2:]]
    again.write("case_00000", drawn(one.shape("case_00000"), 1), [0])
    assert writer(slice_store, tmp_path / "maps").missing == one.missing[2:]


def test_a_write_that_fails_leaves_no_case(slice_store, tmp_path, monkeypatch):
    one = writer(slice_store, tmp_path / "maps")
    one.write("case_00000", drawn(one.shape("case_00000")), [0])

    def full(file, codes):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soft_maps.np, "save", full)
    for case in ("case_00000", "case_00001"):
        with pytest.raises(OSError, match="No space") as error:
            one.write(case, drawn(one.shape(case)), [0])
        assert error.value.filename == str(tmp_path / f"maps/{case}.npy")
    assert read_maps(tmp_path / "maps").cases == {}
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"maps.json", "case_00000.npy"}


def test_a_folder_of_another_store_or_teacher_is_refused(slice_store, mr_store, tmp_path):
    one = writer(slice_store, tmp_path / "maps")
    one.write("case_00000", drawn(one.shape("case_00000")), [0])
    moved = TEACHER | {"path": "elsewhere.ckpt"}
    assert writer(slice_store, tmp_path / "maps", teacher=moved).missing == one.missing[1:]
    others = {
        "classes": {"classes": ("tumor", "kidney")},
        "teacher": {"teacher": TEACHER | {"sha256": "cd"}},
        "list of patients": {"patients": {"0": None}},
        "store": {"store": mr_store},
    }
    for name, arguments in others.items():
        with pytest.raises(ValueError, match=f"its {name} is .*choose another folder"):
            writer(**{"store": slice_store, "folder": tmp_path / "maps"} | arguments)
    (tmp_path / "maps/case_00000.json").rename(tmp_path / "maps/other.json")
    with pytest.raises(ValueError, match="holds maps of other, which is not in"):
        writer(slice_store, tmp_path / "maps")


def test_the_disk_is_looked_at_before_anything_is_written(slice_store, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match=r"the maps of 6 cases take 0\.00 GB, and 0\.00 GB are free"):
        writer(slice_store, tmp_path / "deep/maps")
    assert not (tmp_path / "deep").exists()


def test_maps_that_do_not_fit_are_refused(slice_store, tmp_path):
    with pytest.raises(ValueError, match="has no case nobody"):
        writer(slice_store, tmp_path / "maps", cases=["nobody"])
    one = writer(slice_store, tmp_path / "maps")
    for wrong in (drawn((6, 2, 40, 47)), drawn((5, 2, 40, 48)), drawn((6, 1, 40, 48))):
        with pytest.raises(ValueError, match="do not lie on the slices of case_00000"):
            one.write("case_00000", wrong, [0])
    with pytest.raises(ValueError, match=r"case_00000\.npy: values from .* are not probabilities"):
        one.write("case_00000", 3 * np.ones(one.shape("case_00000"), np.float32), [0])


def test_a_damaged_folder_is_named(slice_store, tmp_path):
    with pytest.raises(ValueError, match="is no folder of soft maps"):
        read_maps(slice_store)
    one = writer(slice_store, tmp_path / "maps", cases=["case_00000"])
    one.write("case_00000", drawn(one.shape("case_00000")), [0])
    file = tmp_path / "maps/case_00000.npy"
    for damage in (b"", file.read_bytes()[:500]):
        Path(file).write_bytes(damage)
        with pytest.raises(ValueError, match=r"case_00000\.npy: is not a map of 2 classes"):
            read_maps(tmp_path / "maps").slices("case_00000")
    (tmp_path / "maps/case_00000.json").write_text("{}")
    with pytest.raises(ValueError, match=r"case_00000\.json: is not of soft maps"):
        read_maps(tmp_path / "maps")
    manifest = json.loads((tmp_path / "maps/maps.json").read_text())
    for damaged, message in (
        ({"format": 2}, "is of format 2, this version reads 1"),
        ({"classes": None}, r"maps\.json: its classes is None: it is damaged"),
        ({"classes": [1]}, r"its classes is \[1\]"),
        ({"made_by": {}}, r"its made_by is {}"),
        ({"patients": []}, r"its patients is \[\]"),
    ):
        (tmp_path / "maps/maps.json").write_text(json.dumps(manifest | damaged))
        with pytest.raises(ValueError, match=message):
            read_maps(tmp_path / "maps")
