"""trVAE is scVI and a term that makes conditions alike."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from named import named

import scduet as sd
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.errors import OptionError
from scduet.nn.discrepancy import mmd_between
from scduet.nn.layers import rsample

SMALL = {"n_hidden": 16, "n_latent": 4, "n_layers": 2, "gene_likelihood": "nb", "encode_covariates": True}
RUN = {"batch_key": "batch", "max_epochs": 3, "batch_size": 64, "callback": lambda event: None}


def test_without_the_term_it_is_scvi_bit_for_bit(counts):
    trvae = sd.fit(counts, "trvae", mmd_weight=0.0, **SMALL, **RUN)
    scvi = sd.fit(counts, "scvi", **SMALL, **RUN)
    assert np.array_equal(trvae.embed(), scvi.embed())
    assert trvae.history["loss_train"].equals(scvi.history["loss_train"])
    shares = [sd.normalized_expression(model, counts, transform_batch="b1") for model in (trvae, scvi)]
    assert shares[0].equals(shares[1])


def first_layer(model, adata):
    """Of the decoder, each cell in the condition it was observed in."""
    vae = model.module.scvi

    def of(cells):
        return vae.decoder.layers(vae.joined(vae.embed(cells), cells, cells.batch), vae.codes(cells, cells.batch))[0]

    return model.map(of, adata)


def test_the_term_makes_conditions_alike(counts):
    """Conditions that differ strongly: in the second, half of the genes are five times as high."""
    values = counts.X.toarray()
    values[np.ix_(counts.obs["batch"] == "b1", np.arange(60) < 30)] *= 5
    counts.X = sp.csr_matrix(values)
    excess, group = [], torch.tensor((counts.obs["batch"] == "b1").to_numpy().astype(np.int64))
    options = {**SMALL, **RUN, "max_epochs": 20, "lr": 5e-3, "encode_covariates": False}
    shuffled = group[torch.randperm(len(group), generator=torch.manual_seed(0))]
    for weight in (0.0, 100.0):
        layer = first_layer(sd.fit(counts, "trvae", mmd_weight=weight, **options), counts)
        excess.append((mmd_between(layer, group, 2) - mmd_between(layer, shuffled, 2)).item())
    assert excess[1] < excess[0] / 2


@pytest.mark.parametrize("where", ["decoder", "latent"])
def test_the_loss_is_that_of_scvi_and_the_term(counts, where):
    model = sd.fit(counts, "trvae", mmd_weight=3.0, mmd_on=where, **SMALL, **RUN)
    cells = next(iter(minibatches(model.cells, np.arange(50), 50)))
    module, vae = model.module, model.module.scvi
    with torch.no_grad():
        torch.manual_seed(0)
        found = module(cells, Step(kl_weight=0.5))
        torch.manual_seed(0)
        z = rsample(*vae.posterior(cells))
        torch.manual_seed(0)
        expected = vae(cells, Step(kl_weight=0.5)).total
        first = vae.decoder.layers(vae.joined(z, cells, cells.batch), vae.codes(cells, cells.batch))[0]
    mmd = mmd_between(z if where == "latent" else first, cells.batch, 2)
    assert torch.isclose(found.terms["mmd"], mmd)
    assert torch.isclose(found.total, expected + 3 * mmd)


def test_a_condition_is_needed(counts):
    with pytest.raises(OptionError, match=named("'trvae'", "batch_key")):
        sd.fit(counts, "trvae", **{**RUN, "batch_key": None})
    with pytest.raises(OptionError, match=named("mmd_weight", 0)):
        sd.fit(counts, "trvae", mmd_weight=-1.0, **RUN)
