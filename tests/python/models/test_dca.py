"""DCA: its network and loss written out from the published formulas, its input, and what it decodes."""

import numpy as np
import pytest
import torch
from named import named
from torch.nn import functional as F

import scduet as sd
from scduet.api import reference_of
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.data.schema import Fields, Schema
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.models.rna.dca import DCA, Config

EPS = 1e-10


def built(adata, **options):
    schema = Schema.learn(adata, Fields(), "counts")
    cells = schema.encode(adata)
    torch.manual_seed(1)
    module = DCA(reference_of(DCA, schema, cells, adata), Config(**options)).eval()
    for parameter in module.parameters():  # biases start at zero
        parameter.data += 0.1 * torch.randn_like(parameter) * parameter.requires_grad
    return module, next(iter(minibatches(cells, sequential(len(cells)), len(cells))))


def plain_input(counts):
    size = counts.sum(1, keepdims=True) / np.median(counts.sum(1))
    logged = np.log1p(counts / size)
    deviation = logged.std(0, ddof=1)
    return (logged - logged.mean(0)) / np.where(deviation > 0, deviation, 1), size


def by_the_page(module, counts, config):
    """Middle layer, mean, and loss a cell, in float64 from the formulas of Eraslan et al. and their package."""
    z, size = (torch.tensor(values) for values in plain_input(counts.astype(np.float64)))
    weights = {name: value.detach().double() for name, value in module.state_dict().items()}
    hidden = middle = z
    for i in range(3):
        hidden = hidden @ weights[f"blocks.{i}.linear.0.weight"].T + weights[f"blocks.{i}.linear.0.bias"]
        middle = hidden if i == 1 else middle
        hidden = F.relu(hidden / (1 + 1e-3) ** 0.5 + weights[f"blocks.{i}.norm.0.bias"])

    def linear(name):
        return hidden @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    logit = linear("mean")
    mean, y = logit.exp().clamp(1e-5, 1e6) * size, torch.tensor(counts, dtype=torch.float64)
    if config.dispersion == "gene":
        theta = weights["log_dispersion"].exp().clamp(1e-3, 1e4)
    else:
        theta = F.softplus(linear("dispersion_of_cell")).clamp(1e-4, 1e4)
    loss = torch.lgamma(theta + EPS) + torch.lgamma(y + 1) - torch.lgamma(y + theta + EPS)
    loss += (theta + y) * torch.log1p(mean / (theta + EPS)) + y * (torch.log(theta + EPS) - torch.log(mean + EPS))
    expected = mean
    if config.gene_likelihood == "zinb":
        of_mean = config.dropout_from == "mean"
        p = weights["dropout_slope"] * logit + weights["dropout_shift"] if of_mean else linear("dropout_logits")
        p = p.sigmoid()
        zero = -torch.log(p + (1 - p) * (theta / (theta + mean + EPS)) ** theta + EPS)
        loss, expected = torch.where(y < 1e-8, zero, loss - torch.log(1 - p + EPS)), (1 - p) * mean
    return middle, expected, loss.sum(1).mean()


OPTIONS = [
    {},
    {"dispersion": "gene"},
    {"gene_likelihood": "zinb"},
    {"gene_likelihood": "zinb", "dropout_from": "mean", "dispersion": "gene"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_network_and_loss_are_those_of_the_page(counts, options):
    module, cells = built(counts, layers=(16, 4, 8), **options)
    middle, expected, loss = by_the_page(module, counts.X.toarray(), module.config)
    with torch.no_grad():
        z = module.embed(cells)
        np.testing.assert_allclose(z, middle, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(module(cells, Step()).total, loss, rtol=1e-5)
        decoded = module.decode(z, cells)["rna"]
        np.testing.assert_allclose(decoded.mean, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(-decoded.log_prob(cells.x.dense()).sum(1).mean(), loss, rtol=1e-5)
        share = module.normalized_expression(z, cells)
        np.testing.assert_allclose(share * cells.x.sum()[:, None], expected, rtol=1e-4, atol=1e-6)


def test_input_is_scaled_by_the_cells_trained_on(counts):
    module, cells = built(counts)
    scaled = module.scaled(cells).numpy()
    np.testing.assert_allclose(scaled, plain_input(counts.X.toarray())[0], atol=1e-4)
    model = sd.fit(counts, "dca", max_epochs=1)
    np.testing.assert_allclose(model.map(model.module.scaled, counts[:7]).numpy(), scaled[:7], atol=1e-5)
    np.testing.assert_allclose(model.embed(counts[:7]), model.embed()[:7], atol=1e-5)


def test_normalized_expression_is_the_mean_by_unit_of_library(counts):
    model = sd.fit(counts, "dca", gene_likelihood="zinb", max_epochs=3)
    share = sd.normalized_expression(model, counts).to_numpy()
    counted = sd.normalized_expression(model, counts, library_size="latent").to_numpy()
    np.testing.assert_allclose(counted, share * counts.X.sum(1).A1[:, None], rtol=1e-4)
    assert counted.sum() == pytest.approx(counts.X.sum(), rel=0.5)


def test_it_learns_what_cells_share(counts):
    """The means of the three types are nearer to the fitted means of their cells than the overall mean is."""
    model = sd.fit(counts, "dca", max_epochs=100, seed=0)
    fitted = sd.normalized_expression(model, counts).to_numpy()
    x, kind = counts.X.toarray(), counts.obs["cell_type"].cat.codes.to_numpy()
    share = x / x.sum(1, keepdims=True)
    of_type = np.stack([share[kind == k].mean(0) for k in range(3)])[kind]
    assert np.square(fitted - of_type).sum() < 0.5 * np.square(share.mean(0) - of_type).sum()


def test_what_it_cannot_do_is_refused_or_told(counts):
    with pytest.warns(ScduetWarning, match=named("DCA", "'scvi'")):
        model = sd.fit(counts, "dca", batch_key="batch", max_epochs=1)
    with pytest.raises(OptionError, match=named("'dca'", "scvi")):
        sd.differential_expression(model, counts, "cell_type", verbose=False)
    with pytest.raises(OptionError, match="layers"):
        sd.fit(counts, "dca", layers=())
    with pytest.raises(OptionError, match="input_dropout"):
        sd.fit(counts, "dca", input_dropout=1)
    counts.X = counts.X.log1p()
    with pytest.raises(DataError, match="X"):
        sd.fit(counts, "dca", max_epochs=1)
