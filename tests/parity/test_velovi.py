"""From the same weights veloVI gives the numbers of scvi-tools: loss, gradients, velocity, time, fit, likelihood."""

import random

import anndata as ad
import numpy as np
import pytest
import torch
from named import named
from parity.test_scvi import near as near_tensor

from scduet.checkpoints.scvi_names import from_scvi_tools, to_scvi_tools
from scduet.checkpoints.scvi_tables import VELOVI
from scduet.contract import CellBatch, Reference, Step
from scduet.errors import OptionError
from scduet.models.velocity.velovi import STATES, Config, VeloVI
from scduet.nn.second_order import uncompiled

N_CELLS, N_GENES = 90, 12
OPTIONS = {
    "n_hidden": (16, 8),
    "n_layers": (1, 2),
    "use_batch_norm": ("both", "encoder", "none"),
    "use_layer_norm": ("both", "decoder", "none"),
    "latent_distribution": ("normal", "ln"),
    "log_variational": (False, True),
    "gamma_init_data": (False, True),
    "linear_decoder": (False, True),
    "time_dep_transcription_rate": (False, True),
}
_draw = random.Random(1)
SETTINGS = [{name: values[0] for name, values in OPTIONS.items()}]
SETTINGS += [{name: _draw.choice(values) for name, values in OPTIONS.items()} for _ in range(9)]


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    made = ad.AnnData(np.zeros((N_CELLS, N_GENES), np.float32))
    for key in ("Ms", "Mu"):
        made.layers[key] = rng.gamma(2, 0.2, made.shape).astype(np.float32)
    return made


def both_models(scvi, cells, **options):
    """VELOVI with its first weights, moved a little, and ours with the same."""
    scvi.external.VELOVI.setup_anndata(cells, spliced_layer="Ms", unspliced_layer="Mu")
    torch.manual_seed(0)
    theirs = scvi.external.VELOVI(cells, **options)
    theirs.is_trained_ = True
    first = {name: value.clone() for name, value in theirs.module.state_dict().items()}
    arrays = {name: first[name].numpy() for name in ("switch_unspliced", "switch_spliced")}
    ours = VeloVI(Reference(N_GENES, n_extra={"unspliced": N_GENES}, arrays=arrays), Config(**options))
    near(ours.gamma, first["gamma_mean_unconstr"], "gamma at the start")
    near(ours.alpha, first["alpha_unconstr"], "alpha at the start")
    for weight in theirs.module.parameters():
        weight.data += 0.1 * torch.randn_like(weight) * weight.requires_grad
    ours.load_state_dict(from_scvi_tools(theirs.module.state_dict(), ours, VELOVI))
    return ours.eval(), theirs


def near(ours, theirs, what):
    near_tensor(
        ours, torch.as_tensor(np.asarray(theirs.detach() if isinstance(theirs, torch.Tensor) else theirs)), what
    )


def batch_of(cells):
    s, u = (torch.from_numpy(cells.layers[key]) for key in ("Ms", "Mu"))
    n = len(s)
    return CellBatch(s, torch.arange(n), torch.zeros(n, dtype=torch.long), extra={"unspliced": u})


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_loss_and_gradients_equal_scvi_tools(scvi_tools, cells, options):
    ours, theirs = both_models(scvi_tools, cells, **options)
    module = theirs.module.eval()
    tensors = next(iter(theirs._make_data_loader(cells, batch_size=N_CELLS)))
    torch.manual_seed(2)
    _, _, loss = module(tensors, loss_kwargs={"kl_weight": 0.3})
    torch.manual_seed(2)
    with uncompiled():  # the compiled draws are other ones of the same distribution: tests/python/nn/test_dirichlet.py
        found = ours(batch_of(cells), Step(kl_weight=0.3))
    near(found.total, loss.loss, "loss")
    near(found.terms["reconstruction"], loss.reconstruction_loss["reconstruction_loss"].mean(), "reconstruction")
    loss.loss.backward()
    found.total.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in module.named_parameters()}
    expected = from_scvi_tools(module.state_dict() | gradients, ours, VELOVI)
    largest = max(float(p.grad.abs().max()) for p in ours.parameters())
    for name, weight in ours.named_parameters():
        np.testing.assert_allclose(weight.grad, expected[name], rtol=1e-3, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("options", SETTINGS[:6], ids=str)
def test_outputs_equal_scvi_tools(scvi_tools, cells, options):
    ours, theirs = both_models(scvi_tools, cells, **options)
    batch = batch_of(cells)

    def again(latent_dim=None):
        torch.manual_seed(3)
        torch.empty((), dtype=torch.int64).random_()  # torch's DataLoader draws one number
        with uncompiled():  # for the same draws
            return ours.draw(batch, latent_dim)

    def there(method, **more):
        torch.manual_seed(3)
        numpy = {} if method == "get_state_assignment" else {"return_numpy": True}
        return getattr(theirs, method)(batch_size=N_CELLS, n_samples=1, **numpy, **more)

    theirs.module.eval()
    with torch.no_grad():
        for statistic in ("mean", "max"):
            for of in ("spliced", "unspliced"):
                how = {"velo_mode": of, "velo_statistic": statistic}
                near(ours.velocity(again(), of, statistic), there("get_velocity", clip=False, **how), how)
            near(ours.latent_time(again(), statistic), there("get_latent_time", time_statistic=statistic), statistic)
        for restricted in (None, 2):
            fits = there("get_expression_fit", restrict_to_latent_dim=restricted)
            for mine, fit in zip(ours.expression_fit(again(restricted)), fits, strict=True):
                near(mine, fit, "fit")
        near(ours.gene_log_likelihood(batch, again()), there("get_gene_likelihood"), "likelihood")
        shares, names = there("get_state_assignment")
        near(again().pi, shares, "states")
        assert tuple(names) == STATES
        for name, rate in theirs.get_rates().items():
            if options["time_dep_transcription_rate"] or name in ("beta", "gamma", "alpha"):
                near(getattr(ours.rates(), name), rate, name)
        if options["linear_decoder"]:
            near(ours.time.loadings(), theirs.module.get_loadings(), "loadings")


@pytest.mark.parametrize("options", SETTINGS[:6], ids=str)
def test_weights_go_back_to_scvi_tools(scvi_tools, cells, options):
    ours, theirs = both_models(scvi_tools, cells, **options)
    exported = to_scvi_tools(ours, VELOVI)
    assert {k: v.shape for k, v in exported.items()} == {k: v.shape for k, v in theirs.module.state_dict().items()}
    theirs.module.load_state_dict(exported)
    back = from_scvi_tools(theirs.module.state_dict(), ours, VELOVI)
    assert all(torch.equal(back[name], value) for name, value in ours.state_dict().items())


def test_the_default_options_are_those_of_scvi_tools(scvi_tools):
    import inspect

    from scvi.external import VELOVI as Theirs
    from scvi.external.velovi import VELOVAE

    calls = (VELOVAE.__init__, Theirs.__init__)
    theirs = {name: p.default for call in calls for name, p in inspect.signature(call).parameters.items()}
    ours = vars(Config())
    assert ours == {name: theirs[name] for name in ours}


def test_their_files_give_their_numbers_here_and_ours_there(scvi_tools, cells, tmp_path):
    import scduet as sd
    from scduet import scvi as facade

    _, theirs = both_models(scvi_tools, cells, n_hidden=16)
    theirs.save(str(tmp_path / "theirs"))
    mine = sd.load(tmp_path / "theirs")
    assert (mine.name, mine.genes) == ("velovi", list(cells.var_names))
    mine.export_scvi_tools(tmp_path / "ours")
    again = scvi_tools.external.VELOVI.load(str(tmp_path / "ours"), adata=cells, accelerator="cpu")
    for name, value in theirs.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value) or name.startswith(("alpha_1", "lambda", "decoder"))
    assert np.allclose(again.get_latent_representation(), mine.embed(cells), atol=1e-5)
    model = facade.external.VELOVI.load(tmp_path / "ours", adata=cells)
    theirs.module.eval()
    genes = list(cells.var_names[[1, 4]])
    given = {"n_samples": 40, "batch_size": 32}
    for method in ("get_velocity", "get_latent_time"):
        ours, expected = (getattr(part, method)(**given) for part in (model, theirs))
        assert ours.columns.equals(expected.columns)
        gap = (ours.mean() - expected.mean()).abs().max()
        assert gap < 0.25 * expected.to_numpy().std()  # other draws; equal ones are compared above
        assert getattr(model, method)(gene_list=genes, n_samples=2).shape == (N_CELLS, 2)
    assert model.get_velocity(n_samples=3, return_mean=False).shape == (3, N_CELLS, N_GENES)
    s, u = model.get_expression_fit(**given)
    for ours, expected in zip((s, u), theirs.get_expression_fit(**given), strict=True):
        apart = ours - expected  # other draws, as independent from cell to cell
        assert (apart.mean() / apart.sem()).abs().max() < 5
    alone = [model.get_expression_fit(restrict_to_latent_dim=dim, n_samples=5)[0] for dim in (0, 1)]
    assert not np.allclose(*alone, atol=1e-3)
    with pytest.raises(OptionError, match=named("'restrict_to_latent_dim'", 10)):
        model.get_expression_fit(restrict_to_latent_dim=10)
    table, cosines = model.get_directional_uncertainty(n_samples=5)
    expected, _ = theirs.get_directional_uncertainty(n_samples=5, n_jobs=1)
    assert list(table) == list(expected)
    assert cosines.shape == (N_CELLS, 5)
    shares, names = model.get_state_assignment()
    assert shares.shape == (N_CELLS, N_GENES, 4)
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
    hard, _ = model.get_state_assignment(hard_assignment=True, gene_list=genes)
    assert set(np.unique(hard)) <= set(names)
    rates, expected = model.get_rates(), theirs.get_rates()
    near(torch.as_tensor(rates["gamma"]), expected["gamma"], "gamma")
    cells.obs["type"] = np.array(["a", "b"])[np.arange(N_CELLS) % 2]
    scores, _ = model.get_permutation_scores("type")
    assert scores.shape == (N_GENES, 2)


def test_the_facade_trains(cells):
    from scduet import scvi as facade

    facade.external.VELOVI.setup_anndata(cells, spliced_layer="Ms", unspliced_layer="Mu")
    model = facade.external.VELOVI(cells, n_hidden=8)
    model.train(max_epochs=2, train_size=0.8)
    assert model.is_trained
    assert len(model.history["elbo_validation"]) == 2
