"""A published, pre-trained or fine-tuned transformer, as returned by `load`."""

from __future__ import annotations

from scduet._torch import torch

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pandas.util import hash_array
from torch import Tensor, nn

from scduet.checkpoints import transformer_folder
from scduet.checkpoints.transformer_folder import Tuning
from scduet.contract import TokenBatch
from scduet.data.all_columns import all_columns
from scduet.data.levels import batch_codes, values_of
from scduet.data.main_matrix import with_layer
from scduet.data.schema import Fields, Schema, on_disk
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError, some
from scduet.events import Listener, counted
from scduet.models import key_of
from scduet.options import build, refuse_unknown
from scduet.train import device as devices
from scduet.train.group import is_first
from scduet.train.loop import TrainingResult
from scduet.transformers.inference.embedding import Precision, Resources, batches, embed_cells, warn_if_same, windows
from scduet.transformers.objectives.finetune import Encoder
from scduet.transformers.tokenizers.by_modality import ByModality
from scduet.transformers.tokenizers.tokens import Tokenizer
from scduet.transformers.tokenizers.vocabulary import MIN_SHARE, Match, Vocabulary

WHERE = ("layer", "gene_column", "min_share", "allow_non_integer")


@dataclass(frozen=True)
class Transformer:
    """A transformer, returned by `load`, `pretrain` and `finetune`; for the fields see `Parts`."""

    name: str
    module: nn.Module = field(repr=False)
    licence: str
    origin: str = ""
    head_weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    outcome: TrainingResult = field(default_factory=TrainingResult, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    tuning: Tuning | None = None

    needs_mapping = False

    @property
    def encoder(self) -> Encoder:
        return self.module if self.tuning is None else self.module.encoder  # pyright: ignore[reportReturnType]

    @property
    def vocabulary(self) -> Vocabulary:
        return self.encoder.vocabulary

    @property
    def features(self) -> list[str]:
        """The genes of its vocabulary."""
        return list(self.vocabulary.token)

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch of its last training: mean loss and its terms."""
        return self.outcome.table()

    @property
    def key(self) -> str:
        """Key of its embedding in obsm."""
        return key_of(self.name)

    @property
    def description(self) -> str:
        t, epochs = self.tuning, f"trained for {len(self.history)} epochs"
        if t is None:
            return f"{self.name} of {len(self.features)} genes, {epochs}"
        levels = f"{len(t.levels)} levels of obs[{t.key!r}]"
        return f"{self.name} at {t.base.origin!r}, fine-tuned for {t.task}: {levels}, {epochs}"

    @property
    def columns(self) -> dict[str, str]:
        """The columns of obs it was fine-tuned on: "batch_key" or "labels_key"."""
        tuning = self.tuning
        kind = "labels_key" if tuning is not None and tuning.task == "annotation" else "batch_key"
        return {} if tuning is None or not tuning.key else {kind: tuning.key}

    @property
    def cell_types(self) -> pd.Index:
        """The types that it was taught, as the user had them. Raises OptionError where there are none."""
        if self.tuning is None or self.tuning.task != "annotation":
            hint = "teach it with finetune(), or pass it to annotate() as model=, and labeled cells as the reference"
            raise OptionError(f"this {self.name} was not taught any cell types", hint)
        return values_of(self.tuning.levels, self.tuning.values)

    def embed(
        self,
        adata,
        *,
        precision: Precision = "32",
        accelerator: str = "auto",
        tokens_at_once: int | None = None,
        callback: Listener | None = None,
        **how,
    ) -> Float[np.ndarray, "cell width"]:
        """Embed each cell of `adata`, as float32 (cell, width), in order.

        precision: "32", "bf16" or "16", of matrix products. accelerator: "auto" takes a GPU if there is one.
        tokens_at_once: bounds the memory of a minibatch; it is halved when memory runs out.
        callback: called with an Event after each minibatch.
        how: where things are, see `prepared` (layer, gene_column, ...), and the family's options, e.g. `pooling`,
            `max_length`; see `model.encoder.Options`. One tuned to integrate needs the column of batches in obs.

        The embedding of a cell is independent of padding and of other cells. Warns if all embeddings are nearly equal.
        Raises DataError for genes or values that do not fit, OptionError for options, DeviceError out of memory.
        """
        adata = on_disk(adata)
        embed: Callable[..., Tensor] = self.module.embed  # pyright: ignore[reportAssignmentType]
        if self.tuning is None:
            embed = partial(embed, options=self._options({**self.options, **how}))
        elif self.tuning.task == "integration":
            embed = _with_batches(embed, batch_codes(adata, self.tuning.key, self.tuning.levels))
        resources = {"precision": precision, "accelerator": accelerator, "tokens_at_once": tokens_at_once}
        vectors = self.map(embed, adata, callback=callback, **resources, **how).numpy()
        if self.tuning is None:
            warn_if_same(vectors, self.name)
        return vectors

    def predict(self, adata, **how) -> pd.DataFrame:
        """Probability of each cell type (cell x type), after fine-tuning on cell types. how: as for `embed`."""
        types, adata = self.cell_types, on_disk(adata)
        classify: Callable[[TokenBatch], Tensor] = self.module.classify  # pyright: ignore[reportAssignmentType]
        share = self.map(lambda tokens: classify(tokens).float().softmax(-1), adata, **how)
        return pd.DataFrame(share.numpy(), index=adata.obs_names, columns=types)

    def map(
        self,
        function: Callable[[TokenBatch], Tensor],
        adata,
        *,
        precision: Precision = "32",
        accelerator: str = "auto",
        tokens_at_once: int | None = None,
        callback: Listener | None = None,
        **how,
    ) -> Float[Tensor, "cell ..."]:
        """Apply `function` to every cell of `adata`, in order; results on the CPU, arguments as for `embed`."""
        resources = self.resources(precision, accelerator, tokens_at_once, callback)
        cells, tokenizer = self.prepared(adata, **{**self.options, **how})
        self.module.to(resources.device).eval()
        return torch.from_numpy(embed_cells(function, tokenizer, cells.counts, self._pad, resources))

    def embed_genes(
        self,
        adata=None,
        *,
        precision: Precision = "32",
        accelerator: str = "auto",
        callback: Listener | None = None,
        **how,
    ) -> pd.DataFrame:
        """Gene embeddings: the learned ones or, with `adata`, mean states in the cells that express the gene.

        Returns a DataFrame (gene, width) with the checkpoint's gene names; with `adata`, only expressed genes.
        """
        encoder = self.encoder
        if adata is None:
            with torch.inference_mode():
                return self._named(encoder.genes().float().cpu().numpy(), np.ones(len(encoder.genes()), bool))
        resources, chosen = self.resources(precision, accelerator, None, callback), self._options(how)
        cells, tokenizer = self.prepared(adata, **how)
        encoder.to(resources.device).eval()
        total = torch.zeros(encoder.genes().shape[0] + 3, encoder.config.trunk.width, device=resources.device)
        seen = torch.zeros(len(total), device=resources.device)

        def add(tokens) -> Tensor:
            gene, states = tokens.gene[~tokens.padding], encoder.states(tokens, chosen).float()  # pyright: ignore
            total.index_add_(0, gene, states)
            seen.index_add_(0, gene, torch.ones(len(gene), device=gene.device))
            return states[:0]

        for _ in batches(add, tokenizer, cells.counts, self._pad, resources):
            pass
        return self._named((total / seen.clamp(min=1)[:, None]).cpu().numpy(), (seen > 0).cpu().numpy())

    def prepared(
        self,
        adata,
        *,
        layer: str | None = None,
        gene_column: str | None = None,
        min_share: float = MIN_SHARE,
        allow_non_integer: bool = False,
        **options,
    ) -> tuple[Cells, Tokenizer]:
        """Check the cells of `adata` and return them with their tokenizer.

        layer: where the raw counts are (None: X). gene_column: column of var with the names of genes (None: looked
        for in var_names and var). min_share: share of the counts that must be on genes that the checkpoint knows.
        options: the family's.
        """
        chosen, adata = self._options(options), on_disk(adata)
        if self._reads_several:
            config = self.tuning.config  # pyright: ignore[reportOptionalMemberAccess]
            adata, layer = all_columns(adata, layer, config.protein_key, config.peaks_key), None
        cells, match = self._matched(adata, layer, gene_column, min_share, allow_non_integer)
        logging.getLogger("scduet").info("%s: %s", self.name, match)
        _refuse_empty(cells, (match.token >= 0).astype(np.float32), adata.obs_names)
        return cells, self._tokenizer(match, adata, chosen)

    def match(
        self, adata, *, layer: str | None = None, gene_column: str | None = None, min_share: float = 0.0
    ) -> Match:
        """Match the genes of `adata` to the checkpoint; the result can be printed."""
        return self._matched(adata, layer, gene_column, min_share, allow_non_integer=True)[1]

    def gene_rows(self, adata, **where) -> Int[np.ndarray, " gene"]:
        """Row of each gene of `adata` in the gene embeddings, -1 for unknown genes. where: as for `match`."""
        return self.match(adata, **where).token

    def token_statistics(
        self, adata, *, layer: str | None = None, gene_column: str | None = None, **options
    ) -> pd.Series:
        """Coverage of the genes, and the numbers of tokens that cells have (and how many were cut)."""
        chosen, adata = self._options(options), on_disk(adata)
        cells, match = self._matched(adata, layer, gene_column, min_share=0.0)
        tokenizer = self._tokenizer(match, adata, chosen)
        lengths = np.concatenate([tokens.lengths for tokens in windows(tokenizer, cells.counts)])
        longest = getattr(tokenizer, "length", None)
        cut = np.nan if longest is None else float((lengths >= longest).mean())
        found = {"genes": len(match.token), "genes_known": match.n_found, "share_of_counts": match.share}
        least, middle, most = np.quantile(lengths, [0, 0.5, 1])
        tokens = {"tokens_least": least, "tokens_median": middle, "tokens_most": most, "cells_cut": cut}
        return pd.Series({"place": match.place, **found, **tokens})

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the model, including training heads, for `load`: safetensors and JSON.

        Fine-tuned models store only changed weights; `load` checks the original. Under torchrun, the first process
        writes. Raises FormatError if the folder exists, unless overwrite=True and it contains only a scduet model.
        """
        if is_first():
            transformer_folder.write(transformer_folder.Parts(**vars(self)), Path(folder), overwrite)

    def resources(self, precision: Precision, accelerator: str, tokens_at_once: int | None, callback) -> Resources:
        """Computational resources. Raises OptionError or DeviceError if they are not available."""
        if precision == "16" and not self.encoder.fits_float16:
            raise OptionError(f"{self.name} overflows in float16", "use precision='bf16'")
        return Resources(devices.choose(accelerator), precision, tokens_at_once, counted(callback, self.name, "cell"))

    # ------------------------------------------------------------------------------------------------------ helpers

    @property
    def _reads_several(self) -> bool:
        return self.tuning is not None and self.tuning.task == "multiomic"

    @property
    def _pad(self) -> int:
        return self.vocabulary.special.get("<pad>", 0)

    def _options(self, how: Mapping[str, Any]):
        """The options of the family among these."""
        given = {name: value for name, value in how.items() if name not in WHERE}
        refuse_unknown(given, [option.name for option in fields(self.encoder.Options)], self.name)
        return build(self.encoder.Options, given)

    def _matched(
        self, adata, layer, gene_column, min_share: float, allow_non_integer: bool = False
    ) -> tuple[Cells, Match]:
        adata, layer = with_layer(on_disk(adata), layer)
        any_positive = allow_non_integer or self.encoder.expects == "lognormal"
        cells = Schema(Fields(layer=layer, allow_non_integer=any_positive), tuple(adata.var_names)).encode(adata)
        return cells, self.vocabulary.match(_names(adata, gene_column), _gene_totals(cells), min_share)

    def _tokenizer(self, match: Match, adata, options) -> Tokenizer:
        # A number for each cell, derived from its name and independent of the data set.
        numbers = np.asarray(hash_array(adata.obs_names.to_numpy(dtype=object)))
        tokenizer = self.encoder.tokenizer(match, numbers, options)
        return ByModality(tokenizer, adata.var["modality"].to_numpy()) if self._reads_several else tokenizer  # pyright: ignore

    def _named(self, vectors: np.ndarray, kept: np.ndarray) -> pd.DataFrame:
        genes = [(gene, token) for gene, token in self.vocabulary.token.items() if token < len(kept) and kept[token]]
        return pd.DataFrame(vectors[[token for _, token in genes]], index=pd.Index([gene for gene, _ in genes]))


def _with_batches(function: Callable[[TokenBatch], Tensor], codes: Int[np.ndarray, " cell"]):
    """Apply `function` to minibatches with the batch of each cell."""
    batch = torch.from_numpy(codes)
    return lambda tokens: function(replace(tokens, batch=batch.to(tokens.index.device)[tokens.index]))


def _names(adata, gene_column: str | None) -> dict[str, pd.Index]:
    """Candidate gene names: `gene_column`, or var_names and every text column."""
    if gene_column is not None:
        if gene_column not in adata.var:
            raise DataError(f"no column {gene_column!r} in adata.var", f"it has {some(adata.var.columns, 12)}")
        return {gene_column: pd.Index(adata.var[gene_column])}
    text = [c for c in adata.var if not pd.api.types.is_numeric_dtype(adata.var[c].dtype)]
    return {"var_names": adata.var_names, **{column: pd.Index(adata.var[column]) for column in text}}


def _gene_totals(cells: Cells) -> Float[np.ndarray, " gene"]:
    total, source = np.zeros(cells.counts.n_genes), cells.counts
    for start in range(0, source.n_cells, 4_096):
        counts = source.rows(np.arange(start, min(start + 4_096, source.n_cells)))
        total += np.bincount(counts.indices, counts.data, minlength=len(total))
    return total


def _refuse_empty(cells: Cells, known: np.ndarray, names) -> None:
    """Raise DataError naming the cells without counts on known genes."""
    source, empty = cells.counts, []
    for start in range(0, source.n_cells, 4_096):
        counts = source.rows(np.arange(start, min(start + 4_096, source.n_cells)))
        empty += (start + np.flatnonzero(counts @ known == 0)).tolist()
    if empty:
        message = f"{len(empty)} cells have no counts on genes that the checkpoint knows: {some(names[empty])}"
        raise DataError(message, "remove them")
