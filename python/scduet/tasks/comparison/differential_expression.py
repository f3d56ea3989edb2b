"""Which genes differ between groups of cells, by the model's posterior; with the calls that permuted labels leave.

Sources: Lopez et al. 2018 (mode "vanilla"), Boyeau et al. 2019 and 2023 (mode "change"). Cells are drawn before they
are decoded, so that the cost does not grow with the groups.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from scduet.api import Model
from scduet.data.levels import text
from scduet.data.schema import on_disk
from scduet.errors import DataError, OptionError
from scduet.options import check_arguments, seed_of
from scduet.tasks.comparison import fold_changes
from scduet.tasks.comparison.calibration import calibration, summary
from scduet.tasks.comparison.detection import GeneFilter, GroupCounts, group_counts, totals_of, without_counts
from scduet.tasks.comparison.draws import PairedDraws, Sampler
from scduet.tasks.comparison.fold_changes import Pairs, described
from scduet.tasks.comparison.groups import comparisons
from scduet.tasks.comparison.importance import Importance
from scduet.tasks.comparison.pseudobulk import deseq2
from scduet.tasks.posterior.latent import batch_codes, encoder_of, is_minified, modality_of, refuse_lognormal, seeded
from scduet.tasks.quality.provenance import refuse_denoised

N_DRAWS = 5000
TOGETHER = 2048  # cells decoded together
NOT_EXPRESSED = 0.01  # mean count below which a gene is silent, as in scvi-tools
DESCRIBED = 1e-3  # of the pseudocounts: what is added before fold changes are described, as in scvi-tools
MIN_PCT = 0.1  # Seurat 4's min.pct; see `differential_expression`


@torch.inference_mode()
def differential_expression(
    model: Model | None,
    adata,
    groupby: str | None = None,
    group1=None,
    group2=None,
    *,
    method: Literal["model", "pydeseq2"] = "model",
    sample_key: str | None = None,
    idx1=None,
    idx2=None,
    allow_overlap: bool = False,
    mode: Literal["change", "vanilla", "difference"] = "change",
    delta: float | None = 0.25,
    pseudocounts: float | None = None,
    fdr_target: float = 0.05,
    min_pct: float = MIN_PCT,
    lfc_threshold: float = 0.0,
    only_pos: bool = False,
    total_key: str | None = None,
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
    modality: str | None = None,
    weights: Literal["uniform", "importance"] = "uniform",
    importance: Importance | None = None,
    allow_denoised: bool = False,
) -> pd.DataFrame:
    """Compare the expression of groups of cells.

    groupby: column of obs; group1: a level or several, each against group2 (a level, None for the rest of the cells);
        without group1 and group2 each level against the rest.
    method: "model": by the posterior of `model`. "pydeseq2": DESeq2 on the sums of counts of each sample
        (`pseudobulk`), for differences over donors; needs PyDESeq2 and sample_key=, a column of obs, and no model (pass
        None; of a model its layer is taken). Of the other options only fdr_target plays a part. The design is
        "~ sample + group" where two or more samples have both groups, else "~ group".
    idx1, idx2: the cells of the two groups instead of groupby: masks, names, places, or queries of obs; idx2=None for
        the rest. allow_overlap: they may share cells.
    mode: "change": probability that the log2 fold change leaves [-delta, delta]. "vanilla": that group1 is higher.
        "difference": that the difference leaves [-delta, delta], for what are probabilities, such as accessibility.
    delta: None estimates it from the fold changes. pseudocounts: added to shares; None estimates them.
    fdr_target: expected share of false calls among `is_de_fdr_<target>`.
    min_pct: a gene is tested if it has counts in at least this share (0 to 1) of the cells of one of the groups, as
        min.pct of Seurat (whose version 4 has the same default); 0 tests all. On Kang's monocytes (8 donors) a paired
        test over donors did not confirm 98% of the calls for genes in under 1% of the cells, 2% for those above 10%.
    lfc_threshold: least |raw_lfc| (log2) of a tested gene, as logfc.threshold of Seurat.
    only_pos: test and return only genes that are higher in group1, by the counts and by the model.
    total_key: column of obs with the total count of each cell, for raw_lfc; needed where `adata` holds fewer genes.
    batch_correction: decode every cell as if measured in each batch (of batchid1, batchid2) in turn.
    test_mode: "three" tests up and down apart, "two" for any change.
    calibrate: also count the calls between groups of permuted labels (`calibration`). verbose: print that.
    modality: compare another matrix that the model decodes, e.g. "protein", instead of the main one.
    weights: "importance" weighs draws of states by how well they explain their group (Boyeau et al. 2023); slow.
    importance: how; None for the defaults of `importance.Importance`.
    allow_denoised: go on where the model reads a layer that `denoise` wrote; see there for what such tests find.

    Returns one row a comparison and gene: proba_de, proba_not_de, bayes_factor, scale1, scale2 (mean shares),
    pseudocounts, delta, lfc_mean, lfc_median, lfc_std, lfc_min, lfc_max (log2, by the model), is_de_fdr_<target>,
    tested, and of the counts raw_mean1/2, non_zeros_proportion1/2, raw_normalized_mean1/2 (per 10,000), raw_lfc
    (avg_log2FC as in Seurat 5), comparison, group1, group2; in mode "vanilla" proba_m1 and proba_m2 for proba_de.
    Tested genes come first, the surest on top, equally sure ones by |raw_lfc|; others are never called.
    attrs["calibration"] has the filter and the numbers of genes tested and called; `calibration(result)` shows them.

    Probabilities are of the model, not p-values: cells are taken for independent, which cells of one donor are not.
    With method="pydeseq2" the columns are mean, lfc (log2), lfc_se, stat, pvalue, pvalue_adjusted,
    is_de_fdr_<target>, comparison, group1, group2, n_samples1, n_samples2; attrs["designs"] has the designs.
    For minified cells, which have no counts, min_pct is not applied, with a warning.

    Raises DataError for groups that do not exist, are empty or share cells, OptionError for values out of range and for
    a model without posteriors of cells, such as DCA.
    """
    if method == "pydeseq2":
        layer = None if model is None else model.schema.fields.layer
        given = {"sample_key": sample_key, "layer": layer, "fdr_target": fdr_target}
        return deseq2(adata, groupby, group1, group2, **given)
    if method != "model" or model is None:
        raise OptionError(f"method={method!r}, model={model!r}", 'pass a model, or method="pydeseq2"')
    encoder_of(model)
    refuse_lognormal(model, "fold changes")
    if not allow_denoised:
        refuse_denoised(adata, model.schema.fields.layer)
    if mode not in ("change", "vanilla", "difference") or test_mode not in ("two", "three"):
        raise OptionError(f"mode={mode!r}, test_mode={test_mode!r}", "change, vanilla or difference; two or three")
    if mode == "difference" and delta is None:
        raise OptionError("delta=None is estimated for fold changes, not for mode='difference'", "pass delta=")
    check_arguments(n_draws=n_draws, batch_size=batch_size, fdr_target=fdr_target)
    check_arguments(**{k: v for k, v in {"delta": delta, "pseudocounts": pseudocounts}.items() if v is not None})
    chosen, decoded = GeneFilter(min_pct, lfc_threshold, only_pos), modality_of(model, modality)
    if total_key is not None and not decoded.is_main:
        raise OptionError(f"total_key={total_key!r} is of the main matrix, not of {decoded.name!r}", "leave it out")
    adata, seed = on_disk(adata), None if seed is None else seed_of(seed)
    pairs = comparisons(adata, groupby, group1, group2, idx1, idx2, allow_overlap)

    if weights not in ("uniform", "importance") or (weights == "importance" and is_minified(adata)):
        raise OptionError(f"weights={weights!r}", "it is uniform or, for cells with counts, importance")
    if is_minified(adata):
        chosen, cells, counts = without_counts(chosen), None, None
    else:
        cells = model.encode(adata)
        own = cells.total if decoded.is_main else decoded.source(cells).totals()
        counts = decoded.source(cells), own, totals_of(model, adata, cells, total_key) if decoded.is_main else own
    options = _Options(mode, delta, pseudocounts, fdr_target, test_mode, chosen)
    sampler = Sampler(
        model, decoded, adata if cells is None else cells, n_draws, batch_size, np.random.default_rng(seed)
    )
    sampler.importance = (importance or Importance()) if weights == "importance" else None
    codes = _codes(model, batchid1, batchid2) if batch_correction else ([None], [None])
    tables, checks = [], []
    with seeded(seed):
        for groups, rows1, rows2 in pairs:
            names = [text(group) for group in groups]
            draws = sampler.draw((rows1, codes[0]), (rows2, codes[1]))
            raw = None
            if cells is not None and counts is not None:
                raw = group_counts(*counts, *(decoded.measured(cells, rows) for rows in (rows1, rows2)))
            table, called = _compared(decoded.features, draws, raw, options)
            checks.append({"comparison": " vs ".join(names), "n_genes": len(table)})
            checks[-1] |= {"n_tested": int(table["tested"].sum()), "n_called": int(called.sum())}
            if calibrate:
                checks[-1] |= _permuted_calls(draws, table, options, sampler.random)
            table["comparison"], table["group1"], table["group2"] = " vs ".join(names), *groups
            tables.append(table.iloc[_order(table, mode)])
    result = pd.concat(tables)
    if only_pos:
        result = result[_is_higher(result, mode)]
    if not all_stats:
        result = result.drop(columns=[name for name in result if str(name).startswith(("raw_", "non_zeros_"))])
    result.attrs["calibration"] = [{**check, "fdr_target": fdr_target, **asdict(chosen)} for check in checks]
    if calibrate and verbose:
        print(summary(calibration(result)))
    return result


def _is_higher(table: pd.DataFrame, mode: str) -> np.ndarray:
    """Is a gene higher in the first group, by the model and by the counts?"""
    by_model = {
        "vanilla": lambda: table["proba_m1"] > 0.5,
        "change": lambda: table["lfc_median"] > 0,
        "difference": lambda: table["scale1"] > table["scale2"],
    }[mode]()
    return (by_model & (table["raw_lfc"] > 0) if "raw_lfc" in table else by_model).to_numpy()


def _order(table: pd.DataFrame, mode: str) -> Int[np.ndarray, " gene"]:
    """Tested genes first, then by how sure the model is; 5,000 pairs give many ties, which the counts break."""
    sure = table["bayes_factor" if mode == "vanilla" else "proba_de"].to_numpy()
    lfc = (table["raw_lfc"] if "raw_lfc" in table else np.log2(table["scale1"] / table["scale2"])).to_numpy()
    return np.lexsort((-lfc if mode == "vanilla" else -np.abs(lfc), -sure, ~table["tested"].to_numpy()))


@dataclass(frozen=True)
class _Options:
    mode: str
    delta: float | None
    pseudocounts: float | None
    fdr_target: float
    test_mode: str
    filter: GeneFilter

    def sure(self, pairs: Pairs, offset: float, delta: float) -> Float[np.ndarray, " gene"]:
        """How sure the model is that a gene differs."""
        if self.mode == "vanilla":
            higher = fold_changes.probability_higher(pairs)
            return np.maximum(higher, 1 - higher)
        if self.mode == "difference":
            return fold_changes.probability_shifted(pairs, delta, self.test_mode)
        return fold_changes.probability_changed(pairs, offset, delta, self.test_mode)

    def called(self, sure: np.ndarray, tested: np.ndarray) -> np.ndarray:
        """Genes that are called: the control of false calls runs over the tested genes alone."""
        calls = np.zeros(len(sure), bool)
        calls[tested] = fold_changes.called(sure[tested], self.fdr_target)
        return calls


def _codes(model: Model, *wanted) -> tuple[list[int | None], list[int | None]]:
    key = model.schema.fields.batch_key
    everything = [None] if key is None else list(range(len(model.schema.levels[key])))
    first, second = (everything if names is None else batch_codes(model, names) for names in wanted)
    if set(first) != set(second) and set(first) & set(second):
        raise DataError("batchid1 and batchid2 overlap but differ", "make them equal, or disjoint")
    return first, second  # type: ignore[return-value]


def _compared(
    features: list[str], draws: PairedDraws, raw: GroupCounts | None, options: _Options
) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of one comparison, in the order of the genes, and which genes are called."""
    pairs, shares = draws.pairs(), [draws.share[: draws.n_first], draws.share[draws.n_first :]]
    (scale1, largest1), (scale2, largest2) = map(fold_changes.mean_and_largest, shares)
    scales = {"scale1": scale1, "scale2": scale2}
    if options.mode == "vanilla":
        higher = fold_changes.probability_higher(pairs)
        columns = {"proba_m1": higher, "proba_m2": 1 - higher, "bayes_factor": fold_changes.bayes_factor(higher)}
        columns |= scales
        sure = np.maximum(higher, 1 - higher)
    elif options.mode == "difference":
        assert options.delta is not None
        sure = options.sure(pairs, 0.0, options.delta)
        columns = {"proba_de": sure, "proba_not_de": 1 - sure, "bayes_factor": fold_changes.bayes_factor(sure)}
        columns |= {**scales, "delta": options.delta}
    else:
        offset = options.pseudocounts
        if offset is None:
            silent = [np.ones(0, bool)] * 2 if raw is None else [raw[f"raw_mean{i}"] < NOT_EXPRESSED for i in (1, 2)]
            offset = max(map(fold_changes.estimated_offset, (largest1, largest2), silent))
        delta = fold_changes.estimated_delta(pairs, offset) if options.delta is None else options.delta
        sure = options.sure(pairs, offset, delta)
        columns = {"proba_de": sure, "proba_not_de": 1 - sure, "bayes_factor": fold_changes.bayes_factor(sure)}
        columns |= {**scales, "pseudocounts": offset, "delta": delta, **described(pairs, DESCRIBED * offset)}
    table = pd.DataFrame({**columns, **(raw or {})}, index=pd.Index(features))
    tested = options.filter.tested(raw, len(table))
    if options.filter.only_pos:
        tested &= _is_higher(table, options.mode)
    called = options.called(sure, tested)
    place = len(columns)
    if options.mode != "vanilla":
        table.insert(place, f"is_de_fdr_{options.fdr_target}", called)
        place += 1
    table.insert(place, "tested", tested)
    return table, called


def _permuted_calls(
    draws: PairedDraws, table: pd.DataFrame, options: _Options, random: np.random.Generator
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
    offset, delta = (float(table[name].iloc[0]) if name in table else 0.0 for name in ("pseudocounts", "delta"))
    sure = options.sure(pairs, offset, delta)
    return {"n_called_permuted": int(options.called(sure, table["tested"].to_numpy()).sum())}


def _pool(mask: np.ndarray, code: np.ndarray, wanted: int) -> np.ndarray:
    """Draws of a permuted group that were decoded as the batch `wanted`; of any, where there are none."""
    places = np.flatnonzero(mask & (code == wanted))
    return places if len(places) else np.flatnonzero(mask)
