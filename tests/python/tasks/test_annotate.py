"""Label transfer: what is written, how the honest table is made, and what is refused."""

import anndata
import numpy as np
import pandas as pd
import pytest
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError
from scduet.tasks.quality.simple_classifiers import simple_classifiers
from scduet.tasks.workflows.annotate import entropy, predict

FAST = dict(max_epochs=8, n_latent=5, n_hidden=32, recipe="scvi-tools", batch_size=64)


def make_cells(n, seed, kinds=("B", "NK", "T"), shift=0.0):
    """Cells whose types differ in many genes; `shift` is a technical effect on every gene."""
    genes, rng = np.random.default_rng(0), np.random.default_rng(seed)
    rate = genes.gamma(0.5, 2.0, (len(kinds), 80)) * np.exp(np.random.default_rng(9).normal(0, shift, 80))
    kind = rng.integers(0, len(kinds), n)
    x = rng.poisson(rate[kind] * rng.gamma(10, 0.15, (n, 1)) + 0.02).astype(np.float32)
    x[:, 0] += 1
    obs = pd.DataFrame({"type": pd.Categorical(np.array(kinds)[kind])}, index=[f"cell{i}" for i in range(n)])
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(80)]))


@pytest.fixture(scope="module")
def transfer():
    """A reference with every oddity that must not matter, a query, and the table."""
    reference, query = make_cells(400, 1), make_cells(150, 2, shift=0.3)
    reference.obs["type"] = reference.obs["type"].cat.add_categories(["ghost", "rare", "?"])
    reference.obs.loc["cell5", "type"] = "rare"
    reference.obs.loc[["cell6", "cell7"], "type"] = "?"
    reference.obs.loc["cell8", "type"] = np.nan
    query = query[:, ::-1].copy()
    table = sd.annotate(query, reference, "type", unlabeled_category="?", unknown=0.9, **FAST)
    return reference, query, table


def test_types_are_found(transfer):
    _, query, table = transfer
    assert (query.obs["predicted"].astype(str) == query.obs["type"].astype(str)).mean() > 0.9
    assert list(table.index) == ["scanvi", "knn on pca", "logistic regression", "linear svm"]
    assert (table["accuracy"] > 0.9).all()


def test_what_is_written_agrees_with_itself(transfer):
    _, query, _ = transfer
    share = query.obsm["predicted_probability"]
    assert list(share.columns) == ["B", "NK", "T", "rare"]  # no ghost, not the unlabeled category
    assert np.allclose(share.sum(1), 1, atol=1e-5)
    assert np.array_equal(query.obs["predicted_score"], share.max(1))
    uncertain = entropy(share.to_numpy()) > 0.9
    called = share.columns.to_numpy()[share.to_numpy().argmax(1)]
    assert (query.obs["predicted"].astype(str) == np.where(uncertain, "unknown", called)).all()
    assert list(query.obs["predicted"].cat.categories) == ["B", "NK", "T", "rare", "unknown"]


def test_the_table_is_of_held_out_cells(transfer):
    """A tenth of each type that has five cells; types with fewer are shown whole."""
    reference, _, table = transfer
    sizes = reference.obs["type"].value_counts()
    assert (table["n_cells"] == sum(max(1, round(0.1 * sizes[kind])) for kind in ("B", "NK", "T"))).all()


def test_labels_of_held_out_cells_reach_no_method():
    """With labels that mean nothing, a method that saw the held-out ones would be right more often than by chance."""
    reference, query = make_cells(400, 1), make_cells(60, 2)
    reference.obs["noise"] = np.random.default_rng(3).permutation(np.repeat(["a", "b", "c", "d"], 100))
    table = sd.annotate(query, reference, "noise", **{**FAST, "max_epochs": 2})
    assert (table["accuracy"] < 0.6).all()


def trained_by_noise(use):
    """scANVI is trained for one epoch with a learning rate that teaches it nothing; the baselines need no training."""
    reference, query = make_cells(300, 1), make_cells(100, 2)
    options = {**FAST, "max_epochs": 1, "lr": 1e-9}
    table = sd.annotate(query, reference, "type", use=use, key_added="kind", **options)
    return table, query


@pytest.mark.parametrize(
    ("use", "row"),
    [
        ("model", "scanvi"),
        ("knn", "knn on pca"),
        ("logistic_regression", "logistic regression"),
        ("linear_svm", "linear svm"),
        ("best", None),
    ],
)
def test_the_labels_are_those_of_the_row_that_is_used(monkeypatch, use, row):
    import scduet.tasks.workflows.annotate as task

    monkeypatch.setattr(task, "FINE_TUNING", dict(max_epochs=1, lr=1e-9))
    table, query = trained_by_noise(use)
    row = table.sort_values(["macro_f1", "accuracy"], ascending=False, kind="stable").index[0] if row is None else row
    assert table.attrs["used"] == row
    assert query.uns["kind"] == {"method": row, **table.loc[row, ["accuracy", "macro_f1"]]}
    right = (query.obs["kind"].astype(str) == query.obs["type"].astype(str)).mean()
    assert (right > 0.9) == (use != "model")
    assert np.allclose(query.obsm["kind_probability"].sum(1), 1, atol=1e-5)
    assert np.array_equal(query.obs["kind_score"], query.obsm["kind_probability"].max(1))


def test_baselines_are_those_of_scikit_learn():
    """Nearest neighbors in the PCA of the reference, onto which the query is projected; linear ones on log counts."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import LinearSVC

    reference, query = make_cells(300, 1), make_cells(100, 2)
    shown, labels = np.arange(250), reference.obs["type"].to_numpy().astype(object)
    logged = [np.log1p(a.X / a.X.sum(1, keepdims=True) * 1e4) for a in (reference, query)]
    found = simple_classifiers(np.vstack([reference.X, query.X]), 300, shown, labels)
    places = PCA(50, svd_solver="full").fit(logged[0])
    features = {"knn on pca": [places.transform(x) for x in logged], "logistic regression": logged}
    theirs = {"knn on pca": KNeighborsClassifier(15), "logistic regression": LogisticRegression(max_iter=1000)}
    for name, (known, new) in features.items():
        expected = theirs[name].fit(known[:250], labels[:250]).predict_proba(new)
        assert np.allclose(found[name].predict(np.arange(300, 400)), expected, atol=1e-3), name
    margins = LinearSVC(C=0.01).fit(logged[0][:250], labels[:250]).decision_function(logged[1])
    share = found["linear svm"].predict(np.arange(300, 400))
    assert np.allclose(
        np.log(share) - np.log(share).mean(1).to_numpy()[:, None], margins - margins.mean(1)[:, None], atol=1e-2
    )
    two = simple_classifiers(reference.X, 300, shown, np.where(labels == "B", "B", "other"))["linear svm"]
    share = two.predict(np.arange(250, 300))
    assert list(share.columns) == ["B", "other"]
    assert ((share["B"] > 0.5) == (labels[250:] == "B")).mean() > 0.9


def test_entropy_is_a_share_of_the_largest():
    share = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    assert np.allclose(entropy(share), [0, 1, np.log(2) / np.log(3)], atol=1e-9)


def test_a_trained_model_annotates_too():
    reference, query = make_cells(300, 1), make_cells(120, 2)
    reference.obs["run"], query.obs["run"] = np.repeat(["a", "b"], 150), "c"
    model = sd.fit(reference, "scanvi", labels_key="type", batch_key="run", **{**FAST, "max_epochs": 30, "lr": 0.01})
    assert predict(model, reference).columns.tolist() == ["B", "NK", "T"]
    table = sd.annotate(query, model)
    assert (query.obs["predicted"].astype(str) == query.obs["type"].astype(str)).mean() > 0.9
    assert table.loc["scanvi", "accuracy"] == model.history["accuracy_validation"].iloc[-1]
    assert query.uns["predicted"]["method"] == "scanvi"
    with pytest.raises(OptionError, match="logistic_regression"):
        sd.annotate(query, model, use="logistic_regression")


def test_what_cannot_work_is_refused():
    reference, query = make_cells(120, 1), make_cells(120, 2)
    foreign = query.copy()
    foreign.var_names = [f"ENSG{i}" for i in range(80)]
    with pytest.raises(DataError, match=named("query", "reference", "Ensembl")):
        sd.annotate(foreign, reference, "type")
    reference.obs["one"], reference.obs["none"] = "B", "Unknown"
    with pytest.raises(DataError, match=named("obs['one']", 1, "'B'")):
        sd.annotate(query, reference, "one")
    with pytest.raises(DataError, match=named("obs['none']", 0)):
        sd.annotate(query, reference, "none")
    with pytest.raises(DataError, match=named("'kind'", "reference.obs", "labels_key")):
        sd.annotate(query, reference, "kind")
    with pytest.raises(DataError, match=named("'run'", "batch_key")):
        sd.annotate(query, reference, "type", batch_key="run")
    with pytest.raises(OptionError, match=named("unknown", 3, 0, 1)):
        sd.annotate(query, reference, "type", unknown=3)
    with pytest.raises(OptionError, match=named("'svm'")):
        sd.annotate(query, reference, "type", use="svm")
    with pytest.raises(OptionError, match=named("'n_laten'", "'n_latent'")):
        sd.annotate(query, reference, "type", n_laten=3)
    model = sd.fit(reference, "scvi", max_epochs=1, n_latent=2)
    with pytest.raises(OptionError, match=named("'scvi'", "scANVI")):
        sd.annotate(query, model)
