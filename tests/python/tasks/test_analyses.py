"""Analyses of a trained model, against closed forms, symmetries and simulation."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_counts
from named import named
from scipy.stats import spearmanr

import scduet as sd
from scduet.errors import DataError, OptionError
from scduet.tasks.comparison.abundance import _log_density
from scduet.tasks.posterior.decode_states import cells_in_states
from scduet.tasks.posterior.predictive_check import calibration_error, gene_statistics


@pytest.fixture(scope="module")
def cells():
    return make_counts(300, 40)


@pytest.fixture(scope="module")
def model(cells):
    return sd.fit(cells, "scvi", batch_key="batch", n_latent=4, n_hidden=32, max_epochs=15, lr=0.01)


@pytest.fixture(scope="module")
def learned(cells):
    """A model of every kind of likelihood's extra: learned library, NB, dispersion by batch."""
    more = dict(gene_likelihood="nb", dispersion="gene-batch", use_observed_lib_size=False)
    return sd.fit(cells, "scvi", batch_key="batch", n_latent=4, n_hidden=32, max_epochs=5, **more)


def test_expression_is_shares_of_a_library(model, cells):
    share = sd.normalized_expression(model, cells)
    assert np.allclose(share.sum(1), 1, atol=1e-5)
    assert share.index.equals(cells.obs_names)
    assert np.allclose(sd.normalized_expression(model, cells, library_size=1e4), 1e4 * share, rtol=1e-4)
    total = np.asarray(cells.X.sum(1))
    assert np.allclose(sd.normalized_expression(model, cells, library_size="latent"), total * share, rtol=1e-4)
    few = sd.normalized_expression(model, cells, gene_list=["gene7", "gene2"])
    assert np.array_equal(few, share[["gene7", "gene2"]])


def test_draws_are_averaged_and_repeatable(model, cells):
    apart = sd.normalized_expression(model, cells, n_samples=4, return_mean=False)
    assert apart.shape == (4, 300, 40)
    assert np.allclose(apart.mean(0), sd.normalized_expression(model, cells, n_samples=4), atol=1e-6)
    state = torch.get_rng_state()
    assert np.array_equal(sd.normalized_expression(model), sd.normalized_expression(model, cells))
    assert torch.equal(state, torch.get_rng_state())
    assert not np.allclose(sd.normalized_expression(model, seed=1), sd.normalized_expression(model))


def test_a_chosen_batch_takes_the_batch_out(model, cells):
    b0, b1, both = (sd.normalized_expression(model, cells, transform_batch=b) for b in ("b0", "b1", ["b0", "b1"]))
    seen = sd.normalized_expression(model, cells)
    in_b0 = (cells.obs["batch"] == "b0").to_numpy()
    assert np.allclose(b0[in_b0], seen[in_b0])
    assert not np.allclose(b1[in_b0], seen[in_b0], rtol=0.1)
    assert np.allclose(both, (b0 + b1) / 2, atol=1e-6)


def test_drawn_counts_have_the_moments_of_the_distribution(model, learned, cells):
    for chosen in (model, learned):
        parameters = sd.likelihood_parameters(chosen, cells, n_samples=50)
        dropout = parameters.get("dropout", np.full_like(parameters["mean"], -np.inf))
        mean = (parameters["mean"] * (1 - 1 / (1 + np.exp(-dropout)))).mean(0)
        drawn = sd.posterior_predictive_sample(chosen, cells, n_samples=20)
        seen = np.mean([d.mean(0) for d in drawn], axis=0).ravel()
        assert np.allclose(seen, mean, rtol=0.15, atol=0.05)
        assert (drawn[0].data == np.rint(drawn[0].data)).all()


def test_feature_correlation_is_that_of_rates_without_noise(model, cells):
    table = sd.feature_correlation(model, cells, n_samples=3, correlation_type="pearson")
    assert np.allclose(table, table.T)
    assert np.allclose(np.diag(table), 1)
    spearman = sd.feature_correlation(model, cells, n_samples=3)
    assert spearmanr(table.to_numpy().ravel(), spearman.to_numpy().ravel()).statistic > 0.5


def test_the_marginal_likelihood_lies_above_the_bound(model, learned, cells):
    for chosen in (model, learned):
        bound = np.mean([sd.elbo(chosen, cells, seed=seed) for seed in range(10)])
        single = [sd.marginal_log_likelihood(chosen, cells, n_samples=1, seed=seed).mean() for seed in range(10)]
        assert np.mean(single) == pytest.approx(bound, abs=2)  # one draw is the bound, in expectation
        assert bound < sd.marginal_log_likelihood(chosen, cells, n_samples=100).mean()
        assert -sd.reconstruction_error(chosen, cells) > bound


def test_elbo_is_the_loss_of_validation(model, cells):
    held_out = model.history["loss_validation"].min()
    assert -sd.elbo(model, cells) == pytest.approx(held_out, rel=0.1)


def test_library_sizes(model, learned, cells):
    assert np.allclose(sd.latent_library_size(model, cells), cells.X.sum(1), rtol=1e-5)
    mean = sd.latent_library_size(learned, cells)
    draws = np.mean([sd.latent_library_size(learned, cells, give_mean=False, seed=s) for s in range(100)], axis=0)
    assert mean.sum() == pytest.approx(draws.sum(), rel=0.05)
    with pytest.raises(OptionError, match=named("give_mean")):
        sd.latent_library_size(model, cells, give_mean=False)


def test_minified_cells_give_the_same_numbers(model, cells):
    small = sd.minify(model, cells)
    assert small.X.nnz == 0
    assert np.array_equal(sd.normalized_expression(model, small), sd.normalized_expression(model, cells))
    full, kept = (sd.likelihood_parameters(model, adata) for adata in (cells, small))
    assert all(np.allclose(full[name], kept[name], rtol=1e-5) for name in full)
    for call in (sd.elbo, sd.marginal_log_likelihood, sd.posterior_predictive_check):
        with pytest.raises(DataError, match=named("minified", "AnnData")):
            call(model, small)


def test_gene_statistics_by_hand():
    import scipy.sparse as sp

    found = gene_statistics(sp.csr_matrix(np.array([[0, 2.0, 0], [0, 4.0, 1]])))
    assert np.allclose(found["mean"], [0, 3, 0.5])
    assert np.allclose(found["coefficient of variation"], [np.nan, 1 / 3, 1], equal_nan=True)
    assert np.allclose(found["share of zeros"], [1, 0, 0.5])


def test_criticism_tells_a_good_model_from_a_bad_one(model, cells):
    good = sd.posterior_predictive_check(model, cells)
    assert good.loc["mean", "correlation"] > 0.9
    import scipy.sparse as sp

    draw = np.random.default_rng(0)
    data = sp.csr_matrix(draw.poisson(60, (50, 20)).astype(np.float32))
    right, wrong = ([sp.csr_matrix(draw.poisson(m, (50, 20))) for _ in range(60)] for m in (60, 90))
    assert calibration_error(data, right) < 0.06
    assert calibration_error(data, wrong) > 0.5


def test_interpolation_and_arithmetic(model, cells):
    z = model.embed(cells)
    path = sd.interpolate(z[0], z[1], 5)
    assert np.array_equal(path[[0, -1]], z[[0, 1]])
    assert np.allclose(path[2], (z[0] + z[1]) / 2, atol=1e-6)
    moved = sd.shift(z[:10], z[10:20], z[20:40])
    assert np.allclose(moved.mean(0) - z[:10].mean(0), z[20:40].mean(0) - z[10:20].mean(0), atol=1e-5)
    share = sd.decode_states(model, path, batch="b1")
    assert np.allclose(share.sum(1), 1, atol=1e-5)


def test_counts_of_states_have_the_distribution_of_the_decoder(learned, cells):
    """Of 20,000 draws for one state: the mean is the total times the share, the variance that of the NB."""
    state = np.repeat(learned.embed(cells)[:1], 20_000, axis=0)
    drawn = sd.sample_states(learned, state, 500.0, batch="b1").toarray()
    share = sd.decode_states(learned, state[:1], batch="b1").to_numpy()[0]
    assert np.allclose(drawn.mean(0), 500 * share, rtol=0.1, atol=0.05)
    z, one = next(cells_in_states(learned, state[:1], "b1"))
    with torch.inference_mode():
        p = learned.module.decode(z, one, one.batch, torch.full((1, 1), np.log(500.0)))["rna"]
    wide = (p.rate + p.rate**2 / p.dispersion)[0].numpy()
    frequent = 500 * share > 1
    assert frequent.any()
    assert np.allclose(drawn.var(0)[frequent], wide[frequent], rtol=0.25)
    different = sd.sample_states(learned, state[:2], np.array([10.0, 1000.0]), seed=None)
    assert different.sum(1)[0] < different.sum(1)[1]
    with pytest.raises(OptionError, match="library_size"):
        sd.sample_states(learned, state[:2], np.array([0.0, 1.0]))


def test_abundance_is_a_log_density_of_mixtures(model, cells):
    at = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    mean, deviation = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), torch.full((3, 2), 0.5)
    density = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(3)),
        torch.distributions.Independent(torch.distributions.Normal(mean, deviation), 1),
    )
    assert torch.allclose(_log_density(at, mean, deviation, None), density.log_prob(at), atol=1e-5)
    cells = cells.copy()
    table = sd.differential_abundance(model, cells, "cell_type")
    own = table.to_numpy()[np.arange(300), table.columns.get_indexer(cells.obs["cell_type"].astype(str))]
    assert own.mean() > table.to_numpy().mean()
    assert cells.obsm["da_log_probs"].equals(table)


def test_a_model_without_counts_is_refused(model, cells):
    with pytest.raises(DataError, match=named("'x'", "model.genes")):
        sd.normalized_expression(model, cells, gene_list=["x"])
    with pytest.raises(DataError, match=named("'nine'", "'b0'", "'b1'")):
        sd.normalized_expression(model, cells, transform_batch="nine")
    assert isinstance(sd.normalized_expression(model, cells, rows=np.array([5, 2])), pd.DataFrame)
