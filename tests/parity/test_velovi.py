"""From the same weights veloVI gives the numbers of scvi-tools: loss, gradients, velocity, time, fit, likelihood."""

import random

import anndata as ad
import numpy as np
import pytest
import torch
from parity.test_scvi import near as near_tensor

from scduet.checkpoints.scvi_names import VELOVI, from_scvi_tools, to_scvi_tools
from scduet.contract import CellBatch, Reference, Step
from scduet.models.velocity.velovi import STATES, Config, VeloVI

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

    def again():
        torch.manual_seed(3)
        torch.empty((), dtype=torch.int64).random_()  # torch's DataLoader draws one number
        return ours.draw(batch)

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
        for mine, fit in zip(ours.expression_fit(again()), there("get_expression_fit"), strict=True):
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
