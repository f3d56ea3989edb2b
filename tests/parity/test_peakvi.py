"""From the same weights PeakVI gives the numbers of scvi-tools: posterior, each term, gradients; for all options."""

import random

import numpy as np
import pytest
import torch
from parity.test_scvi import LEVELS, N_BATCHES, N_CELLS, N_CONTINUOUS, N_GENES, a_minibatch, near

from scduet.checkpoints.scvi_names import from_scvi_tools, to_scvi_tools
from scduet.contract import Reference, Step
from scduet.models.multimodal.peakvi import BETA, Config, PeakVI, sizes

OPTIONS = {
    "encode_covariates": (False, True),
    "deeply_inject_covariates": (False, True),
    "latent_distribution": ("normal", "ln"),
    "model_depth": (True, False),
    "region_factors": (True, False),
    "use_batch_norm": ("none", "both", "encoder", "decoder"),
    "use_layer_norm": ("both", "none", "encoder", "decoder"),
    "n_layers_encoder": (2, 1),
    "n_layers_decoder": (2, 3),
    "n_hidden": (None, 12),
    "n_latent": (None, 5),
    "covariates": (False, True),
}
SETTINGS = [{name: values[0] for name, values in OPTIONS.items()}]
SETTINGS += [{name: random.Random(seed).choice(values) for name, values in OPTIONS.items()} for seed in range(8)]
_draw = random.Random(0)
SETTINGS += [{name: _draw.choice(values) for name, values in OPTIONS.items()} for _ in range(12)]


def both_models(covariates, **options):
    """Our module with the weights of theirs, whose running statistics and factors are not the initial ones."""
    from scvi.module import PEAKVAE

    torch.manual_seed(0)
    sizes = {"n_continuous_cov": N_CONTINUOUS if covariates else 0, "n_cats_per_cov": LEVELS if covariates else []}
    theirs = PEAKVAE(N_GENES, N_BATCHES, **sizes, **options)
    for name, value in theirs.state_dict().items():
        if "running_mean" in name or name == "region_factors":
            value.normal_(0, 0.5)
        elif "running_var" in name:
            value.uniform_(0.5, 1.5)
    reference = Reference(
        N_GENES, N_BATCHES, n_categories=LEVELS if covariates else (), n_continuous=N_CONTINUOUS if covariates else 0
    )
    ours = PeakVI(reference, Config(**options))
    ours.load_state_dict(from_scvi_tools(theirs.state_dict(), ours))
    return ours, theirs


def a_run(module, tensors, kl_weight=0.3):
    torch.manual_seed(2)
    return module(tensors, loss_kwargs={"kl_weight": kl_weight})


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_terms_equal_scvi_tools(scvi_tools, options):
    ours, theirs = both_models(**options)
    cells, tensors = a_minibatch("observed", options["covariates"])
    ours.eval(), theirs.eval()
    with torch.no_grad():
        inferred, generated, loss = a_run(theirs, tensors)
        torch.manual_seed(2)
        terms = ours.cell_terms(cells)
        torch.manual_seed(2)
        total = ours(cells, Step(kl_weight=0.3)).total
        mean, variance = ours.posterior(cells)
        near(mean, inferred["qz"].loc, options)
        near(variance, inferred["qz"].scale ** 2, options)
        near(terms["reconstruction"], loss.reconstruction_loss["reconstruction_loss"], options)
        near(terms["kl"], loss.kl_local["kl_local"], options)
        near(ours.normalized_expression(inferred["z"], cells), generated["px"], options)
        factors = ours.cell_factors(cells), ours.region_factors()
        near(factors[0], torch.as_tensor(inferred["d"]).float().expand(N_CELLS, 1), options)
        if options["region_factors"]:
            near(factors[1], theirs.region_factors.sigmoid(), options)
        probability = ours.decode(inferred["z"], cells)["peaks"]
        near(-probability.log_prob(cells.x.dense()).sum(1), terms["reconstruction"], options)
        # theirs: batch_size * sum of reconstruction + kl_weight * sum of KL
        reconstruction, kl = terms["reconstruction"].sum(), terms["kl"].sum()
        near(N_CELLS * reconstruction + 0.3 * kl, loss.loss, options)
        near((reconstruction + 0.3 * BETA * kl) / N_CELLS, total, options)


@pytest.mark.parametrize("options", SETTINGS[:12], ids=str)
def test_gradients_of_a_minibatch_of_128_are_those_of_scvi_tools(scvi_tools, options):
    """In evaluation mode, since dropout draws elsewhere; theirs over the square of the number of cells."""
    ours, theirs = both_models(**options)
    cells, tensors = a_minibatch("observed", options["covariates"])
    ours.eval(), theirs.eval()
    kl_weight = 0.3 * N_CELLS / 128  # their beta is one over the number of cells
    torch.manual_seed(2)
    ours(cells, Step(kl_weight=0.3)).total.backward()
    (a_run(theirs, tensors, kl_weight)[2].loss / N_CELLS**2).backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in theirs.named_parameters()}
    expected = from_scvi_tools(theirs.state_dict() | gradients, ours)
    largest = max(float(p.grad.abs().max()) for p in ours.parameters() if p.grad is not None)
    for name, parameter in ours.named_parameters():
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        np.testing.assert_allclose(got, expected[name], rtol=1e-3, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("options", SETTINGS[:6], ids=str)
def test_weights_go_back_to_scvi_tools(scvi_tools, options):
    ours, theirs = both_models(**options)
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    exported = to_scvi_tools(ours)
    assert exported.keys() == before.keys()
    assert all(torch.equal(exported[name], before[name]) for name in before)


def test_the_default_options_are_those_of_scvi_tools(scvi_tools):
    import inspect

    from scvi.model import PEAKVI

    theirs = {name: p.default for name, p in inspect.signature(PEAKVI.__init__).parameters.items()}
    ours = vars(Config())
    assert ours == {name: theirs[name] for name in ours}


@pytest.mark.parametrize("n_peaks", [50, 33_142, 50_000])
def test_sizes_follow_the_number_of_peaks(scvi_tools, n_peaks):
    from scvi.module import PEAKVAE

    hidden = int(np.sqrt(n_peaks))
    assert sizes(Config(), n_peaks) == (hidden, int(np.sqrt(hidden)))
    small = PEAKVAE(50)
    assert sizes(Config(), 50) == (small.n_hidden, small.n_latent)


def test_initial_weights_have_the_distribution_of_scvi_tools(scvi_tools):
    """Every weight has the spread of its counterpart (of 1,000 and more draws each)."""
    from scvi.module import PEAKVAE

    torch.manual_seed(0)
    theirs = PEAKVAE(900, 40, n_cats_per_cov=[30], n_hidden=64, encode_covariates=True)
    ours = PeakVI(Reference(900, 40, n_categories=(30,)), Config(n_hidden=64, encode_covariates=True))
    for name, value in from_scvi_tools(theirs.state_dict(), ours).items():
        mine = ours.state_dict()[name]
        if mine.numel() > 1000:
            assert float(mine.std()) == pytest.approx(float(value.std()), rel=0.06), name
            assert float(mine.mean()) == pytest.approx(0, abs=0.1 * float(value.std())), name
