"""In-silico deletion and overexpression with Geneformer, compared with expression-matched random genes."""

from __future__ import annotations

import scduet._torch  # noqa: F401

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control

from scduet.capabilities import TrainedModel
from scduet.data import checks
from scduet.data.levels import coded, places_of
from scduet.data.main_matrix import with_layer
from scduet.errors import DataError, OptionError, some
from scduet.events import Listener
from scduet.options import check_arguments, listed, seed_of
from scduet.tasks.genes.gene_vectors import encoder_of, model_of
from scduet.tasks.quality.attached import Attached
from scduet.transformer_model import WHERE, Transformer
from scduet.transformers.families.geneformer import Geneformer
from scduet.transformers.inference.embedding import Precision, windows
from scduet.transformers.inference.perturbation import Change, How, effects
from scduet.transformers.tokenizers.tokens import Tokens, joined

NEAREST = 4  # genes of like expression that each random one is drawn from
MIN_GENES = 3  # genes besides those perturbed that a cell must hold


def perturb_in_silico(
    model: TrainedModel | str | Path,
    adata,
    genes,
    *,
    how: How = "delete",
    labels_key: str | None = None,
    start: str | None = None,
    goal: str | None = None,
    n_random: int = 20,
    max_cells: int | None = 200,
    seed: int = 0,
    layer: str | None = None,
    gene_column: str | None = None,
    accelerator: str = "auto",
    precision: Precision = "32",
    callback: Listener | None = None,
    **options,
) -> pd.DataFrame:
    """How far each gene's deletion or overexpression moves cells, and whether towards a goal.

    model: a Geneformer, fine-tuned or not, its folder or "hf://" address. adata: raw counts in X or `layer`.
    genes: names (symbols or ids), each perturbed alone; a tuple or list among them is perturbed together; or a mapping
    of names to such sets. how: "delete" takes genes out of the ranks, "overexpress" puts them first.
    goal: value of obs[labels_key]; adds the shift towards the centroid of its cells. start: value of the cells that
    are perturbed; None for all, or with a goal all but those of the goal.
    n_random: random genes (for a set: sets) held by as many cells and at like ranks, perturbed in the same manner: a
    gene that does no more than they do says nothing. max_cells: cells perturbed for each gene, a random choice of
    those that hold it; None for all. options: of Geneformer (emb_layer, pooling, max_length, ties).

    Returns a DataFrame, one row a gene or set, the largest effect first: n_expressed and n_held (cells that count it;
    those in which it is among the genes that the model reads; of a set any of its genes), n_cells perturbed, shift
    (mean of 1 - cosine, of the cell's vector, or of the states of the other genes where the model has no <cls>),
    random_shift, z, p_value (share of random genes with at least this shift, itself counted in), fdr
    (Benjamini-Hochberg). With a goal also towards (mean change of the cosine with the goal: positive is nearer),
    random_towards, z_towards, p_towards (two-sided), fdr_towards. attrs["cells"] has every cell's values.
    The least possible p_value is 1 / (n_random + 1).

    Raises DataError for genes that the checkpoint lacks, that no cell holds ("delete"), and for labels without cells.
    Source: Theodoris et al., Nature 2023.
    """
    checks.check_cells(adata)
    found: Any = model_of(model)
    encoder = encoder_of(found)
    if not isinstance(encoder, Geneformer):
        raise OptionError(f"{found.name!r} does not read genes by rank", "in-silico perturbation is Geneformer's")
    check_arguments(n_random=n_random, **({} if max_cells is None else {"max_cells": max_cells}))
    if how not in ("delete", "overexpress"):
        raise OptionError(f"how cannot be {how!r}", "it is 'delete' or 'overexpress'")
    wanted = _tokens_of(found, genes)
    adata, layer = with_layer(adata, layer)
    options = {name: value for name, value in {**found.options, **options}.items() if name not in WHERE}
    where = {"layer": layer, "gene_column": gene_column, **options}
    begun, targets = _states(adata, labels_key, start, goal)
    data = _Data.of(found, adata, begun, where)
    chosen = encoder.Options(**options)  # which `prepared` has checked
    plans = _planned(data, wanted, how, n_random, max_cells, np.random.default_rng(seed_of(seed)))
    centroids = _centroids(found, adata, targets, chosen, {**where, "accelerator": accelerator})
    resources = found.resources(precision, accelerator, None, callback)
    changes = [change for plan in plans for change in (plan.own, *plan.random)]
    done = iter(effects(encoder, data.tokens, changes, centroids, chosen, resources))
    measured = [(plan, next(done), [next(done) for _ in plan.random]) for plan in plans]
    return _table(measured, data, adata.obs_names, goal)


# ------------------------------------------------------------------------------------------------- genes and cells


@dataclass(frozen=True)
class _Data:
    """The cells that may be perturbed, as tokens, and which of them count and hold which gene."""

    tokens: Tokens
    rows: Int[np.ndarray, " cell"]  # of these cells in adata
    counted: sp.csc_matrix  # (cell, token): is there a count?
    rank: sp.csc_matrix  # (cell, token): place among the tokens that the model reads, from 1
    special: list[int]

    @classmethod
    def of(cls, model: Transformer, adata, begun: Bool[np.ndarray, " cell"], where: dict) -> _Data:
        rows = np.flatnonzero(begun)
        cells, tokenizer = model.prepared(adata[rows], **where)
        tokens = joined(list(windows(tokenizer, cells.counts)))
        match = model.match(adata[rows], layer=where["layer"], gene_column=where["gene_column"])
        n_tokens = len(model.encoder.genes())
        known = np.flatnonzero(match.token >= 0)
        to_token = sp.csr_matrix(
            (np.ones(len(known)), (known, match.token[known])), shape=(len(match.token), n_tokens)
        )  # fmt: skip
        counts = sp.vstack([piece for _, piece in cells.counts.pieces()])
        place = np.arange(len(tokens.gene)) - np.repeat(tokens.indptr[:-1], tokens.lengths) + 1.0
        rank = sp.csr_matrix((place, tokens.gene, tokens.indptr), shape=(len(rows), n_tokens)).tocsc()
        return cls(tokens, rows, ((counts > 0) @ to_token).tocsc(), rank, list(model.vocabulary.special.values()))

    def holders(self, genes: Int[np.ndarray, " gene"]) -> Int[np.ndarray, " cell"]:
        """Cells in which the model reads any of these genes, and enough others."""
        held = np.asarray(self.rank[:, genes].getnnz(axis=1))
        return np.flatnonzero((held > 0) & (self.tokens.lengths - held >= MIN_GENES))

    def n_counted(self, genes: Int[np.ndarray, " gene"]) -> int:
        return int((np.asarray(self.counted[:, genes].sum(1)).ravel() > 0).sum())


@dataclass(frozen=True)
class _Plan:
    """One row of the result: what is perturbed, and the random genes beside it."""

    name: str
    own: Change
    random: tuple[Change, ...]
    n_expressed: int
    n_held: int


def _planned(data: _Data, wanted, how: How, n_random: int, max_cells, draw) -> list[_Plan]:
    """Raises DataError where a gene to delete is in no cell, and says in how many it was counted."""
    held = [data.holders(genes) for genes in wanted.values()]
    if how == "delete":
        _refuse_absent(data, wanted, held)
    taken = np.concatenate(list(wanted.values()))
    likeness = _likeness(data)
    plans = []
    for (name, genes), holders in zip(wanted.items(), held, strict=True):
        others = _random_like(genes, taken, likeness, n_random, draw)
        changes = [_change(data, tokens, how, max_cells, draw) for tokens in (genes, *others)]
        plans.append(_Plan(name, changes[0], tuple(changes[1:]), data.n_counted(genes), len(holders)))
    return plans


def _change(data: _Data, genes, how: How, max_cells: int | None, draw) -> Change:
    """A perturbation of cells that hold the genes; of any cells where nothing is deleted."""
    cells = data.holders(genes) if how == "delete" else np.flatnonzero(data.tokens.lengths >= MIN_GENES)
    if max_cells is not None and len(cells) > max_cells:
        cells = np.sort(draw.choice(cells, max_cells, replace=False))
    return Change(genes, how, cells)


def _likeness(data: _Data) -> Float[np.ndarray, "token 2"]:
    """Where each token stands: how many cells hold it, and at what mean rank, as logarithms; NaN for none."""
    held = np.asarray(data.rank.getnnz(axis=0), float)
    held[data.special] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        rank = np.asarray(data.rank.sum(0)).ravel() / held
        return np.log(np.stack([np.where(held >= MIN_GENES, held, np.nan), rank], axis=1))


def _random_like(genes, taken, likeness, n_random: int, draw) -> list[Int[np.ndarray, " gene"]]:
    """Sets of random genes, each drawn from those nearest to one of `genes` in the number of cells and the rank."""
    columns = []
    for gene in genes if n_random else ():
        here = likeness[gene] if np.isfinite(likeness[gene]).all() else np.nanmedian(likeness, axis=0)
        distance = np.square(likeness - here).sum(1)
        distance[taken] = np.nan
        near = np.argsort(distance, kind="stable")[: min(NEAREST * n_random, int(np.isfinite(distance).sum()))]
        if len(near) < 2:
            raise DataError("there are no other genes to compare with", "give more cells, or n_random=0")
        columns.append(draw.choice(near, min(n_random, len(near)), replace=False))
    return [np.unique(row) for row in zip(*columns, strict=False)]


def _refuse_absent(data: _Data, wanted, held) -> None:
    absent = [name for (name, _), holders in zip(wanted.items(), held, strict=True) if not len(holders)]
    if absent:
        n = len(data.rows)
        told = [f"{name!r} is counted in {data.n_counted(wanted[name])} and read in 0 of {n} cells" for name in absent]
        message = "; ".join(told[:3]) + (f"; and {len(told) - 3} more" if len(told) > 3 else "")
        raise DataError(message, "the model reads the first genes by rank only; leave these out, or raise max_length")


def _tokens_of(model: Transformer, genes) -> dict[str, Int[np.ndarray, " gene"]]:
    """Tokens of each gene or set, by name. Raises DataError naming genes that the checkpoint lacks."""
    if not isinstance(genes, Mapping):
        genes = listed("genes", genes)
        genes = {gene if isinstance(gene, str) else " + ".join(gene): gene for gene in genes}
    sets = {str(name): [members] if isinstance(members, str) else list(members) for name, members in genes.items()}
    if not sets or not all(sets.values()):
        raise DataError("no genes to perturb", "name at least one, and one in each set")
    names = [name for members in sets.values() for name in members]
    unknown = [name for name, token in zip(names, model.vocabulary.tokens(names), strict=True) if token < 0]
    if unknown:
        raise DataError(
            f"the checkpoint knows no gene {some(unknown)}", f"it knows {some(list(model.vocabulary.token))}"
        )
    return {name: np.unique(model.vocabulary.tokens(members)) for name, members in sets.items()}


# ------------------------------------------------------------------------------------------------ states and result


def _states(adata, labels_key, start, goal) -> tuple[Bool[np.ndarray, " cell"], Bool[np.ndarray, " cell"]]:
    """Cells to perturb, and cells of the goal (none without one)."""
    nowhere = np.zeros(adata.n_obs, bool)
    if labels_key is None:
        if start is not None or goal is not None:
            raise OptionError("start and goal need labels_key", "name the column of obs with the states")
        return ~nowhere, nowhere
    if labels_key not in adata.obs:
        raise DataError(f"no column {labels_key!r} in adata.obs", f"it has {some(adata.obs.columns, 12)}")
    labels = coded(adata.obs[labels_key], labels_key)
    begun, aim = (None if name is None else int(places_of([name], labels.names)[0]) for name in (start, goal))
    for name, place in ((start, begun), (goal, aim)):
        if place == -1:
            raise DataError(f"no cell is {name!r} in {labels_key!r}", f"there are {some(labels.names, 9)}")
    if begun is not None and begun == aim:
        raise OptionError(f"start and goal are both {start!r}", "name two states")
    targets = nowhere if aim is None else labels.code == aim
    return (~targets if begun is None else labels.code == begun), targets


def _centroids(model: Transformer, adata, targets, chosen, where: dict) -> Float[np.ndarray, "state width"]:
    """The mean vector of the cells of the goal."""
    encoder = model.encoder
    if not targets.any():
        return np.empty((0, encoder.config.trunk.width), np.float32)
    vectors = model.map(lambda tokens: encoder.embed(tokens, chosen), adata[targets], **where)
    return vectors.mean(0, keepdim=True).numpy()


def _table(measured, data: _Data, names, goal: str | None) -> pd.DataFrame:
    rows, cells = [], []
    for plan, own, random in measured:
        row = {"n_expressed": plan.n_expressed, "n_held": plan.n_held, "n_cells": len(plan.own.cells)}
        values = {"shift": lambda effect: 1 - effect.cosine}
        if goal is not None:
            values["towards"] = lambda effect: effect.towards[:, 0]
        for column, value in values.items():
            row |= _beside(column, float(value(own).mean()), np.array([float(value(other).mean()) for other in random]))
        rows.append({"gene": plan.name, **row})
        of = {"gene": plan.name, "cell": names[data.rows[plan.own.cells]]}
        cells.append(pd.DataFrame(of | {column: value(own) for column, value in values.items()}))
    table = pd.DataFrame(rows).set_index("gene").sort_values("shift", ascending=False)
    for p, fdr in (("p_value", "fdr"), ("p_towards", "fdr_towards")):
        if p in table:
            table.insert(int(table.columns.get_loc(p)) + 1, fdr, false_discovery_control(table[p]))  # pyright: ignore
    table.attrs["cells"] = Attached(pd.concat(cells, ignore_index=True))
    return table


def _beside(column: str, own: float, random: Float[np.ndarray, " random"]) -> dict[str, float]:
    """A mean effect beside those of random genes; towards a goal either direction counts."""
    names = {"shift": ("random_shift", "z", "p_value"), "towards": ("random_towards", "z_towards", "p_towards")}[column]
    mean = random.mean() if len(random) else np.nan
    spread = random.std(ddof=1) if len(random) > 1 else np.nan
    distance, others = (own, random) if column == "shift" else (abs(own - mean), np.abs(random - mean))
    p = (1 + (others >= distance).sum()) / (1 + len(random))
    return {column: own, **dict(zip(names, (mean, (own - mean) / spread if spread else np.nan, p), strict=True))}
