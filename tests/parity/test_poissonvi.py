"""From the same weights PoissonVI gives the numbers of scvi-tools: posterior, shares, loss, gradients."""

import random

import numpy as np
import pytest
import torch
from parity.test_scvi import LEVELS, N_BATCHES, N_CONTINUOUS, N_GENES, a_minibatch, near

from scduet.checkpoints.scvi_names import from_scvi_tools, to_scvi_tools
from scduet.contract import Reference, Step
from scduet.models.multimodal.peakvi import sizes
from scduet.models.multimodal.poissonvi import Config, PoissonVI

OPTIONS = {
    "encode_covariates": (False, True),
    "deeply_inject_covariates": (True, False),
    "latent_distribution": ("normal", "ln"),
    "n_layers": (2, 1, 3),
    "n_hidden": (None, 12),
    "n_latent": (None, 5),
    "library": ("observed", "size factor"),
    "covariates": (False, True),
}
_draw = random.Random(0)
SETTINGS = [{name: values[0] for name, values in OPTIONS.items()}]
SETTINGS += [{name: _draw.choice(values) for name, values in OPTIONS.items()} for _ in range(12)]


def both_models(covariates, library, **options):
    """Our module with the weights of theirs, built as POISSONVI builds it."""
    from scvi.module import VAE

    n_hidden, n_latent = sizes(Config(**options), N_GENES)
    torch.manual_seed(0)
    theirs = VAE(
        N_GENES,
        N_BATCHES,
        n_continuous_cov=N_CONTINUOUS if covariates else 0,
        n_cats_per_cov=LEVELS if covariates else [],
        gene_likelihood="poisson",
        use_size_factor_key=library == "size factor",
        use_batch_norm="none",
        use_layer_norm="both",
        extra_encoder_kwargs={"activation_fn": torch.nn.LeakyReLU},
        extra_decoder_kwargs={"activation_fn": torch.nn.LeakyReLU},
        **options | {"n_hidden": n_hidden, "n_latent": n_latent},
    )
    theirs.decoder.px_scale_decoder[0].bias.data.normal_()
    reference = Reference(
        N_GENES,
        N_BATCHES,
        n_categories=LEVELS if covariates else (),
        n_continuous=N_CONTINUOUS if covariates else 0,
        size_factor=library == "size factor",
    )
    ours = PoissonVI(reference, Config(**options))
    ours.load_state_dict(from_scvi_tools(theirs.state_dict(), ours))
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_numbers_equal_scvi_tools(scvi_tools, options):
    ours, theirs = both_models(**options)
    cells, tensors = a_minibatch(options["library"], options["covariates"])
    with torch.no_grad():
        torch.manual_seed(2)
        inferred, generated, loss = theirs(tensors, loss_kwargs={"kl_weight": 0.3})
        torch.manual_seed(2)
        near(ours(cells, Step(kl_weight=0.3)).total, loss.loss, options)
        torch.manual_seed(2)
        terms = ours.vae.cell_terms(cells)
        near(terms["reconstruction"], loss.reconstruction_loss["reconstruction_loss"], options)
        near(terms["kl"], loss.kl_local["kl_divergence_z"], options)
        mean, variance = ours.vae.posterior(cells)
        near(mean, inferred["qz"].loc, options)
        near(variance, inferred["qz"].scale ** 2, options)
        near(ours.normalized_expression(inferred["z"], cells), generated["px"].scale, options)
        near(ours.decode(inferred["z"], cells)["peaks"].rate, generated["px"].rate, options)
        theirs.decoder.px_scale_decoder[0].bias.zero_()  # as get_normalized_accessibility does
        free = theirs.generative(**theirs._get_generative_input(tensors, inferred))["px"].scale
        near(ours.accessibility(inferred["z"], cells), free, options)


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_gradients_equal_scvi_tools(scvi_tools, options):
    ours, theirs = both_models(**options)
    cells, tensors = a_minibatch(options["library"], options["covariates"])
    torch.manual_seed(3)
    ours(cells, Step(kl_weight=0.3)).total.backward()
    torch.manual_seed(3)
    theirs(tensors, loss_kwargs={"kl_weight": 0.3})[2].loss.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in theirs.named_parameters()}
    expected = from_scvi_tools(theirs.state_dict() | gradients, ours)
    largest = max(float(p.grad.abs().max()) for p in ours.parameters())
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(parameter.grad, expected[name], rtol=1e-3, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("options", SETTINGS[:4], ids=str)
def test_weights_go_back_to_scvi_tools(scvi_tools, options):
    ours, theirs = both_models(**options)
    expected = {name: value.shape for name, value in theirs.state_dict().items()}
    exported = to_scvi_tools(ours)
    assert {name: value.shape for name, value in exported.items()} == expected
    theirs.load_state_dict(exported)
    back = from_scvi_tools(theirs.state_dict(), ours)
    assert all(torch.equal(back[name], value) for name, value in ours.state_dict().items())


def test_the_default_options_are_those_of_scvi_tools(scvi_tools):
    import inspect

    from scvi.external import POISSONVI
    from scvi.module import VAE

    calls = (VAE.__init__, POISSONVI.__init__)
    theirs = {name: p.default for call in calls for name, p in inspect.signature(call).parameters.items()}
    ours = vars(Config())
    assert ours == {name: theirs[name] for name in ours}
