"""What the states of the cells in spots cost: their distance from the states that a CondSCVI found in each type."""

from __future__ import annotations

from scduet._torch import torch

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from scduet.models.spatial.augmentation import SD_FLOOR, Components, Copies
from scduet.models.spatial.compositions import clamped_log

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Mixture:
    """What a spot is made of."""

    proportions: Float[Tensor, "*copy spot type"]  # the types of the reference, then the further ones
    states: Float[Tensor, "*copy spot mode label latent"]
    weights: Float[Tensor, "*copy spot mode label"]
    kl: Float[Tensor, "*copy spot"]  # of the latent space of n_latent_amortization


def of_states(mixture: Mixture, made: Copies | None, components: Components, mixes: bool) -> Float[Tensor, "copy spot"]:
    """-log p of the states, those of simulated copies near the states that made them.

    mixes: whether each type has several states with weights, under its mixture; else one, and the sum over types.
    """
    mean, variance, weight = components.mean, components.variance, components.weight
    if made is not None:
        lead = made.states.shape[:2]
        drawn = made.states[..., None, :]
        least = variance.amin(-2, keepdim=True)
        mean = torch.cat([mean.expand(*lead, -1, -1, -1), drawn], -2)
        variance = torch.cat([variance, least], -2)
        shared = (1 - made.simulated)[..., None] * weight, (made.simulated * made.composition)[..., None]
        weight = torch.cat(shared, -1)
    sd = variance if mixes else variance.sqrt() + SD_FLOOR
    mean = mean[:, :, None] if made is not None else mean
    log_p = -(0.5 * ((mixture.states[..., None, :] - mean) / sd).square() + sd.log() + 0.5 * LOG_2PI).sum(-1)
    if mixes:  # the variance stands where the standard deviation should, as in scvi-tools
        share = clamped_log(weight / weight.sum(-1, keepdim=True))
        log_p = (log_p + (share[:, :, None] if made is not None else share)).logsumexp(-1)
        by_label = (log_p * (mixture.weights + 1e-6)).sum(-2)
        cost = -(by_label * (mixture.proportions[..., : mean.shape[-3]] + 1e-3)).sum(-1)
    else:
        share = (1e-3 + weight).log()
        cost = -(log_p + (share[:, :, None] if made is not None else share)).logsumexp(-1)[..., 0, :].sum(-1)
    return cost
