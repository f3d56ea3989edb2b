"""Runs a notebook of vignettes/ from top to bottom, in a kernel of its own."""

import json
from pathlib import Path

import pytest

VIGNETTES = Path(__file__).resolve().parents[1] / "vignettes"


def executed(name: str, facts: str, monkeypatch, **variables: str) -> tuple[int, list]:
    """The number of pictures in the notebook, and the value of the expression `facts` at its end.

    variables: of the environment, which the notebooks read to be shorter. Skips where notebooks cannot be run.
    """
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install scduet[test]")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install scduet[test]")
    for variable, value in {"PYTHONWARNINGS": "ignore", **variables}.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(VIGNETTES / name, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept in git"
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json; print(json.dumps({facts}, default=float))"))
    place = {"metadata": {"path": str(VIGNETTES)}}
    client.NotebookClient(notebook, timeout=300, resources=place, coalesce_streams=True).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    return pictures, json.loads(outputs[-1]["text"])


def told(name: str) -> str:
    """The text of the notebook, without its code."""
    cells = json.loads((VIGNETTES / name).read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
