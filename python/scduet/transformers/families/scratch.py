"""Untrained transformers of a given size, with the genes of the user's data as vocabulary."""

from __future__ import annotations

import scduet._torch  # noqa: F401

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import nn

from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError
from scduet.transformers.encoder.trunk import TrunkConfig
from scduet.transformers.families import geneformer, scgpt
from scduet.transformers.tokenizers.vocabulary import Vocabulary

MEDIAN_CELLS = 20_000  # maximum number of cells for the median counts of genes


@dataclass(frozen=True)
class Size:
    width: int = 128
    """Dimensions of a token."""
    n_layers: int = 4
    """Number of transformer blocks."""
    n_heads: int = 4
    """Attention heads of each block."""
    feedforward: int = 256
    """Width of the hidden layer of each block."""
    dropout: float = 0.0
    """Dropout rate in training; above 0, attention is several times slower on a CPU."""
    max_length: int = 1_024
    """Maximum number of tokens per cell."""
    gradient_checkpointing: bool = False
    """Recompute each block for its gradient: memory of one block, a third more time."""

    def __post_init__(self):
        if self.width % self.n_heads:
            raise OptionError(f"width={self.width} cannot be shared by n_heads={self.n_heads}", "take a multiple of it")
        if min(self.width, self.n_layers, self.n_heads, self.feedforward) < 1 or self.max_length < 3:
            raise OptionError("a transformer needs positive sizes", "and max_length of 3 or more")

    def trunk(self, norm_eps: float) -> TrunkConfig:
        return TrunkConfig(self.width, self.n_layers, self.n_heads, self.feedforward, self.dropout, norm_eps)


def new_geneformer(names: pd.Index, cells: Cells, size: Size) -> geneformer.Geneformer:
    """Special tokens as in Geneformer V2; initialized like BERT."""
    special = {name: i for i, name in enumerate(("<pad>", "<mask>", "<cls>", "<eos>"))}
    median = usual_counts(cells)
    kept = np.flatnonzero(median > 0)
    token = {str(names[gene]): i + len(special) for i, gene in enumerate(kept)}
    medians = {str(names[gene]): float(median[gene]) for gene in kept}
    vocabulary = Vocabulary(token, _kind(names), special, medians)
    config = geneformer.Config(len(vocabulary), size.max_length, size.trunk(1e-12))
    module = geneformer.Geneformer(config, vocabulary)
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, 0, 0.02)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
    return module


def new_scgpt(names: pd.Index, cells: Cells, size: Size) -> scgpt.ScGPT:
    """Special tokens after the genes, and initialized, as in scGPT's code."""
    kept = np.flatnonzero(usual_counts(cells) > 0)
    token = {str(names[gene]): i for i, gene in enumerate(kept)}
    special = {name: len(token) + i for i, name in enumerate(("<pad>", "<cls>", "<eoc>"))}
    vocabulary = Vocabulary(token, _kind(names), special)
    module = scgpt.ScGPT(scgpt.Config(len(vocabulary), size.trunk(1e-5)), vocabulary)
    nn.init.uniform_(module.gene.weight, -0.1, 0.1)
    return module


NEW: dict[str, Callable[[pd.Index, Cells, Size], nn.Module]] = {"geneformer": new_geneformer, "scgpt": new_scgpt}


def usual_counts(cells: Cells) -> Float[np.ndarray, " gene"]:
    """Median of each gene's counts per 10,000 of the cell, over the cells that express it; 0 of a gene in no cell.

    Of more than `MEDIAN_CELLS` cells, over as many of them at random.
    """
    n = len(cells)
    rows = np.arange(n) if n <= MEDIAN_CELLS else np.sort(np.random.default_rng(0).choice(n, MEDIAN_CELLS, False))
    counts = cells.counts.rows(rows).tocsr()
    share = counts.data * np.repeat(1e4 / np.maximum(cells.total[rows], 1), np.diff(counts.indptr))
    kept = counts.data > 0
    median = pd.Series(share[kept]).groupby(counts.indices[kept]).median()
    out = np.zeros(cells.counts.n_genes)
    out[median.index.to_numpy()] = median.to_numpy()
    if not out.any():
        raise DataError("no gene has any count", "is this the matrix of counts?")
    return out


def _kind(names: pd.Index):
    return "ensembl" if names.astype(str).str.match(r"ENS[A-Z]*G\d+").mean() > 0.5 else "symbol"
