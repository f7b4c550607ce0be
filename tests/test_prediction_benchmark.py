"""benchmark.py prediction: students beside their teacher on one volume, with Dice against its labels."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from raw_cases import hounsfield
from raw_cases import save as save_volume
from tiny_checkpoints import labels_of, thresholds, unet

from scripts.benchmarks import prediction
from scripts.benchmarks.benchmark import main
from scripts.benchmarks.prediction import student_of
from utils.prediction import latency
from utils.prediction.flags import build_parser
from utils.prediction.latency import STAGES, Candidate, Timing
from utils.prediction.run import predict

__all__ = ["thresholds"]  # fixture


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """The networks of these tests are known here only."""

    def run(command: list, **_):
        try:
            return subprocess.CompletedProcess(command, predict(build_parser().parse_args(map(str, command[3:]))))
        except ValueError as error:
            return subprocess.CompletedProcess(command, 2, "", str(error))

    monkeypatch.setattr(latency.subprocess, "run", run)
    monkeypatch.setattr("utils.training.device.torch.cpu.get_capabilities", dict)


def benchmark(*flags: str | Path) -> int:
    return main(["prediction", *map(str, flags)])


def test_each_student_has_its_stages_its_ratio_and_its_dice(thresholds, tmp_path, capsys):
    image = hounsfield(0) // 4
    truth = labels_of(image)
    truth[: len(truth) // 2] = 0  # half of the voxels that are found are there
    save_volume(tmp_path / "a.nii.gz", image)
    save_volume(tmp_path / "truth.nii.gz", truth)
    flags = ["--volume", tmp_path / "a.nii.gz", "--truth", tmp_path / "truth.nii.gz", "--output", tmp_path / "out.json"]
    students = [f"one={thresholds},torch", f"two={unet(tmp_path / 'unet.ckpt')}"]
    assert benchmark("--teacher", thresholds, "--student", *students, *flags) == 0
    printed = capsys.readouterr().out
    found = {each["name"]: each for each in json.loads((tmp_path / "out.json").read_text())["timings"]}
    assert list(found) == ["teacher", "one", "two"]
    whole = labels_of(image)
    for number, name in enumerate(("kidney", "tumor"), start=1):
        both = np.count_nonzero(truth == number) + np.count_nonzero(whole == number)
        dice = 2 * np.count_nonzero((truth == number) & (whole == number)) / both
        assert 0.4 < dice < 0.9
        assert found["one"]["dice"][name] == found["teacher"]["dice"][name] == pytest.approx(dice)
        assert f"{dice:.4f}" in printed and f"Dice {name}" in printed
    assert found["two"]["dice"] != found["one"]["dice"]
    assert found["one"]["engine"] == "torch"
    (row,) = [line for line in printed.splitlines() if line.startswith("two  ")]
    assert f"{found['teacher']['total_s'] / found['two']['total_s']:.2f}x" in row


def test_a_truth_of_another_shape_and_names_that_are_not_their_own_are_refused(thresholds, tmp_path, capsys):
    save_volume(tmp_path / "a.nii.gz", hounsfield(0))
    save_volume(tmp_path / "b.nii.gz", labels_of(hounsfield(0))[1:])
    flags = ["--teacher", thresholds, "--volume", tmp_path / "a.nii.gz"]
    assert benchmark(*flags, "--student", thresholds, "--truth", tmp_path / "b.nii.gz") == 2
    assert f"{tmp_path / 'b.nii.gz'}: shape" in capsys.readouterr().err
    assert benchmark(*flags, "--student", f"a={thresholds}", f"a={thresholds}") == 2
    assert "give each a name of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("runs/student", Candidate("student", Path("runs/student"))),
        ("fast=exported/x,openvino", Candidate("fast", Path("exported/x"), engine="openvino")),
        ("box=x,torch,locate=y", Candidate("box", Path("x"), engine="torch", locate=Path("y"))),
        ("box=x,locate=y,openvino", Candidate("box", Path("x"), engine="openvino", locate=Path("y"))),
        ("x,locate=y", Candidate("student", Path("x"), locate=Path("y"))),
        ("comma=a,b/x", Candidate("comma", Path("a,b/x"))),
        ("runs/lr=0.1", Candidate("student", Path("runs/lr=0.1"))),
        ("slow=runs/lr=0.1", Candidate("slow", Path("runs/lr=0.1"))),
    ],
)
def test_a_student_has_a_name_a_path_an_engine_and_a_locator(text, wanted):
    assert student_of(text) == wanted


def test_a_teacher_of_other_classes_leaves_the_students_their_own():
    timings = [Timing("teacher", "fp32", 1, 1, dict.fromkeys(STAGES, 1.0), 5.0, 1.0, dice={"tumor": 0.5})]
    timings.append(replace(timings[0], name="student", dice={"kidney": 0.9, "tumor": 0.4}))
    rows = [prediction._row(each, timings[0], STAGES, ["tumor", "kidney"]) for each in timings]
    assert [(row["Dice tumor"], row["Dice kidney"]) for row in rows] == [("0.5000", "-"), ("0.4000", "0.9000")]
