"""AnnData -> arrays: everything is found where the fields say, and what cannot be used is refused by name."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import make_counts
from named import named

from scduet.data.schema import Fields, Schema
from scduet.errors import DataError, ScduetWarning


def encoded(adata, **fields):
    schema = Schema.learn(adata, Fields(**fields))
    return schema, schema.encode(adata)


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, lambda m: m.toarray()])
def test_counts_are_the_same_from_every_layout(counts, layout):
    truth = counts.X.toarray()
    if layout is not sp.coo_matrix:  # AnnData holds no COO
        counts.X = layout(counts.X)
    _, cells = encoded(counts)
    rows = np.array([5, 0, 199, 7])
    assert (cells.counts.rows(rows).toarray() == truth[rows]).all()
    assert np.allclose(cells.total, truth.sum(1))


@pytest.mark.parametrize("n_genes", [5, 55])  # few: copied once; many: picked from each minibatch
def test_chosen_genes_come_in_the_order_asked(counts, n_genes):
    chosen = [f"gene{i}" for i in reversed(range(n_genes))]
    counts = counts[np.asarray(counts[:, chosen].X.sum(1)).ravel() > 0].copy()
    _, cells = encoded(counts, genes=tuple(chosen))
    assert (cells.counts.rows(np.arange(20)).toarray() == counts[:20, chosen].X.toarray()).all()
    assert np.allclose(cells.total, np.ravel(counts[:, chosen].X.sum(1)))


@pytest.mark.parametrize("genes", [None, ("gene0", "gene2")])
def test_totals_of_small_integers_do_not_overflow(counts, genes):
    counts.X = sp.csr_matrix(np.full(counts.shape, 200, np.uint8))
    _, cells = encoded(counts, genes=genes)
    assert (cells.total == 200 * (counts.n_vars if genes is None else 2)).all()


def test_csr_counts_are_not_copied(counts):
    _, cells = encoded(counts)
    assert np.shares_memory(cells.counts.matrix.data, counts.X.data)


def test_entries_stored_twice_are_added(counts):
    twice = sp.csr_matrix((np.ones(400, np.float32), np.zeros(400, int), np.arange(0, 401, 2)), shape=(200, 60))
    counts.X = twice
    _, cells = encoded(counts)
    assert (cells.counts.rows(np.arange(200)).toarray()[:, 0] == 2).all()


def test_highly_variable_genes_are_used_when_marked(counts):
    counts.var["highly_variable"] = np.arange(60) < 40
    schema, _ = encoded(counts)
    assert schema.genes == tuple(counts.var_names[:40])


def test_annotations_are_found(counts):
    schema, cells = encoded(
        counts,
        batch_key="batch",
        labels_key="cell_type",
        unlabeled_category="NK",
        categorical_covariate_keys=("site",),
        continuous_covariate_keys=("age",),
        size_factor_key="size",
    )
    levels = np.array(["B", "T"])
    known = counts.obs["cell_type"] != "NK"
    assert (cells.label[~known] == -1).all()
    assert (levels[cells.label[known]] == counts.obs["cell_type"][known]).all()
    assert (np.array(["b0", "b1"])[cells.batch] == counts.obs["batch"]).all()
    assert (np.array(["x", "y", "z"])[cells.categorical[:, 0]] == counts.obs["site"]).all()
    assert np.allclose(cells.continuous[:, 0], counts.obs["age"])
    assert np.allclose(cells.size_factor, counts.obs["size"])
    reference = schema.reference(cells)
    assert (reference.n_batches, reference.n_labels, reference.n_categories) == (2, 2, (3,))


def test_missing_labels_mean_unlabeled(counts):
    counts.obs["cell_type"] = counts.obs["cell_type"].where(np.arange(200) > 10)
    _, cells = encoded(counts, labels_key="cell_type")
    assert (cells.label[:11] == -1).all()
    assert (cells.label[11:] >= 0).all()


def test_whole_numbers_with_missing_ones_are_labels(counts):
    counts.obs["type"] = pd.Series(np.arange(200) % 3, counts.obs_names).astype("category").where(np.arange(200) > 10)
    schema, cells = encoded(counts, labels_key="type")
    assert schema.levels["type"] == ("0", "1", "2")
    assert (cells.label == np.where(np.arange(200) > 10, np.arange(200) % 3, -1)).all()


def test_unused_categories_are_no_levels(counts):
    counts.obs["cell_type"] = counts.obs["cell_type"].cat.add_categories("ghost")
    schema, _ = encoded(counts, labels_key="cell_type")
    assert schema.levels["cell_type"] == ("B", "NK", "T")


def test_levels_are_matched_by_name_whatever_their_type(counts):
    counts.obs["run"] = np.arange(200) % 3
    schema, cells = encoded(counts, batch_key="run")
    as_float, as_text = counts.copy(), counts.copy()
    as_float.obs["run"] = counts.obs["run"].astype(float)
    as_text.obs["run"] = counts.obs["run"].astype(str).astype("category")
    assert (schema.encode(as_float).batch == cells.batch).all()
    assert (schema.encode(as_text).batch == cells.batch).all()


def test_genes_in_another_order_are_put_in_place(counts):
    schema, cells = encoded(counts)
    other = counts[:, ::-1].copy()
    assert (schema.encode(other).counts.rows(np.arange(9)).toarray() == counts.X[:9].toarray()).all()
    assert (cells.counts.rows(np.arange(9)).toarray() == counts.X[:9].toarray()).all()


def test_json_round_trip(counts):
    schema, _ = encoded(counts, batch_key="batch", categorical_covariate_keys=("site",))
    assert Schema.from_json(schema.to_json()) == schema


def _set(adata, value):
    adata.X[3, 7] = value


BAD = {
    "negative": (lambda a: _set(a, -1), {}, ["X", "negative", 1, "'cell3'", "layer="]),
    "nan": (lambda a: _set(a, np.nan), {}, ["X", "NaN", 1, "'cell3'"]),
    "infinite": (lambda a: _set(a, np.inf), {}, ["X", "infinite", 1, "'cell3'"]),
    "fraction": (lambda a: _set(a, 1.5), {}, ["X", 1, "'cell3'", "layer=", "allow_non_integer=True"]),
    "logged": (lambda a: setattr(a, "X", a.X.log1p()), {}, ["X", "log", 200, "'cell0'", "layer="]),
    "no layer": (lambda a: None, {"layer": "counts"}, ["layers['counts']", "[]"]),
    "no column": (lambda a: None, {"batch_key": "donor"}, ["'donor'", "adata.obs", "'batch'"]),
    "one batch": (lambda a: a.obs.insert(0, "run", "r1"), {"batch_key": "run"}, ["batch_key", "'run'", "'r1'"]),
    "nan batch": (
        lambda a: a.obs.__setitem__("batch", a.obs["batch"].where(np.arange(200) != 4)),
        {"batch_key": "batch"},
        [1, "obs['batch']", "'cell4'"],
    ),
    "nan covariate": (
        lambda a: a.obs.__setitem__("age", a.obs["age"].where(np.arange(200) != 4)),
        {"continuous_covariate_keys": ("age",)},
        [1, "obs['age']", "'cell4'"],
    ),
    "text covariate": (
        lambda a: None,
        {"continuous_covariate_keys": ("site",)},
        ["'site'", "categorical_covariate_keys"],
    ),
    "size factor": (
        lambda a: a.obs.__setitem__("size", a.obs["size"].where(np.arange(200) != 4, 0.0)),
        {"size_factor_key": "size"},
        [1, "obs['size']", "'cell4'"],
    ),
    "missing gene": (lambda a: None, {"genes": ("gene0", "ACTB")}, [1, 2, "'ACTB'"]),
    "repeated gene": (lambda a: None, {"genes": ("gene0", "gene0")}, ["genes=", "'gene0'"]),
    "genes column": (lambda a: None, {"genes": "hvg"}, ["genes='hvg'", "adata.var"]),
    "empty cell": (
        lambda a: setattr(a, "X", sp.csr_matrix(sp.diags((np.arange(200) != 4).astype(np.float32)) @ a.X)),
        {},
        [1, "'cell4'", "sc.pp.filter_cells(adata, min_counts=1)"],
    ),
    "cell names": (lambda a: setattr(a, "obs_names", ["c"] * 200), {}, ["'c'", "obs_names_make_unique"]),
    "gene names": (
        lambda a: setattr(a, "var_names", ["g", "g", *a.var_names[2:]]),
        {},
        ["'g'", "var_names_make_unique"],
    ),
}


@pytest.mark.filterwarnings("ignore:Observation names:UserWarning", "ignore:Variable names:UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(counts, case):
    spoil, fields, names = BAD[case]
    counts.X = counts.X.tolil().tocsr()
    spoil(counts)
    with pytest.raises(DataError, match=named(*names)):
        encoded(counts, **fields)


def test_every_value_is_looked_at(counts, monkeypatch):
    monkeypatch.setattr("scduet.data.checks.PIECE", 100)  # many pieces, the bad value in the last
    counts.X = counts.X.tocsr()
    counts.X.data[-1] = 0.5
    with pytest.raises(DataError, match=named("'cell199'")):
        encoded(counts)


def test_fractions_by_explicit_option(counts):
    counts.X = counts.X * 0.7
    encoded(counts, allow_non_integer=True)


def test_few_cells_warn(counts):
    with pytest.warns(ScduetWarning, match=named(50, "PCA")):
        encoded(counts[:50].copy())


@pytest.mark.parametrize("option", ["batch_key", "labels_key", "categorical_covariate_keys"])
@pytest.mark.parametrize(
    "values",
    [
        np.arange(200) % 133,  # as counts of a cell
        np.arange(200),
        np.linspace(0.5, 9.5, 200).round(1),
        [f"cell{i}" for i in range(200)],
    ],
    ids=["whole numbers", "all different", "fractions", "names"],
)
def test_a_column_of_measurements_or_names_taken_for_categories_warns(counts, option, values):
    counts.obs["odd"] = values
    given = ("odd",) if option.endswith("keys") else "odd"
    with pytest.warns(ScduetWarning, match=f"{option}='odd'"):
        Schema.learn(counts, Fields(**{option: given}))


def test_missing_labels_do_not_hide_that_the_others_are_numbers(counts):
    counts.obs["odd"] = np.r_[np.linspace(0, 1, 100), np.full(100, np.nan)]
    with pytest.warns(ScduetWarning, match="labels_key='odd'"):
        Schema.learn(counts, Fields(labels_key="odd"))


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3, 4] * 50,  # donors with numbers
        [1.0, 2.0] * 100,
        [0.5, 1.0, 2.5, 5.0] * 50,  # doses
        [f"well{i % 25}" for i in range(200)],
        pd.Categorical(np.arange(200) % 25),
    ],
    ids=["numbers", "floats", "doses", "wells", "categories"],
)
def test_true_categories_do_not_warn(counts, values):
    counts.obs["key"] = values
    Schema.learn(counts, Fields(batch_key="key"))  # a warning is an error here


def test_many_donors_with_numbers_are_batches_where_each_has_cells():
    big = make_counts(n_cells=4000, n_genes=5)
    big.obs["donor"] = np.arange(4000) % 60
    Schema.learn(big, Fields(batch_key="donor"))


def test_unseen_levels_are_refused_by_name(counts):
    schema, _ = encoded(counts, batch_key="batch", labels_key="cell_type")
    counts.obs["batch"] = pd.Categorical(np.where(np.arange(200) < 5, "b9", counts.obs["batch"].astype(str)))
    with pytest.raises(DataError, match=named(1, "'batch'", "'b9'", "'b0'", "map_query()")):
        schema.encode(counts)


def test_unused_categories_may_be_unseen(counts):
    schema, cells = encoded(counts, batch_key="batch")
    counts.obs["batch"] = counts.obs["batch"].astype("category").cat.add_categories("never")
    assert (schema.encode(counts).batch == cells.batch).all()


def test_missing_genes_are_named_at_encoding(counts):
    schema, _ = encoded(counts)
    with pytest.raises(DataError, match=named(2, 60, "'gene0'", "'gene1'")):
        schema.encode(counts[:, 2:].copy())
