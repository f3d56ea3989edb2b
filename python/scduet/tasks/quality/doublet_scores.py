"""How much each cell of a capture looks like two cells: neighbors and boosted trees, or scrublet; and whom to call.

The scores are from 0 to 1, and ranks alone mean something: true doublets are among the cells that a classifier is told
are single.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from scduet.errors import DataError
from scduet.metrics.core.inputs import codes
from scduet.metrics.core.neighbors import nearest_neighbors
from scduet.metrics.integration.clustering import leiden_clusters
from scduet.tasks.quality.baselines import log_normalized, most_variable, principal_axes, principal_components

Scores = Float[np.ndarray, " cell"]
N_COMPONENTS = 20
NEAREST = (3, 10, 25, 50)  # numbers of neighbors whose share of artificial doublets is looked at
N_FOLDS, N_ROUNDS = 5, 3
LEFT_OUT = 0.1  # share of the cells, those most like doublets, that the next round does not learn from
PER_THOUSAND = 0.008  # rate of doublets of a 10x capture, for each 1,000 cells found in it
RESOLUTION = 0.5  # of the clusters that tell how many doublets are of two alike cells


def artificial_doublets(counts: sp.csr_matrix, n: int, draw: np.random.Generator) -> sp.csr_matrix:
    """Sums of the counts of `n` random pairs of different cells."""
    first = draw.integers(0, counts.shape[0], n)
    second = (first + draw.integers(1, counts.shape[0], n)) % counts.shape[0]
    return sp.csr_matrix(counts[first] + counts[second])


def neighbor_scores(counts: sp.csr_matrix, seed: int = 0) -> Scores:
    """Chance, by gradient-boosted trees, that a cell is one of as many artificial doublets as there are cells.

    counts: of one capture (cell, gene). The trees see 20 principal components of the log-normalized counts, the log of
    the total, and the shares of artificial doublets among the 3, 10, 25 and 50 nearest neighbors. Each cell is judged
    by trees that were not shown it, and in a second round by trees that were not shown the tenth of the cells that was
    most like doublets in the first. The idea is that of scDblFinder (Germain et al. 2021, F1000Research 10:979).
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    n, draw = counts.shape[0], np.random.default_rng(seed)
    artificial, shown, rounds = np.repeat([False, True], n), np.ones(2 * n, bool), []
    for _ in range(N_ROUNDS):
        x, chance = doublet_features(counts, draw), np.zeros(2 * n)
        fold = draw.permutation(2 * n) % N_FOLDS
        for out in (fold == k for k in range(N_FOLDS)):
            trees = HistGradientBoostingClassifier(max_iter=60, max_depth=4, early_stopping=False, random_state=seed)
            trees.fit(x[shown & ~out], artificial[shown & ~out])
            chance[out] = trees.predict_proba(x[out])[:, 1]
        rounds.append(chance[:n])
        shown[:n] = chance[:n] < np.quantile(chance[:n], 1 - LEFT_OUT)
    return np.mean(rounds, axis=0)


def doublet_features(counts: sp.csr_matrix, draw: np.random.Generator) -> Float[np.ndarray, "cell feature"]:
    """What the trees see of the cells, and below of as many artificial doublets."""
    n = counts.shape[0]
    both = sp.csr_matrix(sp.vstack([counts, artificial_doublets(counts, n, draw)]))
    logged = sp.csr_matrix(log_normalized(both))
    logged = logged[:, most_variable(logged[:n])]
    mean, axes = principal_axes(logged[:n], N_COMPONENTS)
    points = logged @ axes - mean @ axes
    near = nearest_neighbors(points, NEAREST[-1] + 1).index >= n
    shares = [near[:, :k].mean(1) for k in NEAREST]
    return np.column_stack([points, np.log(np.asarray(both.sum(1)).ravel()), *shares])


def scrublet_scores(counts: sp.csr_matrix, seed: int = 0) -> Scores:
    """Scrublet's scores (Wolock et al. 2019, Cell Systems 8:281), as scanpy computes them by its defaults."""
    import anndata as ad
    import scanpy as sc

    found = ad.AnnData(sp.csr_matrix(counts, dtype=np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rates at its own threshold, which is not used
        try:
            sc.pp.scrublet(found, threshold=1.0, random_state=seed, verbose=False)
        except ValueError as error:
            message = f"scrublet failed on {counts.shape[0]} cells and {counts.shape[1]} genes: {error}"
            raise DataError(message, "it needs 30 variable genes: use more genes, or method 'neighbors'") from error
    scores = np.zeros(counts.shape[0])
    scores[found.obs_names.astype(int)] = found.obs["doublet_score"]
    return scores


def expected_rate(n_cells: int) -> float:
    """Share of doublets of a whole 10x capture of so many cells."""
    return PER_THOUSAND * n_cells / 1000


def heterotypic_share(counts: sp.csr_matrix, labels: ArrayLike | None = None, seed: int = 0) -> float:
    """Share of random pairs of cells that are of two kinds: by labels, or by clusters of the cells."""
    if labels is None:
        logged = log_normalized(counts)
        points = principal_components(logged[:, most_variable(logged)], N_COMPONENTS)
        kind = leiden_clusters(nearest_neighbors(points, 15), seed, (RESOLUTION,))[0]
    else:
        kind = codes(labels)
    share = np.bincount(kind) / len(kind)
    return float(1 - np.square(share).sum())


def called(scores: Scores, n: int) -> Bool[np.ndarray, " cell"]:
    """The `n` cells with the highest scores; of equal ones those that come first."""
    found = np.zeros(len(scores), bool)
    order: Int[np.ndarray, " cell"] = np.argsort(-scores, kind="stable")
    found[order[:n]] = True
    return found
