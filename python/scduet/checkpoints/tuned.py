"""Transformers fine-tuned here, and their folders: what training changed, and the sha256 of the transformer it changed.

model/
    scduet.json           task, options, levels, history, where the base was read from, sha256 of its weights
    weights.safetensors   the weights that learned: with LoRA, under 2 % of a published transformer
"""

from __future__ import annotations

from scduet._torch import torch

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor, nn

from scduet.checkpoints import pretrained
from scduet.contract import TokenBatch
from scduet.errors import DataError, FormatError, OptionError, some
from scduet.io import native
from scduet.io.native import fingerprint
from scduet.options import build
from scduet.train.config import TrainConfig
from scduet.train.group import is_first
from scduet.train.loop import TrainingResult
from scduet.transformers.inference.pretrained import Pretrained
from scduet.transformers.objectives.finetune import Annotator, Encoder, changed_weights
from scduet.transformers.objectives.integration import Integrator

KIND = "scduet fine-tuned transformer"
TASKS: dict[str, Any] = {"annotation": Annotator, "integration": Integrator}  # built of encoder, levels, config


@dataclass(frozen=True)
class Tuned:
    """A transformer after fine-tuning. Made by `finetune`, `integrate` and `load`."""

    task: str  # a key of TASKS
    base: Pretrained
    module: nn.Module = field(repr=False)
    key: str  # column of obs that it learned
    levels: tuple[str, ...]  # cell types, or batches, in the order of their codes
    config: Any
    tokens: Mapping[str, Any] = field(repr=False)  # options of the tokenizer
    training: TrainConfig = field(repr=False)
    outcome: TrainingResult = field(repr=False, default_factory=TrainingResult)

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: mean loss and its terms, for training and held-out cells."""
        return pd.DataFrame(self.outcome.history).set_index("epoch") if self.outcome.history else pd.DataFrame()

    def predict(self, adata, **how) -> pd.DataFrame:
        """Probability of each cell type (cell x type).

        how: where counts and genes are, and on which device, as for `Pretrained.embed` (layer, gene_column, ...).
        """
        if self.task != "annotation":
            raise OptionError(f"a transformer tuned for {self.task} tells no cell types", "use finetune()")
        share = self._mapped(lambda tokens: self.module.classify(tokens).float().softmax(-1), adata, how)  # type: ignore[operator]
        return pd.DataFrame(share, index=adata.obs_names, columns=pd.Index(self.levels))

    def embed(self, adata, **how) -> Float[np.ndarray, "cell width"]:
        """One vector for each cell, float32; one tuned for integration needs the column of batches in obs."""
        if self.task == "annotation":
            return self._mapped(self.module.embed, adata, how)  # type: ignore[arg-type]
        batch = torch.from_numpy(batch_codes(adata, self.key, self.levels))

        def embed(tokens: TokenBatch) -> Tensor:
            codes = batch.to(tokens.index.device)[tokens.index]
            return self.module.embed(replace(tokens, batch=codes))  # type: ignore[operator]

        return self._mapped(embed, adata, how)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write what training changed to `folder`. The base is not copied: `load` needs it again, and checks it.

        Of several processes under torchrun only the first writes.
        """
        if not is_first():
            return
        manifest = {
            "kind": KIND,
            "task": self.task,
            "base": _lasting(self.base.origin),
            "base_sha256": fingerprint(self.base.module.state_dict()),
            "key": self.key,
            "levels": self.levels,
            "config": dataclasses.asdict(self.config),
            "tokens": dict(self.tokens),
            "training": dataclasses.asdict(self.training),
            "outcome": dataclasses.asdict(self.outcome),
        }
        native.write(Path(folder), manifest, changed_weights(self.module), overwrite)

    def _mapped(self, function, adata, how: dict) -> np.ndarray:
        resources = {name: how[name] for name in ("device",) if name in how}
        self.module.to(resources.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        return self.base.mapped(function, adata, **{**self.tokens, **how})


def read(folder: str | Path, base: Pretrained | str | Path | None = None) -> Tuned:
    """The fine-tuned transformer in `folder`, on its `base`; None takes the base from where it was.

    Raises FormatError when the base is not there, or is another than the one that was tuned.
    """
    manifest, tensors = native.read(Path(folder))
    if manifest.get("kind") != KIND:
        raise FormatError(f"{folder} holds no fine-tuned transformer", "read it with load()")
    found = base if isinstance(base, Pretrained) else _base(base or manifest["base"], folder)
    if fingerprint(found.module.state_dict()) != manifest["base_sha256"]:
        message = f"{folder} was tuned on another transformer than {found.origin or 'the one given'}"
        raise FormatError(message, f"pass base= with the one it was tuned on, which was at {manifest['base']!r}")
    task, levels = manifest["task"], tuple(manifest["levels"])
    module, config = rebuilt(task, found, len(levels), manifest["config"])
    _fill(module, tensors, folder)
    training, outcome = build(TrainConfig, manifest["training"]), TrainingResult.from_json(manifest["outcome"])
    return Tuned(task, found, module.eval(), manifest["key"], levels, config, manifest["tokens"], training, outcome)


def rebuilt(task: str, base: Pretrained, n_levels: int, options: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """A module for `task` on a copy of the base, with new heads, and its options; the base stays as it is."""
    config = build(TASKS[task].Config, options)
    encoder: Encoder = copy.deepcopy(base.module)
    return TASKS[task](encoder, n_levels, config), config


def batch_codes(adata, key: str, levels: tuple[str, ...]) -> Int[np.ndarray, " cell"]:
    """The code of each cell's batch. Raises DataError naming batches that are not among `levels`."""
    if key not in adata.obs:
        raise DataError(f"no column {key!r} in adata.obs", f"it has {some(adata.obs.columns, 12)}")
    names = adata.obs[key].astype(str)
    codes = pd.Index(levels).get_indexer(pd.Index(names))
    unseen = sorted(set(names[codes < 0]))
    if unseen:
        remedy = f"the model knows {some(levels, 12)}"
        raise DataError(f"{len(unseen)} batches were not seen in training: {some(unseen)}", remedy)
    return codes.astype(np.int64)


def _base(place: str | Path, folder: str | Path) -> Pretrained:
    if not place:
        raise FormatError(f"{folder} was tuned on a transformer that was in no folder", "pass it as base=")
    try:
        return pretrained.read(place)
    except FormatError as error:
        message = f"the transformer that {folder} was tuned on is not at {str(place)!r} ({error.message})"
        raise FormatError(message, "pass base= with the folder that it is in now") from error


def _lasting(origin: str) -> str:
    """A place that means the same from whatever folder it is looked for later."""
    return str(Path(origin).absolute()) if origin and Path(origin).exists() else origin


def _fill(module: nn.Module, tensors: dict[str, Tensor], folder: str | Path) -> None:
    needed = {name: value.shape for name, value in changed_weights(module).items()}
    if needed != {name: value.shape for name, value in tensors.items()}:
        raise FormatError(f"the weights in {folder} do not fit their options", "save or copy the model again")
    module.load_state_dict(tensors, strict=False)
