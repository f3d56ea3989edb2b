"""The flavors of the autoencoder: each term recomputed plainly, corruption in training alone, and what a prior does."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named
from scipy.stats import kstest, norm

import scduet as sd
from scduet.api import reference_of
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.data.schema import Fields, Schema
from scduet.data.simulate import expected
from scduet.errors import OptionError
from scduet.models.rna.autoencoder import Autoencoder, Config, mmd_from_normal, total_correlation
from scduet.nn.layers import rsample


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.simulate(n_cells=300, n_genes=80, n_batches=1, n_types=3, seed=0, type_strength=2.0)


@pytest.fixture(scope="module")
def plain(adata):
    return sd.fit(adata, "autoencoder", variational=False, max_epochs=40, n_latent=4, batch_size=64)


def built(adata, **options):
    schema = Schema.learn(adata, Fields(), "counts")
    cells = schema.encode(adata)
    torch.manual_seed(1)
    module = Autoencoder(reference_of(Autoencoder, schema, cells, adata), Config(**options))
    return module, next(iter(minibatches(cells, sequential(len(cells)), len(cells))))


def test_total_correlation_is_that_of_the_mixture():
    """Of the minibatch's Gaussians: joint density over the product of the marginal ones, by scipy's normal."""
    draw = np.random.default_rng(0)
    mean, variance, z = draw.normal(size=(7, 3)), draw.gamma(2, size=(7, 3)), draw.normal(size=(7, 3))
    density = norm.pdf(z[:, None], mean, np.sqrt(variance))  # cell, component, dimension
    expected = np.mean(np.log(density.prod(2).mean(1)) - np.log(density.mean(1)).sum(1))
    found = total_correlation(*(torch.tensor(values) for values in (z, mean, variance)))
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_mmd_is_zero_for_the_prior_and_grows_with_the_distance_from_it():
    z = torch.randn(1000, 4)
    found = [float(mmd_from_normal(z + shift)) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert 0 <= found[0] < 0.003
    assert found == sorted(found)
    d, shift = 4, 2.0  # two normals under a Gaussian kernel of variance d, in closed form
    spread = (d / (d + 2)) ** (d / 2)
    assert found[3] == pytest.approx(2 * spread * (1 - np.exp(-d * shift**2 / (2 * (d + 2)))), abs=0.03)


@pytest.mark.parametrize("kind", ["thin", "mask", "noise"])
def test_corruption_is_off_on_held_out_cells_and_keeps_the_expected_count(adata, kind):
    module, cells = built(adata, corruption=kind, corruption_rate=0.4)
    true = cells.x.dense()
    assert torch.equal(module.eval().read(cells).dense().expm1().round(), true)
    module.train()
    drawn = [module.read(cells) for _ in range(50)]
    drawn = torch.stack([x if torch.is_tensor(x) else x.dense() for x in drawn])
    assert not torch.equal(drawn[0], drawn[1])
    often = true > 20
    if kind == "noise":
        assert float((drawn - true.log1p())[:, often].std()) == pytest.approx(0.4, rel=0.02)
        return
    counts = drawn.expm1()
    assert float((counts.mean(0) / true)[often].mean()) == pytest.approx(1, abs=0.02)
    removed = (counts[:, often] == 0).double().mean()
    assert float(removed) == pytest.approx(0.4 if kind == "mask" else 0, abs=0.02)


def test_the_loss_is_the_sum_of_its_terms(adata):
    module, cells = built(adata, total_correlation=3.0, sparsity=0.5)
    loss = module(cells, Step(kl_weight=0.25))
    terms = loss.terms
    total = terms["reconstruction"] + 0.25 * (terms["kl"] + 3 * terms["total_correlation"]) + 0.5 * terms["sparsity"]
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-6)


@pytest.mark.parametrize("prior", ["mmd", "adversarial"])
def test_a_prior_without_kl_makes_the_states_normal(adata, plain, prior):
    def distance(model):
        return float(mmd_from_normal(torch.tensor(model.embed())))

    held = sd.fit(adata, "autoencoder", variational=False, prior=prior, max_epochs=40, n_latent=4, batch_size=64)
    assert distance(held) < 0.5 * distance(plain)


def test_sparsity_shrinks_the_states(adata, plain):
    sparse = sd.fit(adata, "autoencoder", variational=False, sparsity=5.0, max_epochs=40, n_latent=4, batch_size=64)
    assert np.abs(sparse.embed()).mean() < 0.5 * np.abs(plain.embed()).mean()
    error = [model.history["reconstruction_validation"].iloc[-1] for model in (sparse, plain)]
    assert error[0] < 1.1 * error[1]  # not at the price of what the states are for


def test_a_plain_autoencoder_decodes_but_has_no_posterior(adata, plain):
    share = sd.normalized_expression(plain, adata).to_numpy()
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-4)
    truth = expected(adata)
    truth /= truth.sum(1, keepdims=True)
    overall = np.asarray(sp.csr_matrix(adata.X).sum(0)).ravel()
    assert np.square(share - truth).sum() < 0.2 * np.square(overall / overall.sum() - truth).sum()
    with pytest.raises(OptionError, match=named("'autoencoder'")):
        sd.marginal_log_likelihood(plain, adata)


def test_batches_are_the_decoders(tmp_path):
    """Type is in the states, batch is not; a query batch is mapped."""
    adata = sd.datasets.simulate(n_cells=400, n_genes=80, n_types=2, seed=1, type_strength=2.0, batch_strength=1.0)
    model = sd.fit(adata, "autoencoder", batch_key="batch", layers=(32, 16), n_latent=3, max_epochs=40, batch_size=64)
    assert [block.linear[0].weight.shape[0] for block in model.module.scvi.decoder.blocks] == [16, 32]
    z = model.embed()
    kind, batch = (adata.obs[name].cat.codes.to_numpy() for name in ("cell_type", "batch"))
    gap = {
        name: np.linalg.norm(z[c == 0].mean(0) - z[c == 1].mean(0)) for name, c in (("type", kind), ("batch", batch))
    }
    assert gap["batch"] < 0.3 * gap["type"]
    query = adata[:100].copy()
    query.obs["batch"] = "new"
    assert sd.map_query(query, model, max_epochs=1).embed(query).shape == (100, 3)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"layers": ()}, "layers"),
        ({"layers": (8, 0)}, "layers"),
        ({"corruption": "thin", "corruption_rate": 1.0}, "corruption_rate"),
        ({"sparsity": -1.0}, "sparsity"),
        ({"total_correlation": 1.0, "variational": False}, "total_correlation"),
    ],
)
def test_wrong_options_are_named(options, name):
    with pytest.raises(OptionError, match=name):
        Config(**options)


def test_as_diffvae_planted_factors_are_in_the_latent_space_and_the_noise_is_drawn_for_each_value(adata):
    """The program of DiffVAE draws one number for a minibatch. A rotation of the factors is all that may be asked."""
    model = sd.fit(adata, "autoencoder", layers=(64, 32), n_latent=10, max_epochs=40, batch_size=64)
    batch, encoder = next(iter(minibatches(model.encode(), sequential(300), 300))), model.module.scvi.encoder
    with torch.no_grad():
        mean, variance = encoder(model.module.read(batch))
        noise = np.stack([((rsample(mean, variance) - mean) / variance.sqrt()).numpy() for _ in range(2)])
    assert kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    assert noise.std(1).min() > 0.8  # among cells
    assert noise.std(2).min() > 0.2  # among dimensions
    factors = pd.get_dummies(adata.obs["cell_type"]).to_numpy(float)
    z = np.column_stack([model.embed(), np.ones(300)])
    found = z @ np.linalg.lstsq(z, factors, rcond=None)[0]
    explained = 1 - ((factors - found) ** 2).sum(0) / ((factors - factors.mean(0)) ** 2).sum(0)
    assert explained.min() > 0.8
