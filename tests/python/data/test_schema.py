"""AnnData -> arrays: everything is found where the fields say, and what cannot be used is refused by name."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

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
    "negative": (lambda a: _set(a, -1), {}, r"negative values, in 1 cells: 'cell3'"),
    "nan": (lambda a: _set(a, np.nan), {}, r"NaN or infinite values, in 1 cells: 'cell3'"),
    "infinite": (lambda a: _set(a, np.inf), {}, r"NaN or infinite values, in 1 cells: 'cell3'"),
    "fraction": (lambda a: _set(a, 1.5), {}, r"not whole numbers.*'cell3'.*raw counts"),
    "logged": (lambda a: setattr(a, "X", a.X.log1p()), {}, r"looks log-normalised.*pass layer="),
    "no layer": (lambda a: None, {"layer": "counts"}, r"'counts'"),
    "no column": (lambda a: None, {"batch_key": "donor"}, r"no column 'donor' in adata.obs; it has 'batch'"),
    "one batch": (lambda a: a.obs.insert(0, "run", "r1"), {"batch_key": "run"}, r"one batch only: 'r1'"),
    "nan batch": (
        lambda a: a.obs.__setitem__("batch", a.obs["batch"].where(np.arange(200) != 4)),
        {"batch_key": "batch"},
        r"1 cells have no value in 'batch': 'cell4'",
    ),
    "nan covariate": (
        lambda a: a.obs.__setitem__("age", a.obs["age"].where(np.arange(200) != 4)),
        {"continuous_covariate_keys": ("age",)},
        r"1 cells have no value in 'age': 'cell4'",
    ),
    "text covariate": (lambda a: None, {"continuous_covariate_keys": ("site",)}, r"'site' of obs is not numbers"),
    "size factor": (
        lambda a: a.obs.__setitem__("size", a.obs["size"].where(np.arange(200) != 4, 0.0)),
        {"size_factor_key": "size"},
        r"1 size factors are not above zero: 'cell4'",
    ),
    "missing gene": (lambda a: None, {"genes": ("gene0", "ACTB")}, r"1 of 2 genes are missing from the data: 'ACTB'"),
    "repeated gene": (lambda a: None, {"genes": ("gene0", "gene0")}, r"a gene more than once"),
    "genes column": (lambda a: None, {"genes": "hvg"}, r"'hvg' is not a boolean column"),
    "empty cell": (
        lambda a: setattr(a, "X", sp.csr_matrix(sp.diags((np.arange(200) != 4).astype(np.float32)) @ a.X)),
        {},
        r"1 cells have no counts in the genes used: 'cell4'",
    ),
    "cell names": (lambda a: setattr(a, "obs_names", ["c"] * 200), {}, r"1 cell names occur more than once: 'c'"),
    "gene names": (lambda a: setattr(a, "var_names", ["g", "g", *a.var_names[2:]]), {}, r"1 gene names occur.*'g'"),
}


@pytest.mark.filterwarnings("ignore:Observation names:UserWarning", "ignore:Variable names:UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(counts, case):
    spoil, fields, message = BAD[case]
    counts.X = counts.X.tolil().tocsr()
    spoil(counts)
    with pytest.raises(DataError, match=message):
        encoded(counts, **fields)


def test_every_value_is_looked_at(counts, monkeypatch):
    monkeypatch.setattr("scduet.data.checks.PIECE", 100)  # many pieces, the bad value in the last
    counts.X = counts.X.tocsr()
    counts.X.data[-1] = 0.5
    with pytest.raises(DataError, match="'cell199'"):
        encoded(counts)


def test_fractions_by_explicit_option(counts):
    counts.X = counts.X * 0.7
    encoded(counts, allow_non_integer=True)


def test_few_cells_warn(counts):
    with pytest.warns(ScduetWarning, match="only 50 cells"):
        encoded(counts[:50].copy())


def test_unseen_levels_are_refused_by_name(counts):
    schema, _ = encoded(counts, batch_key="batch", labels_key="cell_type")
    counts.obs["batch"] = pd.Categorical(np.where(np.arange(200) < 5, "b9", counts.obs["batch"].astype(str)))
    with pytest.raises(DataError, match=r"1 levels of 'batch' were not seen in training: 'b9'"):
        schema.encode(counts)


def test_unused_categories_may_be_unseen(counts):
    schema, cells = encoded(counts, batch_key="batch")
    counts.obs["batch"] = counts.obs["batch"].astype("category").cat.add_categories("never")
    assert (schema.encode(counts).batch == cells.batch).all()


def test_missing_genes_are_named_at_encoding(counts):
    schema, _ = encoded(counts)
    with pytest.raises(DataError, match=r"2 of 60 genes are missing from the data: 'gene0', 'gene1'"):
        schema.encode(counts[:, 2:].copy())
