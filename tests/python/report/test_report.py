"""The report is one safe, self-contained page that says what was computed."""

import base64
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from named import named

import scduet as sd
from scduet.errors import DataError, FormatError
from scduet.reports import sections
from scduet.reports.page import Cell, Section, Table, render
from scduet.tasks.workflows.draw import lay_out, umap

EVIL = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, its cells (one type has a hostile name), their scores, and the page about them."""
    adata = sd.datasets.simulate(150, 50, n_types=3, seed=2)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"type_0": EVIL})
    model = sd.integrate(
        adata, batch_key="batch", labels_key="cell_type", max_epochs=2, n_latent=2, gene_likelihood="nb"
    )
    scores = sd.score(adata, ["X_scVI"], "batch", "cell_type", metrics=["silhouette_label", "bras", "isolated_labels"])
    path = sd.report(adata, tmp_path_factory.mktemp("report") / "report.html", model=model, scores=scores)
    return SimpleNamespace(adata=adata, model=model, scores=scores, path=path, page=path.read_text(encoding="utf-8"))


class Outline(HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, wanted):
        return [attrs for tag, attrs in self.tags if tag == wanted]


def test_a_hostile_cell_type_is_text(made):
    outline = Outline(made.page)
    assert outline.all("script") == []
    assert EVIL not in made.page
    assert sum(EVIL in words for words in outline.words) == 2, "in the table of cells and in the legend"


def test_everything_is_inside(made):
    outline = Outline(made.page)
    pictures = [attrs["src"] for attrs in outline.all("img")]
    assert len(pictures) == 3 + 2 * 2, "three terms of the loss; two embeddings by batch and type"
    for picture in pictures:
        assert base64.b64decode(picture.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", made.page)
    assert not re.search(r"url\(|@import", made.page)
    assert all(attrs["alt"] for attrs in outline.all("img"))


def test_a_phone_can_read_it(made):
    viewport = [attrs for attrs in Outline(made.page).all("meta") if attrs.get("name") == "viewport"]
    assert viewport == [{"name": "viewport", "content": "width=device-width, initial-scale=1"}]


def test_it_says_what_was_computed(made):
    text = " ".join(" ".join(Outline(made.page).words).split())
    for section in ("Data", "Model", "Training", "Before and after", "Scores", "How to repeat this"):
        assert section in text
    assert f"cells {made.adata.n_obs}" in text
    assert "n_latent 2" in text
    for embedding in ("X_pca", "X_scVI"):
        assert f"{made.scores.loc[embedding, 'silhouette_label']:.3f}" in text
    assert "Isolated labels is not defined here" in text
    assert "higher is better" in text
    assert "Silhouette label" in text
    assert sd.__version__ in text


def test_the_recipe_for_repeating_gives_the_same(made):
    code, _, _ = sections.repeat({"scvi": made.model}, "batch", "cell_type").code.rpartition("sd.score(")
    again = made.adata.copy()
    exec(code, {"adata": again})
    np.testing.assert_allclose(again.obsm["X_scVI"], made.adata.obsm["X_scVI"], atol=1e-4)


def test_of_several_models_each_is_described(made, tmp_path):
    other = sd.fit(made.adata, "ldvae", labels_key="cell_type", max_epochs=3, n_latent=2)
    path = sd.report(
        made.adata, tmp_path / "r.html", model=[made.model, other, made.model], scores=made.scores, max_cells=100
    )
    text = " ".join(" ".join(Outline(path.read_text(encoding="utf-8")).words).split())
    for name, model in (("scvi", made.model), ("ldvae", other), ("scvi 2", made.model)):
        assert f"Model: {name} {model.name} of {len(model.genes)} genes" in text
        assert f"Training: {name} {len(model.history)} epochs" in text
    assert "cell types (cell_type)" in text, "columns of the first model"
    again = tmp_path / "again.html"
    sd.report(made.adata, again, model={"mine": other}, scores=made.scores)
    assert 'key_added="X_mine"' in again.read_text(encoding="utf-8").replace("&#39;", '"').replace("&#34;", '"')


def test_the_table_of_cells_counts_them(made):
    table = sections.data(made.adata, None, "batch", "cell_type").tables[1]
    counted = {row[0]: [int(n.replace(",", "")) for n in row[1:]] for row in table.rows}
    expected = pd.crosstab(made.adata.obs["cell_type"], made.adata.obs["batch"])
    assert counted == {name: list(row) for name, row in zip(expected.index, expected.to_numpy(), strict=True)}


def test_the_best_of_each_row_is_marked():
    table = pd.DataFrame({"bras": [0.5, 0.75], "total": [0.5, np.nan]}, index=["X_pca", "X_scVI"])
    rows = sections.scores(table).tables[0].rows
    assert rows[0][1:] == [Cell("0.500", 0.5, False), Cell("0.750", 0.75, True)]
    assert rows[1][1:] == [Cell("0.500", 0.5, True), Cell("not defined")]


def test_a_page_without_a_model_or_labels(tmp_path):
    adata = sd.datasets.simulate(120, 40, seed=3)
    page = sd.report(adata, tmp_path / "r.html", batch_key="batch").read_text(encoding="utf-8")
    assert "Before and after" in page
    assert "Training" not in page
    bare = sd.report(adata, tmp_path / "bare.html").read_text(encoding="utf-8")
    assert "Scores" not in bare


def test_wrong_names_and_existing_files_are_refused(made, tmp_path):
    with pytest.raises(DataError, match=named("'nowhere'", "obs", "'batch'")):
        sd.report(made.adata, tmp_path / "r.html", batch_key="nowhere")
    with pytest.raises(FormatError, match=named(made.path)):
        sd.report(made.adata, made.path)
    with pytest.raises(FormatError, match=named("'r.pdf'", ".html")):
        sd.report(made.adata, tmp_path / "r.pdf")
    assert list(tmp_path.iterdir()) == []


def test_every_text_of_a_section_is_escaped():
    section = Section(EVIL, [EVIL], [Table([EVIL], [[EVIL, Cell(EVIL)]], {0: EVIL}, EVIL)], (), {EVIL: EVIL}, EVIL)
    assert EVIL not in render(EVIL, [section])


def test_drawing_keeps_the_groups_apart_and_samples():
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal(size=(60, 5)), random.normal(size=(60, 5)) + 12])
    places = umap(points)
    between = np.linalg.norm(places[:60].mean(0) - places[60:].mean(0))
    assert between > 3 * max(places[:60].std(), places[60:].std())
    np.testing.assert_array_equal(umap(points), places)
    adata = sd.datasets.simulate(120, 40, seed=3)
    drawing = lay_out(adata, [], max_cells=50)
    assert list(drawing.places) == ["PCA, not integrated"]
    assert len(np.unique(drawing.rows)) == len(drawing.places["PCA, not integrated"]) == 50
    assert list(drawing.annotation(adata, "batch")) == list(adata.obs["batch"].iloc[drawing.rows])
