"""From the same weights CondSCVI and DestVI give the numbers of scvi-tools: each term, and every output."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from parity.test_scvi import near

import scduet as sd
from scduet.checkpoints.scvi_spatial import CONDSCVI, DESTVI, read_weights
from scduet.contract import CellBatch, Reference, SparseRows, Step
from scduet.models.spatial import condscvi, destvi
from scduet.models.spatial.augmentation import Copies

N_GENES, N_LABELS, N_BATCHES, N = 40, 4, 3, 32


@dataclass
class Data:
    """The same minibatch for both."""

    cells: CellBatch
    tensors: dict[str, torch.Tensor]


def a_minibatch(fine=False, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.poisson(torch.rand(N, N_GENES, generator=draw) * 6, generator=draw)
    label, batch = (torch.randint(0, n, (N,), generator=draw) for n in (N_LABELS, N_BATCHES))
    kind = torch.randint(0, 6, (N,), generator=draw)
    sparse = x.to_sparse_csr()
    rows = SparseRows(sparse.values(), sparse.col_indices(), sparse.crow_indices(), (N, N_GENES))
    extra = {"fine": torch.nn.functional.one_hot(kind, 6).float()} if fine else {}
    tensors = {"X": x, "labels": label[:, None], "batch": batch[:, None], "ind_x": torch.arange(N)[:, None]}
    if fine:
        tensors["fine_labels"] = kind[:, None]
    return Data(CellBatch(rows, torch.arange(N), batch, label, extra=extra), tensors)


def both_references(fine=False, **options):
    from scvi.module import VAEC

    torch.manual_seed(0)
    theirs = VAEC(N_GENES, N_BATCHES, N_LABELS, n_fine_labels=6 if fine else None, **options)
    theirs.per_ct_bias.data.normal_()
    theirs.ct_weight.uniform_(1, 5)
    arrays = {"label_weight": theirs.ct_weight.numpy()}
    sizes = {"fine": 6} if fine else {}
    reference = Reference(N_GENES, N_BATCHES, N_LABELS, arrays=arrays, n_extra=sizes, n_cells=N)
    ours = condscvi.CondSCVI(reference, condscvi.Config(weight_obs=True, **options))
    ours.load_state_dict(read_weights(theirs.state_dict(), ours, CONDSCVI))
    return ours, theirs


@pytest.mark.parametrize("prior", ["normal", "mog"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encode_covariates": True, "n_layers": 1},
        {"log_variational": False, "n_hidden": 16, "n_latent": 3},
        {"fine": True},
    ],
    ids=str,
)
def test_condscvi(scvi_tools, prior, options):
    ours, theirs = both_references(prior=prior, **options)
    data = a_minibatch(options.get("fine", False))
    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.manual_seed(2)
        inferred, generated, loss = theirs(data.tensors, loss_kwargs={"kl_weight": 0.3})
        torch.manual_seed(2)
        terms = ours.cell_terms(data.cells)
        torch.manual_seed(2)
        total = ours(data.cells, Step(kl_weight=0.3)).total
        near(ours.posterior(data.cells)[0], inferred["qz"].loc, options)
        near(terms["reconstruction"], loss.reconstruction_loss["reconstruction_loss"], options)
        near(terms["kl"], loss.kl_local["kl_local"], options)
        near(total, loss.loss, options)
        near(ours.normalized_expression(inferred["z"], data.cells), generated["px"].scale, options)
        if options.get("fine"):
            logits = theirs.classify(inferred["qz"].loc, label_index=data.tensors["labels"])
            near(ours.fine_logits(inferred["qz"].loc, data.cells.label), logits, options)


def both_spots(amortization="both", n_labels=N_LABELS, **options):
    """DestVI over CondSCVI's decoder, with parameters that are not the initial ones."""
    from scvi.module import MRDeconv

    single, known = both_references(prior="mog", dropout_rate=0.0)
    state = known.state_dict()
    parts = [
        {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        for name in ("decoder", "px_decoder")
    ]
    mean, variance = known.prior_means.detach(), known.prior_log_std.detach().exp() ** 2
    weight = torch.rand(N_LABELS, mean.shape[1]).softmax(-1)
    theirs = MRDeconv(
        *(N, N_LABELS, N_BATCHES, known.n_hidden, known.n_layers, known.n_latent, N_GENES, *parts),
        px_r=known.px_r.detach(),
        per_ct_bias=known.per_ct_bias.detach(),
        dropout_decoder=0.0,
        dropout_amortization=0.0,
        **dict(mean_vprior=mean, var_vprior=variance, mp_vprior=weight, amortization=amortization),
        **options,
    )
    for parameter in (theirs.beta, theirs.eta):
        parameter.data.normal_()
    arrays = {"component_mean": mean, "component_variance": variance, "component_weight": weight}
    reference = Reference(N_GENES, N_BATCHES, n_cells=N, arrays={k: v.numpy() for k, v in arrays.items()})
    held: Any = SimpleNamespace(module=single, config=single.config, reference=single.reference)
    config = destvi.Config(dropout_amortization=0.0, amortization=amortization, **options)
    ours = destvi.DestVI(reference, config, held)
    ours.load_state_dict(read_weights(theirs.state_dict(), ours, DESTVI))
    return ours, theirs


def their_run(theirs, tensors):
    """One forward of theirs in training mode."""
    theirs.train()
    torch.manual_seed(5)
    made = theirs._get_inference_input(tensors)
    inferred = theirs.inference(**made)
    generated = theirs.generative(**theirs._get_generative_input(tensors, inferred))
    return made, theirs.loss(tensors, inferred, generated, kl_weight=0.7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_samples_augmentation": 3, "n_states_per_label": 2},
        {"add_celltypes": 2},
        {"augmentation": False},
        {"eps_v": 0.0, "augmentation": False},
    ],
    ids=str,
)
def test_the_loss_of_destvi_and_its_gradients(scvi_tools, options):
    """The draws of the augmentation are theirs; ours come from another stream."""
    ours, theirs = both_spots(**options)
    data = a_minibatch()
    made, loss = their_run(theirs, data.tensors)
    x, copies = made["x_augmented"], None
    if made["prior_sampled"] is not None:
        states = made["prior_sampled"].view(len(x), N, N_LABELS, -1)
        copies = Copies(x, states, made["ratios_ct_augmentation"], made["ratio_augmentation"])
    ours.train()
    found = ours.loss_of(x, data.cells, Step(kl_weight=0.7), copies)
    near(found.terms["reconstruction"], loss.reconstruction_loss["reconstruction_loss"].mean(), options)
    near(found.terms["state"], loss.kl_local["kl_local"].mean(), options)
    near(found.terms["sparsity"], loss.extra_metrics["v_sparsity"], options)
    near(found.terms["platform"], loss.kl_global["kl_global"], options)
    if copies is not None:
        near(100 * found.terms["augmentation"], loss.extra_metrics["augmentation"], options)
    near(found.total, loss.loss, options)
    found.total.backward()
    loss.loss.backward()
    gradients = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in theirs.named_parameters()}
    expected = read_weights(theirs.state_dict() | gradients, ours, DESTVI)
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            largest = float(parameter.grad.abs().max())
            np.testing.assert_allclose(parameter.grad, expected[name], rtol=2e-3, atol=2e-4 * largest, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"n_states_per_label": 1, "add_celltypes": 2}], ids=str)
def test_the_outputs_of_destvi(scvi_tools, options):
    ours, theirs = both_spots(**options)
    data = a_minibatch()
    ours.eval(), theirs.eval()
    with torch.no_grad():
        inferred = theirs.inference(**theirs._get_inference_input(data.tensors))
        made = theirs.generative(**theirs._get_generative_input(data.tensors, inferred))
        near(ours.proportions(data.cells, keep_additional=True), made["v"][0], options)
        known = made["v"][0][:, :N_LABELS]
        near(ours.embed(data.cells), known / known.sum(1, keepdim=True), options)
        state = torch.einsum("pncm,pmc->mcn", made["gamma"][0], made["proportion_modes"][0])
        near(ours.states(data.cells), state, options)
        whole = torch.einsum("mkl,mk->ml", made["px_mu"][0], made["v"][0])
        for label in range(N_LABELS + 1):
            share = made["px_mu"][0, :, label]
            near(ours.type_shares(data.cells, label), share, options)
            part = data.tensors["X"] * share * made["v"][0, :, label, None] / whole
            near(ours.type_counts(data.cells, label), part, options)


def test_continued_training_augments(scvi_tools, counts):
    """Theirs trains on in evaluation mode, and fails."""
    quiet = {"callback": lambda event: None}
    known = sd.fit(counts, "condscvi", labels_key="cell_type", unlabeled_category="none", max_epochs=1, **quiet)
    model = sd.fit(counts, "destvi", start=known, max_epochs=2, **quiet)
    again = sd.fit(counts, "destvi", start=model, max_epochs=2, **quiet)
    assert (again.history["augmentation_train"] > 0).all()
