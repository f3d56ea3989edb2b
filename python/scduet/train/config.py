"""Training options, and the recipes that set options left at None."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from scduet.errors import OptionError


@dataclass(frozen=True)
class TrainConfig:
    recipe: Literal["auto", "scvi-tools"] = "auto"
    """Defaults for options left at None: "auto" is scduet's own, "scvi-tools" reproduces scvi-tools."""
    max_epochs: int | None = None
    """Maximum number of epochs; None lets the recipe choose by the number of cells."""
    batch_size: int | None = None
    """Number of cells per minibatch."""
    lr: float | None = None
    """Learning rate of Adam."""
    weight_decay: float | None = None
    """L2 penalty of Adam."""
    adam_eps: float | None = None
    """Term added to Adam's denominator for numerical stability."""
    kl_warmup_epochs: int | None = None
    """Epochs over which the weight of the KL terms grows from 0 to max_kl_weight."""
    kl_warmup_steps: int | None = None
    """Steps over which the weight of the KL terms grows, instead of kl_warmup_epochs."""
    max_kl_weight: float = 1.0
    """Final weight of the KL terms: the beta of a beta-VAE (Higgins et al. 2017)."""
    clip_gradient: float | None = None
    """Maximum gradient norm; None for no limit."""
    train_size: float | None = None
    """Fraction of the cells to train on; the rest are held out for validation."""
    validate_every: int | None = None
    """Number of epochs between validations; 0 to validate only at the end."""
    early_stopping: bool | None = None
    """Stop when the validation loss no longer decreases, and restore the best weights."""
    early_stopping_patience: int | None = None
    """Epochs without improvement before training stops."""
    early_stopping_min_delta: float = 0.0
    """Fall of the validation loss that counts as improvement."""
    early_stopping_warmup_epochs: int = 0
    """Epochs at the start of training whose validation early stopping leaves out."""
    early_stopping_monitor: str = "loss"
    """Term of the validation that early stopping watches: the loss, or e.g. "reconstruction"."""
    early_stopping_mode: Literal["min", "max"] = "min"
    """Whether that term should fall or rise."""
    lr_schedule: Literal["constant", "cosine"] | None = None
    """Whether the learning rate stays, or falls along half a cosine wave to a hundredth in the last epoch."""
    reduce_lr_on_plateau: bool | None = None
    """Lower the learning rate when the validation loss no longer falls."""
    lr_patience: int = 30
    """Epochs without improvement before the learning rate is reduced."""
    lr_factor: float = 0.6
    """Factor by which the learning rate is reduced."""
    lr_min: float = 0.0
    """Minimum learning rate."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """Device; "auto" uses a CUDA GPU if available, otherwise the CPU."""
    devices: int = 1
    """Number of processes on this machine that share each minibatch, one per GPU; ignored under torchrun."""
    precision: Literal["32", "bf16", "16"] = "32"
    """Precision of matrix products; likelihoods are always computed in 32 bit."""
    accumulate_grad_batches: int = 1
    """Number of minibatches whose gradients are accumulated per optimizer step."""
    shuffle_block: int | None = None
    """Number of adjacent rows of a file that stay together when shuffling; None to choose it by the file."""
    seed: int = 0
    """Random seed for initialization, data splits, shuffling and sampling."""

    def __post_init__(self):
        for name, (allowed, remedy) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not allowed(value):
                raise OptionError(f"option {name!r} cannot be {value!r}", remedy)


RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "max_epochs": (lambda v: v >= 1, "it must be at least 1"),
    "batch_size": (lambda v: v >= 2, "it must be at least 2"),
    "lr": (lambda v: v >= 0, "it cannot be below 0"),
    "weight_decay": (lambda v: v >= 0, "it cannot be below 0"),
    "adam_eps": (lambda v: v > 0, "it must be above 0"),
    "kl_warmup_epochs": (lambda v: v >= 0, "it cannot be below 0"),
    "kl_warmup_steps": (lambda v: v >= 0, "it cannot be below 0"),
    "max_kl_weight": (lambda v: v >= 0, "it cannot be below 0"),
    "clip_gradient": (lambda v: v > 0, "it must be above 0"),
    "train_size": (lambda v: 0 < v <= 1, "it must be above 0 and at most 1"),
    "validate_every": (lambda v: v >= 0, "it cannot be below 0"),
    "early_stopping_patience": (lambda v: v >= 1, "it must be at least 1"),
    "early_stopping_warmup_epochs": (lambda v: v >= 0, "it cannot be below 0"),
    "devices": (lambda v: v >= 1, "it must be at least 1"),
    "accumulate_grad_batches": (lambda v: v >= 1, "it must be at least 1"),
    "shuffle_block": (lambda v: v >= 1, "it must be at least 1"),
    "lr_factor": (lambda v: 0 < v < 1, "it must be between 0 and 1"),
    "seed": (lambda v: 0 <= v < 2**32, "it is from 0 to 2**32 - 1"),
}


Recipe = Callable[[int, int | None], dict[str, Any]]  # number of cells, max_epochs if given -> options


Own = Mapping[str, Recipe | Mapping[str, Any]]  # recipe -> options, or a function that returns them


def resolved(config: TrainConfig, n_cells: int, own: Own | None = None) -> TrainConfig:
    """Return `config` with all options left at None set by its recipe.

    own: the model's overrides of the recipe.
    """
    if config.kl_warmup_epochs is not None and config.kl_warmup_steps is not None:
        raise OptionError("kl_warmup_epochs and kl_warmup_steps are both given", "choose one of them")
    chosen, further = RECIPES[config.recipe](n_cells, config.max_epochs), (own or {}).get(config.recipe, {})
    chosen |= further(n_cells, config.max_epochs) if callable(further) else further
    if config.kl_warmup_epochs is not None:
        chosen.pop("kl_warmup_steps", None)
    if config.kl_warmup_steps is not None or chosen.get("kl_warmup_steps") is not None:
        chosen["kl_warmup_epochs"] = 0
    given = config.lr_schedule, config.reduce_lr_on_plateau
    if given[1] or (chosen["reduce_lr_on_plateau"] and given == (None, None)):
        chosen["lr_schedule"] = "constant"
    open_ones = {name: value for name, value in chosen.items() if getattr(config, name) is None}
    filled = replace(config, **open_ones)
    if filled.train_size == 1 and config.early_stopping is None:  # a recipe's wish, which nothing could fulfil
        filled = replace(filled, early_stopping=False)
    watches = filled.early_stopping or filled.reduce_lr_on_plateau
    if watches and filled.train_size == 1:
        raise OptionError("early_stopping and reduce_lr_on_plateau need held-out cells", "pass train_size=0.9")
    if filled.reduce_lr_on_plateau and filled.lr_schedule == "cosine":
        raise OptionError("reduce_lr_on_plateau and lr_schedule='cosine' both set the learning rate", "choose one")
    return replace(filled, validate_every=1) if watches and filled.validate_every == 0 else filled


def of_loader(config: TrainConfig, n_cells: int, n_held_out: int) -> TrainConfig:
    """Return `config` for cells of a loader, which says itself which are held out, and in which order they come."""
    for name in ("train_size", "shuffle_block"):
        if getattr(config, name) is not None:
            raise OptionError(
                f"option {name!r} has no meaning for a loader", "use CellLoader(validation=), and have it shuffle"
            )
    if config.devices > 1:
        raise OptionError(f"devices={config.devices} cannot share a loader", "train with devices=1, or on files")
    if (config.early_stopping or config.reduce_lr_on_plateau) and not n_held_out:
        raise OptionError("early_stopping and reduce_lr_on_plateau need held-out cells", "pass CellLoader(validation=)")
    return replace(config, train_size=n_cells / (n_cells + n_held_out))


def on_all_cells(config: TrainConfig) -> TrainConfig:
    """Return `config` for a model with per-cell parameters, which cannot hold out cells."""
    if config.train_size not in (None, 1) or config.early_stopping or config.reduce_lr_on_plateau:
        held_out = "train_size, early_stopping and reduce_lr_on_plateau hold out cells"
        raise OptionError(f"{held_out}, but this model has parameters for each cell", "leave them out")
    return replace(config, train_size=1.0, early_stopping=False)


def _scvi_tools(n_cells: int, max_epochs: int | None) -> dict:
    """The defaults of scvi-tools 1.4 (SCVI.train and its training plan)."""
    return dict(
        max_epochs=max(min(round(20_000 / n_cells * 400), 400), 1),
        batch_size=128,
        lr=1e-3,
        weight_decay=1e-6,
        adam_eps=0.01,
        lr_schedule="constant",
        reduce_lr_on_plateau=False,
        kl_warmup_epochs=400,
        train_size=0.9,
        validate_every=0,
        early_stopping=False,
        early_stopping_patience=45,
    )


def _auto(n_cells: int, max_epochs: int | None) -> dict:
    """scduet's default: a high, decaying learning rate, a short KL warm-up, and half as many epochs as scvi-tools.

    The held-out loss reaches its minimum before half of the epochs, but batches continue to mix, so it does not stop
    early. See benchmarks/ for a comparison.
    """
    epochs = max_epochs or max(min(round(20_000 / n_cells * 200), 200), 10)
    return dict(
        max_epochs=epochs,
        batch_size=128,
        lr=5e-3,
        weight_decay=1e-6,
        adam_eps=0.01,
        lr_schedule="cosine",
        reduce_lr_on_plateau=False,
        kl_warmup_epochs=max(1, min(20, epochs // 5)),
        train_size=0.9,
        validate_every=1,
        early_stopping=False,
        early_stopping_patience=25,
    )


RECIPES: Mapping[str, Recipe] = {"auto": _auto, "scvi-tools": _scvi_tools}
