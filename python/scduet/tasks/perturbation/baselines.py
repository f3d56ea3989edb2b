"""Rules that predict the change of mean expression without training; a deep model has to beat them.

`Evidence` is what a rule may see; each rule returns the change of every gene, or None where it cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from scduet.tasks.perturbation.embedding import GeneEmbedding
from scduet.tasks.perturbation.screen import Means, dose_of
from scduet.tasks.perturbation.shift import likeness
from scduet.tasks.perturbation.targets import Target

Change = Float[np.ndarray, " gene"]
FEWEST = {"context": 3, "gene": 5, "combination": 5}  # contexts, or perturbations, to learn more than means from


@dataclass(frozen=True)
class Evidence:
    """What is known where the perturbation `target` is to be predicted for a context.

    Of the task "context" the rows are other contexts with this perturbation; of the others, other perturbations of this
    context.
    """

    target: Target
    base: Change  # mean of the control cells of the context
    change: Means  # of each row against its controls
    treated: Means  # mean of the perturbed cells of each row
    control: Means  # mean of the control cells of the context of each row
    rows: Sequence[Any]  # names of contexts, or targets
    genes: pd.Index = field(default_factory=pd.Index)
    embedding: GeneEmbedding | None = None

    @property
    def singles(self) -> dict[str, int]:
        """Row of each part that was seen alone."""
        return {row[0]: i for i, row in enumerate(self.rows) if len(row) == 1}


def no_change(seen: Evidence) -> Change:
    return np.zeros_like(seen.base)


def mean_of_contexts(seen: Evidence) -> Change:
    """The perturbed cells of other contexts, as they are: right where one's own control tells less than it costs."""
    return seen.treated.mean(0) - seen.base


def additive_contexts(seen: Evidence) -> Change:
    """The mean of the changes of the other contexts, each counting once."""
    return seen.change.mean(0)


def weighted_contexts(seen: Evidence) -> Change | None:
    """The changes of the other contexts, weighted by the likeness of their control cells (see `shift`)."""
    if len(seen.rows) < FEWEST["context"]:
        return None
    return likeness(seen.control, seen.base) @ seen.change


def nearest_context(seen: Evidence) -> Change:
    return seen.change[np.argmin(np.square(seen.control - seen.base).sum(1))]


def mean_of_perturbations(seen: Evidence) -> Change:
    """The mean of the changes of all other perturbations, each counting once."""
    return seen.change.mean(0)


def additive_parts(seen: Evidence) -> Change | None:
    """The sum of the changes of the parts; of a part that was not seen alone, the mean of those that were."""
    singles = seen.singles
    if not singles:
        return None
    mean = seen.change[list(singles.values())].mean(0)
    return np.sum([seen.change[singles[part]] if part in singles else mean for part in seen.target], axis=0)


def matching_mean(seen: Evidence) -> Change:
    """The mean of the changes of the parts, of all perturbations for one not seen alone (Vinas Torne et al. 2025)."""
    mean, singles = seen.change.mean(0), seen.singles
    return np.mean([seen.change[singles[part]] if part in singles else mean for part in seen.target], axis=0)


def neighbors(seen: Evidence, temperature: float = 0.1) -> Change | None:
    """The mean change, moved toward those of perturbations that are more alike than most by the gene embedding."""
    known = seen.embedding
    if known is None or not known.knows(seen.target):
        return None
    alike = np.array([known.kernel(seen.target, row) if known.knows(row) else np.nan for row in seen.rows])
    if np.isnan(alike).all():
        return None
    weight = np.nan_to_num(np.maximum(alike - np.nanmean(alike), 0))
    mean = seen.change.mean(0)
    return mean + weight / (weight.sum() + temperature) @ (seen.change - mean)


def shuffled_neighbors(seen: Evidence) -> Change | None:
    """`neighbors` with the changes dealt out anew: what is left does not come from knowledge of genes."""
    order = np.random.default_rng(len(seen.rows)).permutation(len(seen.rows))
    return neighbors(replace(seen, change=seen.change[order]))


def linear(seen: Evidence, n_components: int = 10, ridge: float = 0.1) -> Change | None:
    """Y = G W P + b, as Ahlmann-Eltze, Huber and Anders 2025 (Nature Methods 22:1657) write it.

    G: principal components of the genes over the training means, control among them. P: the gene embedding of the
    perturbed genes, or without one their rows of G, which takes genes that are measured; the control is 0 there.
    """
    read_out = gene_scores(np.vstack([seen.treated, seen.base]).T, n_components)
    vector = _rows_of_genes(read_out, seen.genes) if seen.embedding is None else _rows_of_embedding(seen.embedding)
    own = vector(seen.target)
    known = [i for i, row in enumerate(seen.rows) if vector(row) is not None]
    if own is None or len(known) < 2:
        return None
    embedded = np.array([vector(seen.rows[i]) for i in known]).T
    weights, offset = linear_weights(seen.change[known].T, read_out, embedded, ridge)
    return read_out @ (weights @ own) + offset


def linear_weights(
    change: Float[np.ndarray, "gene perturbation"],
    read_out: Float[np.ndarray, "gene k"],
    embedded: Float[np.ndarray, "dim perturbation"],
    ridge: float = 0.1,
) -> tuple[Float[np.ndarray, "k dim"], Change]:
    """W = (G'G + rI)^-1 G'(Y - b1')P'(PP' + rI)^-1, and b, the mean of Y over perturbations."""
    offset = change.mean(1)
    left = read_out.T @ read_out + ridge * np.eye(read_out.shape[1])
    right = embedded @ embedded.T + ridge * np.eye(len(embedded))
    inner = (read_out.T @ (change - offset[:, None])) @ embedded.T
    return np.linalg.solve(right.T, np.linalg.solve(left, inner).T).T, offset


def gene_scores(x: Float[np.ndarray, "gene mean"], k: int) -> Float[np.ndarray, "gene k"]:
    """Leading principal components of the rows, columns centered and not scaled."""
    centered = x - x.mean(0)
    value, vector = np.linalg.eigh(centered.T @ centered)
    best = [i for i in np.argsort(-value)[:k] if value[i] > 1e-10 * max(value.max(), 1e-10)]
    return centered @ vector[:, best]


def nearest_dose(seen: Evidence) -> Change | None:
    """The change at the nearest dose of the same drug, on a logarithmic scale."""
    doses = _doses(seen)
    own = dose_of(seen.target)
    if not doses or own is None:
        return None
    return seen.change[min(doses, key=lambda i: abs(np.log(doses[i] / own[1])))]


def interpolated_dose(seen: Evidence) -> Change | None:
    """Linear in log(1 + dose) between the doses around it, with no change at 0; never beyond the largest dose."""
    doses, own = _doses(seen), dose_of(seen.target)
    if not doses or own is None or own[1] > max(doses.values()):
        return None
    order = sorted(doses, key=lambda i: doses[i])
    x = np.log1p([0.0, *(doses[i] for i in order)])
    y = np.vstack([np.zeros_like(seen.base), seen.change[order]])
    above = max(int(np.searchsorted(x, np.log1p(own[1]))), 1)
    share = (np.log1p(own[1]) - x[above - 1]) / (x[above] - x[above - 1])
    return (1 - share) * y[above - 1] + share * y[above]


def _doses(seen: Evidence) -> dict[int, float]:
    """Row and dose of the rows with the drug of the target."""
    own, rows = dose_of(seen.target), [dose_of(row) for row in seen.rows]
    return {i: row[1] for i, row in enumerate(rows) if own is not None and row is not None and row[0] == own[0]}


def _rows_of_genes(scores: np.ndarray, genes: pd.Index) -> Callable[[Target], np.ndarray | None]:
    def vector(target: Target) -> np.ndarray | None:
        place = genes.get_indexer(list(target))
        return None if (place < 0).any() else scores[place].sum(0)

    return vector


def _rows_of_embedding(known: GeneEmbedding) -> Callable[[Target], np.ndarray | None]:
    return lambda target: known.vector(target) if known.knows(target) else None


Rule = Callable[..., Change | None]
RULES: Mapping[str, Mapping[str, Rule]] = {  # task -> name of model= -> rule, in the order of the table
    "context": {
        "no change": no_change,
        "mean": mean_of_contexts,
        "additive": additive_contexts,
        "weighted": weighted_contexts,
        "neighbors": nearest_context,
    },
    "combination": {
        "no change": no_change,
        "mean": mean_of_perturbations,
        "additive": additive_parts,
        "matching mean": matching_mean,
        "linear": linear,
        "neighbors": neighbors,
        "neighbors, shuffled": shuffled_neighbors,
    },
    "gene": {
        "no change": no_change,
        "mean": mean_of_perturbations,
        "linear": linear,
        "neighbors": neighbors,
        "neighbors, shuffled": shuffled_neighbors,
    },
    "dose": {"no change": no_change, "neighbors": nearest_dose, "interpolation": interpolated_dose},
}
