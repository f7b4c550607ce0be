"""docs/tutorial.ipynb runs from its first cell to its last, at a tiny size."""

import json
import os
from pathlib import Path

import nbformat
from forked import forked
from IPython.core.interactiveshell import InteractiveShell

from utils.recipe.schema import ROOT

NOTEBOOK = ROOT / "docs/tutorial.ipynb"
CONSTANTS = """
CASES, SIZE, SLICES = 8, 32, 8
EPOCHS = 1
SPLIT = "--split 0.5 0.25 0.25"
LABELED = 0.5
DATA, RUNS = "{folder}/data", "{folder}/runs"
"""


class Shell(InteractiveShell):
    """IPython as in a kernel; what a script raises that a cell runs is an error of the cell."""

    def showtraceback(self, *_, **__) -> None:
        raise


def run_cells(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run the code of a notebook where a notebook starts; two of its cells end in a picture."""
    os.chdir(NOTEBOOK.parent)
    shell = Shell.instance(ipython_dir=str(folder))
    pictures = 0
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        done = shell.run_cell(cell.source)
        done.raise_error()
        pictures += "image/png" in shell.display_formatter.format(done.result)[0]
    assert pictures == 2


def test_it_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (place,) = [number for number, cell in enumerate(notebook.cells) if cell.source.startswith("CASES, SIZE, SLICES")]
    notebook.cells[place].source = CONSTANTS.format(folder=tmp_path)
    assert forked(lambda: run_cells(notebook, tmp_path / "shell")) == 0
    for run in ("teacher", "alone", "distilled"):
        assert json.loads((tmp_path / "runs" / run / "test.json").read_text())["scores"]["cases"] == 2


def test_its_outputs_are_kept_and_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert len(notebook.cells) == 15 and NOTEBOOK.stat().st_size < 500_000
    assert all(cell.outputs for cell in notebook.cells[4:] if cell.cell_type == "code")
