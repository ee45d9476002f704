"""The notebook of the documentation runs from top to bottom, in a kernel of its own."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tour.ipynb"


SHORT = {"epochs=10)": "epochs=3)", "epochs=16)": "epochs=1)", "batch_size=64)": "batch_size=64, epochs=1)"}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("changes", [SHORT, pytest.param({}, marks=pytest.mark.slow)], ids=["short", "whole"])
def test_the_notebook_runs_and_adds_smiles(tmp_path, changes):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for words, others in changes.items():
        (cell,) = (cell for cell in notebook.cells if words in cell.source)
        cell.source = cell.source.replace(words, others)
    shown = [_pictures(cell) for cell in notebook.cells]
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert [_pictures(cell) for cell in notebook.cells] == shown and sum(shown) == 5
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    learned = next(line for line in text.splitlines() if line.startswith("can be learned:"))
    assert {"Smiling", "Eyeglasses", "Wearing_Hat"} <= set(learned.split())


def test_the_notebook_is_small():
    assert NOTEBOOK.stat().st_size < 1 << 20


def _pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
