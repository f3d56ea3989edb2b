"""The story of a transformer of one's own runs from top to bottom, at a size that teaches the models little."""

import json
from pathlib import Path

import pytest

VIGNETTES = Path(__file__).parents[3] / "vignettes"


def test_pretrain_finetune(monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install scduet[test]")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install scduet[test]")
    monkeypatch.setenv("EPOCHS", "1")
    monkeypatch.setenv("CELLS", "400")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    notebook = nbformat.read(VIGNETTES / "pretrain_finetune.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept in git"
    facts = "[honest['accuracy'].to_dict(), programs.attrs['links'].to_dict('list'), effects['n_cells'].to_dict()]"
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json; print(json.dumps({facts}, default=float))"))
    place = {"metadata": {"path": str(VIGNETTES)}}
    client.NotebookClient(notebook, timeout=300, resources=place, coalesce_streams=True).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    accuracy, links, perturbed = json.loads(outputs[-1]["text"])
    models = {f"{name}{how}" for name in ("geneformer", "scgpt") for how in ("", ", not pre-trained")}
    assert set(accuracy) == {*models, "knn on pca", "logistic regression"}
    assert accuracy["logistic regression"] > 0.4, "of ten kinds"
    shares = dict(zip(links["method"], links["in_common_set"], strict=True))
    assert shares["coexpression"] > shares["random pairs"]
    assert "CD79A" in perturbed
    assert all(n >= 10 for n in perturbed.values())
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3, "training of both, network"
