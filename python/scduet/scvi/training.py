"""scvi-tools' arguments of `train` as our training options, and our history as theirs."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil, floor
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from scduet.errors import DataError, OptionError
from scduet.options import build
from scduet.scvi import settings
from scduet.scvi.setup import seed
from scduet.train.config import TrainConfig

ALIKE = ("lr", "weight_decay", "max_kl_weight", "reduce_lr_on_plateau", "lr_factor", "lr_patience", "lr_min")
PLAN = {  # plan_kwargs: ours
    **{name: name for name in ALIKE},
    "eps": "adam_eps",
    "n_epochs_kl_warmup": "kl_warmup_epochs",
    "n_steps_kl_warmup": "kl_warmup_steps",
}
STOPPING = ("patience", "min_delta", "warmup_epochs", "monitor", "mode")
TRAINER = {  # arguments of the trainer: ours
    **{name: name for name in ("max_epochs", "batch_size", "train_size", "early_stopping", "accumulate_grad_batches")},
    **{f"early_stopping_{name}": f"early_stopping_{name}" for name in STOPPING},
    "check_val_every_n_epoch": "validate_every",
    "gradient_clip_val": "clip_gradient",
}
MONITORS = {  # early_stopping_monitor: term of ours. The loss of a validation has full KL weight, as their ELBO has
    "elbo_validation": "loss",
    "validation_loss": "loss",
    "reconstruction_loss_validation": "reconstruction",
    "kl_local_validation": "kl",
    "kl_global_validation": "kl_genes",
    "validation_accuracy": "accuracy",
    "validation_classification_loss": "classification",
}
LOCAL = ("kl", "kl_library", "kl_background")  # terms of a cell's variables, their kl_local
FURTHER = {  # terms of ours: columns of theirs
    "classification": "{}_classification_loss",
    "accuracy": "{}_accuracy",
    "sparsity": "v_sparsity_{}",
    "augmentation": "augmentation_{}",
    "smoothing": "smoothing_{}",
}
NO_EFFECT = {  # about progress bars, logs, workers and devices
    *("enable_progress_bar", "progress_bar_refresh_rate", "simple_progress_bar", "logger", "log_every_n_steps"),
    *("enable_checkpointing", "enable_model_summary", "num_sanity_val_steps", "devices", "load_sparse_tensor"),
    *("default_root_dir", "log_save_dir", "strategy", "benchmark", "learning_rate_monitor", "accelerator"),
    *("precision", "checkpointing_monitor"),
}
NO_EFFECT_PLAN = {"compile", "compile_kwargs", "on_step", "on_epoch"}
DEFAULTS_PLAN = {  # of which there is no other value here
    "optimizer": "Adam",
    "optimizer_creator": None,
    "update_only_decoder": False,
    "min_kl_weight": 0.0,
    "lr_threshold": 0.0,
    "lr_scheduler_metric": "elbo_validation",
}
# of datasplitter_kwargs; without effect. What drop_last is for does not happen: a rest of 1 or 2 cells joins the last
SPLITTER = {"drop_last", "pin_memory", "num_workers", "persistent_workers"}


def with_plan(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a `train` that names some of the plan's own. What plan_kwargs says holds, unlike there."""
    named = {name: given.pop(name) for name in PLAN if name in given}
    return {**given, "plan_kwargs": {**named, **(given.get("plan_kwargs") or {})}}


def training_config(arguments: dict[str, Any], plan: dict[str, Any] | None) -> TrainConfig:
    """Their arguments as ours; refuses those that have no counterpart and would change the result."""
    plan = {name: value for name, value in (plan or {}).items() if DEFAULTS_PLAN.get(name, NotImplemented) != value}
    strange = [
        name for name, value in arguments.items() if name not in TRAINER.keys() | NO_EFFECT and value is not None
    ]
    strange += [name for name in plan if name not in PLAN.keys() | NO_EFFECT_PLAN]
    if strange:
        raise OptionError(
            f"train() has no {strange[0]!r} here", f"it takes {sorted(TRAINER)}, in plan_kwargs {sorted(PLAN)}"
        )
    given = {TRAINER[name]: value for name, value in arguments.items() if name in TRAINER and value is not None}
    given |= {PLAN[name]: value for name, value in plan.items() if name in PLAN and value is not None}
    if plan.get("n_epochs_kl_warmup", 0) is None and "kl_warmup_steps" not in given:
        given["kl_warmup_epochs"] = 0
    if "kl_warmup_steps" in given and "kl_warmup_epochs" in given:
        del given["kl_warmup_steps"]  # there, too, epochs go first
    monitor = given.get("early_stopping_monitor", "elbo_validation")
    if monitor not in MONITORS:
        raise OptionError(f"early_stopping_monitor={monitor!r} cannot be watched", f"it takes {sorted(MONITORS)}")
    given["early_stopping_monitor"] = MONITORS[monitor]
    accelerator, precision = arguments.get("accelerator"), str(arguments.get("precision") or "32")
    given |= {"accelerator": accelerator if isinstance(accelerator, str) else "auto", "seed": seed()}
    given["precision"] = {"16-mixed": "16", "bf16-mixed": "bf16", "32-true": "32"}.get(precision, precision)
    given.setdefault("batch_size", settings.batch_size)
    return build(TrainConfig, {"recipe": "scvi-tools", **given})


def chosen_rows(
    n_cells: int, seed: int, train_size, validation_size, shuffle: bool, splitter: Mapping[str, Any] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, by scvi-tools' rule.

    Raises OptionError, which is a ValueError, for shares out of range, DataError for an external_indexing that is none.
    """
    options = dict(splitter or {})
    external = options.pop("external_indexing", None)
    unknown = sorted(options.keys() - SPLITTER)
    if unknown:
        raise OptionError(f"datasplitter_kwargs has no {unknown[0]!r} here", "it takes external_indexing")
    if train_size is not None and not 0 < train_size <= 1:
        raise OptionError(f"train_size={train_size!r}", "it is a share: above 0, at most 1")
    if validation_size is not None and not 0 <= validation_size < 1:
        raise OptionError(f"validation_size={validation_size!r}", "it is a share: from 0 up to, not including, 1")
    if external is not None:
        return _external(external, n_cells)
    share = 0.9 if train_size is None else train_size
    if validation_size is not None and share + validation_size > 1:
        raise OptionError(f"train_size={share} and validation_size={validation_size}", "together they are at most 1")
    n_train = ceil(share * n_cells)
    n_held_out = n_cells - n_train if validation_size is None else floor(n_cells * validation_size)
    order = np.random.RandomState(seed).permutation(n_cells) if shuffle else np.arange(n_cells)
    return order[n_held_out : n_held_out + n_train], order[:n_held_out]


def _external(given: Any, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The first two of training, validation and test cells, which together are all cells, each once."""
    if not isinstance(given, list) or not all(part is None or isinstance(part, np.ndarray) for part in given):
        raise OptionError("external_indexing is no list of arrays", "pass [training, validation, test] as numpy arrays")
    parts = [np.zeros(0, np.int64) if part is None else np.asarray(part, np.int64) for part in [*given, None, None][:3]]
    rows = np.concatenate(parts)
    if len(rows) and not 0 <= rows.min() <= rows.max() < n_cells:
        raise DataError(f"external_indexing has {rows.max()}", f"there are {n_cells} cells, from 0 on")
    times = np.bincount(rows, minlength=n_cells)
    for wrong, what in ((times > 1, "in it twice"), (times == 0, "missing from it")):
        if wrong.any():
            remedy = "each cell belongs to one of training, validation and test"
            raise DataError(f"external_indexing: {wrong.sum()} cells are {what}, e.g. {wrong.argmax()}", remedy)
    return parts[0], parts[1]


class History(dict[str, pd.DataFrame]):
    """A data frame a term; says what there is where a term is asked for that is not recorded here."""

    def __missing__(self, name: str) -> pd.DataFrame:
        raise KeyError(f"the history has no {name!r}; it has {sorted(self)}")


class Steps:
    """Losses of single minibatches, for train(plan_kwargs={"on_step": True})."""

    def __init__(self, every: int = 10):
        self.every, self.losses = every, {"train": [], "validation": []}

    @contextmanager
    def of(self, module: nn.Module) -> Iterator[None]:
        """Inside, the losses that `module` gives are noted."""
        handle = module.register_forward_hook(self._note)
        try:
            yield
        finally:
            handle.remove()

    def _note(self, module, arguments, loss) -> None:
        self.losses["validation" if torch.is_inference_mode_enabled() else "train"].append(loss.total.detach())

    def frames(self) -> dict[str, pd.DataFrame]:
        """By step, every `every`-th of training."""
        found = {}
        for where, losses in self.losses.items():
            name, every = f"{where}_loss_step", self.every if where == "train" else 1
            values = {i: float(loss) for i, loss in enumerate(losses) if (i + 1) % every == 0 or len(losses) < every}
            found[name] = pd.DataFrame({name: pd.Series(values, dtype=float)})
        return {name: frame for name, frame in found.items() if len(frame)}


def history_of(table: pd.DataFrame, steps: Steps | None = None) -> History:
    """Their history of a table of ours: a data frame a term, by epoch; with `steps` also under their other names."""
    found: dict[str, pd.Series] = {}
    for where, name in (("train", "train_loss"), ("validation", "validation_loss")):
        columns = [c for c in table if c.endswith(f"_{where}")]
        terms = {c.removesuffix(f"_{where}"): table[c] for c in columns}
        if "loss" not in terms or "reconstruction" not in terms:
            continue
        zero = pd.Series(0.0, table.index)
        of_spots = "platform" in terms  # DestVI, whose states are variables of the spot; of SCANVI "state" is an error
        of_error = ("reconstruction",) if of_spots else ("reconstruction", "state")
        of_local = (*LOCAL, "state") if of_spots else LOCAL
        error = sum((terms[term] for term in terms if term.startswith(of_error)), zero)
        local = sum((terms[term] for term in terms if term in of_local), zero)
        of_genes = terms.get("platform" if of_spots else "kl_genes", zero)
        found |= {name: terms["loss"], f"elbo_{where}": error + local + of_genes}
        found |= {f"reconstruction_loss_{where}": error, f"kl_local_{where}": local, f"kl_global_{where}": of_genes}
        for term, theirs in FURTHER.items():
            if term in terms:
                found[theirs.format(where)] = terms[term]
    found |= {theirs: table[ours] for ours, theirs in (("kl_weight", "kl_weight"), ("lr", "lr-Adam")) if ours in table}
    frames = {name: values.dropna().to_frame(name) for name, values in found.items()}
    frames = {name: frame for name, frame in frames.items() if len(frame)}
    if steps is not None:
        by_epoch = {f"{name}_epoch": frame.set_axis([f"{name}_epoch"], axis=1) for name, frame in frames.items()}
        frames |= by_epoch | steps.frames()
    return History(frames)


def last_row(row) -> dict[str, float]:
    """Their names of the terms of one epoch."""
    return {name: float(frame.iloc[-1, 0]) for name, frame in history_of(pd.DataFrame([row])).items()}
