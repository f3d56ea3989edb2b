"""The shipped cells are true counts, and simulated counts have the moments that were asked for."""

import numpy as np
import pytest
import scanpy as sc
from named import named
from scipy import sparse

from scduet.data.datasets import counts_from_lognormal, pbmc68k, simulate
from scduet.data.simulate import expected
from scduet.errors import OptionError


def test_pbmc68k_are_the_counts_behind_scanpys_values():
    adata = pbmc68k(batch_effect=False)
    shipped = sc.datasets.pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert np.array_equal(adata.X.data, np.rint(adata.X.data))
    assert adata.X.data.min() == 1
    again = np.expm1(shipped.raw.X.toarray())  # proportional to the counts within each cell
    factor = (again * adata.X.toarray()).sum(1) / (adata.X.toarray() ** 2).sum(1)
    np.testing.assert_allclose(again, factor[:, None] * adata.X.toarray(), rtol=2e-3)
    assert list(adata.obs["cell_type"]) == list(shipped.obs["bulk_labels"])
    assert list(adata.var_names) == list(shipped.raw.var_names)


def test_counts_come_back_exactly():
    counts = simulate(50, 200, 1, 1, seed=3).X
    one = sparse.lil_matrix(counts)
    one[:, 0] = 1  # each cell has a gene counted once
    counts = one.tocsr()
    scaled = counts.multiply(1e4 / counts.sum(1)).tocsr().log1p().astype(np.float32)
    assert (counts_from_lognormal(scaled) != counts).nnz == 0


def test_batch_effect_thins_the_second_batch_only():
    plain, both = pbmc68k(batch_effect=False), pbmc68k()
    second = (both.obs["batch"] == "b").to_numpy()
    assert second.sum() == 350
    assert (plain.X[~second] != both.X[~second]).nnz == 0
    assert (both.X[second] > plain.X[second]).nnz == 0
    kept = both.X[second].sum() / plain.X[second].sum()
    assert 0.4 < kept < 0.6
    assert np.asarray(both.X.sum(1)).min() > 0
    assert (pbmc68k().X != both.X).nnz == 0, "same seed, same data"
    assert (pbmc68k(seed=1).X != both.X).nnz > 0


def test_simulated_counts_have_the_true_moments():
    adata = simulate(6000, 60, n_batches=2, n_types=3, seed=1, depth=600)
    mean, counts = expected(adata), adata.X.toarray()
    np.testing.assert_allclose(mean.sum(1), adata.obs["depth"], rtol=1e-6)
    dispersion = adata.var["dispersion"].to_numpy()
    scaled = (counts - mean) / np.sqrt(mean + mean**2 / dispersion)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=6 / np.sqrt(6000))
    np.testing.assert_allclose(scaled.var(0), 1, atol=0.25)


def test_simulation_is_repeatable_and_has_every_level():
    adata, again = simulate(40, 30, n_batches=3, n_types=7, seed=5), simulate(40, 30, n_batches=3, n_types=7, seed=5)
    assert (adata.X != again.X).nnz == 0
    assert adata.obs["batch"].nunique() == 3
    assert adata.obs["cell_type"].nunique() == 7
    assert adata.varm["type_effect"].shape == (30, 7)
    assert adata.varm["batch_effect"].shape == (30, 3)


def test_no_strength_no_effect():
    adata = simulate(100, 50, seed=2, type_strength=0, batch_strength=0)
    shares = expected(adata) / adata.obs["depth"].to_numpy()[:, None]
    np.testing.assert_allclose(shares - shares[0], 0, atol=1e-12)


def test_nothing_to_simulate_is_an_error():
    with pytest.raises(OptionError, match=named("n_types", 1, 0)):
        simulate(10, 10, n_types=0)
