"""Programs of an expiMap: scores of cells, their genes, and which differ between groups of cells."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float
from scipy.special import ndtr

from scduet.api import Model
from scduet.capabilities import HasPrograms
from scduet.data.schema import on_disk
from scduet.data.sources import gathered
from scduet.errors import DataError, OptionError, some
from scduet.options import check_arguments, seed_of
from scduet.tasks.comparison.groups import comparisons
from scduet.tasks.posterior.latent import states
from scduet.tasks.quality.baselines import log_normalized

EPSILON = 1e-12  # of a probability, below which there is no logarithm


@dataclass(frozen=True)
class Programs:
    """What a model knows of its terms: gene sets, then free terms."""

    names: list[str]
    loadings: Float[np.ndarray, "gene term"]
    mask: Bool[np.ndarray, "gene term"]  # which genes are in the set; none of a free term

    @property
    def active(self) -> Bool[np.ndarray, " term"]:
        """Terms with a loading: the group lasso switches others off."""
        return np.abs(self.loadings).sum(0) > 0

    @property
    def direction(self) -> Float[np.ndarray, " term"]:
        """1 where a higher state means more of the term's genes, else -1; 0 for a term that is off."""
        return np.sign(self.loadings.sum(0)) * self.active


def program_scores(model: Model, adata=None) -> pd.DataFrame:
    """Score of each program in each cell (cell x program): the posterior mean, higher for more of its genes.

    adata: None for the cells that the model was trained on. Programs that the group lasso switched off have 0.
    A score depends on the other sets in the model: where sets overlap, one may take the genes of the other.

    Raises OptionError for a model without programs.
    """
    programs = programs_of(model)
    found = model.embed(None if adata is None else on_disk(adata)) * programs.direction
    index = None if adata is None else on_disk(adata).obs_names
    return pd.DataFrame(found, index=index, columns=pd.Index(programs.names))


def program_genes(model: Model, program: str | None = None, n_genes: int | None = None) -> pd.DataFrame:
    """The genes of a program, or of all, by the size of their loading: program, gene, loading, in_set.

    loading: change of the logit of the gene's share by each unit of the score. in_set: False for genes that a soft mask
    let in, and in terms without a set. n_genes: at most so many of each program. Genes without a loading are left out.

    Raises OptionError for a model without programs, DataError for an unknown program.
    """
    programs = programs_of(model)
    if program is not None and program not in programs.names:
        raise DataError(f"no program {program!r}", f"the model has {some(programs.names, 9)}")
    if n_genes is not None:
        check_arguments(n_genes=n_genes)
    tables, genes = [], np.array(model.genes, dtype=object)
    for k, name in enumerate(programs.names):
        if program in (None, name):
            loading = programs.loadings[:, k] * (programs.direction[k] or 1)
            order = np.argsort(-np.abs(loading), kind="stable")
            order = order[loading[order] != 0][:n_genes]
            row = {"program": name, "gene": genes[order], "loading": loading[order], "in_set": programs.mask[order, k]}
            tables.append(pd.DataFrame(row))
    return pd.concat(tables, ignore_index=True)


def differential_programs(
    model: Model,
    adata,
    groupby: str | None = None,
    group1: Any = None,
    group2: Any = None,
    *,
    idx1: Any = None,
    idx2: Any = None,
    n_samples: int = 5000,
    seed: int = 0,
) -> pd.DataFrame:
    """Which programs differ between groups of cells, by the model and by a plain score of each gene set.

    groupby, group1, group2, idx1, idx2: as for `differential_expression`. n_samples: random pairs of cells.

    Returns one row a comparison and program, the surest on top:
    probability: that the score of a cell of group1 is above that of a cell of group2, a mean over pairs;
    bayes_factor: its log odds, above 0 where group1 is higher; beyond 2.3 counts as clear in the paper;
    direction: 1 or -1, the sign that the state was multiplied by; 0, as its bayes_factor, for a program that is off;
    n_genes: genes of the set in the model;
    set_difference, set_t: of the mean z-score of the set's genes in log-normalized counts, group1 less group2, and
        Welch's t; NaN for terms without a set.
    A Bayes factor of this kind grows with how much cells differ, not with their number, and is no p-value. Cells of one
    donor are not independent, so set_t is too large. Where both agree you can believe the set; where the model has
    switched a set off or given its genes to an overlapping one, set_t still shows it.

    Source: Lotfollahi et al. 2023, Nature Cell Biology 25:337. Raises OptionError for a model without programs,
    DataError for groups that do not exist, are empty or share cells.
    """
    programs = programs_of(model)
    check_arguments(n_samples=n_samples)
    draw, data = np.random.default_rng(seed_of(seed)), on_disk(adata)
    pairs = comparisons(data, groupby, group1, group2, idx1, idx2)
    mean, variance = _posterior(model, adata)
    mean, plain = mean * programs.direction, set_scores(gathered(model.encode(adata).counts), programs.mask)
    tables = []
    for (one, other), first, second in pairs:
        chance = _chance_above(mean, variance, draw.choice(first, n_samples), draw.choice(second, n_samples))
        chance = np.where(programs.active, chance, 0.5)
        difference, t = _welch(plain[first], plain[second])
        table = {
            "comparison": f"{one} vs {other}",
            "program": programs.names,
            "probability": chance,
            "bayes_factor": np.log(chance + EPSILON) - np.log(1 - chance + EPSILON),
            "direction": programs.direction.astype(int),
            "n_genes": programs.mask.sum(0),
            "set_difference": difference,
            "set_t": t,
        }
        tables.append(pd.DataFrame(table).sort_values("bayes_factor", key=np.abs, ascending=False, kind="stable"))
    return pd.concat(tables, ignore_index=True)


@torch.inference_mode()
def programs_of(model: Model) -> Programs:
    """The programs of the model. Raises OptionError where it has none."""
    if not isinstance(model, Model) or not isinstance(model.module, HasPrograms):
        raise OptionError(f"{getattr(model, 'name', model)!r} has no programs", "train 'expimap' with gene_sets=")
    kept, n_free = model.module.programs()
    named, mask = model.schema.features["gene_sets"], model.reference.arrays["gene_sets"][:, kept] > 0
    names = [*(named[k] for k in kept), *(f"free_{i + 1}" for i in range(n_free))]  # type: ignore[index]
    free = np.zeros((len(mask), n_free), bool)
    return Programs(names, model.module.loadings().cpu().numpy(), np.concatenate([mask, free], 1))


def set_scores(counts: sp.csr_matrix, mask: Bool[np.ndarray, "gene term"]) -> Float[np.ndarray, "cell term"]:
    """Mean over the genes of each set of their z-scores in log-normalized counts; NaN for a set without genes."""
    x = sp.csr_matrix(log_normalized(counts))
    mean = np.asarray(x.mean(0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(x.multiply(x).mean(0)).ravel() - mean**2, 0))
    deviation[deviation == 0] = 1
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = mask / deviation[:, None] / mask.sum(0)
    return np.asarray(x @ weight) - mean @ weight


def _posterior(model: Model, adata) -> tuple[Float[np.ndarray, "cell term"], Float[np.ndarray, "cell term"]]:
    parts = [(part.mean.cpu().numpy(), part.variance.cpu().numpy()) for part in states(model, adata)]
    mean, variance = zip(*parts, strict=True)
    return np.concatenate(mean), np.concatenate(variance)


def _chance_above(mean, variance, first, second) -> Float[np.ndarray, " term"]:
    """Mean over pairs of P(z of the first > z of the second), of independent normal posteriors."""
    spread = np.sqrt(variance[first] + variance[second])
    return ndtr((mean[first] - mean[second]) / spread).mean(0, dtype=np.float64)


def _welch(first: Float[np.ndarray, "cell term"], second: Float[np.ndarray, "cell term"]) -> tuple[Any, Any]:
    difference = first.mean(0) - second.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(first.var(0, ddof=1) / len(first) + second.var(0, ddof=1) / len(second))
        return difference, difference / error
