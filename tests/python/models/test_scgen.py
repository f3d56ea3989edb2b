"""scGen: the model, arithmetic in its latent space, and the façade with scgen's names."""

import re

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named
from torch import nn

import scduet as sd
from scduet.contract import CellBatch, Reference, SparseRows, Step
from scduet.errors import DataError, OptionError
from scduet.models.perturbation.scgen import SCGEN as Module
from scduet.models.perturbation.scgen import Config
from scduet.scgen import SCGEN
from scduet.tasks.perturbation.arithmetic import predict_by_arithmetic, remove_batches

SILENT = {"callback": lambda event: None}


def linear_gaussian(n=150, n_genes=30, shift=1.0, noise=0.3):
    """Types with states around their own means, one shift for all types, and linear genes with Gaussian noise.

    Type "c" has no treated cells; "a" is treated mostly and "b" rarely. Returns the cells, and the genes' true shift.
    """
    draw = np.random.default_rng(0)
    loadings = draw.normal(size=(3, n_genes))
    delta = shift * np.array([1.0, -1.0, 0.5])
    groups = [("a", 0, n // 4), ("a", 1, n), ("b", 0, n), ("b", 1, n // 4), ("c", 0, n)]
    means = {"a": [2, 0, 0], "b": [0, 2, 0], "c": [-1, -1, 2]}
    z = np.concatenate([means[t] + k * delta + 0.5 * draw.normal(size=(size, 3)) for t, k, size in groups])
    x = z @ loadings + noise * draw.normal(size=(len(z), n_genes))
    obs = pd.DataFrame(
        {
            "type": np.repeat([t for t, *_ in groups], [size for *_, size in groups]),
            "condition": np.repeat([["ctrl", "stim"][k] for _, k, _ in groups], [size for *_, size in groups]),
        }
    )
    obs.index = obs.index.astype(str)
    return anndata.AnnData(x.astype(np.float32), obs=obs), delta @ loadings


@pytest.fixture(scope="module")
def trained():
    adata, truth = linear_gaussian()
    options = {"n_hidden": 64, "n_latent": 10, "dropout_rate": 0.05, "max_epochs": 40, "batch_size": 32, "lr": 3e-3}
    return adata, truth, sd.fit(adata, "scgen", **options, **SILENT)


def test_the_loss_is_that_of_the_formula_with_plain_layers():
    """Linear, BatchNorm, LeakyReLU in both nets, variance exp + 1e-4, 1/2 |x - f(z)|² + 1/2 w KL."""
    torch.manual_seed(0)
    x = torch.rand(8, 5)
    rows = SparseRows(x.flatten(), torch.arange(5).repeat(8), torch.arange(0, 41, 5), (8, 5))
    cells = CellBatch(rows, torch.arange(8), torch.zeros(8, dtype=torch.long))
    reference = Reference(5, arrays={"is_counts": np.zeros(1, np.float32)})
    module = Module(reference, Config(n_hidden=7, n_latent=3, n_layers=2, dropout_rate=0.0, kl_weight=0.1))

    def plain(mlp):
        layers = []
        for linear in mlp.linear:
            own = nn.Linear(*linear.weight.T.shape)
            own.load_state_dict({"weight": linear.weight, "bias": linear.bias})
            layers += [own, nn.BatchNorm1d(len(linear.weight), eps=1e-3, momentum=0.01), nn.LeakyReLU(0.01)]
        return nn.Sequential(*layers)

    hidden = plain(module.encoder.body)(x)
    mean, variance = module.encoder.mean(hidden), module.encoder.log_variance(hidden).exp() + 1e-4
    torch.manual_seed(1)
    z = mean + variance.sqrt() * torch.randn(8, 3)
    error = 0.5 * (x - module.mean(plain(module.decoder)(z))).square().sum(1).mean()
    kl = 0.5 * (variance + mean**2 - 1 - variance.log()).sum(1).mean()
    torch.manual_seed(1)
    assert torch.allclose(module(cells, Step()).total, error + 0.5 * 0.1 * kl, atol=1e-5)


def test_the_planted_shift_is_recovered_for_a_type_that_was_not_treated(trained):
    """Pooled over types, the difference of the conditions is also that of type a from type b."""
    adata, truth, model = trained
    control = adata[adata.obs["type"] == "c"]
    keys = "condition", "ctrl", "stim"
    found, _ = predict_by_arithmetic(model, adata, control, *keys, "type", residual=True, clip=False)
    change = found.mean(0) - control.X.mean(0)
    pooled = predict_by_arithmetic(model, adata, control, *keys, None, residual=True, clip=False)[0].mean(
        0
    ) - control.X.mean(0)
    assert np.corrcoef(change, truth)[0, 1] > 0.97
    assert np.linalg.norm(change - truth) < 0.3 * np.linalg.norm(truth)
    assert np.linalg.norm(pooled - truth) > 2 * np.linalg.norm(change - truth)
    again, _ = predict_by_arithmetic(model, adata, control, *keys, "type", residual=True, clip=False)
    assert np.array_equal(found, again)
    spread, decoded = found.var(0), predict_by_arithmetic(model, adata, control, *keys, "type", clip=False)[0].var(0)
    assert np.abs(spread / control.X.var(0) - 1).mean() < np.abs(decoded / control.X.var(0) - 1).mean()


def test_batches_of_a_type_meet_and_types_of_one_batch_stay(trained):
    adata, _, model = trained
    found, moved = remove_batches(model, adata, "condition", "type")
    z, apart = model.embed(), lambda x, rows: np.linalg.norm(x[rows & stim].mean(0) - x[rows & ~stim].mean(0))
    stim = (adata.obs["condition"] == "stim").to_numpy()
    for name in "ab":
        rows = (adata.obs["type"] == name).to_numpy()
        assert apart(moved, rows) < 1e-4 < 0.5 < apart(z, rows)
        assert apart(found, rows) < 0.2 * apart(adata.X, rows)
    rows = (adata.obs["type"] == "c").to_numpy()
    assert np.array_equal(moved[rows], z[rows])


@pytest.mark.filterwarnings("always:scGen:scduet.errors.ScduetWarning")
def test_counts_are_log_normalized_and_not_mixed_up(counts):
    told: list[str] = []
    options = {"n_hidden": 8, "n_latent": 2, "max_epochs": 2, "callback": lambda event: told.append(event.message)}
    of_counts = sd.fit(counts, "scgen", **options)
    assert any(re.search(named("scGen", "10,000"), message) for message in told)
    told.clear()
    logged = counts.copy()
    logged.X = sp.csr_matrix(np.log1p(1e4 * counts.X.toarray() / counts.X.sum(1)).astype(np.float32))
    of_logged = sd.fit(logged, "scgen", **options)
    assert not any("scGen" in message for message in told)
    assert np.allclose(of_counts.embed(counts), of_logged.embed(logged), atol=1e-4)
    with pytest.raises(DataError, match=named("counts", "log-normalized")):
        of_logged.embed(counts)
    with pytest.raises(DataError, match=named("counts", "log-normalized")):
        of_counts.embed(logged)
    with pytest.raises(OptionError, match=named("kl_weight", 0)):
        sd.fit(logged, "scgen", kl_weight=-1.0, **options)


def test_the_facade_has_the_calls_of_scgen(tmp_path):
    adata, truth = linear_gaussian()
    SCGEN.setup_anndata(adata, batch_key="condition", labels_key="type")
    model = SCGEN(adata, n_hidden=32, n_latent=8, dropout_rate=0.05)
    model.train(max_epochs=30, batch_size=32, plan_kwargs={"lr": 3e-3}, early_stopping=True, early_stopping_patience=25)
    predicted, shift = model.predict(ctrl_key="ctrl", stim_key="stim", celltype_to_predict="c")
    control = adata[adata.obs["type"] == "c"]
    assert list(predicted.obs_names) == list(control.obs_names)
    assert shift.shape == (8,)
    assert np.corrcoef((predicted.X - control.X).mean(0), truth)[0, 1] > 0.9
    asked = {"adata_to_predict": control, "restrict_arithmetic_to": {"type": ["a"]}}
    _, of_one = model.predict("ctrl", "stim", **asked)
    z, stim = model.get_latent_representation(), (adata.obs["condition"] == "stim").to_numpy()
    in_a = (adata.obs["type"] == "a").to_numpy()
    assert np.allclose(of_one, z[in_a & stim].mean(0) - z[in_a & ~stim].mean(0), atol=1e-4)
    corrected = model.batch_removal()
    assert list(corrected.obs_names) == list(adata.obs_names)
    assert np.array_equal(corrected.obsm["latent"], z)
    predicted.obs["condition"] = "predicted"
    both = anndata.concat([predicted, adata[in_a]])
    how = {"axis_keys": {"x": "predicted", "y": "stim"}, "labels": {"x": "predicted", "y": "observed"}}
    means = predicted.X.mean(0), adata[in_a & stim].X.mean(0)
    page = tmp_path / "means.png"
    r2, few = model.reg_mean_plot(both, **how, path_to_save=page, gene_list=["3"], top_100_genes=["1", "2", "5"])
    assert np.isclose(r2, np.corrcoef(*means)[0, 1] ** 2)
    assert np.isclose(few, np.corrcoef(means[0][[1, 2, 5]], means[1][[1, 2, 5]])[0, 1] ** 2)
    assert page.stat().st_size > 1000
    model.save(tmp_path / "model")
    loaded = SCGEN.load(tmp_path / "model", adata)
    assert np.array_equal(loaded.predict("ctrl", "stim", celltype_to_predict="c")[0].X, model.predict(
        "ctrl", "stim", celltype_to_predict="c")[0].X)  # fmt: skip
    for wrong, error, name in (
        ({"stim_key": "none", "celltype_to_predict": "c"}, DataError, "'none'"),
        ({"stim_key": "stim", "celltype_to_predict": "d"}, DataError, "'d'"),
        ({"stim_key": "stim"}, OptionError, "celltype_to_predict"),
        ({"celltype_to_predict": "c"}, OptionError, "stim_key"),
    ):
        with pytest.raises(error, match=named(name)):
            model.predict(ctrl_key="ctrl", **wrong)


def test_analyses_of_counts_refuse_the_model(trained):
    adata, _, model = trained
    with pytest.raises(OptionError, match=named("'scgen'")):
        sd.differential_expression(model, adata, "type", verbose=False)
    with pytest.raises(OptionError, match=named("'scgen'", "library_size=10")):
        sd.normalized_expression(model, adata, library_size=10)
    with pytest.raises(OptionError, match=named("'scgen'")):
        sd.denoise(adata.copy(), model)
    decoded = sd.normalized_expression(model, adata)
    assert np.corrcoef(decoded.to_numpy().ravel(), adata.X.ravel())[0, 1] > 0.9
