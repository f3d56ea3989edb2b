"""The cells of a perturbation experiment: log-normalized values, what was done to each, and means of groups."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from scduet.data import checks
from scduet.data.levels import coded
from scduet.data.locate import column, locate_main
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.tasks.perturbation.targets import Grammar, Target, grammar_of, joined

DEPTH = 1e4  # each cell is scaled to this total before log1p
LOGGED_BELOW = 30.0  # no log1p of counts per 10,000 reaches it; it does where the log was forgotten
FEWEST_CONTROLS, FEW_CELLS = 20, 10
ONE = "all"  # the context or batch where none is named
Means = Float[np.ndarray, "group gene"]


@dataclass(frozen=True)
class Screen:
    """Cells with their perturbation, context and batch as codes; perturbation 0 is the control."""

    values: sp.csr_matrix  # (cell, gene), log-normalized
    given: Any  # the same cells as the user has them
    counts: bool  # whether that is counts
    genes: pd.Index
    cells: pd.Index
    grammar: Grammar
    target: Int[np.ndarray, " cell"]
    targets: list[Target]
    context: Int[np.ndarray, " cell"]
    contexts: list[str]
    batch: Int[np.ndarray, " cell"]
    batches: list[str]
    escaped: Bool[np.ndarray, " cell"]  # perturbed cells in which nothing happened, as the user marked them
    notes: tuple[str, ...] = field(default=())

    @property
    def is_control(self) -> Bool[np.ndarray, " cell"]:
        return self.target == 0

    def of(self, chosen: Bool[np.ndarray, " cell"]) -> Screen:
        """The same of some of the cells; contexts keep their codes."""
        rows = np.flatnonzero(chosen)
        per_cell = {name: getattr(self, name)[rows] for name in ("cells", "target", "context", "batch", "escaped")}
        return replace(self, values=self.values[rows], given=self.given[rows], **per_cell)

    def names(self) -> list[str]:
        """What the perturbations are called in results."""
        return [joined(target) for target in self.targets]


def read_screen(
    adata: Any,
    perturbation_key: str,
    control: str | None = None,
    context_key: str | None = None,
    batch_key: str | None = None,
    dose_key: str | None = None,
    layer: str | None = None,
    total_key: str | None = None,
    drop_escaped: str | None = None,
) -> Screen:
    """The cells of `adata`. Raises DataError for columns that are absent or lack values, and for values that are
    neither counts nor log-normalized; `notes` say where counts were normalized."""
    checks.check_matrix(adata)
    for option, key in (("perturbation_key", perturbation_key), ("context_key", context_key), ("batch_key", batch_key)):
        if key is not None or option == "perturbation_key":
            checks.check_key(option, key)
    found = coded(column(adata, perturbation_key), perturbation_key, required=True)
    main = locate_main(adata, layer)
    genes = pd.Index(main.columns.astype(str))
    grammar = grammar_of(found.names, perturbation_key, control, genes)
    targets = [grammar.target(name) for name in found.names]
    with_dose = _with_doses(targets, found.code, adata, dose_key)
    order = sorted(set(with_dose))
    place = {target: i for i, target in enumerate(order)}
    if order[0] != () or len(order) < 2:
        raise DataError(
            f"obs[{perturbation_key!r}] has nothing but {some(found.names)}", "it takes perturbed cells too"
        )
    values, counts, notes = _log_normalized(main.values, layer, adata, total_key)
    if control is None:
        notes.append(f"the control is {grammar.control!r}")
    contexts, batches = (_levels(adata, key) for key in (context_key, batch_key))
    target = np.array([place[t] for t in with_dose])
    return Screen(
        values, main.values, counts, genes, pd.Index(adata.obs_names), grammar, target, order, *contexts, *batches,
        _escaped(adata, drop_escaped) & (target > 0), tuple(notes),
    )  # fmt: skip


def dosed(target: Target, dose: float) -> Target:
    """The perturbation at a dose: "drug@0.5"."""
    return tuple(f"{part}@{dose:g}" for part in target)


def dose_of(target: Target) -> tuple[Target, float] | None:
    """What `dosed` was made of; None for a perturbation without a dose."""
    parts = [part.rpartition("@") for part in target]
    try:
        return tuple(name for name, _, _ in parts), float(parts[0][2])
    except (ValueError, IndexError):
        return None


def _with_doses(targets: list[Target], code: np.ndarray, adata: Any, key: str | None) -> list[Target]:
    """The perturbation of each cell, with its dose."""
    if key is None:
        return [targets[i] for i in code]
    checks.check_key("dose_key", key)
    dose = pd.to_numeric(column(adata, key), errors="coerce").to_numpy(float)
    bad = (np.array([bool(targets[i]) for i in code])) & ~(np.isfinite(dose) & (dose > 0))
    if bad.any():
        cells = some(np.asarray(adata.obs_names)[bad])
        raise DataError(f"obs[{key!r}] is no number above 0 in {bad.sum()} perturbed cells: {cells}", "mend the doses")
    return [dosed(targets[i], dose[cell]) for cell, i in enumerate(code)]


def _levels(adata: Any, key: str | None) -> tuple[np.ndarray, list[str]]:
    if key is None:
        return np.zeros(adata.n_obs, np.int64), [ONE]
    found = coded(column(adata, key), key, required=True)
    return found.code, found.names


def _escaped(adata: Any, key: str | None) -> Bool[np.ndarray, " cell"]:
    """Cells that Mixscape calls "NP"."""
    if key is None:
        return np.zeros(adata.n_obs, bool)
    checks.check_key("drop_escaped", key)
    classes = column(adata, key).astype(str)
    found = (classes == "NP") | classes.str.endswith(" NP")
    if not found.any():
        raise DataError(f"no cell is 'NP' in obs[{key!r}]", "name the column of Mixscape's classes, or leave it out")
    told = "cells that escaped are left out of training only: without them effects look larger than they are"
    warnings.warn(f"drop_escaped: {told}", ScduetWarning, stacklevel=4)
    return found.to_numpy()


def _log_normalized(x: Any, layer: str | None, adata: Any, total_key: str | None) -> tuple[sp.csr_matrix, bool, list]:
    where = layer or "X"
    checks.check_values(x, adata.obs_names, where, "any")
    values = sp.csr_matrix(x, dtype=np.float32, copy=True)
    if values.nnz and values.data.min() < 0:
        raise DataError(f"{where} holds negative values", "pass counts or log-normalized values, not scaled ones")
    if checks.are_counts(values.data):
        total = np.asarray(values.sum(1)).ravel() if total_key is None else _totals(adata, total_key)
        values.data *= np.repeat(np.where(total > 0, DEPTH / np.maximum(total, 1e-12), 0), np.diff(values.indptr))
        np.log1p(values.data, out=values.data)
        return values, True, [f"{where} holds counts: scaled to {DEPTH:,.0f} a cell, log1p"]
    if total_key is not None:
        raise OptionError(f"total_key={total_key!r} for values that are no counts", "leave it out")
    if values.data.max(initial=0) > LOGGED_BELOW:
        raise DataError(f"{where} is neither counts nor log-normalized: it reaches {values.data.max():,.0f}", "log it")
    return values, False, []


def _totals(adata: Any, key: str) -> Float[np.ndarray, " cell"]:
    checks.check_key("total_key", key)
    total = pd.to_numeric(column(adata, key), errors="coerce").to_numpy(float)
    if not (np.isfinite(total) & (total > 0)).all():
        raise DataError(f"obs[{key!r}] holds no totals above 0", "name a column with the total count of each cell")
    return total


def sums(values: sp.csr_matrix, group: Int[np.ndarray, " cell"], n: int) -> tuple[Means, Int[np.ndarray, " group"]]:
    """Sum of the cells of each group, and their number; -1 is in no group."""
    cells = np.flatnonzero(group >= 0)
    chosen = sp.csr_matrix((np.ones(len(cells), np.float32), (group[cells], cells)), (n, values.shape[0]))
    return np.asarray((chosen @ values).todense(), np.float64), np.bincount(group[cells], minlength=n)


def means(values: sp.csr_matrix, group: Int[np.ndarray, " cell"], n: int) -> Means:
    """Mean of the cells of each group; 0 where there are none."""
    total, size = sums(values, group, n)
    return total / np.maximum(size, 1)[:, None]


def warn_of_few(screen: Screen) -> None:
    """Warn of perturbations with few cells in all contexts together."""
    size = np.bincount(screen.target, minlength=len(screen.targets))
    few = [name for name, n in zip(screen.names(), size, strict=True) if n < FEW_CELLS]
    if few:
        told = f"{some(few, 6)} have fewer than {FEW_CELLS} cells: their changes are mostly noise"
        warnings.warn(told, ScduetWarning, stacklevel=4)
