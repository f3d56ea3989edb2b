"""Geneformer (Theodoris et al., Nature 2023): a cell is the list of its genes by rank, read by BERT's encoder.

state of token i before the first block = LayerNorm(gene[token i] + position[i] + kind[0]); then the trunk, post-norm,
ReLU. Trained to restore masked genes; here without that head.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from scduet.contract import TokenBatch
from scduet.errors import OptionError
from scduet.transformers.encoder.trunk import Packing, Trunk, TrunkConfig
from scduet.transformers.tokenizers.rank_value import RankTokenizer
from scduet.transformers.tokenizers.tokens import Tokenizer
from scduet.transformers.tokenizers.vocabulary import Match, Vocabulary


@dataclass(frozen=True)
class Config:
    n_tokens: int = 25_426
    """Genes and special tokens."""
    length: int = 2_048
    """Maximum number of tokens per cell (number of positions)."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    """The encoder."""


@dataclass(frozen=True)
class Options:
    """How to embed a cell. The defaults are those of the official extractor."""

    emb_layer: int = -1
    """Layer to embed by, counted from the end: 0 is the last, -1 the second to last."""
    pooling: Literal["auto", "mean", "cls"] = "auto"
    """Mean over the genes, or the state of `<cls>`; "auto" is `<cls>` where the checkpoint has it (V2)."""
    max_length: int | None = None
    """Maximum number of tokens per cell; None for the checkpoint's maximum."""
    ties: Literal["stable", "reference"] = "stable"
    """Order of genes with equal values: that of the data, or that of the official code's sort."""


class Geneformer(nn.Module):
    Options = Options
    expects = "counts"
    fits_float16 = True

    def __init__(self, config: Config, vocabulary: Vocabulary):
        super().__init__()
        c, self.config, self.vocabulary = config.trunk, config, vocabulary
        self.gene = nn.Embedding(config.n_tokens, c.width, padding_idx=0)
        self.position = nn.Embedding(config.length, c.width)
        self.kind = nn.Embedding(2, c.width)
        self.norm = nn.LayerNorm(c.width, eps=c.norm_eps)
        self.trunk = Trunk(c)
        self.dropout = nn.Dropout(c.dropout)

    @property
    def has_cls(self) -> bool:
        return "<cls>" in self.vocabulary.special

    def tokenizer(self, match: Match, cell, options: Options) -> Tokenizer:
        length = self.config.length if options.max_length is None else options.max_length
        if not 3 <= length <= self.config.length:
            raise OptionError(f"max_length cannot be {length}", f"the checkpoint has {self.config.length} positions")
        special = self.vocabulary.special
        return RankTokenizer(
            token=match.token,
            median=self.vocabulary.medians(self.config.n_tokens),
            length=length,
            cls=special.get("<cls>"),
            eos=special.get("<eos>"),
            pad=special["<pad>"],
            repeated=match.repeated,
            ties=options.ties,
        )

    def forward(
        self, tokens: TokenBatch, packing: Packing, depth: int | None = None, first_only: bool = False
    ) -> Float[Tensor, "query width"]:
        """States after `depth` blocks of all tokens, or of the first of each cell."""
        place = packing.pack(torch.arange(tokens.gene.shape[1], device=tokens.gene.device).expand_as(tokens.gene))
        x = self.gene(packing.pack(tokens.gene)) + self.position(place) + self.kind.weight[0]
        return self.trunk(self.dropout(self.norm(x)), packing, depth, first_only)

    def embed(self, tokens: TokenBatch, options: Options = Options()) -> Float[Tensor, "cell width"]:  # noqa: B008
        """One vector for each cell."""
        packing, pooled_by_cls = Packing.of(tokens.padding), self.pools_by_cls(options)
        states = self(tokens, packing, self.depth(options), first_only=pooled_by_cls)
        if pooled_by_cls:
            return states
        inner = slice(1, -1) if self.has_cls else slice(None)
        return torch.stack([cell[inner].mean(0) for cell in packing.split(states)])

    def states(self, tokens: TokenBatch, options: Options = Options()) -> Float[Tensor, "token width"]:  # noqa: B008
        """The state of every token, cells end to end."""
        return self(tokens, Packing.of(tokens.padding), self.depth(options))

    def depth(self, options: Options) -> int:
        layers = len(self.trunk.blocks)
        if not -layers <= options.emb_layer <= 0:
            raise OptionError(f"emb_layer cannot be {options.emb_layer}", f"it is between {-layers} and 0")
        return layers + options.emb_layer

    def pools_by_cls(self, options: Options) -> bool:
        if options.pooling == "cls" and not self.has_cls:
            raise OptionError("this checkpoint has no <cls> token to pool by", "use pooling='mean'")
        return self.has_cls if options.pooling == "auto" else options.pooling == "cls"

    def genes(self) -> Float[Tensor, "token width"]:
        """The vector of each token that the first block reads, before any context."""
        return self.gene.weight
