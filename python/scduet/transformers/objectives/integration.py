"""scGPT fine-tuned for batch integration (Cui et al. 2024): predicts masked values from batch-invariant embeddings."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import Loss, Step, TokenBatch
from scduet.errors import OptionError
from scduet.transformers.encoder.trunk import Packing
from scduet.transformers.encoder.value_heads import CellValueHead, value_head
from scduet.transformers.families.scgpt import BATCH_NORM_EPS, ScGPT
from scduet.transformers.objectives import finetune
from scduet.transformers.objectives.finetune import choose_trained
from scduet.transformers.objectives.losses import elastic_similarity, mean_square, reversed_gradient, zero_nll

MASKED = -1.0  # value shown in the place of one to be predicted


@dataclass(frozen=True)
class Config(finetune.Tuning):
    tuning: Literal["lora", "full", "last", "frozen"] = "full"
    """Weights to train: all, as in the paper, LoRA adapters, the last layers, or only new weights."""
    mask_ratio: float = 0.4
    """Fraction of the genes of a cell whose values are masked and predicted."""
    zero_probability: bool = True
    """Also predict whether a gene has any counts; most do not."""
    by_cell: bool = True
    """GEPC: also predict values from the cell embedding."""
    similarity_weight: float = 10.0
    """Weight of elastic cell similarity."""
    similarity_threshold: float = 0.8
    """Cosine threshold of elastic cell similarity: larger cosines are increased, smaller ones decreased."""
    adversary_weight: float = 1.0
    """Weight of the adversarial batch discriminator; 0 for none."""
    domain_norm: bool = True
    """Normalize the embedded tokens of each batch separately (DSBN)."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.mask_ratio < 1:
            raise OptionError(f"option 'mask_ratio' cannot be {self.mask_ratio}", "it must be between 0 and 1")
        for name in ("similarity_weight", "adversary_weight"):
            if getattr(self, name) < 0:
                raise OptionError(f"option {name!r} cannot be {getattr(self, name)}", "it cannot be below 0")


class Integrator(nn.Module):
    """total = GEP + GEPC + similarity_weight ECS + adversary_weight DAB, and zero terms of the first two.

    GEP: mean square of masked values, predicted from [state of the gene, token of the batch]; GEPC: the same from
    [vector of the cell, token of the batch] by `CellValueHead`. The batch token enters after the trunk, so that the
    cell embedding need not encode the batch. DAB: cross-entropy of the batch, gradient reversed.
    """

    Config = Config
    players = ("model",)
    expects = "lognormal"

    def __init__(self, encoder: ScGPT, n_batches: int, config: Config):
        super().__init__()
        width, self.encoder, self.config = encoder.config.trunk.width, encoder, config
        self.unit = encoder.config.n_bins - 1.0  # the heads predict values as a share of the highest bin
        self.norm = DomainNorm(width, n_batches) if config.domain_norm else None
        self.batch = nn.Embedding(n_batches, width)
        self.batch_norm = nn.LayerNorm(width)
        self.value = value_head(width, 2 * width)
        self.zero = value_head(width, 2 * width) if config.zero_probability else None
        self.cell_value = CellValueHead(width, 2 * width, config.zero_probability) if config.by_cell else None
        self.discriminator = discriminator(width, n_batches) if config.adversary_weight else None
        choose_trained(encoder, config)

    def forward(self, tokens: TokenBatch, step: Step) -> Loss:
        assert tokens.value is not None
        assert tokens.batch is not None
        masked = choose_masked(tokens, self.config.mask_ratio)
        packing = Packing.of(tokens.padding)
        where, value = packing.pack(masked), packing.pack(tokens.value)
        shown = replace(tokens, value=tokens.value.masked_fill(masked, MASKED))
        states = self.states(shown, packing)
        cell, batch = states[packing.starts], self.batch_norm(self.batch(tokens.batch))
        terms = self._by_gene(states[where], batch[packing.cell][where], value[where])
        terms |= self._by_cell(torch.cat([cell, batch], 1), packing, tokens, where, value)
        terms["similarity"] = self.config.similarity_weight * elastic_similarity(
            cell.float(), self.config.similarity_threshold
        )
        if self.discriminator is not None:
            logits = self.discriminator(reversed_gradient(cell)).float()
            terms["adversary"] = self.config.adversary_weight * F.cross_entropy(logits, tokens.batch)
        return Loss(torch.stack(list(terms.values())).sum(), terms, len(tokens))

    def states(self, tokens: TokenBatch, packing: Packing, first_only: bool = False) -> Float[Tensor, "query width"]:
        assert tokens.value is not None
        x = self.encoder.named(packing.pack(tokens.gene)) + self.encoder.valued(packing.pack(tokens.value))
        if self.norm is None:
            x = self.encoder.batch_norm(x)
        else:
            assert tokens.batch is not None
            normed = self.norm(x, tokens.batch[packing.cell])
            # The official code also normalizes <cls>; it is the same in all cells, so only batch information would
            # remain.
            x = normed.index_copy(0, packing.starts, x[packing.starts])
        return self.encoder.trunk(x, packing, first_only=first_only)

    def embed(self, tokens: TokenBatch) -> Float[Tensor, "cell width"]:
        """The state of <cls>, scaled to length 1."""
        return F.normalize(self.states(tokens, Packing.of(tokens.padding), first_only=True).float(), dim=1)

    def _by_gene(self, states: Tensor, batch: Tensor, value: Tensor) -> dict[str, Tensor]:
        both = torch.cat([states, batch], 1)
        terms = {"gep": mean_square(self.value(both).squeeze(-1).float() * self.unit, value)}
        if self.zero is not None:
            terms["gep_zero"] = zero_nll(self.zero(both).squeeze(-1).float(), value)
        return terms

    def _by_cell(self, cell: Tensor, packing: Packing, tokens: TokenBatch, where: Tensor, value: Tensor):
        if self.cell_value is None:
            return {}
        named = self.encoder.named(packing.pack(tokens.gene))
        predicted, logit = self.cell_value(named, cell, packing)
        predicted = predicted[where].float() * self.unit / named.shape[1] ** 0.5
        terms = {"gepc": mean_square(predicted, value[where])}
        if logit is not None:
            terms["gepc_zero"] = zero_nll(logit[where].float(), value[where])
        return terms


class DomainNorm(nn.Module):
    """Batch norm without scale and shift, with statistics for each domain (Chang et al. 2019).

    A minibatch may contain several domains, unlike in the official code.
    """

    momentum = 0.1
    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, n_domains: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_domains, width))
        self.register_buffer("variance", torch.ones(n_domains, width))

    def forward(self, x: Float[Tensor, "token width"], domain: Int[Tensor, " token"]) -> Float[Tensor, "token width"]:
        mean, variance = self._seen(x.float(), domain) if self.training else (self.mean, self.variance)
        return ((x - mean[domain]) / (variance[domain] + BATCH_NORM_EPS).sqrt()).to(x.dtype)

    def _seen(self, x: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the domains in this minibatch; updates the running statistics."""
        n = torch.bincount(domain, minlength=len(self.mean))[:, None]
        mean = torch.zeros_like(self.mean).index_add(0, domain, x) / n.clamp(min=1)
        variance = torch.zeros_like(self.mean).index_add(0, domain, (x - mean[domain]).square()) / n.clamp(min=1)
        with torch.no_grad():
            step = self.momentum * (n > 1)
            self.mean += step * (mean - self.mean)
            self.variance += step * (variance * n / (n - 1).clamp(min=1) - self.variance)
        return mean, variance


def choose_masked(tokens: TokenBatch, ratio: float) -> Bool[Tensor, "cell token"]:
    """A random fraction of the genes of each cell, never <cls>."""
    gene = ~tokens.padding
    gene[:, 0] = False
    rank = torch.rand(gene.shape, device=gene.device).masked_fill(~gene, 2.0).argsort(1).argsort(1)
    return rank < (gene.sum(1, keepdim=True) * ratio).long()


def discriminator(width: int, n_batches: int) -> nn.Sequential:
    """Twice Linear, LeakyReLU, LayerNorm; then the logits."""
    hidden = [[nn.Linear(width, width), nn.LeakyReLU(), nn.LayerNorm(width)] for _ in range(2)]
    return nn.Sequential(*[layer for layers in hidden for layer in layers], nn.Linear(width, n_batches))
