"""One command from scans to an exported student: killed anywhere, it goes on and ends in the same student."""

import json
import os
import runpy
import signal
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from forked import forked
from raw_cases import KITS, save
from safetensors.numpy import load_file
from tiny_runs import Tiny, taught, tiny

from datasets.slices.store import read_index, read_slice
from networks import SEGMENTATION
from scripts import Distill

__all__ = ["taught", "tiny"]  # fixtures
# In which stage, and at which of its renames there, a process dies, one after the other
KILLS = (("slices", 4), ("maps", 4), ("training", 1), ("training", 3), ("training", 4), ("test", 1), ("export", 1))


@pytest.fixture
def scans(taught, tmp_path, monkeypatch) -> Path:
    """The images of five cases as NIfTI files, a bit brighter than those that their teacher saw."""
    monkeypatch.setitem(SEGMENTATION, "tiny", Tiny)
    volumes: dict[str, list[np.ndarray]] = {}
    for record in read_index(taught):
        volumes.setdefault(record.case, []).append(read_slice(record.path)[0] + 1)
    for number, slices in enumerate(volumes.values()):
        if number != 1:
            image = np.stack(slices)
            image[:, :2] = -1000  # air, without which it is no CT
            save(tmp_path / f"scans/scan_{number}.nii.gz", image, KITS)
    return tmp_path / "scans"


def in_this_process(stage: Distill.Stage) -> int:
    """Run a stage as `python` does, its training and export small."""
    small = {"training": ["--training.precision=32-true"], "export": ["--formats", "safetensors"]}
    words = [*stage.command, *small.get(stage.name, [])]
    with patch.object(sys, "argv", words), patch.object(sys, "path", [*sys.path]):
        try:
            runpy.run_path(str(Distill.ROOT / words[0]), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def distill(scans: Path, teacher: Path, output: Path, die_at: tuple[str, int] | None = None) -> None:
    """The command in this process, which dies in a stage when it is about to put its n-th file or folder in place."""
    done: dict[str, int] = {}
    now = ""

    def run_stage(stage: Distill.Stage) -> int:
        nonlocal now
        now = stage.name
        return in_this_process(stage)

    def dying(rename, *arguments, **how):
        done[now] = done.get(now, 0) + 1
        if (now, done[now]) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*arguments, **how)

    words = ["--teacher", str(teacher), "--scans", str(scans), "--student", "tiny", "--output", str(output)]
    renames = {name: partial(dying, getattr(os, name)) for name in ("replace", "rename")}
    with patch.object(Distill, "run_stage", run_stage), patch.multiple(os, **renames):
        assert Distill.main([*words, "--epochs", "2", "--jobs", "1"]) == 0


def test_killed_anywhere_it_ends_in_the_same_student(taught, scans, tmp_path):
    teacher = taught.parent / "teacher"
    assert forked(lambda: distill(scans, teacher, tmp_path / "whole")) == 0
    statuses = [forked(lambda at=at: distill(scans, teacher, tmp_path / "killed", at)) for at in KILLS]
    assert statuses == [-signal.SIGKILL] * len(KILLS)
    assert forked(lambda: distill(scans, teacher, tmp_path / "killed")) == 0
    one, other = (load_file(tmp_path / name / "export/student.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
    results = [json.loads((tmp_path / name / "run/test.json").read_text()) for name in ("whole", "killed")]
    assert results[0]["rows"] == results[1]["rows"] and "none was seen" in results[0]["labels"]


def test_what_is_done_is_not_done_again_and_other_flags_are_refused(taught, scans, tmp_path, capsys, monkeypatch):
    teacher = taught.parent / "teacher"
    monkeypatch.setattr(Distill, "run_stage", lambda stage: in_this_process(stage) if stage.name == "slices" else 3)
    words = ["--teacher", str(teacher), "--scans", str(scans), "--student", "tiny", "--output", str(tmp_path / "out")]
    assert Distill.main(words) == 3
    assert "maps ended with status 3; the same command goes on from here" in capsys.readouterr().out
    assert Distill.main(words) == 3
    printed = capsys.readouterr().out
    assert "1 slices: done before: python scripts/SliceMaker.py --inpath" in printed
    assert "2 maps: python scripts/TeachWith.py --data" in printed
    monkeypatch.setattr(Distill, "has_maps", lambda *_: True)
    assert Distill.main(words) == 3
    assert Distill.main([*words, "--epochs", "7"]) == 2
    assert "student.yaml: is of other flags" in capsys.readouterr().err
