"""Steady state, stochastic, dynamical, graph and arrows as scVelo 0.3.4 has them (make_velocity_fixture.py)."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import spearmanr

from scduet.tasks.velocity import moments, transitions
from scduet.tasks.velocity.dynamical import fit_gene, worth_a_velocity
from scduet.tasks.velocity.steady_state import steady_state, stochastic

FIXTURE = Path(__file__).parent / "fixtures" / "velocity.npz"


@pytest.fixture(scope="module")
def theirs():
    with np.load(FIXTURE) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def prepared(theirs):
    """Normalized counts and moments of ours."""
    layers = [sp.csr_matrix(theirs[name].astype(np.float32)) for name in ("spliced", "unspliced")]
    totals = [np.asarray(layer.sum(1)).ravel() for layer in layers]
    kept = np.flatnonzero(moments.shared_counts(*layers) >= 1000)
    np.testing.assert_array_equal(kept, theirs["kept"])
    s, u = (moments.normalized(layer[:, kept], total) for layer, total in zip(layers, totals, strict=True))
    linked = moments.connected(theirs["index"].astype(int))
    n = s.shape[0]
    np.testing.assert_array_equal(linked.toarray() > 0, np.unpackbits(theirs["linked"])[: n * n].reshape(n, n) > 0)
    average = moments.averaging(linked)
    return s, u, average, moments.mean_over(average, s), moments.mean_over(average, u)


def near(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4 * max(1, np.abs(theirs).max()))


def test_moments_are_those_of_scvelo(prepared, theirs):
    near(prepared[3][::10], theirs["Ms"])
    near(prepared[4][::10], theirs["Mu"])


@pytest.mark.parametrize("mode", ["deterministic", "stochastic"])
def test_velocity_graph_and_arrows_are_those_of_scvelo(prepared, theirs, mode):
    s, u, average, ms, mu = prepared
    fit = steady_state(ms, mu) if mode == "deterministic" else stochastic(s, u, average, ms, mu)
    expected = {name.removeprefix(f"{mode}_"): value for name, value in theirs.items() if name.startswith(mode)}
    np.testing.assert_array_equal(fit.genes, expected["genes"])
    near(fit.gamma, expected["gamma"])
    near(fit.r2, expected["r2"])
    near(fit.velocity[::10], expected["velocity"])
    root, index = mode == "stochastic", theirs["index"].astype(int)
    graph = transitions.cosines(ms[:, fit.genes], fit.velocity[:, fit.genes], index, root)
    near(graph.toarray()[::10], expected["graph"])
    steps = transitions.transitions(graph)
    near(steps.toarray()[::10], expected["steps"])
    near(transitions.project(steps, theirs["place"]), expected["arrows"])


def test_the_dynamical_model_is_that_of_scvelo(prepared, theirs):
    """Which of two curves is better can hang on the last digit: so most genes, not each, must be the same."""
    _, _, average, ms, mu = prepared
    there = {name.removeprefix("dynamical_"): value for name, value in theirs.items() if name.startswith("dynamical")}
    fitted = np.flatnonzero(np.isfinite(there["alpha"]))
    fits = {gene: fit_gene(mu[:, gene], ms[:, gene], average) for gene in fitted}
    assert len(set(worth_a_velocity(fits)) ^ set(np.flatnonzero(there["genes"]))) <= 1
    correlations, gaps = [], []
    for gene, fit in fits.items():
        expected = there["velocity"][:, gene]
        correlations.append(spearmanr(fit.velocity[::3], expected).statistic)
        c = fit.curve
        rates = np.array([c.alpha, c.beta / c.scaling, c.gamma, c.switch, c.scaling, fit.likelihood])
        stored = np.array([there[name][gene] for name in ("alpha", "beta", "gamma", "t_", "scaling", "likelihood")])
        far = np.abs(fit.velocity[::3] - expected).max() / np.abs(expected).max()
        late = np.abs(fit.time[::3] - there["time"][:, gene]).max() / 20
        gaps.append(max(np.abs(rates / stored - 1).max(), far, late))
    assert np.median(correlations) > 0.9
    assert np.quantile(gaps, 0.8) < 2e-4
