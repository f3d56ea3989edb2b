"""scGPT (Cui et al., Nature Methods 2024): a cell is a set of genes, each with the bin of its count.

state of a token before the first block = LayerNorm(gene[token]) + LayerNorm(W2 ReLU(W1 value)); no position, so that
the order of the genes means nothing. Then the trunk, post-norm, ReLU. Here without the heads for its training.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import TokenBatch
from scduet.errors import OptionError
from scduet.transformers.encoder.trunk import Packing, Trunk, TrunkConfig
from scduet.transformers.tokenizers.binned_value import BinTokenizer
from scduet.transformers.tokenizers.tokens import Tokenizer
from scduet.transformers.tokenizers.vocabulary import Match, Vocabulary

LARGEST_VALUE = 512.0  # values are cut here, as in the official code
BATCH_NORM_EPS = 6.1e-5  # of the official code


@dataclass(frozen=True)
class Config:
    n_tokens: int = 60_697
    """Genes and special tokens."""
    trunk: TrunkConfig = field(default_factory=lambda: TrunkConfig(512, 12, 8, 512, 0.2, 1e-5))
    """The encoder."""
    n_bins: int = 51
    """Bins of the values, that of zeros included."""
    cls_value: float = -2.0
    """Value beside `<cls>`: that of padding, in the official code for embeddings."""
    batch_norm: bool = False
    """A BatchNorm on the sum of both embeddings, which the oldest checkpoints have."""


@dataclass(frozen=True)
class Options:
    """How to embed a cell. The defaults are those of the official `embed_data`."""

    pooling: Literal["cls", "mean"] = "cls"
    """The state of `<cls>`, or the mean over the genes."""
    normalize: bool = True
    """Scale each vector to length 1."""
    max_length: int = 1_200
    """Maximum number of tokens per cell; longer cells keep a random subset of their genes."""
    ties: Literal["random", "midpoint"] = "random"
    """Bin of a count that equals several edges: a random one, as in the official code, or the middle one."""
    seed: int = 0
    """Random seed of bins and subsets, which depend only on it and the cell names."""
    zeros: bool = False
    """Whether genes without counts also get a token, with bin 0, as in the official recipe for integration."""


class ScGPT(nn.Module):
    Options = Options
    expects = "lognormal"  # or counts: bins do not change under a monotone map
    fits_float16 = True

    def __init__(self, config: Config, vocabulary: Vocabulary):
        super().__init__()
        width, self.config, self.vocabulary = config.trunk.width, config, vocabulary
        self.gene = nn.Embedding(config.n_tokens, width, padding_idx=vocabulary.special["<pad>"])
        self.gene_norm = nn.LayerNorm(width)
        self.value_1, self.value_2 = nn.Linear(1, width), nn.Linear(width, width)
        self.value_norm = nn.LayerNorm(width)
        self.batch_norm = nn.BatchNorm1d(width, eps=BATCH_NORM_EPS) if config.batch_norm else nn.Identity()
        self.trunk = Trunk(config.trunk)
        self.dropout = nn.Dropout(config.trunk.dropout)

    def tokenizer(self, match: Match, cell, options: Options) -> Tokenizer:
        if options.max_length < 2:
            raise OptionError(f"max_length cannot be {options.max_length}", "<cls> and a gene need 2")
        return BinTokenizer(
            token=match.token,
            cell=cell,
            cls=self.vocabulary.special["<cls>"],
            pad=self.vocabulary.special["<pad>"],
            cls_value=self.config.cls_value,
            length=options.max_length,
            n_bins=self.config.n_bins,
            ties=options.ties,
            seed=options.seed,
            repeated=match.repeated,
            zeros=options.zeros,
        )

    def forward(
        self, tokens: TokenBatch, packing: Packing, depth: int | None = None, first_only: bool = False
    ) -> Float[Tensor, "query width"]:
        """States after `depth` blocks of all tokens, or of the first of each cell."""
        assert tokens.value is not None
        x = self.named(packing.pack(tokens.gene)) + self.valued(packing.pack(tokens.value))
        return self.trunk(self.batch_norm(x), packing, depth, first_only)

    def named(self, gene: Int[Tensor, " token"]) -> Float[Tensor, "token width"]:
        """The embedding of genes."""
        return self.gene_norm(self.gene(gene))

    def valued(self, value: Float[Tensor, " token"]) -> Float[Tensor, "token width"]:
        """The embedding of values, computed once per distinct value."""
        distinct, which = value.clamp(max=LARGEST_VALUE).unique(return_inverse=True)
        hidden = F.relu(self.value_1(distinct[:, None].to(self.value_1.weight.dtype)))
        return self.dropout(self.value_norm(self.value_2(hidden))[which])

    def embed(self, tokens: TokenBatch, options: Options = Options()) -> Float[Tensor, "cell width"]:  # noqa: B008
        """One vector for each cell."""
        packing = Packing.of(tokens.padding)
        states = self(tokens, packing, first_only=options.pooling == "cls")
        if options.pooling == "mean":
            states = torch.stack([cell[1:].mean(0) for cell in packing.split(states)])
        return F.normalize(states.float(), dim=1) if options.normalize else states

    def states(self, tokens: TokenBatch, options: Options = Options()) -> Float[Tensor, "token width"]:  # noqa: B008
        """The state of every token, cells end to end."""
        return self(tokens, Packing.of(tokens.padding))

    def genes(self) -> Float[Tensor, "token width"]:
        """The vector of each token that the first block reads, before any context."""
        return self.gene_norm(self.gene.weight)
