"""Small finished runs for the report, and a reader of its page."""

import json
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import write_store

from utils.experiment.run import main as run_recipe
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe

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
        assert run_recipe(parse(Recipe, "test", arguments)) == 0
        return
    arguments += [f"--config={ROOT / 'configs/methods/emkd.yaml'}", f"--teacher={teacher}/best.ckpt"]
    assert run_recipe(parse(DistillationRecipe, "test", arguments)) == 0


@cache
def train_all(root):
    """Train, in a folder: a teacher, a student alone and one distilled with two seeds, beside their slice store."""
    root.mkdir()
    data = store(root / "kits")
    train_run(TEACHER, root / "teacher", data)
    train_run(STUDENT, root / "alone", data)
    for seed in (0, 1):
        train_run(STUDENT, root / f"emkd_{seed}", data, seed, root / "teacher")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Finished runs beside their data, made once; only to be read."""
    return train_all(tmp_path_factory.getbasetemp() / "report_runs")


def report(root, output, *flags, runs=("teacher", "alone", "emkd_0", "emkd_1")) -> list[str]:
    latency = [] if "--volume" in flags or "--repeats" in flags else ["--no_latency"]
    return ["--runs", *(str(root / name) for name in runs), "--output", str(output), *latency, *map(str, flags)]


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
