"""What a new user sees in Jupyter: a kernel without `%matplotlib inline`, with ipywidgets and without."""

import pytest

SETUP = """
import sys
{hide}
import anndata, numpy as np, pandas as pd, scduet as sd
obs = pd.DataFrame({{"batch": ["a", "b"] * 100, "cell_type": ["T", "T", "B", "B"] * 50}}).rename("c{{}}".format)
adata = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (200, 60)).astype("float32"), obs=obs)
keys = dict(batch_key="batch", labels_key="cell_type")
"""
CELLS = {
    "train": "model = sd.integrate(adata, 'scanvi', **keys, n_latent=5, max_epochs=3)",
    "model": "model",
    "figure": "sd.pl.training_curves(model.history)",
    "scores": "sd.score(adata, ['X_scANVI'], 'batch', 'cell_type', metrics=['silhouette_label', 'cilisi', 'ilisi'])",
    "advice": "sd.recommend(adata, 'integration', batch_key='batch')",
    "inline": "%matplotlib inline\nsd.pl.training_curves(model.history)",
    "pyplot": "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.close()\nsd.pl.training_curves(model.history)",
}


@pytest.fixture(scope="module", params=["with ipywidgets", "without ipywidgets"])
def outputs(request, tmp_path_factory):
    """The outputs of each cell."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install scduet[test]")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install scduet[test]")
    if request.param == "with ipywidgets":
        pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install scduet[test]")
        hide = ""
    else:
        hide = "sys.modules['ipywidgets'] = None  # as if it were not installed"
    sources = [SETUP.format(hide=hide), *CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    run = client.NotebookClient(notebook, timeout=300, resources=place, coalesce_streams=True, kernel_name="python3")
    run.execute()
    return {name: cell["outputs"] for name, cell in zip(CELLS, notebook.cells[1:], strict=True)}


def of_type(outputs, kind):
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def test_the_bar_is_one_output_that_ends_at_the_last_epoch(outputs):
    (bar,) = of_type(outputs["train"], "text/html")
    assert '<progress value="3" max="3">' in bar
    (line,) = of_type(outputs["train"], "text/plain")
    assert line.startswith("epoch 3/3, loss validation ")
    assert "left" not in line


def test_nothing_asks_for_ipywidgets_and_the_genes_are_told(outputs):
    said = "".join(output["text"] for output in outputs["train"] if output["output_type"] == "stream")
    assert "60 of 60 genes" in said
    assert "ipywidgets" not in said


@pytest.mark.parametrize("cell", ["figure", "inline", "pyplot"])
def test_a_figure_is_shown_once(outputs, cell):
    assert len(of_type(outputs[cell], "image/png")) == 1
    assert len(outputs[cell]) == 1


def test_a_model_tells_what_it_is(outputs):
    (text,) = of_type(outputs["model"], "text/plain")
    assert "scanvi" in text
    assert "200 cells x 60 genes" in text
    assert "3, loss validation" in text
    assert "n_latent=5, batch_key" not in text, "options of data come first"
    assert "batch_key='batch', labels_key='cell_type', n_latent=5" in text
    assert "lr=" not in text, "the recipe chose it"
    assert "X_scANVI" in text


def test_scores_have_metrics_as_rows_and_their_notes_below(outputs):
    (page,), (text,) = of_type(outputs["scores"], "text/html"), of_type(outputs["scores"], "text/plain")
    rows = text.splitlines()
    assert "X_scANVI" in rows[0]
    assert rows[1].split()[0] == "silhouette_label"
    assert "trained on the labels 'cell_type'" in text
    assert "trained on the labels" in page
    assert "..." not in text


def test_recommendations_are_not_cut_off(outputs):
    (text,) = of_type(outputs["advice"], "text/plain")
    assert text.startswith("integration: ")
    assert "..." not in text
