"""From velocities to directions between cells: cosines with the ways to neighbors, transitions, projected arrows.

The definitions are those of scVelo (Bergen et al. 2020): cosines over centered genes with the neighbors of a cell and
theirs; probabilities from exp(10 cosine) - 1; an arrow is the expected unit step less that of a walk without
preference.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from scduet.tasks.velocity.moments import Dense, Index

SCALE = 10.0  # of the cosines, in the exponent
STAYS = 98  # percentile of the best cosines from which a cell has nothing better than to stay


def cosines(x: Dense, velocity: Dense, index: Index, root: bool = False) -> sp.csr_matrix:
    """Cosine of each cell's velocity with the way to its neighbors and to theirs, (cell, cell).

    x, velocity: (cell, gene), of the genes with a velocity. index: neighbors of each cell, itself left out. root: of
    signed square roots, as for the stochastic model. The cell itself is stored, with 0.
    """
    v = _rooted(velocity) if root else velocity
    v = v - v.mean(1, keepdims=True)
    length = np.linalg.norm(v, axis=1)
    index = np.concatenate([np.arange(len(x))[:, None], index], 1)
    found: list[np.ndarray] = []
    near: list[np.ndarray] = []
    for cell in range(len(x)):
        others = np.unique(index[index[cell]])
        way = x[others] - x[cell]
        way = _rooted(way) if root else way
        way -= way.mean(1, keepdims=True)
        norm = np.sqrt(np.einsum("ij,ij->i", way, way)) * length[cell]
        found.append(np.divide(way @ v[cell], norm, out=np.zeros(len(others), np.float32), where=norm > 0))
        near.append(others)
    indptr = np.concatenate([[0], np.cumsum([len(others) for others in near])])
    return sp.csr_matrix((np.concatenate(found), np.concatenate(near), indptr), shape=(len(x), len(x)))


def transitions(graph: sp.csr_matrix) -> sp.csr_matrix:
    """Signed probabilities of the next cell, from `cosines`; a negative one points away. Absolute values sum to 1."""
    rows = _rows(graph)
    up, itself = graph.data.clip(0), rows == graph.indices
    best = np.maximum.reduceat(up, graph.indptr[:-1])
    up[itself] = np.clip(np.percentile(best, STAYS) - best, 0, 1)[rows[itself]]
    value = np.expm1(SCALE * up) - np.expm1(SCALE * (-graph.data).clip(0))
    value /= np.add.reduceat(np.abs(value), graph.indptr[:-1]).clip(1e-12)[rows]
    return sp.csr_matrix((value, graph.indices, graph.indptr), shape=graph.shape)


def project(steps: sp.csr_matrix, embedding: Float[np.ndarray, "cell dim"]) -> Float[np.ndarray, "cell dim"]:
    """Expected unit step of each cell in an embedding, less that of a walk without preference."""
    rows, columns = _rows(steps), steps.indices
    other = (rows != columns) & (steps.data != 0)
    rows, columns, value = rows[other], columns[other], steps.data[other]
    way = embedding[columns] - embedding[rows]
    norm = np.linalg.norm(way, axis=1, keepdims=True)
    way = np.divide(way, norm, out=np.zeros_like(way, dtype=np.float64), where=norm > 0)
    n = len(embedding)
    mean = np.bincount(rows, value, n) / np.bincount(rows, minlength=n).clip(1)
    weight = value - mean[rows]
    return np.stack([np.bincount(rows, weight * part, n) for part in way.T], 1)


def _rooted(values: Dense) -> Dense:
    return np.sqrt(np.abs(values)) * np.sign(values)


def _rows(graph: sp.csr_matrix) -> np.ndarray:
    return np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
