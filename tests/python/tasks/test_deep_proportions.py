"""Deep models find the composition of spots that were made of known cells, and name what they cannot use."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from named import named

import scduet as sd
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.errors import DataError, OptionError
from scduet.events import silent
from scduet.nn.likelihoods import log_negative_binomial
from scduet.nn.mixed_shares import Frozen, negative_binomial
from scduet.tasks.spatial.deep import deep_proportions, proportions_of

N_SPOTS = 120
NEEDS = {"destvi": "condscvi", "stereoscope": "stereoscope_cells"}
QUICK = {"callback": silent, "max_epochs": 2, "reference_max_epochs": 2}


@pytest.fixture(scope="module")
def tissue():
    """A reference of four types, spots that are mixtures of their profiles, and the true shares of RNA."""
    draw = np.random.default_rng(0)
    profiles = draw.gamma(0.3, 1.0, (4, 60)) + 0.01
    profiles /= profiles.sum(1, keepdims=True)
    kind = draw.integers(0, 4, 300)
    cells = ad.AnnData(sp.csr_matrix(draw.poisson(800 * profiles[kind]).astype(np.float32)))
    cells.obs["cell_type"], cells.obs["depth"] = np.array(["A", "B", "C", "D"])[kind], draw.random(300)
    truth = draw.dirichlet(np.full(4, 0.5), N_SPOTS)
    spots = ad.AnnData(sp.csr_matrix(draw.poisson(4000 * truth @ profiles).astype(np.float32)))
    spots.obs_names = [f"spot{i}" for i in range(N_SPOTS)]
    return cells, spots, truth


def error(found, truth):
    return float(np.sqrt(((np.asarray(found) - truth) ** 2).mean(1)).mean())


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("destvi", {"max_epochs": 60, "reference_max_epochs": 15, "batch_size": 32}),
        ("stereoscope", {"max_epochs": 50, "reference_max_epochs": 20}),
    ],
)
def test_the_composition_of_spots_is_found(tissue, model, options):
    """Better by far than the reference's shares in every spot."""
    reference, spots, truth = tissue
    found, models = deep_proportions(model, spots, reference, labels_key="cell_type", callback=silent, **options)
    everywhere = np.broadcast_to(truth.mean(0), truth.shape)
    assert error(found, truth) < 0.65 * error(everywhere, truth)
    assert list(found.columns) == sorted(set(reference.obs["cell_type"]))
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    assert [one.name for one in models] == [NEEDS[model], model]
    again, _ = deep_proportions(model, spots, models[0], callback=silent, max_epochs=1)
    assert again.shape == found.shape


def test_deconvolve_puts_the_plain_methods_beside_a_deep_one(tissue):
    reference, spots, truth = tissue
    how = {"labels_key": "cell_type", "per": "rna", "max_epochs": 30, "reference_max_epochs": 20, "callback": silent}
    how["n_splits"] = 1
    found = sd.deconvolve(spots.copy(), reference, model="stereoscope", **how)
    assert error(found.proportions, truth) < 0.3 * error(np.broadcast_to(truth.mean(0), truth.shape), truth)
    assert {"poisson", "nnls", "weighted_nnls", "stereoscope"} <= set(found.agreement.index)
    shown = error(found.proportions, truth) / np.sqrt(np.square(found.spread).mean(axis=1)).mean()
    assert 0.5 < shown < 3, "errors are of the size of the spread"
    with pytest.raises(OptionError, match=named("'n_latnt'")):
        sd.deconvolve(spots.copy(), reference, model="destvi", labels_key="cell_type", n_latnt=3)


def test_the_reference_is_kept_with_the_model(tissue, tmp_path):
    reference, spots, _ = tissue
    _, models = deep_proportions("destvi", spots, reference, labels_key="cell_type", **QUICK)
    models[1].save(tmp_path / "model")
    loaded = sd.load(tmp_path / "model")
    assert loaded.holds["single_cell"].name == "condscvi"
    found, saved = proportions_of(loaded, spots), proportions_of(models[1], spots)
    assert found.equals(saved)
    assert list(found.index) == list(spots.obs_names)
    with_more = proportions_of(loaded, spots, keep_additional=True)
    assert list(with_more.columns[-1:]) == ["additional_0"]
    held = models[1].holds["single_cell"].module
    assert torch.equal(models[1].module.decoder.linear[0].weight, held.decoder.linear[0].weight)  # it was not trained


def test_a_normal_prior_takes_its_components_from_the_cells(tissue, tmp_path):
    """scvi-tools fails on it; without the cells there are none, and the error says so before training."""
    reference, spots, _ = tissue
    known = sd.fit(reference, "condscvi", labels_key="cell_type", prior="normal", max_epochs=2, callback=silent)
    model = sd.fit(spots, "destvi", start=known, max_epochs=1, vamp_prior_p=4, callback=silent)
    weight = model.module.component_weight
    assert weight.shape == (4, 4)
    assert torch.allclose(weight.sum(1), torch.ones(4))
    label = known.encode().label
    mean = (model.module.component_mean * weight[..., None]).sum(1).numpy()
    for code in range(4):  # clusters keep the mean of all cells of a label
        assert np.allclose(mean[code], known.embed()[label == code].mean(0), atol=1e-4)
    known.save(tmp_path / "known")
    with pytest.raises(OptionError, match=named("'condscvi'", "prior='mog'")):
        sd.fit(spots, "destvi", start=sd.load(tmp_path / "known"), callback=silent)


@pytest.mark.parametrize("options", [{"prior_mode": "normal"}, {"amortization": "none"}, {"n_latent_amortization": 4}])
def test_a_spot_does_not_depend_on_its_minibatch(tissue, options):
    """With prior_mode="normal" it does in scvi-tools."""
    reference, spots, _ = tissue
    _, (_, model) = deep_proportions("destvi", spots, reference, labels_key="cell_type", **QUICK, **options)
    states = model.map(model.module.states, batch_size=7)
    assert torch.allclose(states, model.map(model.module.states), atol=1e-5)
    assert np.allclose(model.embed(batch_size=7), model.embed(), atol=1e-5)


def test_evaluation_draws_nothing(tissue):
    reference, spots, _ = tissue
    _, (_, model) = deep_proportions("destvi", spots, reference, labels_key="cell_type", **QUICK)
    cells = next(iter(minibatches(model.encode(), np.arange(N_SPOTS), N_SPOTS)))
    module = model.module.eval()
    first, again = (module(cells, Step()).total.item() for _ in range(2))
    assert first == again
    assert "augmentation" not in module(cells, Step()).terms
    torch.manual_seed(0)
    before = torch.get_rng_state()
    module.config = type(module.config)(dropout_amortization=0.0)
    module.train()
    for part in module.modules():
        if hasattr(part, "dropout"):
            part.dropout = 0.0
    module(cells, Step(generator=torch.Generator().manual_seed(1)))
    assert torch.equal(before, torch.get_rng_state())  # the augmentation has random numbers of its own


def test_parts_of_a_spot_sum_to_its_counts(tissue):
    reference, spots, _ = tissue
    _, (_, model) = deep_proportions("destvi", spots, reference, labels_key="cell_type", **QUICK)
    module = model.module
    parts = [model.map(lambda cells, i=i: module.type_counts(cells, i)) for i in range(module.n_labels + 1)]
    assert torch.allclose(sum(parts), torch.tensor(spots.X.toarray()), atol=1e-3)


def test_the_likelihood_of_mixed_shares_is_the_textbook_one(monkeypatch):
    """Value and gradients, with spots in several pieces."""
    monkeypatch.setattr("scduet.nn.mixed_shares.AT_ONCE", {"cpu": 1})
    x = torch.poisson(torch.rand(5, 7) * 4)
    given = [torch.randn(5, 2, 3, 4), torch.rand(5, 2, 3), torch.rand(5, 7) / 9, torch.randn(7), torch.randn(7)]
    layer, library = Frozen(torch.randn(7, 4), torch.randn(3, 7)), x.sum(1, keepdim=True)

    def textbook(hidden, amount, more, shift, log_r):
        share = (hidden @ layer.weight.t() + layer.bias + shift).softmax(-1)
        mean = library * ((amount[..., None] * share).sum((1, 2)) + more)
        return log_negative_binomial(x, mean, log_r.exp()).sum(-1)

    def slopes(function):
        inputs = [tensor.clone().requires_grad_() for tensor in given]
        value = function(*inputs)
        (value * torch.arange(1, 6)).sum().backward()
        return value, [tensor.grad for tensor in inputs]

    value, found = slopes(lambda *tensors: negative_binomial(x, library, *tensors, layer))
    expected, theirs = slopes(textbook)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-4)
    for mine, other in zip(found, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("needed", ["condscvi", "stereoscope_cells"])
def test_cells_without_a_type_are_named(tissue, needed):
    reference = tissue[0].copy()
    reference.obs.loc[reference.obs_names[:7], "cell_type"] = "Unknown"
    with pytest.raises(DataError, match=named(7, "labels_key")):
        sd.fit(reference, needed, labels_key="cell_type", callback=silent)
    with pytest.raises(OptionError, match=named("labels_key=")):
        sd.fit(reference, needed, callback=silent)
    model = {kind: name for name, kind in NEEDS.items()}[needed]
    _, models = deep_proportions(model, tissue[1], reference, labels_key="cell_type", **QUICK)
    assert models[0].reference.n_cells == 293


def test_what_cannot_be_deconvolved_is_refused(tissue):
    reference, spots, _ = tissue
    how = {"labels_key": "cell_type", **QUICK}
    with pytest.raises(OptionError, match=named("'scvi'", "'destvi'")):
        deep_proportions("scvi", spots, reference, **how)
    with pytest.raises(OptionError, match=named("'n_latnt'")):
        deep_proportions("destvi", spots, reference, **how, reference_n_latnt=3)
    ensembl = spots.copy()
    ensembl.var_names = [f"ENSG{i}" for i in range(spots.n_vars)]
    with pytest.raises(DataError, match=named("Ensembl")):
        deep_proportions("destvi", ensembl, reference, **how)
    logged = spots.copy()
    logged.X = logged.X.log1p()
    with pytest.raises(DataError, match=named("X")):
        deep_proportions("stereoscope", logged, reference, **how)
    with pytest.raises(OptionError, match=named("'stereoscope'", "'stereoscope_cells'", "'condscvi'")):
        deep_proportions("stereoscope", spots, sd.fit(reference, "condscvi", labels_key="cell_type", max_epochs=1))
    with pytest.raises(OptionError, match=named("'condscvi'", "batch_key")):
        sd.fit(reference, "condscvi", labels_key="cell_type", continuous_covariate_keys="depth", callback=silent)
