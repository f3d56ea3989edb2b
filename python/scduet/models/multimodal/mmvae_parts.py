"""Parts of multimodal autoencoders: distributions of the state, the product of experts, encoders and decoders."""

from __future__ import annotations

from scduet._torch import torch

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import Reference, SparseRows
from scduet.models.multimodal.experts import Part, Posterior
from scduet.models.multimodal.mmvae_members import Member
from scduet.nn.distributions import Distribution, NegativeBinomial, Poisson
from scduet.nn.gaussians import softmax_mean
from scduet.nn.heads import LazyLinear, head
from scduet.nn.layers import MLP, Codes, CovariateLinear, GaussianEncoder, kl_to_normal, rsample
from scduet.nn.likelihoods import log_negative_binomial
from scduet.nn.sparse_likelihoods import negative_binomial, poisson
from scduet.shapes import CellValue, State

CONCENTRATION = 50.0  # of all topics together, in the prior of Cobolt (Gong et al. 2021)
LAYERS: Any = {"batch_norm": False, "layer_norm": True, "activation": "leaky_relu"}
LARGEST_LOG = 15.0  # of the expected count of a protein
Experts = Mapping[str, Posterior]
Parts = Mapping[str, Part]


@dataclass(frozen=True)
class Sizes:
    n_hidden: int = 128
    """Width of the hidden layers."""
    n_layers: int = 1
    """Hidden layers of each encoder and decoder."""
    dropout_rate: float = 0.1
    """Share of hidden units that the encoders drop in training."""
    encode_covariates: bool = False
    """Show the batch and the covariates to the encoders too."""


@dataclass(frozen=True)
class Latent:
    """A distribution of the state of a cell, of which means and variances are known.

    normal; laplace; ln: softmax of a normal; sphere: a normal draw scaled to length 1; point: its mean.
    """

    kind: str
    n_latent: int

    @property
    def prior_variance(self) -> float:
        """Of "ln" that of the normal whose softmax is nearly a symmetric Dirichlet (Laplace's approximation)."""
        return (1 - 1 / self.n_latent) * self.n_latent / CONCENTRATION if self.kind == "ln" else 1.0

    def draw(self, mean: Tensor, variance: Tensor) -> State:
        if self.kind == "point":
            return mean
        if self.kind != "laplace":
            return rsample(mean, variance)
        uniform = torch.rand_like(mean).clamp(1e-6, 1 - 1e-6) - 0.5
        return mean - (variance / 2).sqrt() * uniform.sign() * torch.log1p(-2 * uniform.abs())

    def transform(self, z: Tensor) -> State:
        """What the decoders read of a draw."""
        if self.kind == "sphere":
            return F.normalize(z, dim=-1)
        return z.softmax(-1) if self.kind == "ln" else z

    def mean(self, mean: Tensor, variance: Tensor) -> State:
        """The embedding: the mean of what the decoders read; of "sphere" the direction of the mean."""
        return softmax_mean(mean, variance) if self.kind == "ln" else self.transform(mean)

    def kl(self, mean: Tensor, variance: Tensor) -> Float[Tensor, " cell"]:
        """Divergence from the prior, which has mean 0 and `prior_variance`."""
        if self.kind == "point":
            return mean.new_zeros(len(mean))
        if self.kind == "laplace":
            b, prior = (variance / 2).sqrt(), math.sqrt(self.prior_variance / 2)
            far = mean.abs() / b
            return ((b / prior) * (far + (-far).exp()) - 1 - (b / prior).log()).sum(-1)
        prior = mean.new_tensor(self.prior_variance)
        return kl_to_normal(mean, variance, (torch.zeros_like(prior), prior))


def product(experts: Experts, known: Mapping[str, Bool[Tensor, " cell"]], prior_variance: float) -> Posterior:
    """The normal that is proportional to the product of the normals of the experts that a cell has and of the prior."""
    precision = torch.stack([known[name][:, None] / variance for name, (_, variance) in experts.items()])
    means = torch.stack([mean for mean, _ in experts.values()])
    total = precision.sum(0) + 1 / prior_variance
    return (precision * means).sum(0) / total, 1 / total


class CountDecoder(nn.Module):
    """Shares of genes or peaks in cells of given states: a softmax. body: None for a decoder that is linear."""

    def __init__(self, body: MLP | None, n_in: int, n_features: int, levels: tuple[int, ...], likelihood: str):
        super().__init__()
        self.body = body
        self.logit = CovariateLinear(n_in, n_features, levels) if body is None else nn.Linear(n_in, n_features)
        self.log_dispersion = nn.Parameter(torch.zeros(n_features)) if likelihood == "nb" else None

    def log_likelihood(
        self, x: SparseRows, state: Float[Tensor, "cell state"], codes: Codes, log_library: CellValue
    ) -> Float[Tensor, " cell"]:
        logits = self._logits(state, codes)
        if self.log_dispersion is None:
            return poisson(x, logits, log_library)
        return negative_binomial(x, logits, log_library, self.log_dispersion)

    def share(self, state: Float[Tensor, "cell state"], codes: Codes) -> Float[Tensor, "cell feature"]:
        logits = self._logits(state, codes)
        if isinstance(logits, LazyLinear):
            logits = F.linear(*logits)
        return logits.softmax(-1)

    def distribution(self, state: Tensor, codes: Codes, log_library: CellValue) -> Distribution:
        share = self.share(state, codes)
        if self.log_dispersion is None:
            return Poisson(share, log_library.exp() * share)
        return NegativeBinomial(share, log_library.exp() * share, self.log_dispersion.exp())

    def _logits(self, state: Tensor, codes: Codes):
        return head(self.logit, state, codes) if self.body is None else head(self.logit, self.body(state, codes))


class ProteinCounts(nn.Module):
    """Expected counts of proteins in cells of given states, and their dispersion; proteins have no library size."""

    def __init__(self, body: MLP | None, n_in: int, log_mean: Float[Tensor, " protein"], levels: tuple[int, ...]):
        super().__init__()
        self.body, n = body, len(log_mean)
        self.logit = CovariateLinear(n_in, n, levels) if body is None else nn.Linear(n_in, n)
        with torch.no_grad():
            self.logit.bias.add_(log_mean)  # pyright: ignore[reportOptionalMemberAccess]
        self.log_dispersion = nn.Parameter(torch.zeros(n))

    def distribution(self, state: Float[Tensor, "cell state"], codes: Codes) -> NegativeBinomial:
        log_mean = self.logit(state, codes) if self.body is None else self.logit(self.body(state, codes))
        mean = log_mean.clamp(max=LARGEST_LOG).exp()
        return NegativeBinomial(mean, mean, self.log_dispersion.exp())

    def log_likelihood(
        self, y: Float[Tensor, "cell protein"], there: Bool[Tensor, "cell protein"], state: Tensor, codes: Codes
    ) -> Float[Tensor, " cell"]:
        found = self.distribution(state, codes)
        return (log_negative_binomial(y, found.rate, found.dispersion) * there).sum(1)


class JointEncoder(nn.Module):
    """One expert of all modalities of a cell side by side; what was not measured counts as zero.

    first: of each modality a layer; their sum is that of one layer of all.
    """

    def __init__(self, first: Mapping[str, CovariateLinear], rest: nn.Module):
        super().__init__()
        self.first, self.rest = nn.ModuleDict(first), rest

    def forward(self, parts: Parts, encoded: Callable[[Part], tuple]) -> Posterior:
        each = [parts[name].spread(layer(*encoded(parts[name]))) for name, layer in self.first.items()]
        there = [parts[name].known[:, None] for name in self.first]
        total = torch.stack([values * known for values, known in zip(each, there, strict=True)]).sum(0)
        return self.rest(F.leaky_relu(F.layer_norm(total, total.shape[1:])))


class PointEncoder(nn.Module):
    """A state of each cell without a spread."""

    def __init__(self, body: MLP, n_hidden: int, n_latent: int):
        super().__init__()
        self.body, self.mean = body, nn.Linear(n_hidden, n_latent)

    def forward(self, x: SparseRows | Tensor, codes: Codes = ()) -> Posterior:
        mean = self.mean(self.body(x, codes))
        return mean, torch.zeros_like(mean)


@dataclass(frozen=True)
class Networks:
    """Makes the networks for data of these sizes."""

    reference: Reference
    config: Any
    member: Member
    modalities: tuple[str, ...]

    def n_features(self, name: str) -> int:
        return self.reference.n_genes if name == "rna" else self.reference.n_extra[name]

    def encoders(self) -> nn.Module:
        """One of each modality, or one of all."""
        hidden, levels = self.config.n_hidden, self._levels if self.config.encode_covariates else ()
        more = self.reference.n_continuous * self.config.encode_covariates
        n_in, sparse = {m: self.n_features(m) + more for m in self.modalities}, {"rna": True, "peaks": True}
        if self.member.experts == "joint":
            first = {m: CovariateLinear(n, hidden, levels, sparse=m in sparse) for m, n in n_in.items()}
            return JointEncoder(first, self._encoder(hidden, (), False))
        return nn.ModuleDict({m: self._encoder(n, levels, m in sparse) for m, n in n_in.items()})

    def decoders(self) -> nn.ModuleDict:
        n, found = self.config.n_latent, {}
        for i, name in enumerate(self.modalities):
            width = len(range(n)[i :: len(self.modalities)]) if self.member.subspaces else n
            found[name] = self._decoder(name, width + self.reference.n_continuous)
        return nn.ModuleDict(found)

    def _encoder(self, n_in: int, levels: tuple[int, ...], sparse: bool) -> nn.Module:
        c = self.config
        body = MLP(n_in, c.n_hidden, c.n_layers, levels, dropout=c.dropout_rate, sparse=sparse, **LAYERS)
        made = PointEncoder if self.member.latent_distribution == "point" else GaussianEncoder
        return made(body, c.n_hidden, c.n_latent)

    def _decoder(self, name: str, n_state: int) -> nn.Module:
        c, body = self.config, None
        if self.member.decoder == "mlp":
            body = MLP(n_state, c.n_hidden, c.n_layers, self._levels, **LAYERS)
        n_in = n_state if body is None else c.n_hidden
        if name == "protein":
            log_mean = torch.tensor(self.reference.arrays["protein_log_mean"])
            return ProteinCounts(body, n_in, log_mean, self._levels)
        likelihood = self.member.gene_likelihood if name == "rna" else self.member.peak_likelihood
        return CountDecoder(body, n_in, self.n_features(name), self._levels, likelihood)

    @property
    def _levels(self) -> tuple[int, ...]:
        return self.reference.n_batches, *self.reference.n_categories
