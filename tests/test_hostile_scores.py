"""Whatever is given to evaluate.py: one clear line or a result; nothing executed, nothing replaced unasked."""

import io
import json
import pickle
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from isal import igzip
from raw_cases import label_of, save
from test_evaluate import KITS, NO_TUMOR, content, kits, run
from test_hostile_checkpoints import Canary
from test_hostile_input import EDITS, FIELDS, FUZZ, HOSTILE
from test_hostile_input import content as file_content
from test_hostile_paths import ODD

from scripts.evaluate import main
from utils.evaluation.volumes import pairs


@pytest.mark.parametrize("side", ["predictions/case_00001.nii.gz", "raw/case_00001/segmentation.nii.gz"])
@pytest.mark.parametrize("kind", [*HOSTILE, *ODD])
def test_a_hostile_file_on_either_side_is_one_clear_line(tmp_path, capsys, kind, side):
    kits(tmp_path, {0: label_of(), 1: NO_TUMOR})
    (tmp_path / side).unlink()
    if kind in ODD:
        ODD[kind][0](tmp_path / side)
    else:
        (tmp_path / side).write_bytes(HOSTILE[kind][0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert run(tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "00001" in line and line.count(": ") >= 2
    assert {row["case"] for row in content(tmp_path)["rows"]} == {"case_00000"}


def test_more_memory_than_there_is_is_refused_by_the_header(tmp_path, capsys, monkeypatch):
    kits(tmp_path, {0: label_of(), 1: label_of((6, 10, 13))})
    save(tmp_path / "raw/case_00001/segmentation.nii.gz", label_of((6, 10, 13)), KITS)
    monkeypatch.setattr(pairs, "memory_limit", lambda: 2 * 6 * 10 * 12)  # of the first case
    assert run(tmp_path) == 1
    assert "case_00001.nii.gz: takes" in capsys.readouterr().err
    assert content(tmp_path)["cases"] == 1


@pytest.mark.parametrize("flags", [["--tolerance_mm", "inf"], ["--tolerance_mm", "nan"], ["--lesion_ml", "inf"]])
def test_numbers_without_end_are_refused_before_anything_is_read(tmp_path, capsys, flags):
    assert main(["--predictions", str(tmp_path / "none"), "--labels", str(tmp_path / "none"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert flags[0] in line


def test_nothing_is_replaced_unasked(tmp_path, capsys):
    kits(tmp_path, {0: label_of()})
    flags = ["--predictions", f"{tmp_path}/predictions", "--labels", f"{tmp_path}/raw", "--output", f"{tmp_path}/s"]
    for name in ("s.json", "s.csv", "s_lesions.csv"):
        (tmp_path / name).write_text("somebody's work")
        assert main(flags) == 2
        assert f"{name}: is there already" in capsys.readouterr().err
        assert not list(tmp_path.glob(".*"))
        assert (tmp_path / name).read_text() == "somebody's work"
        (tmp_path / name).unlink()
    assert main([*flags, "--jobs", "1"]) == 0
    assert main(flags) == 2
    assert main([*flags, "--overwrite", "--jobs", "1"]) == 0


@pytest.mark.parametrize("output", ["a", "b.json"])
def test_a_comparison_never_replaces_what_it_compares(tmp_path, capsys, output):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": [ROW]}))
    files = [f"{tmp_path}/a.json", f"{tmp_path}/b.json"]
    assert main(["--compare", *files, "--output", f"{tmp_path}/{output}", "--overwrite"]) == 2
    assert "is an input" in capsys.readouterr().err
    assert all(json.loads(Path(file).read_text()) == {"rows": [ROW]} for file in files)


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path):
    kits(tmp_path, {0: label_of()})
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".scores.json.partial").symlink_to(tmp_path / "victim")
    assert run(tmp_path) == 0
    assert (tmp_path / "victim").read_text() == "mine" and content(tmp_path)["cases"] == 1


# ---- scores to compare

ROW = {"case": "a", "class": "tumor", "dice": 0.5, "target_voxels": 5}
SPOILT = {
    "deep": "[" * 100_000,
    "no text": "\udcff",
    "twice": json.dumps({"rows": [ROW, ROW | {"dice": 0.6}]}),
    **{
        f"{key} {value!r:.20}": json.dumps({"rows": [ROW | {key: value}]})
        for key, value in [
            ("case", 1),
            ("class", []),
            ("patient", {}),
            ("dice", "x"),
            ("dice", float("nan")),
            ("dice", float("inf")),
            ("dice", 10**400),
            ("hd95_mm", [1]),
            ("target_voxels", None),
        ]
    },
    "rows of nothing": '{"rows": [null]}',
    "no dice": json.dumps({"rows": [{"case": "a", "class": "b", "target_voxels": 5}]}),
    "evaluated": json.dumps({"rows": [ROW], "evaluated": []}),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_spoilt_scores_are_one_clear_line(tmp_path, capsys, kind):
    file = tmp_path / "a.json"
    file.write_bytes(SPOILT[kind].encode("utf-8", "surrogateescape"))
    assert main(["--compare", str(file), str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file}: holds no scores" in line


def test_scores_that_no_case_has_are_said(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps({"rows": [ROW | {"dice": None}]}))
    assert main(["--compare", f"{tmp_path}/a.json", f"{tmp_path}/a.json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no case has one of dice" in line


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from([*ROW, "patient", "hd95_mm", "abs_rvd", "empty"])


@FUZZ
@given(
    changes=st.lists(st.dictionaries(KEYS, ANYTHING, max_size=2), min_size=1, max_size=3),
    rest=st.dictionaries(st.sampled_from(["settings", "evaluated", "summary"]), ANYTHING, max_size=2),
)
def test_any_scores_give_a_line_or_a_comparison(changes, rest):
    rows = [ROW | {"case": str(number)} | change for number, change in enumerate(changes)]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "a.json")
        file.write_text(json.dumps({"rows": rows, **rest}))
        line, code = told(["--compare", str(file), str(file)])
        assert (code, bool(line)) in [(0, False), (2, True)]


def told(arguments: list[str]) -> tuple[str, int]:
    """What evaluate.py prints about what is wrong, in one line if anything, and its exit status."""
    streams = io.StringIO(), io.StringIO()
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        code = main(arguments)
    wrong = streams[1].getvalue()
    assert wrong.count("\n") <= 1 + ("no case could be scored" in wrong), wrong
    return wrong, code


# ---- label files and their dataset.json


@FUZZ
@given(edits=EDITS, fields=st.lists(FIELDS, max_size=2), length=st.none() | st.integers(0, 1800), packed=st.booleans())
def test_any_header_of_a_label_gives_a_line_or_scores(edits, fields, length, packed):
    data = bytearray(file_content(label_of()))
    for place, value in edits:
        data[place] = value
    for place, value in fields:
        data[place : place + 4] = value
    data = bytes(data[:length])
    with tempfile.TemporaryDirectory() as name:
        label, prediction = Path(name, "label/a.nii.gz"), Path(name, "prediction/a.nii.gz")
        save(label, label_of(), KITS)
        prediction.parent.mkdir()
        prediction.write_bytes(igzip.compress(data) if packed else data)
        where = ["--predictions", str(prediction.parent), "--labels", str(label.parent), "--output", f"{name}/s"]
        for flags in (where, [where[0], where[3], where[2], where[1], *where[4:]]):
            wrong, code = told([*flags, "--jobs", "1", "--overwrite"])
            assert (code, bool(wrong)) in [(0, False), (2, True)]
            assert code == 0 or str(prediction) in wrong or "all labels are empty" in wrong


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"labels": {"1": ["a"], "2": {}}}', '{"labels": {"1": "x", "2": "x"}}']
)
def test_a_spoilt_dataset_json_costs_no_row(tmp_path, text):
    kits(tmp_path, {0: label_of()})
    (tmp_path / "raw/dataset.json").write_text(text)
    assert run(tmp_path) == 0
    assert len({row["class"] for row in content(tmp_path)["rows"]}) == 2


# ---- checkpoints


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, capsys, how):
    canary, file = Canary(tmp_path / "sung"), tmp_path / "evil.ckpt"
    if how == "pickle":
        file.write_bytes(pickle.dumps(canary))
    else:
        torch.save({"weights": canary}, file)
    assert main(["--checkpoint", str(file), "--split", "test"]) == 2
    assert "evil.ckpt: cannot be read as a checkpoint" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["evil.ckpt"]
