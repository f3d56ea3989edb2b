"""From the same weights scANVI gives the numbers of scvi-tools: loss, gradients and predictions; for all options."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from scduet.checkpoints.scvi_names import from_scvi_tools
from scduet.contract import CellBatch, Covariates, Reference, SparseRows, Step
from scduet.models.rna.scanvi import SCANVI, Config

N_CELLS, N_GENES, N_BATCHES, N_LABELS, LEVELS = 48, 60, 3, 4, (4, 1)
OPTIONS = {
    "gene_likelihood": ("zinb", "nb", "poisson"),
    "dispersion": ("gene", "gene-batch", "gene-cell"),  # scvi-tools' own "gene-label" fails
    "n_layers": (1, 2),
    "linear_classifier": (False, True),
    "encode_covariates": (False, True),
    "latent_distribution": ("normal", "ln"),
    "use_batch_norm": ("both", "none", "encoder", "decoder"),
    "use_layer_norm": ("none", "both", "encoder", "decoder"),
    "use_observed_lib_size": (True, False),
}


def minibatch(label, make):
    """The same cells as ours and as theirs."""
    n = len(label)
    x = torch.poisson(torch.rand(n, N_GENES, generator=make), generator=make)
    row, column = x.nonzero(as_tuple=True)
    batch = torch.randint(N_BATCHES, (n,), generator=make)
    categorical = torch.stack([torch.randint(k, (n,), generator=make) for k in LEVELS], 1)
    rows = SparseRows(x[row, column], column, torch.searchsorted(row, torch.arange(n + 1)), (n, N_GENES))
    coded = torch.where(label < 0, N_LABELS, label)  # they number the unlabeled category last
    theirs = {"X": x, "batch": batch[:, None], "labels": coded[:, None], "extra_categorical_covs": categorical}
    return CellBatch(rows, torch.arange(n), batch, label, Covariates(categorical)), theirs


def both_models(**options):
    from scvi.module import SCANVAE

    moments = {"library_log_means": np.linspace(3, 5, N_BATCHES, dtype="f4")[None]}
    moments["library_log_vars"] = np.full((1, 3), 0.3, "f4")
    prior = {} if options["use_observed_lib_size"] else moments
    options |= {"n_hidden": 16, "n_latent": 5, "dropout_rate": 0.0}  # theirs draws z once more before the classifier
    torch.manual_seed(0)
    theirs = SCANVAE(N_GENES, N_BATCHES, N_LABELS, n_cats_per_cov=LEVELS, **options, **prior)
    for name, value in theirs.state_dict().items():
        if "running_mean" in name:
            value.normal_(0, 0.3)
        elif "running_var" in name:
            value.uniform_(0.5, 1.5)
    arrays = dict(library_log_mean=moments["library_log_means"][0], library_log_variance=moments["library_log_vars"][0])
    ours = SCANVI(Reference(N_GENES, N_BATCHES, N_LABELS, LEVELS, arrays=arrays), Config(**options))
    ours.load_state_dict(from_scvi_tools(renamed(theirs, theirs.state_dict()), ours))
    return ours, theirs


def renamed(theirs, weights):
    """A linear classifier has another place in theirs."""
    place = "classifier.classifier.0." if len(theirs.classifier.classifier) == 1 else "nowhere"
    return {n.replace(place, "classifier.classifier.1."): w for n, w in weights.items() if n != "y_prior"}


def losses(ours, theirs, cells, tensors, companion, labeled, seed):
    torch.manual_seed(seed)
    mine = ours(dataclasses.replace(cells, strata=(companion,)), Step(kl_weight=0.3))
    torch.manual_seed(seed)
    more = {"kl_weight": 0.3, "labelled_tensors": labeled, "classification_ratio": 50}
    return mine, theirs(tensors, loss_kwargs=more)[2]


@pytest.mark.parametrize("seed", range(6))
def test_loss_gradients_and_predictions_equal_those_of_scvi_tools(scvi_tools, seed):
    draw, make = random.Random(seed), torch.Generator().manual_seed(seed)
    options = {name: draw.choice(values) if seed else values[0] for name, values in OPTIONS.items()}
    ours, theirs = both_models(**options)
    cells, tensors = minibatch(torch.randint(-1, N_LABELS, (N_CELLS,), generator=make), make)
    companion, labeled = minibatch(torch.randint(0, N_LABELS, (20,), generator=make), make)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        mine, reference = losses(ours, theirs, cells, tensors, companion, labeled, 2)
        torch.testing.assert_close(mine.total, reference.loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(mine.terms["classification"], reference.classification_loss, rtol=1e-5, atol=1e-6)
        known = {name: labeled[name] for name in ("X", "batch", "extra_categorical_covs")}
        known = {"x": known["X"], "batch_index": known["batch"], "cat_covs": known["extra_categorical_covs"]}
        torch.testing.assert_close(ours.classify(companion), theirs.classify(**known), rtol=1e-5, atol=1e-5)
    ours.train(), theirs.train()
    mine, reference = losses(ours, theirs, cells, tensors, companion, labeled, 3)
    mine.total.backward(), reference.loss.backward()
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    expected = from_scvi_tools(renamed(theirs, theirs.state_dict() | gradients), ours)
    largest = max(float(p.grad.abs().max()) for p in ours.parameters())
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(
            parameter.grad, expected[name], rtol=1e-3, atol=1e-5 * largest, err_msg=f"{name} {options}"
        )


def test_the_default_options_are_those_of_scvi_tools(scvi_tools):
    import inspect

    from scvi.model import SCANVI as MODEL
    from scvi.module import SCANVAE, VAE
    from scvi.train import SemiSupervisedTrainingPlan

    calls = VAE.__init__, SCANVAE.__init__, SemiSupervisedTrainingPlan.__init__, MODEL.train, MODEL.__init__
    theirs = {name: p.default for call in calls for name, p in inspect.signature(call).parameters.items()}
    ours = vars(Config())
    assert ours == {name: theirs[name] for name in ours}
