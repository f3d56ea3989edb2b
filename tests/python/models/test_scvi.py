"""scVI beyond what the contract tests of every model say: its own options mean what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from named import named

from scduet.contract import CellBatch, Covariates, Reference, SparseRows, Step
from scduet.errors import OptionError
from scduet.models.rna.scvi import SCVI, Config
from scduet.nn import likelihoods

PRIOR = {"library_log_mean": np.array([1, 2, 3], "f4"), "library_log_variance": np.array([0.1, 0.2, 0.3], "f4")}
REFERENCE = Reference(n_genes=30, n_batches=3, n_labels=2, arrays=PRIOR)


def a_minibatch(n=20, **more):
    make = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.rand(n, 30, generator=make), generator=make)
    row, column = x.nonzero(as_tuple=True)
    rows = SparseRows(x[row, column], column, torch.searchsorted(row, torch.arange(n + 1)), (n, 30))
    return CellBatch(rows, torch.arange(n), torch.arange(n) % 3, **{"label": torch.arange(n) % 2, **more})


def a_model(reference=REFERENCE, **options):
    torch.manual_seed(0)
    return SCVI(reference, Config(**{"n_hidden": 16, "n_latent": 4, **options})).eval()


def a_state(n=20):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson", "normal"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-label", "gene-cell"])
def test_the_likelihood_is_that_of_the_decoded_distribution(likelihood, dispersion):
    model, cells = a_model(gene_likelihood=likelihood, dispersion=dispersion), a_minibatch()
    x, p = cells.x.dense(), model.decode(a_state(), cells)["rna"]
    expected = {
        "zinb": lambda: likelihoods.log_zero_inflated_negative_binomial(x, p.rate, p.dispersion, p.dropout_logits),
        "nb": lambda: likelihoods.log_negative_binomial(x, p.rate, p.dispersion),
        "poisson": lambda: likelihoods.log_poisson(x, p.rate),
        "normal": lambda: likelihoods.log_normal(x, p.rate, p.deviation),
    }[likelihood]()
    got = model.log_likelihood(a_state(), cells, model.log_library(cells))
    torch.testing.assert_close(got, expected.sum(1), rtol=1e-5, atol=1e-4)


def test_decoding_into_another_batch_is_decoding_cells_of_that_batch():
    model, cells = a_model(dispersion="gene-batch", n_layers=2), a_minibatch()
    other = torch.full_like(cells.batch, 2)
    torch.testing.assert_close(
        vars(model.decode(a_state(), cells, batch=other)["rna"]),
        vars(model.decode(a_state(), replace(cells, batch=other))["rna"]),
    )
    shares = [model.normalized_expression(a_state(), cells, batch) for batch in (other, None)]
    assert not torch.equal(*shares)


def test_shares_sum_to_one_and_rates_to_the_library():
    model, cells = a_model(), a_minibatch()
    decoded = model.decode(a_state(), cells)["rna"]
    torch.testing.assert_close(decoded.scale.sum(1), torch.ones(20))
    torch.testing.assert_close(decoded.rate.sum(1), cells.x.sum())


@pytest.mark.parametrize("size_factor", [False, True])
def test_shares_are_the_same_wherever_they_are_written(size_factor):
    cells = a_minibatch(covariates=Covariates(size_factor=torch.ones(20)))
    model, out = a_model(replace(REFERENCE, size_factor=size_factor)), torch.full((20, 30), torch.nan)
    with torch.inference_mode():
        assert model.normalized_expression(a_state(), cells, out=out) is out
        torch.testing.assert_close(out, model.normalized_expression(a_state(), cells))


def test_with_size_factors_the_rate_grows_with_them():
    cells = a_minibatch(covariates=Covariates(size_factor=torch.linspace(0.5, 2, 20)))
    decoded = a_model(replace(REFERENCE, size_factor=True), use_observed_lib_size=False).decode(a_state(), cells)["rna"]
    torch.testing.assert_close(decoded.rate, decoded.scale * torch.linspace(0.5, 2, 20)[:, None])


def test_an_unlabeled_cell_has_the_mean_log_dispersion_of_the_labels():
    model, cells = a_model(dispersion="gene-label"), a_minibatch()
    unlabeled = replace(cells, label=torch.full_like(cells.label, -1))
    expected = model.log_dispersion.mean(0).exp().expand(20, -1)
    for absent in (unlabeled, replace(cells, label=None)):
        torch.testing.assert_close(model.decode(a_state(), absent)["rna"].dispersion, expected)


def test_a_label_dispersion_without_labels_is_refused():
    with pytest.raises(OptionError, match=named("dispersion", "gene-label", "labels_key")):
        a_model(replace(REFERENCE, n_labels=0), dispersion="gene-label")


def test_a_learned_library_is_drawn_towards_the_batch():
    """Its KL term is that from the batch's own prior, and is not weighted with the KL warm-up."""
    model, cells = a_model(use_observed_lib_size=False), a_minibatch()
    mean, variance = model.library_posterior(cells)
    prior = torch.distributions.Normal(
        torch.tensor(PRIOR["library_log_mean"])[cells.batch, None],
        torch.tensor(PRIOR["library_log_variance"])[cells.batch, None].sqrt(),
    )
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(mean, variance.sqrt()), prior).mean()
    loss = model(cells, Step(kl_weight=0.0))
    torch.testing.assert_close(loss.terms["kl_library"], expected)
    torch.testing.assert_close(loss.total, loss.terms["reconstruction"] + loss.terms["kl_library"])


def test_the_logistic_normal_embedding_is_a_mixture_of_topics_and_does_not_change():
    model, cells = a_model(latent_distribution="ln"), a_minibatch()
    embedded = model.embed(cells)
    torch.testing.assert_close(embedded.sum(1), torch.ones(20))
    torch.testing.assert_close(model.embed(cells), embedded, rtol=0, atol=0)
    mean, variance = model.posterior(cells)
    draws = (mean + variance.sqrt() * torch.randn(20_000, 20, 4)).softmax(-1).mean(0)
    torch.testing.assert_close(embedded, draws, rtol=0, atol=0.01)


def test_an_empty_cell_harms_nothing():
    cells = a_minibatch()
    first = int(cells.x.indptr[1])
    rows = SparseRows(
        cells.x.data[first:], cells.x.indices[first:], (cells.x.indptr - first).clamp(min=0), cells.x.shape
    )
    model = a_model().train()
    loss = model(replace(cells, x=rows), Step())
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_latent", 0),
        ("n_hidden", 0),
        ("n_layers", 0),
        ("dropout_rate", 1.0),
        ("dropout_rate", -0.1),
        ("gene_likelihood", "gaussian"),
        ("dispersion", "cell"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(option, value):
    with pytest.raises(OptionError, match=named(option, value)):
        Config(**{option: value})
