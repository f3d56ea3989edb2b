"""Which genes differ between groups of cells, by the model's posterior; with a check of how often it cries wolf.

Sources: Lopez et al. 2018 (mode "vanilla"), Boyeau et al. 2019 and 2023 (mode "change"). Cells are drawn before they
are decoded, so that the cost does not grow with the groups.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from scduet._numba import compiled
from scduet.api import Model
from scduet.data.sources import Cells, MemorySource
from scduet.errors import DataError, OptionError, some
from scduet.tasks import fold_changes
from scduet.tasks.fold_changes import Pairs, described
from scduet.tasks.groups import comparisons
from scduet.tasks.in_threads import in_threads
from scduet.tasks.latent import batch_codes, is_minified, seeded, states, vae_of, write_shares

N_DRAWS = 5000
TOGETHER = 2048  # cells decoded together
NOT_EXPRESSED = 0.01  # mean count below which a gene is silent, as in scvi-tools
DESCRIBED = 1e-3  # of the pseudocounts: what is added before fold changes are described, as in scvi-tools
PER_CELL = 10_000.0  # total that raw means are normalised to
PIECE = 2048  # cells whose counts are summed together


@torch.inference_mode()
def differential_expression(
    model: Model,
    adata,
    groupby: str | None = None,
    group1=None,
    group2=None,
    *,
    idx1=None,
    idx2=None,
    mode: Literal["change", "vanilla"] = "change",
    delta: float | None = 0.25,
    pseudocounts: float | None = None,
    fdr_target: float = 0.05,
    batch_correction: bool = False,
    batchid1=None,
    batchid2=None,
    test_mode: Literal["two", "three"] = "three",
    n_draws: int = N_DRAWS,
    all_stats: bool = True,
    calibrate: bool = True,
    verbose: bool = True,
    batch_size: int = TOGETHER,
    seed: int | None = 0,
) -> pd.DataFrame:
    """Compare the expression of groups of cells.

    groupby: column of obs; group1: a level or several, None for all, each against group2 (a level, None for the rest).
    idx1, idx2: masks, places, or queries of obs instead of groupby; idx2=None for the rest.
    mode: "change": probability that the log2 fold change leaves [-delta, delta]. "vanilla": that group1 is higher.
    delta: None estimates it from the fold changes. pseudocounts: added to shares; None estimates them.
    fdr_target: expected share of false calls among `is_de_fdr_<target>`.
    batch_correction: decode every cell as if measured in each batch (of batchid1, batchid2) in turn.
    test_mode: "three" tests up and down apart, "two" tests for any change.
    calibrate: also count the calls between groups of permuted labels; see `calibration`. verbose: print the check.

    Returns one row a comparison and gene, the surest first: proba_de, proba_not_de, bayes_factor, scale1, scale2 (mean
    shares), pseudocounts, delta, lfc_mean, lfc_median, lfc_std, lfc_min, lfc_max, is_de_fdr_<target>, and of the counts
    raw_mean1/2, non_zeros_proportion1/2, raw_normalized_mean1/2 (per 10,000), comparison, group1, group2; in mode
    "vanilla" proba_m1 and proba_m2 for proba_de. `calibration(result)` gives the check.

    Probabilities are of the model, not p-values: cells are taken for independent, which cells of one donor are not.
    Raises DataError for groups that do not exist or are empty.
    """
    if mode not in ("change", "vanilla") or test_mode not in ("two", "three"):
        raise OptionError(f"mode={mode!r}, test_mode={test_mode!r}", "change or vanilla; two or three")
    options = _Options(mode, delta, pseudocounts, fdr_target, test_mode)
    cells = None if is_minified(adata) else model.encode(adata)
    sampler = _Sampler(model, adata if cells is None else cells, n_draws, batch_size, np.random.default_rng(seed))
    codes = _codes(model, batchid1, batchid2) if batch_correction else ([None], [None])
    tables, checks = [], []
    with seeded(seed):
        for names, rows1, rows2 in comparisons(adata, groupby, group1, group2, idx1, idx2):
            draws = sampler.draw((rows1, codes[0]), (rows2, codes[1]))
            table, called = _compared(model, cells, draws, rows1, rows2, options, all_stats)
            checks.append({"comparison": " vs ".join(names), "n_called": int(called.sum())})
            if calibrate:
                checks[-1] |= _permuted_calls(draws, table, options, sampler.random)
            table["comparison"], table["group1"], table["group2"] = " vs ".join(names), *names
            order = table["proba_de" if mode == "change" else "bayes_factor"].to_numpy().argsort(kind="stable")[::-1]
            tables.append(table.iloc[order])
    result = pd.concat(tables)
    result.attrs["calibration"] = [{**check, "fdr_target": fdr_target} for check in checks]
    if calibrate and verbose:
        print(_said(calibration(result)))
    return result


def calibration(result: pd.DataFrame) -> pd.DataFrame:
    """How far to trust a result of `differential_expression`: a row a comparison.

    n_called: genes called. n_called_permuted: genes called when the labels of the cells are permuted, where every call
    is false. realised_fdr: their quotient, at most 1, an estimate of the share of false calls, to hold against
    fdr_target. calibrated: is it within the target?
    """
    table = pd.DataFrame(result.attrs["calibration"]).set_index("comparison")
    if "n_called_permuted" not in table:
        raise OptionError("the result was made without the check", "pass calibrate=True")
    share = (table["n_called_permuted"] / table["n_called"].clip(lower=1)).clip(upper=1)
    return table.assign(realised_fdr=share, calibrated=share <= table["fdr_target"])


def _said(table: pd.DataFrame) -> str:
    called, permuted = table["n_called"].sum(), table["n_called_permuted"].sum()
    bad = f"; above the target in {some(table.index[~table['calibrated']])}" if not table["calibrated"].all() else ""
    share, target = table["realised_fdr"].mean(), table["fdr_target"].iloc[0]
    return (
        f"{called} genes called in {len(table)} comparisons; {permuted} with permuted labels: "
        f"realised false-discovery rate {share:.1%}, target {target:.0%}{bad}"
    )


@dataclass(frozen=True)
class _Options:
    mode: str
    delta: float | None
    pseudocounts: float | None
    fdr_target: float
    test_mode: str


@dataclass(frozen=True)
class _Draws:
    """Shares of genes of cells drawn from two groups: all of the first group, then all of the second."""

    cell: Int[np.ndarray, " draw"]
    share: Float[np.ndarray, "draw gene"]
    code: Int[np.ndarray, " draw"]  # batch decoded as, -1 for the one observed
    order: Int[np.ndarray, " draw"]  # numbers of the draws of each batch decoded as, at random: for pairs
    n_first: int

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the draws of each group, in the order of the pairs."""
        return self.order[: self.n_first], self.order[self.n_first :]

    def pairs(self) -> Pairs:
        first, second = self.sides
        n = min(len(first), len(second))
        return Pairs(self.share, first[:n], second[:n])


class _Sampler:
    """Draws cells of a group, then their states, then decodes those."""

    def __init__(self, model: Model, adata, n_draws: int, batch_size: int, random: np.random.Generator):
        self.model, self.adata, self.n_draws, self.batch_size, self.random = model, adata, n_draws, batch_size, random

    def draw(self, *groups: tuple[Int[np.ndarray, " cell"], Sequence[int | None]]) -> _Draws:
        """groups: places of the cells, and codes of the batches to decode as, of either group."""
        drawn = [self._drawn(*group) for group in groups]
        starts = np.cumsum([0, *(len(cell) for cell, *_ in drawn)])
        cell, code, order = map(np.concatenate, zip(*drawn, strict=True))
        order += np.repeat(starts[:-1], np.diff(starts))
        return _Draws(cell, self._decoded(cell, code), code, order, int(starts[1]))

    def _drawn(self, rows: Int[np.ndarray, " cell"], codes: Sequence[int | None]) -> tuple[np.ndarray, ...]:
        """Cells, ascending as files are read; codes to decode them as; and in which order they were drawn, as many for
        each code one after the other."""
        code = np.repeat([-1 if code is None else code for code in codes], max(2, self.n_draws // len(codes)))
        cell = self.random.choice(rows, len(code))
        ascending = cell.argsort(kind="stable")
        return cell[ascending], code[ascending], ascending.argsort()

    def _decoded(self, cell: np.ndarray, code: np.ndarray) -> Float[np.ndarray, "draw gene"]:
        """Shares of a draw of each cell's state."""
        vae, share, start = vae_of(self.model), np.empty((len(cell), len(self.model.genes)), np.float32), 0
        for part in states(self.model, self.adata, cell, self.batch_size):
            rows = slice(start, start + len(part.cells))
            batch = torch.from_numpy(code[rows]).to(part.cells.batch)
            batch = torch.where(batch < 0, part.cells.batch, batch)
            write_shares(torch.from_numpy(share[rows]), vae, part.draw(vae), part.cells, batch)
            start = rows.stop
        return share


def _codes(model: Model, *wanted) -> tuple[list[int | None], list[int | None]]:
    key = model.schema.fields.batch_key
    everything = [None] if key is None else list(range(len(model.schema.levels[key])))
    first, second = (everything if names is None else batch_codes(model, names) for names in wanted)
    if set(first) != set(second) and set(first) & set(second):
        raise DataError("batchid1 and batchid2 overlap but differ", "make them equal, or disjoint")
    return first, second  # type: ignore[return-value]


def _compared(
    model: Model, cells: Cells | None, draws: _Draws, rows1, rows2, options: _Options, all_stats: bool
) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of one comparison, in the order of the genes, and which genes are called."""
    pairs, shares = draws.pairs(), [draws.share[: draws.n_first], draws.share[draws.n_first :]]
    (scale1, largest1), (scale2, largest2) = map(fold_changes.mean_and_largest, shares)
    scales = {"scale1": scale1, "scale2": scale2}
    raw = None if cells is None else _raw(cells, rows1, rows2)
    if options.mode == "vanilla":
        higher = fold_changes.probability_higher(pairs)
        table = {"proba_m1": higher, "proba_m2": 1 - higher, "bayes_factor": fold_changes.bayes_factor(higher)}
        table |= scales
        called = fold_changes.called(np.maximum(higher, 1 - higher), options.fdr_target)
    else:
        offset = options.pseudocounts
        if offset is None:
            silent = [np.ones(0, bool)] * 2 if raw is None else [r["raw_mean"] < NOT_EXPRESSED for r in raw]
            offset = max(map(fold_changes.estimated_offset, (largest1, largest2), silent))
        delta = fold_changes.estimated_delta(pairs, offset) if options.delta is None else options.delta
        sure = fold_changes.probability_changed(pairs, offset, delta, options.test_mode)
        table = {"proba_de": sure, "proba_not_de": 1 - sure, "bayes_factor": fold_changes.bayes_factor(sure)}
        table |= {**scales, "pseudocounts": offset, "delta": delta, **described(pairs, DESCRIBED * offset)}
        called = fold_changes.called(sure, options.fdr_target)
        table[f"is_de_fdr_{options.fdr_target}"] = called
    if all_stats and raw is not None:
        for name in raw[0]:
            table |= {f"{name}1": raw[0][name], f"{name}2": raw[1][name]}
    return pd.DataFrame(table, index=pd.Index(model.genes)), called


def _permuted_calls(
    draws: _Draws, table: pd.DataFrame, options: _Options, random: np.random.Generator
) -> dict[str, int]:
    """Genes that are called between two groups of permuted labels, made of the same draws."""
    first, second = draws.sides
    held = [np.bincount(draws.cell[side], minlength=draws.cell.max() + 1) > 0 for side in (first, second)]
    known, sizes = np.flatnonzero(held[0] | held[1]), [side.sum() for side in held]
    n_first = round(len(known) * sizes[0] / sum(sizes))
    chosen = random.permutation(known)[: min(max(n_first, 1), len(known) - 1)]
    in_first, sides = np.isin(draws.cell, chosen), []
    for mask, like in ((in_first, draws.code[first]), (~in_first, draws.code[second])):
        places = [random.choice(_pool(mask, draws.code, code), (like == code).sum()) for code in np.unique(like)]
        sides.append(np.concatenate(places))
    n = min(map(len, sides))
    pairs = Pairs(draws.share, sides[0][:n], sides[1][:n])
    if options.mode == "vanilla":
        higher = fold_changes.probability_higher(pairs)
        sure = np.maximum(higher, 1 - higher)
    else:
        offset, delta = (float(table[name].iloc[0]) for name in ("pseudocounts", "delta"))
        sure = fold_changes.probability_changed(pairs, offset, delta, options.test_mode)
    return {"n_called_permuted": int(fold_changes.called(sure, options.fdr_target).sum())}


def _pool(mask: np.ndarray, code: np.ndarray, wanted: int) -> np.ndarray:
    """Draws of a permuted group that were decoded as the batch `wanted`; of any, where there are none."""
    places = np.flatnonzero(mask & (code == wanted))
    return places if len(places) else np.flatnonzero(mask)


def _raw(cells: Cells, *groups: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Of the counts of each group: means, shares of cells with any, means normalised to 10,000 a cell."""
    n_threads = torch.get_num_threads()
    parts = [part for rows in groups for part in np.array_split(rows, n_threads)]
    sums = np.split(np.stack(in_threads(partial(_summed, cells), parts)), len(groups))
    means = [group.sum(0) / len(rows) for group, rows in zip(sums, groups, strict=True)]
    return [dict(zip(("raw_mean", "non_zeros_proportion", "raw_normalized_mean"), mean, strict=True)) for mean in means]


def _summed(cells: Cells, rows: np.ndarray) -> Float[np.ndarray, "3 gene"]:
    """Sums over cells: of the counts of each gene, of whether there are any, and of the counts per 10,000."""
    source, sums = cells.counts, np.zeros((cells.counts.n_genes, 4))  # the fourth lets a processor add them at once
    for start in range(0, len(rows), PIECE):
        index = rows[start : start + PIECE]
        if isinstance(source, MemorySource) and source.genes is None:
            counts, places = source.matrix, index
        else:
            counts, places = source.rows(index), np.arange(len(index))
        weight = PER_CELL / np.maximum(cells.total[index].astype(float), 1e-12)
        _add_counts(counts.data, counts.indices, counts.indptr, places, weight, sums)
    return sums[:, :3].T


@compiled()
def _add_counts(values, column, pointer, rows, weight, sums):
    for row, factor in zip(rows, weight):  # noqa: B905, numba knows no strict
        for entry in range(pointer[row], pointer[row + 1]):
            of_gene, value = sums[column[entry]], values[entry]
            of_gene[0] += value
            of_gene[1] += value != 0
            of_gene[2] += value * factor
