"""From the same weights CondSCVI and DestVI give the numbers of scvi-tools: each term, and every output."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from parity.test_scvi import near
from torch import nn

import scduet as sd
from scduet.checkpoints.scvi_spatial import CONDSCVI, DESTVI, read_weights
from scduet.contract import CellBatch, Reference, SparseRows, Step
from scduet.models.spatial import condscvi, destvi
from scduet.models.spatial.augmentation import Copies, augmented

N_GENES, N_LABELS, N_BATCHES, N = 40, 4, 3, 32


@dataclass
class Data:
    """The same minibatch for both."""

    cells: CellBatch
    tensors: dict[str, torch.Tensor]


def a_minibatch(fine=False, smoothed=False, n=N, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.poisson(torch.rand(n, N_GENES, generator=draw) * 6, generator=draw)
    label, batch = (torch.randint(0, levels, (n,), generator=draw) for levels in (N_LABELS, N_BATCHES))
    kind = torch.randint(0, 6, (n,), generator=draw)
    sparse = x.to_sparse_csr()
    rows = SparseRows(sparse.values(), sparse.col_indices(), sparse.crow_indices(), (n, N_GENES))
    extra = {"fine": torch.nn.functional.one_hot(kind, 6).float()} if fine else {}
    tensors = {"X": x, "labels": label[:, None], "batch": batch[:, None], "ind_x": torch.arange(n)[:, None]}
    if fine:
        tensors["fine_labels"] = kind[:, None]
    if smoothed:
        extra["smoothed"] = tensors["x_smoothed"] = 0.5 * (x + x.roll(1, 0))
    return Data(CellBatch(rows, torch.arange(n), batch, label, extra=extra), tensors)


def both_references(of_loss=None, fine=False, **options):
    from scvi.module import VAEC

    torch.manual_seed(0)
    theirs = VAEC(N_GENES, N_BATCHES, N_LABELS, n_fine_labels=6 if fine else None, **options)
    theirs.per_ct_bias.data.normal_()
    theirs.ct_weight.uniform_(1, 5)
    arrays = {"label_weight": theirs.ct_weight.numpy()}
    sizes = {"fine": 6} if fine else {}
    reference = Reference(N_GENES, N_BATCHES, N_LABELS, arrays=arrays, n_extra=sizes, n_cells=N)
    ours = condscvi.CondSCVI(reference, condscvi.Config(weight_obs=True, **options, **(of_loss or {})))
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
        {"fine": True, "classification_ratio": 3.0, "num_classes_mog": 4, "n_layers": 1},
    ],
    ids=str,
)
def test_condscvi(scvi_tools, prior, options):
    of_loss = {name: options[name] for name in ("classification_ratio",) if name in options}
    ours, theirs = both_references(of_loss, prior=prior, **{k: v for k, v in options.items() if k not in of_loss})
    data = a_minibatch(options.get("fine", False))
    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.manual_seed(2)
        inferred, generated, loss = theirs(data.tensors, loss_kwargs={"kl_weight": 0.3, **of_loss})
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


WEIGHTS = {  # of the terms of the loss, none of which is the default
    "ct_sparsity_weight": 3.0,
    "weighting_augmentation": 7.0,
    "weighting_smoothing": 11.0,
    "eta_reg": 0.3,
    "beta_reg": 0.5,
    "weighting_kl_latent": 0.2,
    "reconst_weight": 1.7,
}


def both_spots(amortization="both", weights=None, dropout=0.0, **options):
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
        dropout_amortization=dropout,
        **dict(mean_vprior=mean, var_vprior=variance, mp_vprior=weight, amortization=amortization),
        **options,
    )
    for parameter in (theirs.beta, theirs.eta):
        parameter.data.normal_()
    arrays = {"component_mean": mean, "component_variance": variance, "component_weight": weight}
    reference = Reference(N_GENES, N_BATCHES, n_cells=N, arrays={k: v.numpy() for k, v in arrays.items()})
    held: Any = SimpleNamespace(module=single, config=single.config, reference=single.reference)
    config = destvi.Config(dropout_amortization=dropout, amortization=amortization, **options, **(weights or {}))
    ours = destvi.DestVI(reference, config, held)
    ours.load_state_dict(read_weights(theirs.state_dict(), ours, DESTVI))
    return ours, theirs


def their_run(theirs, tensors, weights):
    """One forward of theirs in training mode, with the draws of the latent space that are also ours."""
    theirs.train()
    torch.manual_seed(5)
    made = theirs._get_inference_input(tensors)
    torch.manual_seed(6)
    inferred = theirs.inference(**made)
    generated = theirs.generative(**theirs._get_generative_input(tensors, inferred))
    return made, theirs.loss(tensors, inferred, generated, kl_weight=0.7, **weights)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": WEIGHTS, "smoothed": True, "n_latent_amortization": 3},
        {"n_samples_augmentation": 3, "n_states_per_label": 2},
        {"n_samples_augmentation": 3, "smoothed": True, "add_celltypes": 2},
        {"add_celltypes": 2},
        {"augmentation": False},
        {"augmentation": False, "smoothed": True},
        {"eps_v": 0.0, "augmentation": False},
        {"amortization": "latent"},
        {"amortization": "latent", "n_latent_amortization": 4},
        {"prior_mode": "normal", "amortization": "proportion", "smoothed": True},
        {"prior_mode": "normal", "amortization": "none"},
        # with this prior theirs mixes up the states that a network gives of several spots or copies
        {"prior_mode": "normal", "augmentation": False, "n": 1},
        {"prior_mode": "normal", "amortization": "latent", "augmentation": False, "n": 1},
    ],
    ids=str,
)
def test_the_loss_of_destvi_and_its_gradients(scvi_tools, options):
    """The draws of the augmentation are theirs; ours come from another stream."""
    n, smoothed = options.get("n", N), options.get("smoothed", False)
    of_model = {name: value for name, value in options.items() if name not in ("n", "smoothed")}
    ours, theirs = both_spots(**of_model)
    data = a_minibatch(smoothed=smoothed, n=n)
    made, loss = their_run(theirs, data.tensors, options.get("weights", {}))
    x, copies = made["x_augmented"], None
    if made["prior_sampled"] is not None:
        states = made["prior_sampled"].view(len(x), n, N_LABELS, -1)
        copies = Copies(x, states, made["ratios_ct_augmentation"], made["ratio_augmentation"], 1 + smoothed)
    ours.train()
    torch.manual_seed(6)
    found = ours.loss_of(x, data.cells, Step(kl_weight=0.7), copies)
    near(found.terms["reconstruction"], loss.reconstruction_loss["reconstruction_loss"].mean(), options)
    near(found.terms["state"], loss.kl_local["kl_local"].mean(), options)
    near(found.terms["sparsity"], loss.extra_metrics["v_sparsity"], options)
    near(ours.config.beta_reg * found.terms["platform"], loss.kl_global["kl_global"], options)
    further = [
        getattr(ours.config, f"weighting_{name}") * found.terms[name]
        for name in ("augmentation", "smoothing")
        if name in found.terms
    ]
    assert len(further) == (copies is not None) + smoothed
    near(torch.as_tensor(sum(further)), loss.extra_metrics["augmentation"], options)
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


def test_dropout_is_where_theirs_is(scvi_tools):
    """Which units it drops is random; its rate in each stack of layers is theirs."""
    cells, spots = (
        both_references(prior="mog", dropout_rate=0.3, fine=True),
        both_spots(dropout=0.2, n_latent_amortization=3),
    )
    pairs = {
        "encoder.body": "z_encoder",
        "decoder": "decoder",
        "fine_body": "linear_mapping",
        "state_body": "gamma_encoder",
        "proportion_body": "V_encoder",
    }
    seen = []
    for ours, theirs in (cells, spots):
        for mine, other in pairs.items():
            if hasattr(theirs, other):
                rates = {layer.p for layer in theirs.get_submodule(other).modules() if isinstance(layer, nn.Dropout)}
                seen.append(ours.get_submodule(mine).dropout)
                assert rates == ({seen[-1]} if seen[-1] else set()), mine
    assert seen == [0.3, 0.3, 0.0, 0.2, 0.0, 0.2, 0.0]


def test_copies_of_smoothed_spots(scvi_tools):
    """As observed, smoothed, one simulation, and mixtures; the observed ones are as given."""
    ours, _ = both_spots(n_samples_augmentation=3)
    data = a_minibatch(smoothed=True)
    seen = torch.stack([data.tensors["X"], data.tensors["x_smoothed"]])
    decoder = ours._decoder_of(data.cells.batch)
    made = augmented(seen, 3, ours.components, decoder, ours.log_dispersion.exp(), torch.Generator().manual_seed(0))
    assert torch.equal(made.x[:2], seen)
    assert made.x.shape == (5, N, N_GENES)
    assert made.simulated[:3, :, 0].tolist() == [[0.0] * N, [0.0] * N, [1.0] * N]
    assert 0 < made.simulated[3:].mean() < 1
    assert 0.5 < float(made.x[2].detach().sum(1).mean() / seen[0].sum(1).mean()) < 1.5


def test_continued_training_augments(scvi_tools, counts):
    """Theirs trains on in evaluation mode, and fails."""
    quiet = {"callback": lambda event: None}
    known = sd.fit(counts, "condscvi", labels_key="cell_type", unlabeled_category="none", max_epochs=1, **quiet)
    model = sd.fit(counts, "destvi", start=known, max_epochs=2, **quiet)
    again = sd.fit(counts, "destvi", start=model, max_epochs=2, **quiet)
    assert (again.history["augmentation_train"] > 0).all()
