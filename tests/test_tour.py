"""The notebook runs from its first cell to its last, and is stored with its figures."""

import resource
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
TOUR = Path(__file__).parents[1] / "examples" / "tour.ipynb"


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def kinds(notebook):
    """What each output is: the stored notebook and one that is executed now must have the same."""
    return [sorted(output.get("data", {"text/plain": ""}))[0] for output in outputs(notebook)]


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(TOUR, as_version=4)


def test_it_is_stored_with_its_figures(stored):
    assert TOUR.stat().st_size < 1_000_000
    assert sum(kind.startswith("image/") for kind in kinds(stored)) >= 7
    assert all(cell.outputs for cell in stored.cells[2:] if cell.cell_type == "code" and "show(" in cell.source)


def test_no_path_of_a_machine_is_stored(stored):
    text = "".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs(stored)
    )
    assert "/" not in text.replace("image/", "")


@pytest.mark.slow
def test_it_runs(stored, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = stored.copy()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert kinds(without_warnings(notebook)) == kinds(stored)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 120  # seconds of one core


def without_warnings(notebook):
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook
