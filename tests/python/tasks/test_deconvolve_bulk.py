"""Bulk samples of known composition, planted and real, and bulk that is no counts."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.events import silent

TYPES = ["a", "b", "c", "d"]
SIZE = np.array([1.0, 3.0, 0.5, 1.0]) * 2000


@pytest.fixture(scope="module")
def planted():
    """Bulk samples of 500 cells, as a DataFrame, single cells, and the true shares of cells."""
    rng = np.random.default_rng(0)
    profile = rng.gamma(0.4, 1, (4, 300)) + 0.01
    profile /= profile.sum(1, keepdims=True)
    kind = np.repeat(np.arange(4), 25)
    cells = ad.AnnData(sp.csr_matrix(rng.poisson(profile[kind] * SIZE[kind, None]).astype(np.float32)))
    cells.obs["type"] = np.array(TYPES)[kind]
    share = rng.dirichlet(np.ones(4), 20)
    bulk = rng.poisson(500 * share * SIZE @ profile)
    return pd.DataFrame(bulk, [f"sample {i}" for i in range(20)], cells.var_names), cells, share


def rmse(truth, found):
    return float(np.sqrt(np.square(np.asarray(found) - truth).mean()))


@pytest.mark.parametrize("model", ["weighted_nnls", "nnls"])
def test_planted_shares_of_cells_and_rna_are_found(planted, model):
    bulk, cells, share = planted
    found = sd.deconvolve_bulk(bulk, cells, labels_key="type", model=model)
    rna = sd.deconvolve_bulk(ad.AnnData(bulk), cells, labels_key="type", model=model, per="rna").proportions
    assert np.abs(found.proportions - share).max().max() < 0.04
    assert np.abs(rna - share * SIZE / (share @ SIZE)[:, None]).max().max() < 0.04
    assert list(found.agreement.index) == ["poisson", "weighted_nnls", "nnls", "one composition"]
    assert found.genes["chosen_as"].eq("marker").all()
    error = np.sqrt(np.square(found.proportions - share).mean().mean())
    assert 0.3 < error / np.sqrt(np.square(found.spread).mean().mean()) < 3


def test_networks_on_simulated_mixtures(planted):
    """Shares of cells and of RNA are found, whatever the depth; three networks give the spread."""
    bulk, cells, share = planted
    how = {"labels_key": "type", "model": "scaden", "callback": silent}
    found = sd.deconvolve_bulk(bulk, cells, max_epochs=120, **how)
    same = share.mean(0)
    assert rmse(share, found.proportions) < 0.5 * rmse(share, np.broadcast_to(same, share.shape))
    assert list(found.agreement.index) == ["scaden", "poisson", "weighted_nnls", "nnls", "one composition"]
    (model,) = found.trained
    rna = pd.DataFrame(model.embed(ad.AnnData(bulk)), bulk.index, found.proportions.columns)
    of_cells = rna / found.types["mean_total"]
    assert np.allclose(of_cells.div(of_cells.sum(axis=1), axis=0), found.proportions, atol=1e-5)
    deep = model.embed(ad.AnnData(bulk * 40))
    assert np.allclose(deep, rna, atol=1e-4)
    assert (found.spread.to_numpy() > 0).all()
    assert found.spread.to_numpy().mean() < 0.1
    with pytest.raises(OptionError, match=named("'max_epoch'", "'max_epochs'")):
        sd.deconvolve_bulk(bulk, cells, max_epoch=3, **how)
    with pytest.raises(OptionError, match=named("'max_epochs'", "weighted_nnls")):
        sd.deconvolve_bulk(bulk, cells, labels_key="type", max_epochs=3)


def test_tpm_are_used_as_they_are_and_told(planted):
    bulk, cells, _ = planted
    tpm = bulk.div(bulk.sum(axis=1), axis=0) * 1e6
    with pytest.warns(ScduetWarning, match=named("TPM", "CPM")):
        found = sd.deconvolve_bulk(tpm, cells, labels_key="type")
    assert np.allclose(found.proportions, sd.deconvolve_bulk(bulk, cells, labels_key="type").proportions, atol=1e-3)


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (lambda bulk: np.log2(bulk.div(bulk.sum(axis=1), axis=0) * 1e6 + 1), ("log", "2**x")),
        (lambda bulk: -bulk, ("negative",)),
        (lambda bulk: bulk.where(bulk != bulk.iloc[0, 0]), ("NaN", "'sample 0'")),
        (lambda bulk: bulk.astype(str), ("numbers", "genes")),
        (lambda bulk: bulk.T, ("samples", "0 genes")),
        (lambda bulk: bulk.iloc[0], ("Series", "DataFrame")),
        (lambda bulk: bulk * 0, ("counts", "'sample 0'")),
    ],
)
def test_bulk_that_cannot_be_used(planted, edit, names):
    bulk, cells, _ = planted
    with pytest.raises(DataError, match=named(*names)):
        sd.deconvolve_bulk(edit(bulk), cells, labels_key="type")


def test_wrong_options_are_named(planted):
    bulk, cells, _ = planted
    with pytest.raises(OptionError, match=named("'poisson'", "weighted_nnls")):
        sd.deconvolve_bulk(bulk, cells, labels_key="type", model="poisson")
    with pytest.raises(OptionError, match=named("'n_draws'", "1")):
        sd.deconvolve_bulk(bulk, cells, labels_key="type", n_draws=1)


def test_rna_mixtures_with_known_shares(real_data):
    """Three cell lines mixed in known shares of RNA; with a reference of the same and of another technology."""
    bulk = real_data("cellbench_rnamix_celseq2_known_props.h5ad")
    cells = real_data("cellbench_3cl_celseq2_dropseq.h5ad")
    truth = bulk.obsm["proportions"].rename(columns={"H2228": "HCC827", "HCC827": "H2228"}).astype(float)
    truth = truth.div(truth.sum(axis=1), axis=0)
    for technology, limit in {"CEL-seq2": 0.082, "Drop-seq": 0.096}.items():
        reference = cells[cells.obs["technology"] == technology].copy()
        found = sd.deconvolve_bulk(bulk, reference, labels_key="cell_type", per="rna", n_draws=2)
        assert len(found.genes) == 300
        assert sd.metrics.proportion_rmse(truth, found.proportions[truth.columns]) < limit
