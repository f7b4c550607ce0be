"""The commands of README.md and docs/, run in their order on tiny data, and what else these pages promise."""

import re
import runpy
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from image_stores import write_image_folder, write_isic, write_medmnist
from PIL import Image
from tiny_runs import Tiny

from networks import NETWORKS
from utils.leaderboard.plan import read_plan
from utils.planning.dry_step import Measured
from utils.recipe.schema import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
VOLUMES = ("README.md", "docs/training.md", "docs/predict-evaluate-export.md")
NEED_OTHER_DATA = ("docs/leaderboard.md", "docs/results.md", "docs/networks.md", "docs/speed.md", "docs/methods.md")
OTHER_TEACHERS = "docs/your-own-teacher.md"  # nnU-Net, TotalSegmentator and ONNX files are not here
CLASSIFICATION = ["MedMNIST", "Image folders", "ISIC 2024", "Before and after training"]  # sections of its page
TRAIN = ("train.py", "train_kd.py")
SMALL = ["--training.epochs=1", "--training.batch_size=8", "--training.precision=32-true", "--training.share_every=0"]
SMALL_VOLUMES = ["--data.crop=32", '--network={"name": "tiny"}', *SMALL]
SMALL_IMAGES = ["--data.image_size=32", *SMALL]
SMALL_SWIN = '--network={"name": "swinv2", "dim": 12, "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1]}'
TINY = {  # what is added to the commands of a page
    "scripts/MakePhantom.py": [*("--cases", "8", "--size", "32", "--slices", "8"), *("--jobs", "1")],
    "scripts/SliceMaker.py": ["--jobs", "1"],
    "scripts/evaluate.py": ["--jobs", "1"],
    "scripts/export.py": ["--formats", "onnx", "int8"],
    "scripts/report.py": ["--no_latency"],
}
OTHER_PROGRAMS = ("bash", "source", "pip", "tensorboard", "export", "for", "nnUNetv2_predict")
PARSED_ONLY = ("torchrun", "fabric")  # need several processes
NEED_MORE = (  # than these tiny data; tests of their own run them: test_convert_checkpoint.py, test_distill.py, ...
    *("scripts/ConvertCheckpoint.py", "scripts/skin/FilterGenerated.py", "scripts/skin/BoostMetadata.py"),
    "scripts/Distill.py",
)
AS_PROCESS = (("scripts/SliceMaker.py", "--check"),)  # the others run in this one


def blocks(page: str, language: str, section: str | None = None) -> list[str]:
    """The fenced blocks of a page in a language, or of its section `## section`."""
    text = (ROOT / page).read_text()
    if section is not None:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: str, section: str | None = None) -> list[list[str]]:
    """The words of every command of a page."""
    lines = "\n".join(blocks(page, "bash", section)).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [each for each in words if each and each[0] not in OTHER_PROGRAMS]


def run_all(wanted: list[list[str]], small: list[str]) -> set[str]:
    """Runs every command once, in order, and returns the files that ran."""
    done: list[list[str]] = []
    for words in wanted:
        if words not in done:
            run_command(words, small)
            done.append(words)
    return {words[1] for words in done}


def run_command(words: list[str], small: list[str]) -> None:
    if words[0] in PARSED_ONLY or words[1] in NEED_MORE:
        return check(words)
    assert words[0] == "python", words
    script, arguments = words[1], [*words[2:], *TINY.get(words[1], [])]
    has_its_recipe = any(word.startswith("runs/") and word.endswith("config.yaml") for word in arguments)
    if script in TRAIN and not has_its_recipe and "test" not in arguments:
        arguments += [*small, SMALL_SWIN] if "configs/isic_teacher.yaml" in arguments else small
    # --check exits with 1 where there is something to report, here that slices are not 512x512.
    fine = (0, 1) if "--check" in arguments else (0,)
    if any(script == name and flag in arguments for name, flag in AS_PROCESS):
        command = [sys.executable, str(ROOT / script), *arguments]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert process.returncode in fine, process.stdout[-1000:] + process.stderr[-2000:]
    else:
        assert status(script, arguments) in fine, words
    return None


def status(script: str, arguments: list[str]) -> int:
    """Runs a script with arguments as `python` does, in this process, and returns its exit status."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", [script, *arguments])
        patch.setattr(sys, "path", [*sys.path])
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return end.value.code or 0


def check(words: list[str]) -> None:
    """Reads a command's flags, and does not run it."""
    script = next(word for word in words if word.endswith(".py"))
    arguments = words[words.index(script) + 1 :]
    with redirect_stdout(StringIO()) as printed:
        assert status(script, [*arguments, "--print_config" if script in TRAIN else "--help"]) == 0, words
    if script not in TRAIN:
        assert all(word in printed.getvalue() for word in arguments if word.startswith("--")), words


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder with the repository's recipes, and a network of which a run is short."""
    monkeypatch.setitem(NETWORKS, "tiny", Tiny)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw_phantom(folder: Path) -> None:
    arguments = ["--outpath", str(folder), "--layout", "kits", *TINY["scripts/MakePhantom.py"]]
    assert status("scripts/MakePhantom.py", arguments) == 0


def test_the_commands_for_volumes_run_in_their_order(workplace):
    draw_phantom(workplace / "raw/kits19")
    ran = run_all([words for page in VOLUMES for words in commands(page)], SMALL_VOLUMES)
    scripts = ("SliceMaker", "compare", "predict", "evaluate", "export", "report", "ConvertCheckpoint")
    assert ran >= {"train.py", "train_kd.py", *(f"scripts/{name}.py" for name in scripts)}
    scope: dict = {}
    for code in blocks("docs/python.md", "python"):
        exec(compile(code, "docs/python.md", "exec"), scope)
    assert scope["labels"].shape == scope["image"].shape and set(scope["losses"]) == {"task", "soft_target/logits"}


def test_the_commands_for_data_run_in_their_order(workplace):
    draw_phantom(workplace / "raw/kits19")
    (workplace / "raw/scans").symlink_to("kits19")
    write_isic(workplace / "data/isic")
    for kind in ("images", "masks"):
        (workplace / "raw/liver_2d" / kind).mkdir(parents=True)
        for case in range(5):
            picture = np.random.default_rng(case).integers(0, 2 if kind == "masks" else 256, (32, 32), np.uint8)
            Image.fromarray(picture).save(workplace / f"raw/liver_2d/{kind}/{case}_0.png")
    ran = run_all(commands("docs/data.md"), [])
    assert ran >= {"scripts/MakePhantom.py", "scripts/SliceMaker.py", "scripts/ImportSlices.py"}


def test_the_commands_for_a_plan_run_in_their_order(workplace, monkeypatch):
    draw_phantom(workplace / "raw/kits19")
    monkeypatch.setattr(
        "utils.planning.memory.in_own_process", lambda trial: Measured(10**9, 10**9, 10**10, 1.0, 1.0, "cpu")
    )
    monkeypatch.setattr("utils.planning.budget.is_installed", lambda engine: False)
    monkeypatch.setattr("utils.planning.plan.STUDENTS", ("espnet",))
    assert run_all(commands("docs/plan.md"), []) == {"scripts/SliceMaker.py", "scripts/Plan.py"}
    planned = {path.name for path in (workplace / "plans/kits19").iterdir()}
    assert planned == {"teacher.yaml", "student.yaml", "plan.html"}


@pytest.mark.parametrize("section", CLASSIFICATION)
def test_the_commands_for_classification_run_in_their_order(workplace, monkeypatch, section):
    monkeypatch.setattr("networks.vit.DIM", 24)  # a student of ISIC, of 22 million numbers
    write_medmnist(workplace / "data/dermamnist.npz")
    write_image_folder(workplace / "data/brain_mri")
    write_isic(workplace / "data/isic", patients=12, lesions=3)
    write_isic(workplace / "raw/isic", patients=2, lesions=2)
    assert run_all(commands("docs/classification.md", section), SMALL_IMAGES)


def test_no_command_of_classification_is_left_out():
    sections = re.findall(r"^## (.*)$", (ROOT / "docs/classification.md").read_text(), flags=re.MULTILINE)
    assert [section for section in sections if commands("docs/classification.md", section)] == CLASSIFICATION


@pytest.mark.parametrize("page", [*NEED_OTHER_DATA, OTHER_TEACHERS])
def test_commands_on_other_data_can_be_read(monkeypatch, page):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        check(words)


def test_the_plans_of_the_leaderboards_can_be_read():
    plans = [words[2] for words in commands("docs/leaderboard.md") if words[1] == "scripts/leaderboard.py"]
    assert plans
    for plan in plans:
        assert read_plan(ROOT / plan).seeds == [0, 1, 2]


def test_every_command_stands_on_a_page_whose_commands_run():
    known = {*VOLUMES, *NEED_OTHER_DATA, OTHER_TEACHERS, "docs/data.md", "docs/plan.md", "docs/classification.md"}
    assert {str(page.relative_to(ROOT)) for page in PAGES if blocks(str(page.relative_to(ROOT)), "bash")} <= known


def test_every_network_is_in_its_table():
    table = (ROOT / "docs/networks.md").read_text()
    assert all(f"`{name}`" in table for name in NETWORKS if name != "resnet_18")


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "data/README.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        file, _, place = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if place:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            assert place in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], link


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
