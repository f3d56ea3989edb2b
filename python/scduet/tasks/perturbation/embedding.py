"""What is known of the perturbed genes beyond the data: a table, gene sets, or the gene vectors of a trained model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from scduet.data.tables import read_table
from scduet.errors import DataError, OptionError, some
from scduet.tasks.perturbation.targets import Target

N_SET_DIMENSIONS = 5  # of gene sets: with 10 the linear model was worse on Norman and Papalexi alike


@dataclass(frozen=True)
class GeneEmbedding:
    """Vectors of perturbed genes, and how alike the genes are."""

    place: Mapping[str, int]
    vectors: Float[np.ndarray, "gene dim"]
    likeness: Float[np.ndarray, "gene gene"]

    def knows(self, target: Target) -> bool:
        return all(part in self.place for part in target)

    def vector(self, target: Target) -> Float[np.ndarray, " dim"]:
        """The sum over the genes of a perturbation."""
        return self.vectors[[self.place[part] for part in target]].sum(0)

    def alike(self, target: Target, others: Sequence[Target]) -> Float[np.ndarray, " other"]:
        """Mean likeness of the genes of a perturbation and of each other one; NaN for those unknown."""
        own = self.likeness[[self.place[part] for part in target]].mean(0)
        places = [[self.place[part] for part in other] if self.knows(other) else None for other in others]
        return np.array([np.nan if place is None else sum(own[i] for i in place) / len(place) for place in places])


def embedding_of(given: Any, perturbed: Iterable[str], adata: Any) -> GeneEmbedding | None:
    """The embedding of the genes `perturbed`, as far as `given` knows them.

    given: DataFrame (gene, dimension); gene sets, as name -> genes or the path of a GMT; the path of a .csv or .tsv; or
    a trained model with vectors of genes. Raises DataError where it knows fewer than two of the genes.
    """
    if given is None:
        return None
    wanted = sorted(set(perturbed))
    given = read_table(Path(given)) if isinstance(given, (str, Path)) else given
    if isinstance(given, pd.DataFrame):
        found, known = _of_table(given, wanted), given.index
    elif isinstance(given, Mapping):
        found, known = _of_sets(given, wanted), next(iter(given.values()), ())
    elif hasattr(given, "gene_rows"):
        found, known = _of_table(_of_model(given, adata), wanted), given.features
    else:
        kind = type(given).__name__
        raise OptionError(f"gene_embedding= cannot be a {kind}", "it is a DataFrame, gene sets, a path, or a model")
    if len(found.place) < 2:
        remedy = f"it knows names like {some(known)}"
        raise DataError(f"gene_embedding knows {len(found.place)} of the perturbed genes: {some(wanted)}", remedy)
    return found


def _of_model(model: Any, adata: Any) -> pd.DataFrame:
    from scduet.tasks.genes.gene_vectors import learned_vectors  # needs torch, and nothing else here does

    row = model.gene_rows(adata)
    return pd.DataFrame(learned_vectors(model, row[row >= 0]), np.asarray(adata.var_names)[row >= 0])


def _of_table(table: pd.DataFrame, wanted: list[str]) -> GeneEmbedding:
    if not table.index.is_unique:
        raise DataError(
            f"genes of gene_embedding repeat: {some(table.index[table.index.duplicated()])}", "one row each"
        )
    own = table.loc[[gene for gene in wanted if gene in table.index]]
    try:
        vectors = own.to_numpy(float)
    except (TypeError, ValueError):
        raise DataError("gene_embedding holds values that are no numbers", "give a table (gene, dimension)") from None
    if not np.isfinite(vectors).all():
        raise DataError("gene_embedding holds NaN or infinite values", "drop these genes")
    centered = vectors - (vectors.mean(0) if len(vectors) else 0)
    return GeneEmbedding({gene: i for i, gene in enumerate(own.index)}, vectors, _cosine(centered))


def _of_sets(sets: Mapping[str, Collection[str]], wanted: list[str]) -> GeneEmbedding:
    """Cosine of membership weighted by how rare a set is among these genes; vectors are its leading eigenvectors."""
    shared = [inside for genes in sets.values() if len(inside := frozenset(wanted) & frozenset(genes)) > 1]
    member = np.array([[gene in inside for inside in shared] for gene in wanted], float).reshape(len(wanted), -1)
    weight = np.log(len(wanted) / np.maximum(member.sum(0), 1)) + 0.1
    known = member.any(1)
    likeness = _cosine((member * weight)[known])
    value, vector = np.linalg.eigh(likeness) if known.any() else (np.zeros(0), np.zeros((0, 0)))
    best = np.argsort(-value)[:N_SET_DIMENSIONS]
    vectors = vector[:, best] * np.sqrt(np.maximum(value[best], 0))
    return GeneEmbedding({gene: i for i, gene in enumerate(np.array(wanted)[known])}, vectors, likeness)


def _cosine(x: Float[np.ndarray, "gene dim"]) -> Float[np.ndarray, "gene gene"]:
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T
