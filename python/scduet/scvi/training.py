"""scvi-tools' arguments of `train` as our training options, and our history as theirs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from scduet.api import Model
from scduet.errors import OptionError
from scduet.options import build
from scduet.scvi import settings
from scduet.scvi.setup import seed
from scduet.train.config import TrainConfig

PLAN = {  # plan_kwargs: ours
    "lr": "lr",
    "weight_decay": "weight_decay",
    "eps": "adam_eps",
    "n_epochs_kl_warmup": "kl_warmup_epochs",
    "max_kl_weight": "max_kl_weight",
    "reduce_lr_on_plateau": "reduce_lr_on_plateau",
    "lr_factor": "lr_factor",
    "lr_patience": "lr_patience",
    "lr_min": "lr_min",
}
TRAINER = {  # arguments of the trainer: ours
    "max_epochs": "max_epochs",
    "batch_size": "batch_size",
    "train_size": "train_size",
    "early_stopping": "early_stopping",
    "early_stopping_patience": "early_stopping_patience",
    "early_stopping_min_delta": "early_stopping_min_delta",
    "check_val_every_n_epoch": "validate_every",
    "gradient_clip_val": "clip_gradient",
}
NO_EFFECT = {  # about progress bars, logs, workers and devices
    *("enable_progress_bar", "progress_bar_refresh_rate", "simple_progress_bar", "logger", "log_every_n_steps"),
    *("enable_checkpointing", "enable_model_summary", "num_sanity_val_steps", "devices", "load_sparse_tensor"),
    *("datasplitter_kwargs", "default_root_dir", "log_save_dir", "validation_size", "shuffle_set_split", "strategy"),
    *(
        "early_stopping_monitor",
        "early_stopping_mode",
        "benchmark",
        "learning_rate_monitor",
        "accelerator",
        "precision",
    ),
}
NO_EFFECT_PLAN = {
    "compile",
    "compile_kwargs",
    "optimizer",
    "lr_threshold",
    "lr_scheduler_metric",
    "on_step",
    "on_epoch",
}
HISTORY = {  # term of ours: theirs
    "loss": None,
    "reconstruction": "reconstruction_loss",
    "classification": "classification_loss",
    "accuracy": "accuracy",
    "kl_genes": "kl_global",
}


def training_config(arguments: dict[str, Any], plan: dict[str, Any] | None) -> TrainConfig:
    """Their arguments as ours; refuses those that have no counterpart and would change the result."""
    strange = [
        name for name, value in arguments.items() if name not in TRAINER.keys() | NO_EFFECT and value is not None
    ]
    strange += [name for name in plan or {} if name not in PLAN.keys() | NO_EFFECT_PLAN]
    if strange:
        raise OptionError(
            f"train() has no {strange[0]!r} here", f"it takes {sorted(TRAINER)}, in plan_kwargs {sorted(PLAN)}"
        )
    given = {TRAINER[name]: value for name, value in arguments.items() if name in TRAINER and value is not None}
    given |= {PLAN[name]: value for name, value in (plan or {}).items() if name in PLAN and value is not None}
    if "n_epochs_kl_warmup" in (plan or {}) and (plan or {})["n_epochs_kl_warmup"] is None:
        given["kl_warmup_epochs"] = 0
    accelerator, precision = arguments.get("accelerator"), str(arguments.get("precision") or "32")
    given |= {"accelerator": accelerator if isinstance(accelerator, str) else "auto", "seed": seed()}
    given["precision"] = {"16-mixed": "16", "bf16-mixed": "bf16", "32-true": "32"}.get(precision, precision)
    given.setdefault("batch_size", settings.batch_size)
    return build(TrainConfig, {"recipe": "scvi-tools", **given})


def history_of(model: Model) -> dict[str, pd.DataFrame]:
    """Their history: a data frame a term, by epoch."""
    table, found = model.history, {}
    for where, name in (("train", "train_loss"), ("validation", "validation_loss")):
        columns = [c for c in table if c.endswith(f"_{where}")]
        if not columns:
            continue
        terms = {c.removesuffix(f"_{where}"): table[c] for c in columns}
        local = sum(
            (value for term, value in terms.items() if term in ("kl", "kl_library")), pd.Series(0.0, table.index)
        )
        found[name] = terms["loss"]
        found[f"elbo_{where}"] = terms["reconstruction"] + terms.get("state", 0.0) + local + terms.get("kl_genes", 0.0)
        found[f"reconstruction_loss_{where}"] = terms["reconstruction"] + terms.get("state", 0.0)
        found[f"kl_local_{where}"] = local
        found[f"kl_global_{where}"] = terms.get("kl_genes", pd.Series(0.0, table.index))
        for term in ("classification", "accuracy"):
            if term in terms:
                found[f"{where}_{HISTORY[term]}"] = terms[term]
    if len(table):
        found["kl_weight"] = table["kl_weight"]
    return {name: values.dropna().to_frame(name) for name, values in found.items()}
