"""From the same weights scVI gives the numbers of scvi-tools: latent, likelihood, loss, gradients; for all options."""

import random

import numpy as np
import pytest
import torch

from scduet.checkpoints.scvi_names import from_scvi_tools, to_scvi_tools
from scduet.contract import CellBatch, Covariates, Reference, SparseRows, Step
from scduet.models.rna.scvi import SCVI, Config

N_CELLS, N_GENES, N_BATCHES, N_LABELS, LEVELS, N_CONTINUOUS = 48, 60, 3, 2, (4, 1), 2
OPTIONS = {
    "n_layers": (1, 2),
    "encode_covariates": (False, True),
    "deeply_inject_covariates": (True, False),
    "batch_representation": ("one-hot", "embedding"),
    "latent_distribution": ("normal", "ln"),
    "use_batch_norm": ("both", "none", "encoder", "decoder"),
    "use_layer_norm": ("none", "both", "encoder", "decoder"),
    "log_variational": (True, False),
    "library": ("observed", "learned", "size factor"),
    "covariates": (False, True),
}
LIKELIHOODS, DISPERSIONS = ("zinb", "nb", "poisson", "normal"), ("gene", "gene-batch", "gene-label", "gene-cell")


def drawn_options(seed, n=8):
    """The defaults, and `n` draws from the grid of all other options."""
    draw = random.Random(seed)
    return [{name: values[0] for name, values in OPTIONS.items()}] + [
        {name: draw.choice(values) for name, values in OPTIONS.items()} for _ in range(n)
    ]


def a_minibatch(library, covariates):
    """The same cells as our minibatch and as theirs."""
    make = torch.Generator().manual_seed(1)
    x = torch.poisson(torch.rand(N_CELLS, N_GENES, generator=make) * 3, generator=make)
    x *= torch.rand(N_CELLS, N_GENES, generator=make) < 0.4
    row, column = x.nonzero(as_tuple=True)
    batch = torch.randint(N_BATCHES, (N_CELLS,), generator=make)
    label = torch.randint(N_LABELS, (N_CELLS,), generator=make)
    categorical = torch.stack([torch.randint(n, (N_CELLS,), generator=make) for n in LEVELS], 1)
    continuous = torch.randn(N_CELLS, N_CONTINUOUS, generator=make)
    size_factor = torch.rand(N_CELLS, generator=make) + 0.5
    rows = SparseRows(x[row, column], column, torch.searchsorted(row, torch.arange(N_CELLS + 1)), (N_CELLS, N_GENES))
    theirs = {"X": x, "batch": batch[:, None], "labels": label[:, None]}
    known = {}
    if covariates:
        theirs |= {"extra_categorical_covs": categorical, "extra_continuous_covs": continuous}
        known |= {"categorical": categorical, "continuous": continuous}
    if library == "size factor":
        theirs["size_factor"], known["size_factor"] = size_factor[:, None], size_factor
    return CellBatch(rows, torch.arange(N_CELLS), batch, label, Covariates(**known)), theirs


def both_models(likelihood, dispersion, library, covariates, **options):
    """Our module with the weights of theirs, whose running statistics are not the initial ones."""
    from scvi.module import VAE

    options |= {"gene_likelihood": likelihood, "dispersion": dispersion, "use_observed_lib_size": library != "learned"}
    options |= {"n_hidden": 16, "n_latent": 5}
    prior = {
        "library_log_means": np.linspace(3, 5, N_BATCHES, dtype="f4")[None],
        "library_log_vars": np.full((1, 3), 0.3, "f4"),
    }
    torch.manual_seed(0)
    theirs = VAE(
        N_GENES,
        N_BATCHES,
        N_LABELS,
        n_continuous_cov=N_CONTINUOUS if covariates else 0,
        n_cats_per_cov=LEVELS if covariates else None,
        use_size_factor_key=library == "size factor",
        **options,
        **(prior if library == "learned" else {}),
    )
    for name, value in theirs.state_dict().items():
        if "running_mean" in name:
            value.normal_(0, 0.3)
        elif "running_var" in name:
            value.uniform_(0.5, 1.5)
    reference = Reference(
        N_GENES,
        N_BATCHES,
        N_LABELS,
        LEVELS if covariates else (),
        N_CONTINUOUS if covariates else 0,
        size_factor=library == "size factor",
        arrays={
            "library_log_mean": prior["library_log_means"][0],
            "library_log_variance": prior["library_log_vars"][0],
        },
    )
    ours = SCVI(reference, Config(**options))
    ours.load_state_dict(from_scvi_tools(theirs.state_dict(), ours))
    return ours, theirs


def near(value, reference, options, rtol=1e-5):
    np.testing.assert_allclose(
        value.detach(),
        reference.detach(),
        rtol=rtol,
        atol=rtol * float(reference.detach().abs().max()),
        err_msg=str(options),
    )


def compare_numbers(ours, theirs, cells, tensors, options):
    """Latent, parameters of the counts' distribution given their z, and the loss."""
    with torch.no_grad():
        torch.manual_seed(2)
        inferred, generated, loss = theirs(tensors, loss_kwargs={"kl_weight": 0.3})
        torch.manual_seed(2)
        near(ours(cells, Step(kl_weight=0.3)).total, loss.loss, options)
        mean, variance = ours.posterior(cells)
        near(mean, inferred["qz"].loc, options)
        near(variance, inferred["qz"].scale ** 2, options)
        log_library = tensors["size_factor"].log() if "size_factor" in tensors else inferred["library"]
        decoded, px = ours.decode(inferred["z"], cells, log_library=log_library)["rna"], generated["px"]
        names = {
            "zinb": {"rate": "mu", "scale": "scale", "dispersion": "theta", "dropout_logits": "zi_logits"},
            "nb": {"rate": "mu", "scale": "scale", "dispersion": "theta"},
            "poisson": {"rate": "rate", "scale": "scale"},
            "normal": {"rate": "loc", "scale": "normal_mu", "deviation": "scale"},
        }
        for name, their_name in names[ours.config.gene_likelihood].items():
            value, reference = torch.broadcast_tensors(getattr(decoded, name), getattr(px, their_name))
            near(value, reference, options)


def compare_gradients(ours, theirs, cells, tensors, options):
    """Gradients of a training step, dropout and minibatch statistics included, from the same random numbers."""
    ours.train(), draw_dropout_alike(theirs.train(), options)
    torch.manual_seed(3)
    ours(cells, Step(kl_weight=0.3)).total.backward()
    torch.manual_seed(3)
    theirs(tensors, loss_kwargs={"kl_weight": 0.3})[2].loss.backward()
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    expected = from_scvi_tools(theirs.state_dict() | gradients, ours)
    largest = max(float(p.grad.abs().max()) for p in ours.parameters())
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(
            parameter.grad, expected[name], rtol=1e-3, atol=1e-5 * largest, err_msg=f"{name} {options}"
        )


def draw_dropout_alike(theirs, options):
    """Where our dropout is a hash (`nn/kernels/units.py`), theirs gets the numbers of that hash, in the same order."""
    if options["use_batch_norm"] in ("both", "encoder") and options["use_layer_norm"] not in ("both", "encoder"):
        for name in ("z_encoder", "l_encoder"):
            for layer in getattr(theirs, name).encoder.fc_layers:
                layer[-1] = HashedDropout(layer[-1].p)


class HashedDropout(torch.nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        seed = np.uint32(torch.empty((), dtype=torch.int64).random_(2**32))
        number = np.arange(x.numel(), dtype=np.uint32) * np.uint32(0x9E3779B9) ^ seed
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):  # "lowbias32" (Wellons 2018)
            number = (number ^ (number >> np.uint32(shift))) * np.uint32(factor)
        kept = (number ^ (number >> np.uint32(16))) >= np.uint32(int(self.rate * 2**32))
        return x * torch.tensor(kept).view(x.shape) / (1 - self.rate)


@pytest.mark.parametrize("dispersion", DISPERSIONS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_equals_scvi_tools(scvi_tools, likelihood, dispersion):
    for options in drawn_options(f"{likelihood} {dispersion}"):
        ours, theirs = both_models(likelihood, dispersion, **options)
        cells, tensors = a_minibatch(options["library"], options["covariates"])
        ours.eval(), theirs.eval()
        compare_numbers(ours, theirs, cells, tensors, options)
        compare_gradients(ours, theirs, cells, tensors, options)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_weights_go_back_to_scvi_tools(scvi_tools, likelihood):
    for options in drawn_options(likelihood):
        ours, theirs = both_models(likelihood, "gene-batch", **options)
        with torch.no_grad():
            theirs.eval()
            exported, (_, tensors) = to_scvi_tools(ours), a_minibatch(options["library"], options["covariates"])
            before = theirs.inference(**theirs._get_inference_input(tensors))["qz"].loc
            for value in theirs.state_dict().values():
                value.zero_()
            theirs.load_state_dict(exported)
            after = theirs.inference(**theirs._get_inference_input(tensors))["qz"].loc
        torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_the_default_options_are_those_of_scvi_tools(scvi_tools):
    import inspect

    from scvi.model import SCVI as THEIRS
    from scvi.module import VAE

    theirs = {
        name: p.default
        for call in (VAE.__init__, THEIRS.__init__)
        for name, p in inspect.signature(call).parameters.items()
    }
    ours = vars(Config())
    assert ours == {name: theirs[name] for name in ours}


def test_initial_weights_have_the_distribution_of_scvi_tools(scvi_tools):
    """Every weight has the spread of its counterpart (of 2,000 and more draws each)."""
    from scvi.module import VAE

    torch.manual_seed(0)
    theirs = VAE(300, 40, n_cats_per_cov=[30], n_hidden=64, n_layers=2, encode_covariates=True)
    ours = SCVI(Reference(300, 40, n_categories=(30,)), Config(n_hidden=64, n_layers=2, encode_covariates=True))
    for name, value in from_scvi_tools(theirs.state_dict(), ours).items():
        mine = ours.state_dict()[name]
        if mine.numel() > 1000:
            assert float(mine.std()) == pytest.approx(float(value.std()), rel=0.06), name
            assert float(mine.mean()) == pytest.approx(0, abs=0.1 * float(value.std())), name
