"""Importance weights of draws of the states of a group of cells (Boyeau et al. 2023, PNAS 120:e2209124120).

A draw z counts by how well it explains the group: w(z) = p(z) sum_a p(x_a | z) / p(x_a) / sum_a q(z | x_a), where the a
are cells of the group. The cost grows with draws x max_cells x genes.
"""

from __future__ import annotations

from scduet._torch import torch

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from scduet.api import Model
from scduet.contract import CellBatch
from scduet.errors import OptionError
from scduet.tasks.posterior.latent import Modality, States, encoder_of, states
from scduet.tasks.posterior.likelihoods import log_normal, marginal_log_likelihood


@dataclass(frozen=True)
class Importance:
    """How weights are estimated."""

    max_cells: int = 128  # of the group, that a draw has to explain
    n_samples: int = 100  # draws for p(x) of each of them
    truncation: bool = False  # limit large weights (Ionides 2008)

    def __post_init__(self):
        if self.max_cells < 1 or self.n_samples < 1:
            raise OptionError(f"max_cells={self.max_cells}, n_samples={self.n_samples}", "both are at least 1")


@dataclass(frozen=True)
class Draws:
    """Draws of states from q(z | x), before `transform_latent`, with the cells and batches to decode them in."""

    z: Float[Tensor, "draw latent"]
    cells: CellBatch
    batch: Int[Tensor, " draw"]


@torch.inference_mode()
def importance_weights(
    model: Model,
    decoded: Modality,
    adata,
    rows: Int[np.ndarray, " cell"],
    draws: Sequence[Draws],
    options: Importance,
    random: np.random.Generator,
) -> Float[np.ndarray, " draw"]:
    """Weights of all draws, which sum to 1. rows: places of the cells of the group in `adata`."""
    anchors = random.choice(rows, options.max_cells, replace=False) if len(rows) > options.max_cells else rows
    parts = list(states(model, adata, np.sort(anchors), options.max_cells))
    seed = int(random.integers(2**31))
    log_px = marginal_log_likelihood(model, adata, rows=np.sort(anchors), n_samples=options.n_samples, seed=seed)
    found = torch.cat([_log_weights(model, decoded, parts, torch.from_numpy(log_px), each) for each in draws])
    if options.truncation:
        found = found.clamp(max=float(found.logsumexp(0)) - 0.5 * math.log(len(found)))  # mean weight x sqrt(n)
    weights = found.double().softmax(0).numpy()
    return weights / weights.sum()


def redrawn(
    weights: Float[np.ndarray, " draw"], code: Int[np.ndarray, " draw"], random: np.random.Generator
) -> Int[np.ndarray, " draw"]:
    """As many draws of each batch decoded as, picked by their weight."""
    picked = np.arange(len(code))
    for one in np.unique(code):
        places = np.flatnonzero(code == one)
        total = weights[places].sum()
        picked[places] = random.choice(places, len(places), p=weights[places] / total if total > 0 else None)
    return picked


def _log_weights(model: Model, decoded: Modality, parts: list[States], log_px: Tensor, draws: Draws) -> Tensor:
    """log w of a minibatch of draws, (draw) on the CPU."""
    z, terms, log_q = encoder_of(model).transform_latent(draws.z), [], []
    for part in parts:
        observed, library = decoded.observed(part.cells), part.log_library
        for i in range(len(part.cells)):
            log_library = None if library is None else library[i].expand(len(z), 1)
            px = decoded.of(z, draws.cells, draws.batch, log_library)
            terms.append(px.log_prob(observed[i].expand(len(z), -1)).sum(-1))
            log_q.append(log_normal(draws.z, part.mean[i], part.variance[i]))
    ratio = torch.stack(terms, 1).cpu() - log_px
    log_p = log_normal(draws.z, torch.zeros_like(draws.z), torch.ones_like(draws.z))
    return log_p.cpu() + ratio.logsumexp(1) - torch.stack(log_q, 1).logsumexp(1).cpu()
