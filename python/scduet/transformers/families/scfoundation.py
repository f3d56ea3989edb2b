"""scFoundation (Hao et al., Nature Methods 2024): a cell is its expressed genes with their log-normalized counts.

state of a token before the first block = gene[token] + sum_b softmax(f(value))_b bin[b] (100 soft bins b), with
f(v) = a h + W2 h + b2, h = LeakyReLU(W1 v + b1); two more tokens say the read depth. Then the trunk, post-norm, ReLU,
final norm. The decoder sees all genes, the expressed ones by their states, and gives a vector for each.
"""

from __future__ import annotations

from scduet._torch import torch

import re
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import TokenBatch
from scduet.errors import OptionError
from scduet.transformers.encoder.performer import Performer, PerformerConfig
from scduet.transformers.encoder.trunk import Packing, Trunk, TrunkConfig
from scduet.transformers.tokenizers.continuous_value import DepthTokenizer
from scduet.transformers.tokenizers.tokens import Tokenizer
from scduet.transformers.tokenizers.vocabulary import Match, Vocabulary

_LEAK = 0.1
_DEPTHS: dict[str, Literal["total", "fold", "add"]] = {"t": "total", "f": "fold", "a": "add"}


@dataclass(frozen=True)
class Config:
    n_genes: int = 19_264
    """Genes; two tokens of read depth follow them."""
    n_soft_bins: int = 100
    """Soft bins of a value."""
    bin_alpha: float = 1.0
    """Weight of the inner layer in the logits of the bins."""
    trunk: TrunkConfig = field(default_factory=lambda: TrunkConfig(768, 12, 12, 3072, 0.1, 1e-5, final_norm=True))
    """The encoder."""
    decoder: PerformerConfig = field(default_factory=PerformerConfig)
    """The decoder."""


@dataclass(frozen=True)
class Options:
    """How to embed a cell. The defaults are those of the official script."""

    pooling: Literal["all", "max"] = "all"
    """Concatenation of both depth tokens, maximum and mean over genes; or the maximum over all tokens."""
    resolution: str = "t4"
    """Target read depth: "t4" is 10^4 counts, "f2" twice the cell's, "a5" 10^5 times the cell's."""


class ScFoundation(nn.Module):
    Options = Options
    expects = "counts"
    fits_float16 = False  # the official weights overflow

    def __init__(self, config: Config, vocabulary: Vocabulary):
        super().__init__()
        width, self.config, self.vocabulary = config.trunk.width, config, vocabulary
        self.value_1 = nn.Linear(1, config.n_soft_bins)
        self.value_2 = nn.Linear(config.n_soft_bins, config.n_soft_bins)
        self.bin = nn.Embedding(config.n_soft_bins, width)
        self.gene = nn.Embedding(config.n_genes + 3, width)  # two of depth, one for padding
        self.trunk = Trunk(config.trunk)
        self.to_decoder = nn.Linear(width, config.decoder.width)
        self.decoder = Performer(config.decoder)
        self.decoder_norm = nn.LayerNorm(config.decoder.width)
        self.to_expression = nn.Linear(config.decoder.width, 1)

    def tokenizer(self, match: Match, cell, options: Options) -> Tokenizer:
        depth, amount = _depth(options.resolution)
        return DepthTokenizer(match.token, self.config.n_genes, depth, amount, match.repeated)

    def forward(self, tokens: TokenBatch, packing: Packing, depth: int | None = None) -> Float[Tensor, "token width"]:
        """States of all tokens after `depth` blocks; None: all, and the final norm."""
        assert tokens.value is not None
        x = self.gene(packing.pack(tokens.gene)) + self.valued(packing.pack(tokens.value))
        return self.trunk(x, packing, depth)

    def valued(self, value: Float[Tensor, "*place"]) -> Float[Tensor, "*place width"]:
        """The embedding of values: a mixture of the bins."""
        hidden = F.leaky_relu(self.value_1(value.unsqueeze(-1).to(self.value_1.weight.dtype)), _LEAK)
        return (self.config.bin_alpha * hidden + self.value_2(hidden)).softmax(-1) @ self.bin.weight

    def embed(self, tokens: TokenBatch, options: Options = Options()) -> Float[Tensor, "cell pooled"]:  # noqa: B008
        """One vector for each cell: four times as wide as a token, or once."""
        packing = Packing.of(tokens.padding)
        cells = packing.split(self(tokens, packing))
        if options.pooling == "max":
            return torch.stack([cell.amax(0) for cell in cells])
        return torch.stack([torch.cat([c[-1], c[-2], c[:-2].amax(0), c[:-2].mean(0)]) for c in cells])

    def states(self, tokens: TokenBatch, options: Options = Options()) -> Float[Tensor, "token width"]:  # noqa: B008
        """The state of every token, cells end to end."""
        return self(tokens, Packing.of(tokens.padding))

    def decode(self, tokens: TokenBatch) -> Float[Tensor, "cell gene decoder"]:
        """A vector for every gene of every cell, expressed or not (the official "gene" mode; its checkpoint "gene")."""
        packing, n = Packing.of(tokens.padding), self.config.n_genes + 2
        states = self(tokens, packing)
        absent = self.valued(torch.zeros(1, device=states.device)).to(states.dtype)
        everything = absent.expand(len(tokens) * n, -1)
        cell = torch.repeat_interleave(torch.tensor(packing.lengths, device=states.device))
        everything = everything.index_copy(0, cell * n + packing.pack(tokens.gene), states)
        x = everything.unflatten(0, (len(tokens), n)) + self.gene.weight[:n]
        return self.decoder_norm(self.decoder(self.to_decoder(x)))[:, : self.config.n_genes]

    def expression(self, tokens: TokenBatch) -> Float[Tensor, "cell gene"]:
        """Log-normalized expression of every gene, as the decoder predicts it."""
        return self.to_expression(self.decode(tokens)).squeeze(-1)

    def genes(self) -> Float[Tensor, "token width"]:
        """The vector of each gene that the first block reads, before any context."""
        return self.gene.weight[: self.config.n_genes]


def _depth(resolution: str) -> tuple[Literal["total", "fold", "add"], float]:
    found = re.fullmatch(r"([tfa])(\d+(\.\d+)?)", resolution)
    if found is None or float(found[2]) <= 0:
        raise OptionError(f"resolution cannot be {resolution!r}", 'it is like "t4", "f2" or "a5"')
    return _DEPTHS[found[1]], float(found[2])
