"""Whether data support a direction: scores of a velocity, and a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from scduet.errors import DataError, OptionError, some
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors
from scduet.metrics.integration.clustering import leiden_clusters
from scduet.metrics.velocity import coherence, cross_boundary_direction
from scduet.tasks.velocity.fields import Field
from scduet.tasks.velocity.prepare import Moments

Pairs = list[tuple[str, str]]
RESOLUTION = 0.5  # of the clusters that stand for cell types
FEWEST_GENES, LEAST_UNSPLICED = 20, 0.03
LEAST_AGREEMENT = 0.3  # of the arrows of two models, mean cosine
# Of t statistics, largest over types. On the pancreas cells with the unspliced counts of another cell of their type had
# 2.8 to 3.3 by the steady state (three draws), 2.3 to 2.8 by the stochastic model, and 1.6 to 1.7 by the dynamical one,
# which also moves a shuffled cell to the curve.
LEAST_PERMUTATION, LEAST_PERMUTATIONS = 3.0, {"steady_state": 3.5, "dynamical": 2.0}


def check_transitions(transitions: Any, known: np.ndarray | None) -> Pairs:
    """The pairs of types. Raises OptionError for what is none, DataError for a type that no cell has."""
    try:
        pairs = [(str(start), str(end)) for start, end in transitions]
    except (TypeError, ValueError):
        raise OptionError(f"option 'transitions' cannot be {transitions!r}", "it is pairs of cell types") from None
    if pairs and known is None:
        raise OptionError("transitions need cell types", "pass labels_key= too")
    absent = sorted({name for pair in pairs for name in pair} - set(() if known is None else known))
    if absent:
        raise DataError(f"transitions name {some(absent)}, which no cell has", "write the types as labels_key has them")
    return pairs


def clusters(pca: Float[np.ndarray, "cell component"], seed: int) -> np.ndarray:
    """Leiden clusters, in place of cell types."""
    return leiden_clusters(nearest_neighbors(pca, 15), seed, (RESOLUTION,))[0].astype(str)


def judged(
    found: Moments,
    field: Field,
    labels: np.ndarray,
    pairs: Pairs,
    arrows: Float[np.ndarray, "cell dim"],
    places: Float[np.ndarray, "cell dim"],
) -> tuple[pd.Series, Float[np.ndarray, " cell"]]:
    """The scores of a velocity, and the confidence of each cell."""
    index = found.index
    near = Neighbors(index, np.zeros(index.shape), np.arange(len(index)), len(index))
    coherent = coherence(np.asarray(field.velocity, np.float64), near)
    scores = {
        "genes": float(len(field.genes)),
        "unspliced": found.unspliced_share,
        "confidence": float(coherent.mean()),
        "permutation": float(np.median(field.permutation.max(axis=1).fillna(0))),
    }
    if pairs:
        scores["direction"] = cross_boundary_direction(arrows, places, labels, pairs)
        scores["direction_genes"] = cross_boundary_direction(field.velocity, field.x, labels, pairs)
    return pd.Series(scores), coherent


def verdict_of(scores: pd.Series) -> str:
    """A sentence that says whether the data support a direction. `scores` may be named by the model."""
    against = objections(scores)
    if against:
        return f"The data do not support a direction: {'; '.join(against)}."
    if "direction" in scores:
        return f"The arrows follow the known transitions ({scores['direction']:.2f}; 1 would be straight)."
    return "There is something to fit; whether the direction is right only known transitions can tell."


def verdict_of_all(table: pd.DataFrame) -> str:
    """A sentence about several models: whether the data support a direction, and whether the models agree on one."""
    against = {name: objections(scores) for name, scores in table.iterrows()}
    if all(against.values()):
        told = "; ".join(dict.fromkeys(reason for reasons in against.values() for reason in reasons))
        return f"The data do not support a direction by any model: {told}."
    sentences = []
    for name, reasons in against.items():
        if reasons:
            sentences.append(f"They do not support that of {name}: {'; '.join(reasons)}.")
    pairs = table[[f"agreement_{name}" for name in table.index]].to_numpy()
    apart = [
        f"{table.index[i]} and {table.index[j]} ({pairs[i, j]:.2f})"
        for i, j in zip(*np.triu_indices(len(table), 1), strict=True)
        if pairs[i, j] < LEAST_AGREEMENT
    ]
    if apart:
        sentences.append(f"Doubt a direction on which models do not agree: {', '.join(apart)}.")
    good = [name for name, reasons in against.items() if not reasons]
    known = "follow the known transitions" if "direction" in table else "have something to fit"
    return " ".join([f"The arrows of {', '.join(good)} {known}.", *sentences])


def least_permutation(model: Any) -> float:
    """Permutation score below which a model fits hardly more than noise."""
    return LEAST_PERMUTATIONS.get(model, LEAST_PERMUTATION)


def objections(scores: pd.Series) -> list[str]:
    """What speaks against a direction."""
    against = []
    if scores["unspliced"] < LEAST_UNSPLICED:
        against.append(f"only {scores['unspliced']:.1%} of the molecules are unspliced")
    if scores["genes"] < FEWEST_GENES:
        against.append(f"only {scores['genes']:.0f} genes have a velocity")
    if scores["permutation"] < least_permutation(scores.name):
        against.append(
            f"within cell types the fit is hardly better than of shuffled cells ({scores['permutation']:.1f})"
        )
    if scores.get("direction", 1.0) <= 0:
        against.append(f"the arrows do not follow the known transitions ({scores['direction']:.2f})")
    return against
