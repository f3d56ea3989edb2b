"""PeakVI and PoissonVI: the weight of the KL term, memory layout, new batches, files, processes."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named

import scduet as sd
from scduet.api import reference_of
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.schema import Fields, Schema
from scduet.errors import OptionError
from scduet.models.multimodal.peakvi import BETA, Config, PeakVI
from scduet.train import resume


@pytest.fixture
def atac():
    """300 cells x 200 peaks of two types in two batches; fragments."""
    draw = np.random.default_rng(0)
    kind = draw.integers(0, 2, 300)
    x = draw.poisson(draw.gamma(0.4, 0.5, (2, 200))[kind]).astype(np.float32)
    x[x.sum(1) == 0, 0] = 1
    obs = pd.DataFrame({"batch": draw.choice(["a", "b"], 300), "size": draw.uniform(1, 2, 300)})
    obs.index = [f"cell{i}" for i in range(300)]
    return anndata.AnnData(sp.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"chr1:{i}-{i + 1}" for i in range(200)]))


def built(atac):
    schema = Schema.learn(atac, Fields(batch_key="batch"), "counts")
    cells = schema.encode(atac)
    torch.manual_seed(0)
    return PeakVI(reference_of(PeakVI, schema, cells, atac), Config(dropout_rate=0.0)), cells


def gradients_of(module, batches):
    """Of the mean loss over these minibatches, without the noise of draws."""
    module.zero_grad()
    sizes = [len(cells) for cells in batches]
    for cells, n in zip(batches, sizes, strict=True):
        terms = module.eval().cell_terms(cells)
        torch.manual_seed(1)
        loss = module(cells, Step(kl_weight=0.7))
        expected = loss.terms["reconstruction"] + 0.7 * BETA * loss.terms["kl"]
        assert float(loss.total) == pytest.approx(float(expected), rel=1e-6)
        assert terms.keys() == loss.terms.keys()
        (loss.total * n / sum(sizes)).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


def test_the_batch_size_does_not_change_the_weight_of_the_kl_term(atac, monkeypatch):
    """The mean gradient over minibatches is that of all cells at once; in scvi-tools beta would be larger."""
    monkeypatch.setattr("scduet.models.multimodal.peakvi.rsample", lambda mean, variance: mean + variance.sqrt())
    module, cells = built(atac)
    whole, parts = (gradients_of(module, list(minibatches(cells, np.arange(300), size))) for size in (300, 75))
    assert BETA == 1 / 128
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["peakvi", "poissonvi"])
def test_new_batches_are_mapped_and_the_latent_stays(atac, name):
    """The encoder sees no covariates: only the decoder has something to learn of a new batch."""
    model = sd.fit(atac, name, batch_key="batch", max_epochs=3, callback=lambda event: None)
    before = model.embed(atac)
    query = atac[:150].copy()
    query.obs["batch"] = "new"
    mapped = sd.map_query(query, model, max_epochs=3, callback=lambda event: None)
    assert mapped.schema.levels["batch"] == ("a", "b", "new")
    assert np.array_equal(mapped.embed(atac), before)
    assert np.allclose(query.obsm["X_PeakVI" if name == "peakvi" else "X_PoissonVI"], before[:150], atol=1e-5)
    as_new = sd.normalized_accessibility(mapped, query, transform_batch="new")
    as_old = sd.normalized_accessibility(mapped, query, transform_batch="a")
    assert not np.allclose(as_new, as_old)


class Killed(BaseException):
    pass


def killed(event):
    if event.done == 3:
        raise Killed


@pytest.mark.parametrize("name", ["peakvi", "poissonvi"])
def test_a_resumed_run_ends_with_the_same_bits(atac, name, tmp_path, monkeypatch):
    """The state of AdamW is that of a weight stored by columns."""
    monkeypatch.setattr(resume, "SECONDS_BETWEEN", 0.0)
    options = {"batch_key": "batch", "max_epochs": 5, "train_size": 1.0}
    with pytest.raises(Killed):
        sd.fit(atac, name, checkpoint=tmp_path / "run", callback=killed, **options)
    resumed = sd.fit(atac, name, checkpoint=tmp_path / "run", callback=lambda event: None, **options)
    whole = sd.fit(atac, name, callback=lambda event: None, **options)
    assert len(resumed.history) == 5
    assert np.array_equal(resumed.embed(atac), whole.embed(atac))


@pytest.mark.parametrize("name", ["peakvi", "poissonvi"])
def test_weights_of_the_first_layer_stay_by_columns(atac, name, tmp_path):
    """Which sparse rows are multiplied with: after training, early stopping and loading."""
    options = {"max_epochs": 3, "early_stopping": True, "callback": lambda event: None}
    model = sd.fit(atac, name, **options)
    model.save(tmp_path / "m")
    for module in (model.module, sd.load(tmp_path / "m").module):
        layers = [layer for name, layer in module.named_modules() if name.endswith("body.linear.0")]
        first = [layer for layer in layers if layer.weight.shape[1] == 200]
        assert first
        assert all(layer.weight.t().is_contiguous() for layer in first)


def test_peakvi_refuses_size_factors(atac):
    with pytest.raises(OptionError, match=named("size_factor_key", "'peakvi'")):
        sd.fit(atac, "peakvi", size_factor_key="size", max_epochs=1)


def test_elbo_and_draws(atac):
    """The bound counts the KL term once; draws are 0 and 1, as often as the model says."""
    model = sd.fit(atac, "peakvi", max_epochs=3, callback=lambda event: None)
    elbo, reconstruction = sd.elbo(model), sd.reconstruction_error(model)
    assert elbo < -reconstruction
    bound = sd.marginal_log_likelihood(model, n_samples=20)
    assert float(np.mean(bound)) > elbo
    drawn = sp.vstack(sd.posterior_predictive_sample(model, n_samples=20))
    assert set(np.unique(drawn.data)) == {1}
    expected = sd.normalized_accessibility(model, normalize_cells=True, normalize_regions=True).to_numpy().mean()
    assert drawn.mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("recipe", ["auto", "scvi-tools"])
def test_without_held_out_cells_the_recipe_watches_nothing(atac, recipe):
    """Asked for by name it is still refused."""
    options = {"recipe": recipe, "train_size": 1.0, "max_epochs": 1, "callback": lambda event: None}
    assert sd.fit(atac, "peakvi", **options).training.early_stopping is False
    with pytest.raises(OptionError, match=named("early_stopping", "train_size")):
        sd.fit(atac, "peakvi", early_stopping=True, **options)
