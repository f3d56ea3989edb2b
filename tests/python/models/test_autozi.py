"""AutoZI's likelihood is a mixture of NB and ZINB, and its answers find planted zero inflation."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import scduet as sd
from scduet.data.loader import minibatches
from scduet.data.schema import Fields, Schema
from scduet.models.rna.autozi import AutoZI, Config
from scduet.nn.likelihoods import log_negative_binomial, log_zero_inflated_negative_binomial


@pytest.mark.parametrize("plain", [True, False])
def test_a_certain_answer_leaves_one_part_of_the_mixture(counts, plain):
    schema = Schema.learn(counts, Fields())
    cells = schema.encode(counts)
    module = AutoZI(schema.reference(cells), Config(n_latent=4)).eval()
    with torch.no_grad():
        sure, never = torch.tensor(1 - 1e-6).logit(), torch.tensor(1e-6).logit()
        module.alpha_logit.fill_(sure if plain else never)
        module.beta_logit.fill_(never if plain else sure)
        batch = next(iter(minibatches(cells, np.arange(200), 200)))
        z, log_library = module.vae.posterior(batch)[0], module.vae.log_library(batch)
        p, x = module.vae.decode(z, batch)["rna"], batch.x.dense()
        nb = log_negative_binomial(x, p.rate, p.dispersion)
        zinb = log_zero_inflated_negative_binomial(x, p.rate, p.dispersion, p.dropout_logits)
        found = module.vae.log_likelihood(z, batch, log_library)
    assert torch.allclose(found, (nb if plain else zinb).sum(1), rtol=1e-3)


def test_dropout_has_a_smallest_probability(counts):
    schema = Schema.learn(counts, Fields())
    cells = schema.encode(counts)
    module = AutoZI(schema.reference(cells), Config(minimal_dropout=0.3)).eval()
    batch = next(iter(minibatches(cells, np.arange(200), 200)))
    z = module.vae.posterior(batch)[0]
    raised = module.vae.decode(z, batch)["rna"].dropout_logits.sigmoid()
    inside = module.vae.dropout_logits(module.vae._hidden(z, batch, batch.batch)).sigmoid()
    assert torch.allclose(raised, 0.3 + 0.7 * inside, atol=1e-5)


def test_planted_zero_inflation_is_found():
    """Of 40 genes with large counts, half lose six cells in ten to zero."""
    draw = np.random.default_rng(0)
    counts = draw.poisson(draw.gamma(8, 2, 40) * draw.gamma(20, 0.05, (600, 1)))
    counts[:, :20] *= draw.random((600, 20)) > 0.6
    names = pd.DataFrame(index=[f"g{i}" for i in range(40)])
    adata = anndata.AnnData(counts.astype(np.float32), var=names)
    model = sd.fit(adata, "autozi", n_latent=2, max_epochs=40, lr=0.02, recipe="scvi-tools", adam_eps=1e-8)
    not_inflated = model.module.posterior_of_genes().mean.detach().numpy()
    pairs = not_inflated[:20, None] < not_inflated[20:]
    assert pairs.mean() > 0.95


def test_the_term_of_the_genes_is_shared_among_the_cells(counts):
    model = sd.fit(counts, "autozi", n_latent=4, max_epochs=1)
    module = model.module
    kl = torch.distributions.kl_divergence(module.posterior_of_genes(), module.prior_of_genes()).sum()
    assert model.history["kl_genes_validation"].iloc[-1] == pytest.approx(float(kl.detach()) / 200, rel=1e-4)
