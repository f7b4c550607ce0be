"""What the report measures and draws: latency, exports, cases, attention, charts."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from report_runs import AFFINE, Checker, report, trained
from torch import nn

from scripts.report import main
from utils.evaluation import drawing
from utils.prediction.latency import STAGES, Candidate, Timing
from utils.report import latency
from utils.report.attention import attention_maps
from utils.report.charts import linear_axis, logarithmic_axis
from utils.report.learning import thinned
from utils.report.pictures import choose_cases
from utils.report.scores import confusion_rows
from utils.runs.data import open_split
from utils.runs.groups import group_runs
from utils.runs.run import Run
from utils.runs.run import read_run as read_report_run
from utils.training import checkpoints

__all__ = ["trained"]  # a fixture


@pytest.fixture(autouse=True)
def no_look_at_other_work(monkeypatch):
    monkeypatch.setattr(latency, "LOOK_S", 0.0)


def fake_measure(seconds_of_network):
    """`latency.measure` without the processes: 1 s to read, 1 s to write, and the network's seconds by name."""

    def measure(candidates, volume, repeats, threads=None, device="cpu", advance=None):
        found = []
        for each in candidates:
            seconds = dict.fromkeys(STAGES, 0.0) | {"read": 1.0, "write": 1.0}
            seconds["network"] = seconds_of_network[each.name] / (2 if each.precision == "bf16-mixed" else 1)
            total = sum(seconds.values())
            found.append(Timing(each.name, each.precision, 10**6, 4, seconds, total, 500.0))
        return found, []

    return measure


def test_latency_is_told_against_the_teacher_and_each_kind_of_network_is_timed_once(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "measure", fake_measure({"UNet teacher": 6.0, "UNet student": 2.0}))
    monkeypatch.setattr(latency, "resolve_precision", lambda *_: "bf16-mixed")
    assert main(report(trained, tmp_path / "report.html", "--repeats", 2, "--cases", 0)) == 0
    checked = Checker((tmp_path / "report.html").read_text())
    assert "latency" in checked.ids
    # teacher 8 s; student 4 s in fp32, 3 s in bf16; floor 2 s
    assert "2.00\u00d7" in checked.words and "2.67\u00d7" in checked.words
    assert "faster from file to file than the teacher" in checked.words
    assert "case_00004, 4x24x28 voxels" in checked.words


@pytest.mark.parametrize(("idle", "told"), [(100, ""), (95, ""), (30, "(70% of its cores' time)")])
def test_a_busy_machine_is_told(monkeypatch, idle, told):
    ticks = iter([(1000, 5000), (1000 + idle, 5100)])
    monkeypatch.setattr(latency, "_ticks", lambda: next(ticks))
    clause = latency.other_work()
    assert told in clause and bool(clause) == bool(told)


def test_what_cannot_be_timed_is_named_and_the_rest_is_timed(tmp_path, monkeypatch):
    tried = []

    def predict(candidate, *_):
        tried.append(candidate.name)
        if candidate.name == "b":
            raise ValueError(f"{candidate.file}: could not be timed: too big")
        return {"seconds": dict.fromkeys(STAGES, 1.0), "slices": 4, "peak_memory_mb": 9.0, "engines": ["torch"]}

    monkeypatch.setattr("utils.prediction.latency._predict", predict)
    candidates = [Candidate(name, tmp_path / name) for name in ("a", "b", "c")]
    for candidate in candidates:
        candidate.file.touch()
    timed, notes = latency.measure_all(candidates, tmp_path, 2)
    assert [(timing.name, timing.total_s) for timing in timed] == [("a", 5.0), ("c", 5.0)]
    assert notes == [f"{tmp_path / 'b'}: could not be timed: too big"]
    assert tried == ["a", "b", "c", "a", "c"]  # nothing is measured again


def write_export(folder, source_sha256: str):
    """An export folder as scripts/export.py leaves it, with files that hold nothing."""
    folder.mkdir()
    for file in ("student.safetensors", "student.onnx", "student_int8.onnx"):
        (folder / file).touch()
    row = {"shape": [2, 1, 64, 64], "max_abs_difference": 1e-5, "relative": 3e-7, "labels_differing": 0.0}
    forms = ("PyTorch fp32", "ONNX fp32", "ONNX int8")
    description = {
        "schema": 1,
        "name": "student",
        **{"network": {}, "preprocessing": {}, "recipe": {}, "split": {"sha256": ""}},
        "source": {"file": "best.ckpt", "sha256": source_sha256},
        "files": {
            "student.safetensors": {"bytes": 4_000_000},
            "student.onnx": {"bytes": 4_000_000},
            "student_int8.onnx": {"bytes": 1_250_000},
        },
        "onnx": {"parity": [row]},
        "int8": {"labels_differing": 0.0012},
        "measured": {
            **{"score": "dice", "cases": 1, "threads": 2, "timed_shape": [8, 1, 64, 64]},
            "scores": {form: {"dice": value} for form, value in zip(forms, (0.8, 0.8, 0.795), strict=True)},
            "milliseconds": dict(zip(forms, (6.0, 3.0, 1.5), strict=True)),
        },
    }
    (folder / "student.json").write_text(json.dumps(description))
    return folder


def test_exports_of_these_runs_are_shown_and_timed(trained, tmp_path, monkeypatch, capsys):
    seconds = {"UNet teacher": 6.0, "UNet student": 2.0, "UNet EMKD ONNX": 0.5, "UNet EMKD ONNX int8": 0.0}
    monkeypatch.setattr(latency, "measure", fake_measure(seconds))
    mine = write_export(tmp_path / "mine", checkpoints.sha256(trained / "emkd_0/best.ckpt"))
    other = write_export(tmp_path / "other", "0" * 64)
    (tmp_path / "empty").mkdir()
    flags = ["--repeats", 1, "--cases", 0, "--exports", mine, other, tmp_path / "empty"]
    assert main(report(trained, tmp_path / "report.html", *flags)) == 1
    words = Checker((tmp_path / "report.html").read_text()).words
    assert "3.20\u00d7" in words and "+0.0050" in words and "3.0e-07" in words and "0.12%" in words
    assert "ONNX int8, the teacher in PyTorch fp32" in words  # the fastest form of the student
    assert "4.00\u00d7" in words  # 8 s of the teacher, 2 s of int8; and 6 ms against 1.5
    error = capsys.readouterr().err
    assert f"{other}: was exported from a checkpoint that is none of these runs" in error
    assert f"{tmp_path / 'empty/student.json'}: no such file" in error


def test_the_timed_volume_is_the_largest_case_on_its_own_grid(trained):
    (group,) = group_runs([read_report_run(trained / "teacher")[0]])
    with latency.volume_of(group, "test", None, None) as (file, what):
        image = nibabel.load(file)
        values = np.asarray(image.dataobj)
    dataset = open_split(group.first.checkpoint, "test")
    first = np.load(dataset.records[0].path)["image"]
    assert image.shape == (4, 24, 28) and np.allclose(image.affine, AFFINE)
    assert np.array_equal(values[0, ::-1], first)  # rows are flipped in the file
    assert what.startswith("case_00004, 4x24x28")


def run_with(dice: dict[str, list[float]]) -> Run:
    rows = [
        {"case": case, "class": str(n), "dice": value} for case, both in dice.items() for n, value in enumerate(both)
    ]
    return Run(Path("run"), {}, "", "test", {"rows": rows})


def test_cases_go_from_the_worst_to_the_best_mean():
    run = run_with({"a": [0.9, 0.9], "b": [0.0, 1.0], "c": [0.6, 0.6], "d": [0.1, 0.2], "e": [0.8, 0.8]})
    # means: d .15, b .5, c .6, e .8, a .9
    assert choose_cases(run, 3) == [("d", "Worst case"), ("c", "Median case"), ("a", "Best case")]
    assert [case for case, _ in choose_cases(run, 2)] == ["d", "a"]
    assert [case for case, _ in choose_cases(run, 99)] == ["d", "b", "c", "e", "a"]
    assert choose_cases(run, 1) == [("d", "Worst case")]
    two = run_with({"a": [0.9], "b": [0.1]})
    assert choose_cases(two, 3) == [("b", "Worst case"), ("a", "Best case")]


def test_a_frame_holds_the_foreground_and_keeps_the_proportions_of_the_slice_in_mm():
    foreground = np.zeros((200, 100), bool)
    foreground[10:60, 40:50] = True  # a quarter of the rows, a tenth of the columns
    frame = drawing.frame_of(foreground, (1.0, 3.0))
    assert frame.top <= 10 and frame.bottom >= 60 and frame.left <= 40 and frame.right >= 50
    share = 0.25 * (1 + 2 * drawing.MARGIN)
    assert frame.bottom - frame.top == round(200 * share)
    assert frame.right - frame.left == round(100 * share)
    assert frame.size == (drawing.SIDE * 200 // 300, drawing.SIDE)  # 200 mm by 300 mm
    assert drawing.whole_frame(foreground.shape, (1.0, 3.0)).size == frame.size
    everything = drawing.frame_of(np.ones((50, 60), bool), (1.0, 1.0))
    assert (everything.top, everything.bottom, everything.left, everything.right) == (0, 50, 0, 60)
    nothing = drawing.frame_of(np.zeros((50, 60), bool), (1.0, 1.0))
    assert (nothing.top, nothing.bottom, nothing.left, nothing.right) == (0, 50, 0, 60)


def test_errors_have_the_colors_of_the_legend():
    target, prediction = np.zeros((2, 40, 40), np.uint8)
    target[:20], prediction[10:30] = 1, 1  # rows 0-9 missed, 10-19 right, 20-29 false alarm
    frame = drawing.whole_frame(target.shape)
    shown = drawing.with_errors(np.zeros((*frame.size, 3), np.uint8), target, prediction, frame)
    scale, column = frame.size[0] // 40, frame.size[1] // 2
    missed, right, false = (shown[row * scale, column].astype(int) for row in (5, 15, 25))
    assert missed[2] > 150 > missed[0]  # blue
    assert false[0] > 150 > false[2]  # orange
    assert right.max() == 0


def test_an_outline_is_on_the_pixels_of_a_class_that_touch_another():
    labels = np.zeros((5, 6), np.uint8)
    labels[1:4, :3], labels[1:4, 3] = 1, 2
    lines = drawing.outlined(np.zeros((5, 6, 3), np.uint8), labels, drawing.Frame(0, 5, 0, 6, (5, 6)))[..., 0] > 0
    assert lines.astype(int).tolist() == [[0] * 6, [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], [0] * 6]


class Bright(nn.Module):
    """Logit 1 is the image as it comes out of a normalization in its only tap."""

    taps = {"bottleneck": "body"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.BatchNorm2d(1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image):
        feature = self.body(image * self.scale)
        return torch.cat([torch.full_like(feature, 0.5), feature], 1)


def test_attention_is_where_the_class_is_and_leaves_the_network_alone():
    network = Bright().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    image = torch.zeros(1, 16, 16)
    image[0, 3:6, 9:12] = 2.0
    for _ in range(2):
        (attention,) = attention_maps(network, image, [1])
        assert attention.shape == (16, 16)
        assert attention[4, 10] == pytest.approx(1.0) and attention[12, 2] == pytest.approx(0.0)
    assert not network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_axes_have_round_ticks_about_their_values():
    axis = linear_axis(0.0, 0.93)
    assert (axis.low, axis.high) == (0.0, pytest.approx(1.0))
    assert axis.place(0.5) == pytest.approx(0.5)
    assert linear_axis(3.0, 3.0).low < 3.0 < linear_axis(3.0, 3.0).high
    axis = logarithmic_axis(0.012, 40.0)
    assert (axis.low, axis.high) == (0.01, 50.0)
    assert axis.ticks == (0.01, 0.1, 1.0, 10.0)
    assert logarithmic_axis(0.1, 10.0).place(1.0) == pytest.approx(0.5)
    assert logarithmic_axis(0.3, 1.5).ticks == (0.2, 0.5, 1.0, 2.0)


def test_long_curves_are_means_of_neighbors_and_end_where_they_end():
    curve = thinned(tuple(range(9)), (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 99.0), points=4)
    # three at a time: 0-2, 3-5, 6-8, and the last
    assert curve.values == [2.0, 8.0, pytest.approx(125 / 3), 99.0]
    assert curve.steps[-1] == 8
    assert thinned((1, 2), (3.0, 4.0)).values == [3.0, 4.0]


def test_rows_of_a_confusion_matrix_are_targets():
    rows = [{"target": 0, "prediction": 1}] * 3 + [{"target": 1, "prediction": 1}]
    run = Run(Path("run"), {"preprocessing": {"class_names": ["cat", "dog"]}}, "", "test", {"rows": rows})
    cat, dog = confusion_rows(run)
    assert (cat.target, cat.answers) == ("cat", [("cat", 0, 0.0), ("dog", 3, 1.0)])
    assert (dog.target, dog.answers) == ("dog", [("cat", 0, 0.0), ("dog", 1, 1.0)])


def test_the_part_that_is_shown_is_framed_in_the_whole_slice():
    whole, part = drawing.Frame(0, 10, 0, 20, (100, 200)), drawing.Frame(2, 6, 5, 15, (100, 200))
    picture = drawing.framed(np.zeros((100, 200, 3), np.uint8), whole, part)
    rows, columns = np.nonzero((picture == drawing.OUTLINE).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (21, 59, 51, 149)
    assert not picture[24:56, 54:146].any()  # a line of two pixels
