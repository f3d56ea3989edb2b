"""Which genes differ between groups of cells, by the model's posterior; with a check of how often it cries wolf.

Sources: Lopez et al. 2018 (mode "vanilla"), Boyeau et al. 2019 and 2023 (mode "change"). Cells are drawn before they
are decoded, so that the cost does not grow with the groups.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from scduet.api import Model
from scduet.data.cells import Cells
from scduet.errors import DataError, OptionError, some
from scduet.tasks.groups import comparisons
from scduet.tasks.latent import BATCH_SIZE, as_batch, batch_codes, is_minified, seeded, states, vae_of

N_DRAWS = 5000
EPS = 1e-8
SMALLEST_OFFSET, OFFSET_QUANTILE, NOT_EXPRESSED = 1e-10, 0.9, 0.01  # of pseudocounts, as in scvi-tools
PER_CELL = 10_000.0  # total that raw means are normalised to


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
    batch_size: int = BATCH_SIZE,
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
            first, second = sampler.draw(rows1, codes[0]), sampler.draw(rows2, codes[1])
            table, called = _compared(model, cells, first, second, rows1, rows2, options, all_stats)
            checks.append({"comparison": " vs ".join(names), "n_called": int(called.sum())})
            if calibrate:
                checks[-1] |= _permuted_calls(first, second, table, options, sampler.random)
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
    """Shares of genes of cells drawn from a group."""

    cell: Int[np.ndarray, " draw"]
    share: Float[np.ndarray, "draw gene"]
    code: np.ndarray  # batch decoded as, -1 for the one observed


class _Sampler:
    """Draws cells of a group, then their states, then decodes those."""

    def __init__(self, model: Model, adata, n_draws: int, batch_size: int, random: np.random.Generator):
        self.model, self.adata, self.n_draws, self.batch_size, self.random = model, adata, n_draws, batch_size, random

    def draw(self, rows: Int[np.ndarray, " cell"], codes: Sequence[int | None]) -> _Draws:
        vae, each = vae_of(self.model), max(2, self.n_draws // len(codes))
        cell = np.concatenate([self.random.choice(rows, each) for _ in codes])
        share = np.empty((len(cell), len(self.model.genes)), dtype=np.float32)
        for number, code in enumerate(codes):
            place = number * each
            wanted = cell[place : place + each]
            order = np.argsort(wanted, kind="stable")  # files are read in order; results go back to their places
            for part in states(self.model, self.adata, wanted[order], self.batch_size):
                found = vae.shares(part.draw(vae), part.cells, as_batch(part.cells, code)).cpu().numpy()
                share[number * each + order[: len(found)]], order = found, order[len(found) :]
        return _Draws(cell, share, np.repeat([-1 if code is None else code for code in codes], each))


def _codes(model: Model, *wanted) -> tuple[list[int | None], list[int | None]]:
    key = model.schema.fields.batch_key
    everything = [None] if key is None else list(range(len(model.schema.levels[key])))
    first, second = (everything if names is None else batch_codes(model, names) for names in wanted)
    if set(first) != set(second) and set(first) & set(second):
        raise DataError("batchid1 and batchid2 overlap but differ", "make them equal, or disjoint")
    return first, second  # type: ignore[return-value]


def _compared(
    model: Model, cells: Cells | None, first: _Draws, second: _Draws, rows1, rows2, options: _Options, all_stats: bool
) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of one comparison, in the order of the genes, and which genes are called."""
    raw = None if cells is None else (_raw(cells, rows1), _raw(cells, rows2))
    if options.mode == "vanilla":
        higher = (first.share > second.share).mean(0)
        table = {"proba_m1": higher, "proba_m2": 1 - higher, "bayes_factor": _bayes_factor(higher)}
        table |= {"scale1": first.share.mean(0), "scale2": second.share.mean(0)}
        called = _called(np.maximum(higher, 1 - higher), options.fdr_target)
    else:
        offset = options.pseudocounts
        if offset is None:
            silent = [np.ones(0, bool)] * 2 if raw is None else [r["raw_mean"] < NOT_EXPRESSED for r in raw]
            offset = max(_offset(d.share, zero) for d, zero in zip((first, second), silent, strict=True))
        change = _log_ratio(first.share, second.share, offset)
        delta = _estimated_delta(change.mean(0)) if options.delta is None else options.delta
        probability = _probability(change, delta, options.test_mode)
        table = {"proba_de": probability, "proba_not_de": 1 - probability, "bayes_factor": _bayes_factor(probability)}
        table |= {"scale1": first.share.mean(0), "scale2": second.share.mean(0), "pseudocounts": offset, "delta": delta}
        table |= _described(_log_ratio(first.share, second.share, 1e-3 * offset))
        called = _called(probability, options.fdr_target)
        table[f"is_de_fdr_{options.fdr_target}"] = called
    if all_stats and raw is not None:
        for name in raw[0]:
            table |= {f"{name}1": raw[0][name], f"{name}2": raw[1][name]}
    return pd.DataFrame(table, index=pd.Index(model.genes)), called


def _permuted_calls(
    first: _Draws, second: _Draws, table: pd.DataFrame, options: _Options, random: np.random.Generator
) -> dict[str, int]:
    """Genes that are called between two groups of permuted labels, made of the same draws."""
    cell, code = np.concatenate([first.cell, second.cell]), np.concatenate([first.code, second.code])
    known = np.unique(cell)
    n_first = round(
        len(known) * len(np.unique(first.cell)) / (len(np.unique(first.cell)) + len(np.unique(second.cell)))
    )
    chosen = random.permutation(known)[: min(max(n_first, 1), len(known) - 1)]
    in_first, sides = np.isin(cell, chosen), []
    for mask, like in ((in_first, first), (~in_first, second)):
        places = [random.choice(_pool(mask, code, c), (like.code == c).sum()) for c in np.unique(like.code)]
        sides.append(_shares(first, second, np.concatenate(places)))
    if options.mode == "vanilla":
        higher = (sides[0] > sides[1]).mean(0)
        return {"n_called_permuted": int(_called(np.maximum(higher, 1 - higher), options.fdr_target).sum())}
    change = _log_ratio(sides[0], sides[1], float(table["pseudocounts"].iloc[0]))
    probability = _probability(change, float(table["delta"].iloc[0]), options.test_mode)
    return {"n_called_permuted": int(_called(probability, options.fdr_target).sum())}


def _pool(mask: np.ndarray, code: np.ndarray, wanted: int) -> np.ndarray:
    """Draws of a permuted group that were decoded as the batch `wanted`; of any, where there are none."""
    places = np.flatnonzero(mask & (code == wanted))
    return places if len(places) else np.flatnonzero(mask)


def _shares(first: _Draws, second: _Draws, places: np.ndarray) -> np.ndarray:
    """Rows of the draws of both groups, numbered through."""
    found = np.empty((len(places), first.share.shape[1]), np.float32)
    here = places < len(first.cell)
    found[here], found[~here] = first.share[places[here]], second.share[places[~here] - len(first.cell)]
    return found


def _log_ratio(first: np.ndarray, second: np.ndarray, offset: float) -> np.ndarray:
    """log2 fold change of each pair of draws."""
    change = torch.from_numpy(first).add(offset)
    return change.div_(torch.from_numpy(second).add(offset)).log2_().numpy()


def _probability(change: np.ndarray, delta: float, test_mode: str) -> np.ndarray:
    up, down = (change >= delta).mean(0), (change < -delta).mean(0)
    return up + down if test_mode == "two" else np.maximum(up, down)


def _described(change: np.ndarray) -> dict[str, np.ndarray]:
    values = torch.from_numpy(change)
    found = {
        "mean": values.mean(0),
        "median": values.T.contiguous().median(1).values,
        "std": values.std(0, correction=0),
    }
    found |= {"min": values.amin(0), "max": values.amax(0)}
    return {f"lfc_{name}": value.numpy() for name, value in found.items()}


def _bayes_factor(probability: np.ndarray) -> np.ndarray:
    return np.log(probability + EPS) - np.log(1 - probability + EPS)


def _called(probability: np.ndarray, target: float) -> Bool[np.ndarray, " gene"]:
    """The most genes whose mean probability of being a false call is within the target."""
    order = np.argsort(-probability, kind="stable")
    expected = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    called = np.zeros(len(order), bool)
    called[order[: int((expected <= target).sum())]] = True
    return called


def _offset(share: np.ndarray, silent: np.ndarray) -> float:
    """Pseudocount from the genes that were not seen in a group: their largest shares say what the model makes up."""
    if not silent.any():
        return SMALLEST_OFFSET
    return max(SMALLEST_OFFSET, float(np.quantile(share.max(0)[silent], OFFSET_QUANTILE)) / share.shape[1])


def _estimated_delta(change: np.ndarray) -> float:
    """0.6 of the distance of the outer two of three Gaussians from zero, at least 0.1."""
    from sklearn.mixture import GaussianMixture

    means = np.sort(GaussianMixture(3, random_state=0).fit(change[:, None]).means_.ravel())
    return max(0.1, 0.6 * float(np.abs(means[[0, -1]]).mean()))


def _raw(cells: Cells, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Of the counts: means, shares of cells with any, means normalised to 10,000 a cell."""
    total, seen, normalized = (np.zeros(cells.counts.n_genes) for _ in range(3))
    for start in range(0, len(rows), 8192):
        index = rows[start : start + 8192]
        part = cells.counts.rows(index)
        scaled = part.data * np.repeat(PER_CELL / np.maximum(cells.total[index], 1e-12), np.diff(part.indptr))
        for into, weights in ((total, part.data), (seen, part.data != 0), (normalized, scaled)):
            into += np.bincount(part.indices, weights, minlength=len(into))
    n = len(rows)
    return {"raw_mean": total / n, "non_zeros_proportion": seen / n, "raw_normalized_mean": normalized / n}
