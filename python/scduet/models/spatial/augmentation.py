"""Spots simulated from the states of a trained CondSCVI, on which DestVI learns what mixtures look like."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

CONCENTRATION = 0.03  # of the Dirichlet that compositions are drawn from: one type or two in a spot
MIXING = (0.4, 0.5)  # of the Beta that says how much of a mixed copy is simulated
FURTHER = 50.0  # counts that copy 1 has more than the spot; of a smoothed copy they are not used, as in scvi-tools
NEGLIGIBLE = 1e-5  # share of a type below which none of its counts are simulated
SD_FLOOR = 1e-4  # of the components that states are drawn from

Decoder = Callable[
    [Float[Tensor, "pair latent"], Int[Tensor, " pair"], Int[Tensor, " pair"]], Float[Tensor, "pair gene"]
]  # states, spots, labels -> shares


@dataclass(frozen=True)
class Components:
    """The states that cells of each label are in: a mixture of normals."""

    mean: Float[Tensor, "label component latent"]
    variance: Float[Tensor, "label component latent"]
    weight: Float[Tensor, "label component"]


@dataclass(frozen=True)
class Copies:
    """Copies of the spots of a minibatch: as observed, simulated, and mixtures of both; and what made them."""

    x: Float[Tensor, "copy spot gene"]  # as observed first, then smoothed if that is known, then simulated
    states: Float[Tensor, "copy spot label latent"]
    composition: Float[Tensor, "copy spot label"]
    simulated: Float[Tensor, "copy spot 1"]  # share of the counts
    n_seen: int = 1  # copies that are not simulated


def augmented(
    seen: Float[Tensor, "copy spot gene"],
    n_simulated: int,
    components: Components,
    decoder: Decoder,
    dispersion: Float[Tensor, " gene"],
    generator: torch.Generator | None,
) -> Copies:
    """The spots as they are seen, once simulated as a whole, and `n_simulated - 1` mixtures of the two.

    seen: as observed, and smoothed if that is known.
    """
    x, first = seen[0], len(seen)
    n, m, (n_labels, n_components, n_latent) = first + n_simulated, len(x), components.mean.shape
    which = torch.multinomial(components.weight, n * m, replacement=True, generator=generator)  # (label, copy x spot)
    row = torch.arange(n_labels, device=x.device)[:, None] * n_components + which
    mean, sd = (values.flatten(0, 1)[row] for values in (components.mean, components.variance.sqrt() + SD_FLOOR))
    noise = torch.randn(mean.shape, generator=generator, device=x.device)
    states = (mean + sd * noise).view(n_labels, n, m, n_latent).permute(1, 2, 0, 3)
    composition = _dirichlet(x.new_full((n, m, n_labels), CONCENTRATION), generator)
    mixing = _dirichlet(x.new_tensor(MIXING).expand(n_simulated - 1, m, 2), generator)[..., :1]
    simulated = torch.cat([x.new_zeros(first, m, 1), x.new_ones(1, m, 1), mixing])
    library = x.sum(1).expand(n, m).clone()
    library[1] += FURTHER
    rates = _rates(library[first:], composition[first:], states[first:], decoder)
    counts = torch.poisson(_gamma(rates, dispersion, generator).clamp(max=1e8), generator=generator)
    share = simulated[first:]
    return Copies(torch.cat([seen, (1 - share) * x + share * counts]), states, composition, simulated, first)


def _rates(
    library: Float[Tensor, "copy spot"],
    composition: Float[Tensor, "copy spot label"],
    states: Float[Tensor, "copy spot label latent"],
    decoder: Decoder,
) -> Float[Tensor, "copy spot gene"]:
    """Expected counts; only the labels that a spot has something of are decoded."""
    copy, spot, label = (composition > NEGLIGIBLE).nonzero(as_tuple=True)
    share = decoder(states[copy, spot, label], spot, label)
    share = share * (library[copy, spot] * composition[copy, spot, label])[:, None]
    n, m = library.shape
    return share.new_zeros(n * m, share.shape[1]).index_add_(0, copy * m + spot, share).view(n, m, -1)


def _dirichlet(concentration: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch._sample_dirichlet(concentration, generator=generator)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def _gamma(mean: Tensor, shape: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws with this mean and shape."""
    drawn = torch._standard_gamma(shape.expand_as(mean).contiguous(), generator=generator)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return drawn * (mean / shape)
