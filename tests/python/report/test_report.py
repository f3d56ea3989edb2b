"""The report is one safe, self-contained page that says what was computed."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from named import named

import scduet as sd
from scduet.errors import DataError, FormatError, OptionError
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
    adata.obs["depth"] = np.linspace(0, 1, 150)
    adata.obs.loc[adata.obs_names[0], "depth"] = np.nan
    scores = sd.score(adata, ["X_scVI"], "batch", "cell_type", metrics=["silhouette_label", "bras", "isolated_labels"])
    path = tmp_path_factory.mktemp("report") / "report.html"
    sd.report(adata, path, model=model, scores=scores, color_by=["depth"], genes=["gene_3", "gene_7"])
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
    assert len(outline.all("script")) == 2, "the cells as JSON, and the script of the map"
    assert EVIL not in made.page
    assert sum(EVIL in words for words in outline.words) == 2, "in the table of cells and in the legend"
    assert EVIL in cells_of(made.page)["colors"]["cell_type"]["levels"]


def cells_of(page):
    return json.loads(re.search(r'id="cells">(.*?)</script>', page, re.DOTALL)[1])


def test_the_policy_allows_the_script_of_the_map_alone(made):
    policy = next(a["content"] for a in Outline(made.page).all("meta") if "Content-Security-Policy" in a.values())
    script = re.findall(r"<script>(.*?)</script>", made.page, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert re.search(r"script-src ([^;]*)", policy)[1] == f"'sha256-{digest}'"
    assert "connect-src" not in policy
    assert policy.startswith("default-src 'none'")


def test_the_map_has_the_cells_their_columns_and_genes(made):
    cells, adata = cells_of(made.page), made.adata
    assert cells["cells"] == list(adata.obs_names)
    assert list(cells["colors"]) == ["cell_type", "batch", "depth", "gene_3", "gene_7"]
    batch = cells["colors"]["batch"]
    code = np.frombuffer(base64.b64decode(batch["code"]), "<u2")
    assert [batch["levels"][i] for i in code] == list(adata.obs["batch"].astype(str))
    depth = np.frombuffer(base64.b64decode(cells["colors"]["depth"]["shade"]), "u1")
    assert depth[0] == 255
    np.testing.assert_allclose(depth[1:] / 254, (adata.obs["depth"][1:] - 1 / 149) / (148 / 149), atol=0.003)
    gene = cells["colors"]["gene_3"]
    shade = np.frombuffer(base64.b64decode(gene["shade"]), "u1") / 254
    counts = adata.X.toarray()
    expected = np.log1p(counts[:, adata.var_names == "gene_3"][:, 0] * 1e4 / counts.sum(1))
    np.testing.assert_allclose(gene["low"] + shade * (gene["high"] - gene["low"]), expected, atol=0.02)
    drawn = np.frombuffer(base64.b64decode(cells["places"]["scVI"]), "<u2").reshape(-1, 2)
    assert drawn.shape == (150, 2)
    assert drawn.min(0).tolist() == [0, 0]
    assert drawn.max(0).tolist() == [65535, 65535]


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"color_by": ["nowhere"]}, DataError, "nowhere"),
        ({"genes": ["nothing"]}, DataError, "nothing"),
        ({"genes": "gene_3"}, OptionError, "genes"),
        ({"genes": [f"gene_{i}" for i in range(201)]}, OptionError, "201"),
    ],
)
def test_columns_and_genes_that_are_not_there_are_named(made, tmp_path, options, error, name):
    with pytest.raises(error, match=named(name)):
        sd.report(made.adata, tmp_path / "page.html", labels_key="cell_type", scores=made.scores, **options)
    assert not (tmp_path / "page.html").exists()


def test_a_model_prints_in_notebooks_what_it_prints_in_terminals(made):
    shown = Outline(made.model._repr_html_())
    text = [words for words in shown.words if words.strip()]
    assert "trained on" in text
    assert all(line.split(maxsplit=1)[-1].split("  ")[-1] in repr(made.model) for line in text[1:])


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
