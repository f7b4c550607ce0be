"""Who may import whom, and that importing does nothing."""

import ast
import subprocess
import sys

import pytest

from utils.recipe.schema import ROOT

ROOMS = ("datasets", "networks", "utils", "scripts", "train", "train_kd")
MAY_IMPORT = {
    "datasets": {"datasets"},
    "networks": {"networks"},
    "utils": {"utils", "datasets", "networks"},
}
ALONE = [
    *(ROOT / "utils/losses").glob("*.py"),
    *(ROOT / "utils/metrics").glob("*.py"),
    ROOT / "utils/recipe/schema.py",
]
# Optional packages, and the file whose functions may import them
OPTIONAL = {"torchvision": None, "timm": "timm_model.py"}


def imported(file, at_import: bool = False) -> set[str]:
    """Dotted names of what a file imports, relative ones resolved; `at_import`: not what its functions import."""
    package = file.relative_to(ROOT).parent.parts
    names = set()
    tree = ast.parse(file.read_text())
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else ()
            names.add(".".join((*parts, *([node.module] if node.module else []))))
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_downward_only(room):
    for file in (ROOT / room).rglob("*.py"):
        ours = {name.split(".")[0] for name in imported(file)} & set(ROOMS)
        assert ours <= MAY_IMPORT[room], f"{file} imports {ours - MAY_IMPORT[room]}"


@pytest.mark.parametrize("file", ALONE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_losses_metrics_and_config_import_nothing_of_ours_but_their_own_package(file):
    ours = {name for name in imported(file) if name.split(".")[0] in ROOMS}
    package = f"utils.{file.parent.name}"  # of utils/recipe/schema.py "utils.utils": nothing
    assert all(name == package or name.startswith(f"{package}.") for name in ours)


@pytest.mark.parametrize("module", OPTIONAL)
def test_the_core_needs_no_optional_package(module):
    for file in [*ROOT.glob("*.py"), *(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))]:
        late = file.name == OPTIONAL[module]
        assert module not in {name.split(".")[0] for name in imported(file, at_import=late)}, file


def test_importing_prints_parses_and_seeds_nothing():
    code = (
        "import random, sys; sys.argv.append('--nonsense'); state = random.getstate()\n"
        "import torch; seed = torch.initial_seed()\n"
        "import train, train_kd, datasets.registry, utils.experiment.run\n"
        "assert random.getstate() == state and torch.initial_seed() == seed\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_slicing_needs_neither_torch_nor_monai():
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import SliceMaker, MakePhantom\n"
        "assert not {'torch', 'monai'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
