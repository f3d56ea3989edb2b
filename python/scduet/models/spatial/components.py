"""The states that the cells of each type are in, as mixtures of normals: what DestVI must know of a CondSCVI."""

from __future__ import annotations

from scduet._torch import torch

from typing import Any

import numpy as np
from scipy.cluster.vq import kmeans2

from scduet.errors import OptionError

STARTS = 10  # of k-means, of which the best is kept


def components_of(held: Any, config: Any) -> dict[str, np.ndarray]:
    """Mean, variance (label, component, latent) and weight (label, component) of the components of a trained CondSCVI.

    Those of its prior where that is a mixture. Else `config.vamp_prior_p` clusters of the posterior means of the cells
    of each type, as in scvi-tools; of a type of that many cells or fewer, its cells. Raises OptionError where these
    cells are needed and the model, which was loaded, has none.
    """
    of_prior = held.module.config.prior == "mog"
    mean, variance, weight = prior_components(held) if of_prior else vamp_components(held, None, config.vamp_prior_p)
    return {"component_mean": mean, "component_variance": variance, "component_weight": weight}


def prior_components(held: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance and weight of the components of a prior that is a mixture."""
    module = held.module
    found = module.prior_mean, (2 * module.prior_log_sd).exp(), module.prior_logits.softmax(-1)
    mean, variance, weight = (values.detach().cpu().numpy() for values in found)
    return mean, variance, weight


def vamp_components(held: Any, adata: Any, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance and weight of `n` clusters of the cells of each type; those that a type lacks weigh nothing."""
    if adata is None and held.cells is None:
        remedy = "train it with prior='mog', or train it and 'destvi' in one session"
        raise OptionError(
            "the states of this 'condscvi' are those of its cells, and it was loaded without them", remedy
        )
    both = held.map(lambda cells: torch.stack(held.module.posterior(cells), 1), adata).cpu().numpy()
    label = held.encode(adata).label
    shape = held.reference.n_labels, n, both.shape[2]
    mean, variance, weight = np.zeros(shape), np.ones(shape), np.zeros(shape[:2])
    for code in range(shape[0]):
        means, variances = both[label == code, 0], both[label == code, 1]
        cluster = _clusters(means, n)
        for i in range(cluster.max(initial=-1) + 1):
            own = cluster == i
            mean[code, i] = means[own].mean(0)
            variance[code, i] = variances[own].mean(0) + means[own].var(0)
            weight[code, i] = own.mean()
    return tuple(values.astype(np.float32) for values in (mean, variance, weight))  # pyright: ignore[reportReturnType]


def _clusters(points: np.ndarray, n: int) -> np.ndarray:
    """Cluster of each point: k-means, or each point its own where they are no more than `n`."""
    if len(points) <= n:
        return np.arange(len(points))
    whole = np.asarray(points, np.float64)
    found = [kmeans2(whole, n, minit="++", seed=np.random.default_rng(seed), missing="warn") for seed in range(STARTS)]
    cost = [((whole - centers[cluster]) ** 2).sum() for centers, cluster in found]
    return np.unique(found[int(np.argmin(cost))][1], return_inverse=True)[1]
