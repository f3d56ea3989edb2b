"""Fine-tune a scGPT on cells with RNA and proteins, peaks, or both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scduet.checkpoints import pretrained
from scduet.checkpoints.transformer_folder import Parts, Tuning, rebuilt
from scduet.data import checks
from scduet.data.all_columns import MODALITIES, all_columns
from scduet.data.levels import batch_codes
from scduet.data.schema import Fields, Schema
from scduet.errors import DataError, OptionError
from scduet.events import Listener
from scduet.options import build, refuse_unknown
from scduet.tasks.foundation.finetune import RECIPE, enough, option_names, tokens_options, tuned
from scduet.train.config import TrainConfig
from scduet.transformer_model import Transformer
from scduet.transformers.objectives import multiomic

FOUND = ("proteins", "peaks")  # options that the data decide on
LENGTH = 4_000  # tokens of a cell, as published


def finetune_multiomic(
    adata,
    model: Transformer | str | Path,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    max_length: int = LENGTH,
    callback: Listener | None = None,
    checkpoint: str | Path | None = None,
    **options,
) -> Transformer:
    """Train a scGPT to embed cells by RNA and proteins, peaks, or both. `integrate` calls this.

    adata: AnnData or MuData with raw counts, names of genes as in the checkpoint. A cell without a modality has no
        tokens of it.
    batch_key: column of obs with batches, which the vector of a cell is trained not to tell.
    options: of `transformers.multiomic.Config` (protein_key, peaks_key, mask_ratio, ...) and TrainConfig.
    Raises OptionError for a transformer other than scGPT, or without protein_key and peaks_key, DataError where no cell
    has both RNA and another modality, or a protein or peak is called like a gene.
    """
    checks.check_cells(adata)
    base = pretrained.given(model)
    if base.name != "scgpt":
        raise OptionError(f"{base.name} reads RNA alone", "take a scGPT")
    own = [name for name in option_names(multiomic.Config) if name not in FOUND]
    refuse_unknown(options, own, "training scGPT on several modalities")
    given = {name: value for name, value in options.items() if name not in option_names()}
    config = build(multiomic.Config, given)
    both = all_columns(adata, layer, config.protein_key, config.peaks_key)
    _check_tied(both)
    names = {kind: tuple(both.var_names[both.var["modality"] == i + 1]) for i, kind in enumerate(FOUND)}
    training = build(TrainConfig, {**RECIPE, **enough(base, adata.n_obs, options), **options})
    levels: tuple[str, ...] = ("all",)
    if batch_key is not None:
        fields = Fields(batch_key=batch_key, allow_empty_cells=True)
        levels = Schema.learn(both, fields).levels[batch_key]
    codes = np.zeros(both.n_obs, np.int64) if batch_key is None else batch_codes(both, batch_key, levels)
    tokens = tokens_options(layer, None, max_length)
    module, config = rebuilt("multiomic", base.module, len(levels), {**given, **names})
    tuning = Tuning("multiomic", batch_key or "", levels, config, training, Parts(**vars(base)))
    cells, tokenizer = replace(base, module=module, tuning=tuning).prepared(adata, **tokens)
    cells, kept = replace(cells, batch=codes), (checkpoint, zip(both.obs_names, codes, strict=True))
    options = {**options, **names}
    return tuned(
        "multiomic", base, batch_key or "", levels, options, tokens, cells, tokenizer, training, callback, kept
    )


def _check_tied(both) -> None:
    """Raise DataError where a modality was measured in no cell, or no cell has RNA and another."""
    code = both.var["modality"].to_numpy()
    has = np.array([np.asarray(both.X[:, code == i].sum(1)).ravel() > 0 for i in range(len(MODALITIES))])
    for name, i in zip(MODALITIES, range(len(MODALITIES)), strict=True):
        if (code == i).any() and not has[i].any():
            raise DataError(f"{name!r} was measured in no cell", f"leave {name}_key= out, or is it in another place?")
    if not (has[0] & has[1:].any(0)).any():
        raise DataError("no cell has RNA and another modality: nothing ties them together", "add cells with both")
