"""Rules that predict the change of mean expression without training; a deep model has to beat them.

`Evidence` is what a rule may see; each rule returns the change of every gene, or None where it cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from scduet.tasks.perturbation.embedding import GeneEmbedding
from scduet.tasks.perturbation.screen import dose_of
from scduet.tasks.perturbation.shift import likeness
from scduet.tasks.perturbation.targets import Target

Change = Float[np.ndarray, " gene"]
FEWEST = {"context": 2, "gene": 5, "combination": 5}  # other contexts, or perturbations, to learn more than means from
FEWEST_TO_WEIGH = 3  # contexts


@dataclass(frozen=True)
class Source:
    """Means of all pairs of context and perturbation, of which each prediction may see some."""

    treated: Float[np.ndarray, "pair gene"]  # (pair, gene) of perturbed cells
    matched: Float[np.ndarray, "pair gene"]  # (pair, gene) of control cells in the same batches
    control: Float[np.ndarray, "pair gene"]  # (pair, gene) of all control cells of the context

    @cached_property
    def change(self) -> Float[np.ndarray, "pair gene"]:
        return self.treated - self.matched

    @cached_property
    def centered(self) -> Float[np.ndarray, "pair gene"]:
        """Treated means less their mean over genes, for principal components of genes."""
        return self.treated - self.treated.mean(1, keepdims=True)

    @cached_property
    def products(self) -> Float[np.ndarray, "pair pair"]:
        return self.centered @ self.centered.T


@dataclass(frozen=True)
class Evidence:
    """What is known where the perturbation `target` is to be predicted for a context.

    Of the task "context" the rows are other contexts with this perturbation; of the others, other perturbations of this
    context.
    """

    target: Target
    base: Change  # mean of the control cells of the context
    source: Source
    index: Int[np.ndarray, " row"]  # pairs of the source that may be seen
    rows: Sequence[Any]  # their contexts, or targets
    genes: pd.Index = field(default_factory=pd.Index)
    embedding: GeneEmbedding | None = None

    @cached_property
    def change(self) -> Float[np.ndarray, "row gene"]:
        """Of each row against its controls."""
        return self.source.change[self.index]

    @cached_property
    def mean(self) -> Change:
        return self.change.mean(0)

    @property
    def treated(self) -> Float[np.ndarray, "row gene"]:
        return self.source.treated[self.index]

    @property
    def control(self) -> Float[np.ndarray, "row gene"]:
        return self.source.control[self.index]

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
    return seen.mean


def weighted_contexts(seen: Evidence) -> Change | None:
    """The changes of the other contexts, weighted by the likeness of their control cells (see `shift`)."""
    if len(seen.rows) < FEWEST_TO_WEIGH:
        return None
    return likeness(seen.control, seen.base) @ seen.change


def nearest_context(seen: Evidence) -> Change:
    return seen.change[np.argmin(np.square(seen.control - seen.base).sum(1))]


def mean_of_perturbations(seen: Evidence) -> Change:
    """The mean of the changes of all other perturbations, each counting once."""
    return seen.mean


def additive_parts(seen: Evidence) -> Change | None:
    """The sum of the changes of the parts; of a part that was not seen alone, the mean of those that were."""
    singles = seen.singles
    if not singles:
        return None
    mean = seen.change[list(singles.values())].mean(0)
    return np.sum([seen.change[singles[part]] if part in singles else mean for part in seen.target], axis=0)


def matching_mean(seen: Evidence) -> Change:
    """The mean of the changes of the parts, of all perturbations for one not seen alone (Vinas Torne et al. 2025)."""
    mean, singles = seen.mean, seen.singles
    return np.mean([seen.change[singles[part]] if part in singles else mean for part in seen.target], axis=0)


def neighbors(seen: Evidence, temperature: float = 0.1) -> Change | None:
    """The mean change, moved toward those of perturbations that are more alike than most by the gene embedding."""
    weight = _likeness_of_genes(seen)
    return None if weight is None else _moved(seen, weight, temperature)


def shuffled_neighbors(seen: Evidence) -> Change | None:
    """`neighbors` with the likeness dealt out anew: what is left does not come from knowledge of genes."""
    weight = _likeness_of_genes(seen)
    return None if weight is None else _moved(seen, np.random.default_rng(len(weight)).permutation(weight), 0.1)


def _likeness_of_genes(seen: Evidence) -> Float[np.ndarray, " row"] | None:
    """How much more alike each row is than the mean of the rows, 0 where it is less or unknown."""
    known = seen.embedding
    if known is None or not known.knows(seen.target):
        return None
    alike = known.alike(seen.target, seen.rows)
    return None if np.isnan(alike).all() else np.nan_to_num(np.maximum(alike - np.nanmean(alike), 0))


def _moved(seen: Evidence, weight: Float[np.ndarray, " row"], temperature: float) -> Change:
    total = weight.sum()
    return seen.mean + (weight @ seen.change - total * seen.mean) / (total + temperature)


def linear(seen: Evidence, n_components: int = 10, ridge: float = 0.1) -> Change | None:
    """Y = G W P + b, as Ahlmann-Eltze, Huber and Anders 2025 (Nature Methods 22:1657) write it.

    G: principal components of the genes over the training means, control among them. P: the gene embedding of the
    perturbed genes, or without one their rows of G, which takes genes that are measured; the control is 0 there.
    """
    read_out = _gene_scores(seen, n_components)
    vector = _rows_of_genes(read_out, seen.genes) if seen.embedding is None else _rows_of_embedding(seen.embedding)
    own, rows = vector(seen.target), [vector(row) for row in seen.rows]
    known = [i for i, row in enumerate(rows) if row is not None]
    if own is None or len(known) < 2:
        return None
    change = seen.change if len(known) == len(rows) else seen.change[known]
    weights, offset = linear_weights(change.T, read_out, np.array([rows[i] for i in known]).T, ridge)
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
    inner = (read_out.T @ change) @ embedded.T - np.outer(read_out.T @ offset, embedded.sum(1))
    return np.linalg.solve(right.T, np.linalg.solve(left, inner).T).T, offset


def _gene_scores(seen: Evidence, k: int) -> Float[np.ndarray, "gene k"]:
    """Leading principal components of the genes over the treated means and the control, columns not scaled."""
    base = seen.base - seen.base.mean()
    beside = seen.source.centered @ base
    product = np.zeros((len(seen.index) + 1,) * 2)
    product[:-1, :-1] = seen.source.products[np.ix_(seen.index, seen.index)]
    product[-1, :-1] = product[:-1, -1] = beside[seen.index]
    product[-1, -1] = base @ base
    value, vector = np.linalg.eigh(product)
    best = [i for i in np.argsort(-value)[:k] if value[i] > 1e-10 * max(value.max(), 1e-10)]
    return seen.source.centered[seen.index].T @ vector[:-1, best] + np.outer(base, vector[-1, best])


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
