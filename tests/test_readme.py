"""The README's commands, run in their order on a tiny phantom."""

import re
import shlex
import subprocess
import sys

import pytest
from image_stores import write_image_folder, write_isic, write_medmnist

import train
import train_kd
from scripts import leaderboard
from utils.experiment.run import main
from utils.leaderboard.plan import read_plan
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe

README = (ROOT / "README.md").read_text()
RECIPES = {"train.py": (Recipe, train.supervised), "train_kd.py": (DistillationRecipe, train_kd.distilled)}
SMALL = [
    "--data.crop=32",
    "--training.epochs=1",
    "--training.batch_size=4",
    "--training.precision=32-true",
    '--network={"name": "unet", "widths": [4, 4, 4, 4, 4]}',
]
SMALL_IMAGES = [
    "--data.image_size=32",
    "--training.epochs=1",
    "--training.batch_size=4",
    "--training.precision=32-true",
]
SCRIPTS = ("SliceMaker", "compare", "predict", "evaluate", "export", "report")
NEED_MORE_IMAGES = ("scripts/skin/FilterGenerated.py", "scripts/skin/BoostMetadata.py")  # see test_skin_scripts.py


def blocks(section: str) -> list[list[str]]:
    """The words of every command in the indented blocks of a section."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = "\n".join(re.findall(r"^    (.*)$", text, flags=re.MULTILINE)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def published() -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"`python (train(?:_kd)?\.py [^`]*)`", README.replace("\n", " "))]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder with the repository's recipes and a tiny phantom where the README's raw volumes are."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    phantom = [*("--outpath", "raw/kits19", "--layout", "kits", "--cases", "8"), *("--size", "32", "--slices", "8")]
    run_script(["scripts/MakePhantom.py", *phantom, "--jobs", "1"], tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_script(words: list[str], folder) -> None:
    command = [sys.executable, str(ROOT / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    # --check and slicing exit with 1 where there is something to tell, here that slices are not 512x512.
    assert done.returncode in ((0, 1) if "--check" in words else (0,)), done.stdout[-1000:] + done.stderr[-2000:]


def test_the_commands_for_your_data_and_its_use_run_in_their_order(workplace):
    ran = []
    for words in blocks("Your data") + blocks("In use"):
        if words[0] in ("torchrun", "fabric"):
            file = next(word for word in words if word in RECIPES)
            parse(RECIPES[file][0], "test", words[words.index(file) + 1 :])
        elif words[0] == "python" and words[1] in RECIPES:
            recipe_class, objective = RECIPES[words[1]]
            small = SMALL if any(word.startswith("configs/") for word in words) else []
            assert main(parse(recipe_class, "test", [*words[2:], *small]), objective) == 0, words
        elif words[0] == "python":
            run_script(words[1:], workplace)
        else:
            assert words[0] == "tensorboard", words
        ran.append(words[1])
    assert {"train.py", "train_kd.py", *(f"scripts/{name}.py" for name in SCRIPTS)} <= set(ran)


def test_the_commands_for_classification_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_medmnist(tmp_path / "data/dermamnist.npz")
    write_image_folder(tmp_path / "data/brain_mri")
    write_isic(tmp_path / "data/isic")
    write_isic(tmp_path / "raw/isic", patients=2, lesions=2)
    ran = []
    for words in blocks("Classification"):
        if words[1] in RECIPES:
            recipe_class = DistillationRecipe if "--teacher-path" in words else RECIPES[words[1]][0]
            objective = train_kd.distilled if recipe_class is DistillationRecipe else train.supervised
            small = SMALL_IMAGES if "--mode" not in words or "test" not in words else []
            assert main(parse(recipe_class, "test", [*words[2:], *small]), objective) == 0, words
        elif words[1] in NEED_MORE_IMAGES:
            command = [sys.executable, str(ROOT / words[1]), "--help"]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert all(word in printed for word in words if word.startswith("--")), words
        else:
            run_script(words[1:], tmp_path)
        ran.append(words[1])
    assert {"train.py", "train_kd.py", "scripts/compare.py", "scripts/skin/SampleISIC.py"} <= set(ran)


def test_the_plans_of_the_leaderboards_can_be_read():
    commands = list(blocks("Which method helps"))
    assert {file for _, file, *_ in commands} == {"scripts/leaderboard.py"}
    for _, _, *arguments in commands:
        assert read_plan(ROOT / leaderboard.build_parser().parse_args(arguments).plan).seeds == [0, 1, 2]


def test_the_published_commands_parse():
    commands = published()
    assert len(commands) == 2
    for file, *arguments in commands:
        parse(RECIPES[file][0], "test", arguments)


def test_every_method_and_network_of_the_readme_exists_and_none_is_missing():
    from networks import NETWORKS
    from utils.recipe.command_line import METHODS

    methods = {path.stem for path in METHODS.glob("*.yaml")}
    assert methods <= set(re.findall(r"`(\w+)`", README.split("\n## Methods\n")[1].split("\n## ")[0]))
    table = README.split("\n## Networks\n")[1].split("\n## ")[0]
    assert all(f"`{name}`" in table for name in NETWORKS if name != "resnet_18")


def test_pictures_exist():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture
