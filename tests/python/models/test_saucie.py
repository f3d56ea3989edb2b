"""SAUCIE: its regularizations in closed form, planted clusters, and its codes as clusters in obs."""

import numpy as np
import pandas as pd
import pytest
import torch
from named import named

import scduet as sd
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import OptionError
from scduet.models.reference.saucie import distance_within_codes, entropy_of_units
from scduet.nn.discrepancy import VARIANCES, mmd_between
from scduet.tasks.posterior.clusters import by_code

QUIET = {"callback": lambda event: None}


@pytest.fixture(scope="module")
def cells():
    return sd.datasets.simulate(n_cells=200, n_genes=60, n_batches=2, n_types=3, seed=0)


def test_the_information_term_is_the_entropy_of_the_shares_of_units():
    active = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    assert entropy_of_units(active).item() == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), rel=1e-5)
    assert entropy_of_units(torch.eye(3)).item() == pytest.approx(np.log(3), rel=1e-5)
    assert entropy_of_units(torch.tensor([[0.0, 2.0], [0.0, 1.0]])).item() == pytest.approx(0, abs=1e-6)


def test_the_distance_term_counts_cells_with_like_units():
    x, active = torch.randn(6, 3), torch.rand(6, 4)
    squared = (active[:, None] - active).square().sum(2).double()
    alike = np.mean([np.exp(-squared.numpy() / (2 * v)) for v in VARIANCES], axis=0)
    alike = (alike - alike.min()) / (alike.max() - alike.min())
    distance = np.sqrt((x[:, None] - x).square().sum(2).numpy() + 1e-3)
    assert distance_within_codes(x, active).item() == pytest.approx((distance * alike).mean(), rel=1e-4)


def test_the_loss_is_the_weighted_sum_of_its_terms(cells):
    weights = {"lambda_c": 0.3, "lambda_d": 0.5, "lambda_b": 0.7}
    model = sd.fit(cells, "saucie", batch_key="batch", max_epochs=1, **weights, **QUIET)
    batch = next(iter(minibatches(model.encode(), sequential(200), 200)))
    with torch.no_grad():
        loss, z = model.module(batch, Step()), model.module.embed(batch)
    terms = {name: value.item() for name, value in loss.terms.items()}
    expected = terms["reconstruction"] + 0.3 * terms["information"] + 0.5 * terms["distance"] + 0.7 * terms["mmd"]
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    furthest = (z[:, None] - z).square().sum(2).max().sqrt()
    assert terms["mmd"] == pytest.approx(mmd_between(z / furthest, batch.batch, 2).item(), rel=1e-3)
    assert "mmd" not in sd.fit(cells, "saucie", max_epochs=1, **QUIET).history.filter(like="mmd").columns


def test_components_are_those_of_log_normalized_counts(cells):
    """The embedding reads scores whose standard deviation is 1 and whose variances fall, as in PCA."""
    model = sd.fit(cells, "saucie", max_epochs=1, **QUIET)
    scores = model.map(model.module._scores).numpy()
    x = np.log1p(1e4 * cells.X.toarray() / cells.X.sum(1).A1[:, None])
    spectrum = np.linalg.svd(x - x.mean(0), compute_uv=False)[: scores.shape[1]]
    np.testing.assert_allclose(scores.std(), 1, rtol=1e-3)
    norms = np.linalg.norm(scores, axis=0)
    np.testing.assert_allclose(norms / norms[0], spectrum / spectrum[0], rtol=1e-3)


def test_codes_split_planted_clusters_but_do_not_mix_them():
    adata = sd.datasets.simulate(n_cells=200, n_genes=50, n_batches=1, n_types=3, seed=0, type_strength=2.0)
    model = sd.integrate(adata, "saucie", max_epochs=50, batch_size=50, **QUIET)
    assert adata.obsm["X_SAUCIE"].shape == (200, 2)
    pd.testing.assert_series_equal(
        adata.obs["saucie_cluster"], sd.cluster_cells(model, adata)["cluster"], check_names=False
    )
    found = sd.cluster_cells(model, adata, min_cells=5, key_added="codes")["cluster"]
    assigned = found != "unassigned"
    shared = pd.crosstab(found[assigned], adata.obs["cell_type"][assigned])
    assert assigned.mean() > 0.5
    assert shared.max(axis=1).sum() / assigned.sum() > 0.8  # by chance 0.34
    turned = sd.cluster_cells(model, adata[::-1].copy(), min_cells=5)["cluster"]
    pd.testing.assert_series_equal(turned[::-1], adata.obs["codes"], check_names=False)


def test_the_term_between_batches_brings_them_together():
    cells = sd.datasets.simulate(n_cells=200, n_genes=50, n_batches=2, n_types=1, seed=0)
    gaps, batch = [], torch.from_numpy(cells.obs["batch"].cat.codes.to_numpy(np.int64))
    for weight in (0.0, 10.0):
        run = {"lambda_c": 0.0, "lambda_d": 0.0, "max_epochs": 30, "batch_size": 50, **QUIET}
        z = torch.from_numpy(sd.fit(cells, "saucie", batch_key="batch", lambda_b=weight, **run).embed(cells))
        gaps.append(mmd_between(z / torch.cdist(z, z).max(), batch, 2).item())
    assert gaps[1] < gaps[0] / 3


def test_codes_of_few_cells_are_unassigned_and_names_go_by_size():
    codes = np.array([[1, 0]] * 3 + [[0, 1]] * 5 + [[1, 1]], bool)
    assert list(by_code(codes, 3)) == ["1"] * 3 + ["0"] * 5 + ["unassigned"]
    assert list(by_code(codes, 1)) == ["1"] * 3 + ["0"] * 5 + ["2"]


def test_what_cannot_be_is_named(cells):
    with pytest.raises(OptionError, match=named("lambda_d")):
        sd.fit(cells, "saucie", lambda_d=-1.0, **QUIET)
    with pytest.raises(OptionError, match=named("'scvi'")):
        sd.cluster_cells(sd.fit(cells, "scvi", max_epochs=1, n_hidden=4, **QUIET), cells)
    with pytest.raises(OptionError, match=named("SAUCIE")):
        sd.fit(cells[:, :2].copy(), "saucie", allow_empty_cells=True, **QUIET)
    assert isinstance(sd.cluster_cells(sd.fit(cells, "saucie", max_epochs=1, **QUIET)), pd.DataFrame)
