"""The story about scores runs from top to bottom, and its table has what its text promises."""

import json
from pathlib import Path

import pytest

VIGNETTES = Path(__file__).parents[3] / "vignettes"


def test_is_my_integration_good(monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install scduet[test]")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install scduet[test]")
    monkeypatch.setenv("EPOCHS", "2")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")
    notebook = nbformat.read(VIGNETTES / "is_my_integration_good.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept in git"
    columns = "list(table.columns)"
    facts = f"print(json.dumps([table['total'].to_dict(), {columns}, others['cilisi'].notna().all()], default=bool))"
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json; {facts}"))
    place = {"metadata": {"path": str(VIGNETTES)}}
    client.NotebookClient(notebook, timeout=300, resources=place, coalesce_streams=True).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    total, shown, has_others = json.loads(outputs[-1]["text"])
    assert {"X_pca", "X_scVI", "X_scANVI"} <= set(total)
    assert all(0 < value < 1 for value in total.values())
    told = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert [name for name in shown if f"`{name}`" not in told and name != "rank"] == [], "columns without a reading"
    assert has_others
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
