"""Who may import whom, and that importing does nothing."""

import ast
import importlib
import random
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from import_graph import ORDER, ROOT, cycle, file_graph, files, imported, parsed, room_graph, room_of, upward

# Rooms whose files import their own room alone (and a file of a few functions): each can be read and used by itself
ALONE = ("utils/distillation/losses", "utils/evaluation/metrics", "networks")
FUNCTIONS = Path("datasets/slices/arrays.py")
# Optional packages, and the file whose functions may import them
OPTIONAL = {"torchvision": None, "timm": "timm_model.py", "nnunetv2": "nnunet.py"}


def test_every_room_has_its_place():
    assert {room_of(file) for file in files()} <= set(ORDER)


def test_imports_point_downward_only():
    assert not upward(room_graph())


def test_no_imports_go_round_in_circles():
    assert not cycle(file_graph(at_import=True))


def test_a_circle_and_an_upward_arrow_would_be_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert upward({"networks": {"scripts", "utils/tables.py"}}) == ["networks imports scripts"]


@pytest.mark.parametrize("room", ALONE)
def test_losses_metrics_and_networks_import_their_own_room_alone(room):
    for file, others in file_graph().items():
        if file.is_relative_to(room):
            assert all(other.is_relative_to(room) for other in others - {FUNCTIONS}), file


def test_no_room_runs_a_script():
    path = re.compile(r"(.*/)?scripts(/\w+)*(\.py)?")  # a command within a longer sentence is for a person
    for file in files():
        if file.parts[0] != "scripts":
            constants = (node for node in ast.walk(parsed(file)) if isinstance(node, ast.Constant))
            texts = {node.value for node in constants if isinstance(node.value, str)}
            assert not [text for text in texts if path.fullmatch(text)], file


@pytest.mark.parametrize("module", OPTIONAL)
def test_the_core_needs_no_optional_package(module):
    for file in files():
        late = file.name == OPTIONAL[module]
        assert module not in {name.split(".")[0] for name in imported(file, at_import=late)}, file


def test_importing_prints_parses_and_seeds_nothing(monkeypatch, capfd):
    names = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files()]
    names = [name for name in names if not name.startswith("scripts.")]

    def import_all() -> None:
        for name in names:
            importlib.import_module(name)

    import_all()  # first with what other packages do when they are imported
    import torch

    tops = {name.partition(".")[0] for name in names}
    others = {name: module for name, module in sys.modules.items() if name.partition(".")[0] not in tops}
    monkeypatch.setattr(sys, "argv", ["pytest", "--nonsense"])
    drawn = random.random(), np.random.random(), torch.rand(1)  # a seed of the first time is not the state any more
    before = random.getstate(), np.random.get_state()[2], torch.get_rng_state().tolist()
    capfd.readouterr()
    with patch.dict(sys.modules, others, clear=True):  # ours anew; afterwards all modules are what they were
        import_all()
    assert (random.getstate(), np.random.get_state()[2], torch.get_rng_state().tolist()) == before, drawn
    assert capfd.readouterr() == ("", "")


def test_whatever_teaches_loads_no_trainer():
    """Each worker of TeachWith.py imports it, and what distils takes seconds more."""
    graph = file_graph()
    of_teaching = {str(other) for file in graph if room_of(file) == "utils/teaching" for other in graph[file]}
    assert "utils/experiment/guards.py" in of_teaching and "utils/experiment/teacher.py" not in of_teaching


def test_slicing_loads_what_it_uses():
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import SliceMaker, MakePhantom\n"
        "assert not {'torch', 'monai', 'skimage'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_loads_nothing_heavy():
    """Every command answers --help before torch and its like are loaded, which takes seconds."""
    code = (
        "import runpy, sys\n"
        "for script in sys.argv[1:]:\n"
        "    sys.argv = [script, '--help']\n"
        "    try:\n"
        "        runpy.run_path(script, run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, script\n"
        "    heavy = {'torch', 'monai', 'sklearn', 'scipy.stats', 'cv2', 'tensorboard'} & set(sys.modules)\n"
        "    assert not heavy, f'{script} loads {heavy}'\n"
    )
    scripts = [file for file in files() if file.parts[0] == "scripts" and "benchmarks" not in file.parts]
    scripts = [str(file) for file in scripts if "def main(" in (ROOT / file).read_text()]
    command = [sys.executable, "-c", code, *scripts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
