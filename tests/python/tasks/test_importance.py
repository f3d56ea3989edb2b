"""Importance weights of draws: the formula of Boyeau et al. 2023, written out with scipy."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from named import named

import scduet as sd
from scduet.data.loader import minibatches
from scduet.errors import OptionError
from scduet.tasks.comparison.importance import Draws, Importance, importance_weights
from scduet.tasks.posterior.latent import modality_of


@pytest.fixture(scope="module")
def fitted():
    from conftest import make_counts

    adata = make_counts(n_cells=120, n_genes=15)
    return adata, sd.fit(adata, "scvi", gene_likelihood="poisson", n_latent=2, max_epochs=3, accelerator="cpu")


def test_weights_are_those_of_the_formula(fitted):
    adata, model = fitted
    rows, module = np.array([3, 8, 20, 31]), model.module
    cells = model.encode(adata)
    batch = next(iter(minibatches(cells, np.repeat(rows, 5), 20)))
    with torch.inference_mode():
        mean, variance = module.posterior(batch)
        z = mean + variance.sqrt() * torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
        share = module.normalized_expression(z, batch, batch.batch).numpy().astype(float)
    draws = [Draws(z[:12], _part(cells, np.repeat(rows, 5)[:12]), batch.batch[:12]),
             Draws(z[12:], _part(cells, np.repeat(rows, 5)[12:]), batch.batch[12:])]  # fmt: skip
    found = importance_weights(
        model, modality_of(model), cells, rows, draws, Importance(n_samples=7), np.random.default_rng(5)
    )
    seed = int(np.random.default_rng(5).integers(2**31))
    log_px = sd.marginal_log_likelihood(model, adata[rows], n_samples=7, seed=seed)
    x, means, sds = adata.X[rows].toarray(), mean[::5].numpy(), variance[::5].sqrt().numpy()
    log_ratio = scipy.stats.poisson.logpmf(x[None], share[:, None] * x.sum(1)[None, :, None]).sum(-1) - log_px
    log_q = scipy.stats.norm.logpdf(z.numpy()[:, None], means, sds).sum(-1)
    log_p = scipy.stats.norm.logpdf(z.numpy()).sum(-1)
    log_w = log_p + scipy.special.logsumexp(log_ratio, 1) - scipy.special.logsumexp(log_q, 1)
    assert np.allclose(found, scipy.special.softmax(log_w), rtol=2e-3, atol=1e-6)
    assert found.sum() == pytest.approx(1)


def _part(cells, rows):
    return next(iter(minibatches(cells, rows, len(rows))))


def test_weighted_draws_are_compared_as_others_are(fitted):
    adata, model = fitted
    groups = {"idx1": np.arange(120) < 50, "n_draws": 200, "min_pct": 0, "verbose": False}
    plain = sd.differential_expression(model, adata, **groups)
    weighted = sd.differential_expression(
        model, adata, **groups, weights="importance", importance=Importance(max_cells=10, n_samples=5)
    )
    assert list(weighted) == list(plain)
    assert weighted["raw_mean1"].sort_index().equals(plain["raw_mean1"].sort_index())
    assert not np.allclose(weighted["scale1"].sort_index(), plain["scale1"].sort_index())
    assert weighted["scale1"].sum() == pytest.approx(1, rel=1e-4)  # means of shares, still


def test_wrong_weights_are_refused_by_name(fitted):
    adata, model = fitted
    with pytest.raises(OptionError, match=named("weights='most'")):
        sd.differential_expression(model, adata, idx1=np.arange(120) < 50, weights="most")
    with pytest.raises(OptionError, match=named("max_cells=0")):
        Importance(max_cells=0)
