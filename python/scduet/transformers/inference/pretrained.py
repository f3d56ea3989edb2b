"""A published transformer with its weights: what `load` gives for a folder of Geneformer, scGPT or scFoundation."""

from __future__ import annotations

from scduet._torch import torch

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from pandas.util import hash_array
from torch import Tensor

from scduet.contract import TokenBatch
from scduet.data.schema import Fields, Schema
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.transformers.families.geneformer import Geneformer
from scduet.transformers.families.scfoundation import ScFoundation
from scduet.transformers.families.scgpt import ScGPT
from scduet.transformers.inference.embedding import (
    SAME,
    Precision,
    Progress,
    Resources,
    batches,
    embed_cells,
    spread,
    windows,
)
from scduet.transformers.tokenizers.tokens import Tokenizer
from scduet.transformers.tokenizers.vocabulary import MIN_SHARE, Match, Vocabulary

FEW_CELLS = 10  # so few may be alike indeed
KEYS = {"geneformer": "X_geneformer", "scgpt": "X_scGPT", "scfoundation": "X_scFoundation"}


@dataclass(frozen=True)
class Pretrained:
    """A published transformer, ready to embed cells."""

    name: str
    module: Geneformer | ScGPT | ScFoundation = field(repr=False)
    licence: str
    origin: str = ""  # folder or address it was read from
    set_aside: Mapping[str, Tensor] = field(default_factory=dict, repr=False)  # weights of heads, not used to embed
    history: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)  # if trained here: epochs
    embedding: Mapping[str, Any] = field(default_factory=dict)  # options of `embed` that were found to suit it

    @property
    def vocabulary(self) -> Vocabulary:
        return self.module.vocabulary

    @property
    def key(self) -> str:
        """Where scanpy users look for its embedding: the name in obsm."""
        return KEYS[self.name]

    def embed(
        self,
        adata,
        *,
        layer: str | None = None,
        gene_column: str | None = None,
        min_share: float = MIN_SHARE,
        allow_non_integer: bool = False,
        device: str | torch.device | None = None,
        precision: Precision = "32",
        tokens_at_once: int | None = None,
        progress: Progress | None = None,
        **options,
    ) -> Float[np.ndarray, "cell width"]:
        """One vector for each cell of `adata`, float32, in its order.

        layer: where the raw counts are (None: X). gene_column: column of var with the names of genes (None: looked
        for in var_names and var). min_share: share of the counts that must be on genes that the checkpoint knows.
        device: None takes a CUDA GPU if there is one. precision: "32", "bf16" or "16", of matrix products.
        tokens_at_once: bounds the memory of a minibatch. progress: called with (cells done, cells, seconds left).
        options: the family's, e.g. `pooling`, `max_length`; see `model.module.Options`.

        A cell's result depends neither on padding nor on the cells computed with it. Warns where all cells get nearly
        the same vector. Raises DataError for genes or values that do not fit, OptionError for options, DeviceError out
        of memory.
        """
        chosen = self._options({**self.embedding, **options})
        resources = self._resources(device, precision, tokens_at_once, progress)
        cells, tokenizer = self._prepared(adata, layer, gene_column, min_share, allow_non_integer, chosen)
        module = self.module.to(resources.device).eval()
        embed = partial(module.embed, options=chosen)  # pyright: ignore[reportArgumentType]
        vectors = embed_cells(embed, tokenizer, cells.counts, self._pad, resources)
        _warn_if_same(vectors, self.name)
        return vectors

    def embed_genes(
        self,
        adata=None,
        *,
        layer: str | None = None,
        gene_column: str | None = None,
        precision: Precision = "32",
        device: str | torch.device | None = None,
        progress: Progress | None = None,
        **options,
    ) -> pd.DataFrame:
        """A vector for each gene: the one learned, or with `adata` the mean of its states in the cells that express it.

        Returns a DataFrame (gene, width), genes named as the checkpoint names them; with `adata` those seen in it.
        """
        if adata is None:
            with torch.inference_mode():
                return self._named(self.module.genes().float().cpu().numpy(), np.ones(len(self.module.genes()), bool))
        chosen, resources = self._options(options), self._resources(device, precision, None, progress)
        cells, tokenizer = self._prepared(adata, layer, gene_column, MIN_SHARE, False, chosen)
        module = self.module.to(resources.device).eval()
        total = torch.zeros(module.genes().shape[0] + 3, module.config.trunk.width, device=resources.device)
        seen = torch.zeros(len(total), device=resources.device)

        def add(tokens) -> Tensor:
            gene, states = tokens.gene[~tokens.padding], module.states(tokens, chosen).float()  # pyright: ignore
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
        """The cells of `adata`, checked, and what makes tokens of them; arguments as for `embed`."""
        return self._prepared(adata, layer, gene_column, min_share, allow_non_integer, self._options(options))

    def mapped(
        self,
        function: Callable[[TokenBatch], Tensor],
        adata,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "32",
        tokens_at_once: int | None = None,
        progress: Progress | None = None,
        **how,
    ) -> Float[np.ndarray, "cell ..."]:
        """`function` of every cell of `adata`, in its order; arguments as for `embed`."""
        resources = self._resources(device, precision, tokens_at_once, progress)
        cells, tokenizer = self.prepared(adata, **how)
        return embed_cells(function, tokenizer, cells.counts, self._pad, resources)

    def match(
        self, adata, *, layer: str | None = None, gene_column: str | None = None, min_share: float = 0.0
    ) -> Match:
        """Which genes of `adata` the checkpoint knows; print it."""
        cells = self._cells(adata, layer, True)
        return self.vocabulary.match(_names(adata, gene_column), _gene_totals(cells), min_share)

    def token_statistics(
        self, adata, *, layer: str | None = None, gene_column: str | None = None, **options
    ) -> pd.Series:
        """Coverage of the genes, and the numbers of tokens that cells have (and how many were cut)."""
        chosen = self._options(options)
        cells = self._cells(adata, layer, False)
        match = self.vocabulary.match(_names(adata, gene_column), _gene_totals(cells), 0.0)
        tokenizer = self.module.tokenizer(match, _cell_numbers(adata), chosen)  # pyright: ignore[reportArgumentType]
        lengths = np.concatenate([tokens.lengths for tokens in windows(tokenizer, cells.counts)])
        longest = getattr(tokenizer, "length", None)
        cut = np.nan if longest is None else float((lengths >= longest).mean())
        found = {"genes": len(match.token), "genes_known": match.n_found, "share_of_counts": match.share}
        least, middle, most = np.quantile(lengths, [0, 0.5, 1])
        tokens = {"tokens_least": least, "tokens_median": middle, "tokens_most": most, "cells_cut": cut}
        return pd.Series({"place": match.place, **found, **tokens})

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the model, heads for training included, so that `load` reads it: safetensors and JSON.

        Raises FormatError when the folder exists, unless overwrite=True and it holds a model of ours.
        """
        from scduet.checkpoints import own

        own.write(self, Path(folder), overwrite)

    # ------------------------------------------------------------------------------------------------------ helpers

    @property
    def _pad(self) -> int:
        return self.vocabulary.special.get("<pad>", 0)

    def _options(self, given: dict[str, Any]):
        known = [f.name for f in fields(self.module.Options)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise OptionError(f"{self.name} has no option {some(unknown)}", f"it has {some(known, 12)}")
        options = self.module.Options(**given)
        check_choices(options)
        return options

    def _resources(self, device, precision: Precision, tokens_at_once, progress) -> Resources:
        if precision == "16" and not self.module.fits_float16:
            raise OptionError(f"{self.name} overflows in float16", "use precision='bf16'")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return Resources(torch.device(device), precision, tokens_at_once, progress)

    def _prepared(
        self, adata, layer, gene_column, min_share: float, allow_non_integer: bool, options
    ) -> tuple[Cells, Tokenizer]:
        cells = self._cells(adata, layer, allow_non_integer)
        match = self.vocabulary.match(_names(adata, gene_column), _gene_totals(cells), min_share)
        logging.getLogger("scduet").info("%s: %s", self.name, match)
        tokenizer = self.module.tokenizer(match, _cell_numbers(adata), options)
        known = (match.token >= 0).astype(np.float32)
        _refuse_empty(cells, known, adata.obs_names)
        return cells, tokenizer

    def _cells(self, adata, layer: str | None, allow_non_integer: bool) -> Cells:
        any_positive = allow_non_integer or self.module.expects == "lognormal"
        fields = Fields(layer=layer, allow_non_integer=any_positive)
        return Schema(fields, tuple(adata.var_names)).encode(adata)

    def _named(self, vectors: np.ndarray, kept: np.ndarray) -> pd.DataFrame:
        genes = [(gene, token) for gene, token in self.vocabulary.token.items() if token < len(kept) and kept[token]]
        return pd.DataFrame(vectors[[token for _, token in genes]], index=pd.Index([gene for gene, _ in genes]))


def _warn_if_same(vectors: np.ndarray, name: str) -> None:
    """Warn where the vectors of several cells are nearly the same."""
    if len(vectors) >= FEW_CELLS and spread(vectors) < SAME:
        message = f"{name} gives all {len(vectors)} cells nearly the same vector (they differ by {spread(vectors):.1%})"
        warnings.warn(f"{message}; try pooling='mean', or train it longer", ScduetWarning, stacklevel=3)


def check_choices(options) -> None:
    """Raise OptionError for a value that is not among the choices of a field annotated as a Literal."""
    from typing import get_args, get_type_hints

    for name, hint in get_type_hints(type(options)).items():
        choices, value = get_args(hint), getattr(options, name)
        if choices and all(isinstance(choice, str) for choice in choices) and value not in choices:
            raise OptionError(f"option {name!r} cannot be {value!r}", f"it is one of {some(choices, 12)}")


def _names(adata, gene_column: str | None) -> dict[str, pd.Index]:
    """Where names of genes may be: the column asked for, or var_names and every column of text."""
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


def _cell_numbers(adata) -> np.ndarray:
    """A number for each cell, from its name: the same in whatever data set the cell is."""
    return np.asarray(hash_array(adata.obs_names.to_numpy(dtype=object)))


def _refuse_empty(cells: Cells, known: np.ndarray, names) -> None:
    """Raise DataError naming the cells with no count on a known gene."""
    source, empty = cells.counts, []
    for start in range(0, source.n_cells, 4_096):
        counts = source.rows(np.arange(start, min(start + 4_096, source.n_cells)))
        empty += (start + np.flatnonzero(counts @ known == 0)).tolist()
    if empty:
        message = f"{len(empty)} cells have no counts on genes that the checkpoint knows: {some(names[empty])}"
        raise DataError(message, "remove them")
