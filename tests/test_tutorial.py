"""docs/tutorial.ipynb runs from its first cell to its last, at a tiny size."""

import json

import nbclient
import nbformat

from utils.recipe.schema import ROOT

NOTEBOOK = ROOT / "docs/tutorial.ipynb"
CONSTANTS = """
CASES, SIZE, SLICES = 8, 32, 8
EPOCHS = 1
SPLIT = "--split 0.5 0.25 0.25"
LABELED = 0.5
DATA, RUNS = "{folder}/data", "{folder}/runs"
"""


def test_it_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (place,) = [number for number, cell in enumerate(notebook.cells) if cell.source.startswith("CASES, SIZE, SLICES")]
    notebook.cells[place].source = CONSTANTS.format(folder=tmp_path)
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    for run in ("teacher", "alone", "distilled"):
        assert json.loads((tmp_path / "runs" / run / "test.json").read_text())["scores"]["cases"] == 2
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert len(shown) == 2 and all("image/png" in output.data for output in shown)


def test_its_outputs_are_kept_and_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert len(notebook.cells) == 15 and NOTEBOOK.stat().st_size < 500_000
    assert all(cell.outputs for cell in notebook.cells[4:] if cell.cell_type == "code")
