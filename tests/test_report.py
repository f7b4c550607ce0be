"""The report: one self-contained page, honest about what it could not show."""

import json
import shutil
import subprocess
from html.parser import HTMLParser

import nibabel
import numpy as np
import pytest
import torch
from conftest import SPLIT, write_store
from image_stores import write_medmnist
from torch import nn

import train
import train_kd
from scripts.compare import differences, read_run
from scripts.report import main
from utils import checkpoints
from utils.command_line import parse
from utils.config import ROOT, DistillationRecipe, Recipe
from utils.experiment import main as run_recipe
from utils.latency import STAGES, Candidate, Timing
from utils.report import panels, timings
from utils.report.answers import confusion_matrix
from utils.report.attention import attention_maps
from utils.report.cases import choose_cases, open_cases
from utils.report.charts import linear_axis, logarithmic_axis
from utils.report.curves import thinned
from utils.report.groups import chosen_student, group_runs, method_name
from utils.report.runs import Run
from utils.report.runs import read_run as read_report_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SMALL = [
    "--data.crop=32",
    "--training.batch_size=6",
    "--training.epochs=1",
    "--training.precision=32-true",
    "--training.log_every=1",
    "--training.share_every=2",
    "--training.pictures=0",
    "--mode=both",
]
TEACHER = ['--network={"name": "unet", "widths": [6, 6, 6, 6, 8]}', f"--config={ROOT / 'configs/kits19_teacher.yaml'}"]
STUDENT = ['--network={"name": "unet", "widths": [4, 4, 4, 4, 6]}', f"--config={ROOT / 'configs/kits19_teacher.yaml'}"]
VOID = {"meta", "img", "br", "link", "hr", "input"}
PARTS = ("summary", "data", "scores", "curves", "terms", "cases", "attention", "method")
AFFINE = np.array([[0.0, 0.0, 0.8, 5.0], [0.0, 0.7, 0.0, -3.0], [2.5, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])


def store(root, seed: int = 0):
    """KiTS-like CT of 24x28 with a bright kidney and a darker tumor, and each case's geometry."""
    random = np.random.default_rng(seed)
    cases = {}
    for number in range(6):
        label = np.zeros((4, 24, 28), dtype=np.uint8)
        label[1:, 6:16, 6 + number : 18] = 1
        label[2, 8:12, 12:16] = 2
        image = -100 + 220 * (label == 1) + 140 * (label == 2) + random.normal(0, 10, label.shape)
        cases[f"case_{number:05d}"] = (image.astype(np.int16), label)
    write_store(root, cases, "CT", {1: "kidney", 2: "tumor"}, [2], "all", "kits")
    for case in cases:
        geometry = {
            **{"affine": AFFINE.tolist(), "sform_code": 1, "qform_code": 0, "qform": None, "spacing": [2.5, 0.7, 0.8]},
            **{"shape": [4, 24, 28], "axis": 0, "axes": [0, 1, 2], "flips": [False, True, False]},
        }
        (root / case / "geometry.json").write_text(json.dumps(geometry))
    return root


def train_run(flags, output, data, seed=0, teacher=None):
    arguments = [*flags[1:], flags[0], *SMALL, f"--data.root={data}", f"--output={output}", f"--seed={seed}"]
    arguments.append("--data.task=all")
    if teacher is None:
        assert run_recipe(parse(Recipe, "test", arguments), train.supervised) == 0
        return
    arguments += [f"--config={ROOT / 'configs/methods/emkd.yaml'}", f"--teacher={teacher}/best.ckpt"]
    assert run_recipe(parse(DistillationRecipe, "test", arguments), train_kd.distilled) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A slice store with a teacher, a student alone and one distilled with two seeds; shared: only to be read."""
    root = tmp_path_factory.mktemp("report")
    data = store(root / "kits")
    train_run(TEACHER, root / "teacher", data)
    train_run(STUDENT, root / "alone", data)
    for seed in (0, 1):
        train_run(STUDENT, root / f"emkd_{seed}", data, seed, root / "teacher")
    return root


@pytest.fixture(scope="module")
def page(trained):
    """The page about all of them."""
    output = trained / "page" / "report.html"
    assert main(report(trained, output)) == 0
    return output


def report(root, output, *flags, runs=("teacher", "alone", "emkd_0", "emkd_1")) -> list[str]:
    latency = [] if "--volume" in flags or "--repeats" in flags else ["--no_latency"]
    return ["--runs", *(str(root / name) for name in runs), "--output", str(output), *latency, *map(str, flags)]


@pytest.fixture
def copied(trained, tmp_path):
    """The same runs, to be broken. Their recipes still name the first data and teacher."""
    for name in ("teacher", "alone", "emkd_0", "emkd_1"):
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


class Checker(HTMLParser):
    """Notes what a page holds, and raises where tags are not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.addresses, self.pictures = [], [], [], [], [], []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.note(tag, dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.note(tag, dict(attributes))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data

    def note(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if tag == "a" else []
        self.pictures += [attributes] if tag == "img" else []
        self.addresses += [attributes[key] for key in ("src", "href", "xlink:href") if key in attributes and tag != "a"]


def test_the_page_is_whole_and_self_contained(page):
    text = page.read_text()
    checked = Checker(text)
    assert len(checked.ids) == len(set(checked.ids))
    assert set(PARTS) <= set(checked.ids)
    assert {link.removeprefix("#") for link in checked.links} <= set(checked.ids)
    assert all(address.startswith("data:image/") for address in checked.addresses)
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert not {"script", "iframe", "link"} & set(checked.tags)
    # three cases of 3 groups and the image with its target: 8 pictures each
    assert len(checked.pictures) >= 2 * 8
    assert all(picture["alt"] for picture in checked.pictures)
    assert checked.tags.count("svg") > 10 and checked.tags.count("title") > 50
    assert len(text) < 10_000_000
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
def test_a_browser_shows_its_parts(page):
    command = [CHROMIUM, "--no-sandbox", "--headless", "--disable-gpu", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for part in PARTS:
        assert f'<section id="{part}">' in shown
    for words in ("UNet teacher", "UNet alone", "UNet EMKD", "Worst case", "Best case", "Grad-CAM", "gradient"):
        assert words in shown
    assert shown.count("<polyline") >= 3 * 2  # three runs, train and val
    assert "data:image/webp;base64," in shown


def test_runs_know_their_roles_and_seeds_are_one_row(trained):
    folders = ("emkd_1", "alone", "teacher", "emkd_0")
    groups = group_runs([read_report_run(trained / name)[0] for name in folders])
    assert [(group.name, group.role, group.control) for group in groups] == [
        ("UNet teacher", "teacher", None),
        ("UNet alone", "plain", None),
        ("UNet EMKD", "distilled", "UNet alone"),
    ]
    assert [run.folder.name for run in groups[2].runs] == ["emkd_0", "emkd_1"]
    assert chosen_student(groups) is groups[2]


def test_a_teacher_of_the_students_own_network_is_a_teacher(trained, tmp_path):
    train_run(STUDENT, tmp_path / "again", trained / "kits", 0, trained / "alone")
    groups = group_runs([read_report_run(folder)[0] for folder in (trained / "alone", tmp_path / "again")])
    assert [(group.role, group.control) for group in groups] == [("teacher", None), ("distilled", None)]


def test_gains_are_those_of_compare(trained, page):
    ours, theirs = ([read_run(str(trained / name)) for name in names] for names in (("emkd_0", "emkd_1"), ("alone",)))
    line = differences("UNet EMKD", ours, "UNet alone", theirs)[0]
    mean = line.split(": ")[1].split(" ")[0]
    low, high = line.split("[")[1].split("]")[0].split(", ")
    words = Checker(page.read_text()).words
    assert f"{mean} [{low}, {high}]" in words
    assert (line.rsplit(": ", 1)[1] == "no measurable difference") == ("No measurable difference" in words)


def test_dice_below_a_picture_is_the_cases_own(trained, page):
    rows = json.loads((trained / "alone/test.json").read_text())["rows"]
    case = rows[0]["case"]
    dice = np.mean([row["dice"] for row in rows if row["case"] == case])
    assert f"Dice {dice:.3f} (kidney" in Checker(page.read_text()).words


def test_a_run_without_test_scores_shows_val_and_says_so(copied, capsys):
    (copied / "alone" / "test.json").unlink()
    output = copied / "report.html"
    assert main(report(copied, output)) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == str(output)
    assert f"{copied / 'alone'}: has no test.json" in told.err
    words = Checker(output.read_text()).words
    assert "val, not tested" in words
    assert f"{copied / 'alone'}: has no test.json" in words
    assert "one was scored on test, the other on val: not compared" in words


@pytest.mark.parametrize("content", ["{", '{"rows": []}', "[]", '{"rows": [1], "scores": {"a": 1}}'])
def test_a_broken_test_file_is_told_and_the_rest_goes_on(copied, capsys, content):
    (copied / "alone" / "test.json").write_text(content)
    assert main(report(copied, copied / "report.html", "--cases", 0)) == 1
    assert f"{copied / 'alone/test.json'}: holds no test scores" in capsys.readouterr().err


def test_test_scores_of_other_weights_are_not_shown(copied, capsys):
    checkpoint = checkpoints.load(copied / "alone/best.ckpt")
    checkpoints.save(checkpoint | {"epoch": 99}, copied / "alone/best.ckpt")
    assert main(report(copied, copied / "report.html", "--cases", 0)) == 1
    assert "was made by an earlier best.ckpt" in capsys.readouterr().err


def test_a_run_without_events_has_no_curves_and_the_others_have(copied, capsys):
    for file in (copied / "emkd_0").glob("events*"):
        file.unlink()
    assert main(report(copied, copied / "report.html", "--cases", 0)) == 1
    assert f"{copied / 'emkd_0'}: has no TensorBoard event file" in capsys.readouterr().err
    assert "polyline" in (copied / "report.html").read_text()


def test_a_run_of_another_split_is_left_out_and_named(copied, capsys):
    checkpoint = checkpoints.load(copied / "alone/best.ckpt")
    checkpoints.save(checkpoint | {"split": {**SPLIT, "sha256": "f" * 64}}, copied / "alone/best.ckpt")
    assert main(report(copied, copied / "report.html", "--cases", 0)) == 1
    error = capsys.readouterr().err
    assert f"{copied / 'alone'}: split ffffffffffff" in error
    assert f"{copied / 'teacher'} has 000000000000" in error
    words = Checker((copied / "report.html").read_text()).words
    assert "cannot be paired" in words
    assert "no run of UNet trained alone is among these" in words


def test_without_its_data_the_page_has_no_pictures_and_says_why(copied, capsys):
    assert main(report(copied, copied / "report.html", "--data", copied / "nowhere")) == 1
    assert "no pictures of cases" in capsys.readouterr().err
    checked = Checker((copied / "report.html").read_text())
    assert not checked.pictures and {"scores", "curves"} <= set(checked.ids)


def test_nothing_is_overwritten_when_no_run_can_be_read(tmp_path, capsys):
    output = tmp_path / "report.html"
    output.write_text("before")
    (tmp_path / "run").mkdir()
    assert main(["--runs", str(tmp_path / "run"), str(tmp_path / "none"), "--output", str(output)]) == 2
    assert capsys.readouterr().err.count("has no best.ckpt") == 2
    assert output.read_text() == "before"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "report.pdf"], "ends in .html"),
        (["--output", "report.html", "--repeats", "0"], "--repeats 0: give 1 or more"),
        (["--output", "report.html", "--cases", "-1"], "--cases -1: give 0 or more"),
        (["--output", "."], "is a folder"),
    ],
)
def test_wrong_flags_are_told_in_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["--runs", "run", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_a_folder_is_called_is_text_on_the_page(copied):
    odd = copied / "<b>&'x\""
    (copied / "alone").rename(odd)
    output = copied / "report.html"
    assert main(report(copied, output, "--cases", 0, runs=("teacher", odd.name, "emkd_0"))) == 0
    checked = Checker(output.read_text())
    assert "<b>&'x\"" in checked.words


def test_distances_are_shown_where_evaluate_measured_them(copied):
    digest = checkpoints.sha256(copied / "alone/best.ckpt")
    row = {"class": "kidney", "surface_dice": 0.5, "assd_mm": 1.0, "voe": 0.25, "abs_rvd": 0.5, "lesion_f1": 1.0}
    rows = [{**row, "case": "a", "hd95_mm": 2.0}, {**row, "case": "b", "hd95_mm": None}]
    content = {"evaluated": {"checkpoint_sha256": digest}, "rows": rows}
    (copied / "alone/best_test_scores.json").write_text(json.dumps(content))
    assert main(report(copied, copied / "report.html", "--cases", 0)) == 0
    assert "2.00 (1 of 2)" in Checker((copied / "report.html").read_text()).words


def fake_measure(seconds_of_network, fails=()):
    """`utils.latency.measure` without the processes: 1 s to read, 1 s to write, and the network's seconds by name."""

    def measure(candidates, volume, repeats, threads=None, device="cpu", advance=None):
        for candidate in candidates:
            if candidate.name in fails:
                raise ValueError(f"{candidate.file}: could not be timed: too big")
        found = []
        for each in candidates:
            seconds = dict.fromkeys(STAGES, 0.0) | {"read": 1.0, "write": 1.0}
            seconds["network"] = seconds_of_network[each.name] / (2 if each.precision == "bf16-mixed" else 1)
            total = sum(seconds.values())
            found.append(Timing(each.name, each.precision, 10**6, 4, seconds, total, 500.0))
        return found

    return measure


def test_latency_is_told_against_the_teacher_and_each_kind_of_network_is_timed_once(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(timings, "measure", fake_measure({"UNet teacher": 6.0, "UNet student": 2.0}))
    monkeypatch.setattr(timings, "resolve_precision", lambda *_: "bf16-mixed")
    assert main(report(trained, tmp_path / "report.html", "--repeats", 2, "--cases", 0)) == 0
    checked = Checker((tmp_path / "report.html").read_text())
    assert "latency" in checked.ids
    # teacher 8 s; student 4 s in fp32, 3 s in bf16; floor 2 s
    assert "2.00\u00d7" in checked.words and "2.67\u00d7" in checked.words
    assert "faster from file to file than the teacher" in checked.words
    assert "case_00004, 4x24x28 voxels" in checked.words


def test_what_cannot_be_timed_is_told_and_the_rest_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(timings, "measure", fake_measure({"a": 1.0, "b": 1.0}, fails=("b",)))
    candidates = [Candidate("a", tmp_path / "a"), Candidate("b", tmp_path / "b")]
    timed, notes = timings.measure_all(candidates, tmp_path, 1)
    assert [timing.name for timing in timed] == ["a"]
    assert notes == [f"{tmp_path / 'b'}: could not be timed: too big"]


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
    monkeypatch.setattr(timings, "measure", fake_measure(seconds))
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
    with timings.volume_of(group, "test", None, None) as (file, what):
        image = nibabel.load(file)
        values = np.asarray(image.dataobj)
    dataset = open_cases(group.first, "test", None)
    first = np.load(dataset.records[0].path)["image"]
    assert image.shape == (4, 24, 28) and np.allclose(image.affine, AFFINE)
    assert np.array_equal(values[0, ::-1], first)  # rows are flipped in the file
    assert what.startswith("case_00004, 4x24x28")


def run_with(dice: dict[str, list[float]]) -> Run:
    rows = [
        {"case": case, "class": str(n), "dice": value} for case, both in dice.items() for n, value in enumerate(both)
    ]
    return Run("run", {}, "", 0, "test", {}, rows, "", None)


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
    frame = panels.frame_of(foreground, (1.0, 3.0))
    assert frame.top <= 10 and frame.bottom >= 60 and frame.left <= 40 and frame.right >= 50
    share = 0.25 * (1 + 2 * panels.MARGIN)
    assert frame.bottom - frame.top == round(200 * share)
    assert frame.right - frame.left == round(100 * share)
    assert frame.size == (panels.SIDE * 200 // 300, panels.SIDE)  # 200 mm by 300 mm
    assert panels.frame_of(foreground, (1.0, 3.0), whole=True).size == frame.size
    everything = panels.frame_of(np.ones((50, 60), bool), (1.0, 1.0))
    assert (everything.top, everything.bottom, everything.left, everything.right) == (0, 50, 0, 60)
    nothing = panels.frame_of(np.zeros((50, 60), bool), (1.0, 1.0))
    assert (nothing.top, nothing.bottom, nothing.left, nothing.right) == (0, 50, 0, 60)


def test_errors_have_the_colors_of_the_legend():
    target, prediction = np.zeros((2, 40, 40), np.uint8)
    target[:20], prediction[10:30] = 1, 1  # rows 0-9 missed, 10-19 right, 20-29 false alarm
    frame = panels.frame_of(target > 0, (1.0, 1.0), whole=True)
    shown = panels.with_errors(np.zeros((*frame.size, 3), np.uint8), target, prediction, frame)
    scale, column = frame.size[0] // 40, frame.size[1] // 2
    missed, right, false = (shown[row * scale, column].astype(int) for row in (5, 15, 25))
    assert missed[2] > 150 > missed[0]  # blue
    assert false[0] > 150 > false[2]  # orange
    assert right.max() == 0


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


def test_methods_are_known_by_their_terms():
    assert method_name([{"name": "hint", "student": "encoder1", "teacher": "encoder1", "weight": 17.0}]) == "distilled"


def test_rows_of_a_confusion_matrix_are_targets():
    rows = [{"target": 0, "prediction": 1}] * 3 + [{"target": 1, "prediction": 1}]
    run = Run("run", {"preprocessing": {"class_names": ["cat", "dog"]}}, "", 0, "test", {}, rows, "", None)
    matrix = confusion_matrix(run, "network")
    assert "cat answered as dog: 3, 100%" in matrix and "dog answered as dog: 1, 100%" in matrix
    assert "dog answered as cat: 0, 0%" in matrix


def test_classification_has_matrices_and_answers(tmp_path):
    file = write_medmnist(tmp_path / "spots.npz", {"train": (12, 6, 3), "val": (3, 2, 1), "test": (9, 8, 7)})
    small = ["--data.image_size=32", "--training.batch_size=8", "--training.epochs=1", "--mode=both"]
    small += [f"--data.file={file}", "--training.log_every=1", "--training.pictures=0", "--training.precision=32-true"]
    network = '--network={"name": "squeezenet"}'
    teacher = [f"--config={ROOT / 'configs/dermamnist_teacher.yaml'}", *small, network, "--task_weight=2.0"]
    assert run_recipe(parse(Recipe, "test", [*teacher, f"--output={tmp_path / 'teacher'}"]), train.supervised) == 0
    student = [f"--config={ROOT / 'configs/dermamnist_student.yaml'}", *small, network]
    assert run_recipe(parse(Recipe, "test", [*student, f"--output={tmp_path / 'alone'}"]), train.supervised) == 0
    distilled = [
        *student,
        f"--config={ROOT / 'configs/methods/skin_lesion.yaml'}",
        f"--output={tmp_path / 'distilled'}",
    ]
    distilled.append(f"--teacher={tmp_path / 'teacher/best.ckpt'}")
    assert run_recipe(parse(DistillationRecipe, "test", distilled), train_kd.distilled) == 0
    assert main(report(tmp_path, tmp_path / "report.html", runs=("teacher", "alone", "distilled"))) == 0
    checked = Checker((tmp_path / "report.html").read_text())
    assert {"summary", "scores", "curves", "confusion", "cases", "attention", "method"} <= set(checked.ids)
    rows = json.loads((tmp_path / "alone/test.json").read_text())["rows"]
    accuracy = np.mean([row["target"] == row["prediction"] for row in rows])
    assert f"{accuracy:.3f}" in checked.words
    assert "balanced accuracy" in checked.words
