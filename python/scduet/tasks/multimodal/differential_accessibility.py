"""Which peaks are open in one group of cells and not in another, by the model's posterior."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from typing import Literal

import numpy as np
import pandas as pd

from scduet.api import Model
from scduet.errors import OptionError
from scduet.tasks.comparison.calibration import calibration, summary
from scduet.tasks.comparison.differential_expression import N_DRAWS, TOGETHER, differential_expression
from scduet.tasks.multimodal.accessibility import accessibility_of

Effect = Literal["difference", "log2fc"]
DELTAS = {"difference": 0.05, "log2fc": 0.25}  # Ashuach et al. 2022; as in `differential_expression`
EFFECTS = {"probability": "difference", "share": "log2fc"}  # unit of what the model decodes: effect to ask for


def differential_accessibility(
    model: Model,
    adata,
    groupby: str | None = None,
    group1=None,
    group2=None,
    *,
    idx1=None,
    idx2=None,
    effect: Effect | None = None,
    delta: float | None = None,
    fdr_target: float = 0.05,
    min_pct: float = 0.01,
    batch_correction: bool = False,
    batchid1=None,
    batchid2=None,
    n_draws: int = N_DRAWS,
    calibrate: bool = True,
    verbose: bool = True,
    batch_size: int = TOGETHER,
    seed: int | None = 0,
) -> pd.DataFrame:
    """Compare the accessibility of peaks in groups of cells (Ashuach et al. 2022, Martens et al. 2024).

    groupby, group1, group2, idx1, idx2, batch_correction, batchid1, batchid2: as in `differential_expression`.
    effect: "difference": a peak differs if the probabilities that it is open differ by `delta` or more, as published.
        "log2fc": if their log2 fold change does, as in scvi-tools since 1.3. None for "difference" where the model
        gives probabilities (PeakVI), for "log2fc" where it gives shares (PoissonVI). The two call different peaks: the
        fold changes of peaks that are hardly ever open are large. The result says which it was.
    delta: None for 0.05 of a difference, 0.25 of a log2 fold change (scvi-tools takes 0.05 for both).
    fdr_target: expected share of false calls among `is_da_fdr_<target>`.
    min_pct: a peak is tested if it is open in at least this share (0 to 1) of the cells of one of the groups.
    calibrate: also count the calls between groups of permuted labels, see `calibration`; verbose: print that.

    Up and down are counted apart, and the likelier one is taken. So cells of several types in both groups, which differ
    in pairs but not as groups, give no calls.

    Returns one row a comparison and peak: prob_da, bayes_factor, effect_size (group1 less group2, in the unit of
    `effect`; scvi-tools subtracts the other way round), est_prob1/2 (mean accessibility by the model), delta,
    is_da_fdr_<target>, tested, emp_prob1/2 (share of cells in which the peak is open), emp_effect (their difference),
    effect, comparison, group1, group2; for "log2fc" also lfc_mean, lfc_median, lfc_std, lfc_min, lfc_max. Tested peaks
    come first, the surest on top. attrs["effect"] and attrs["calibration"] say how it was made.

    Raises OptionError for a model without accessibility, DataError for groups that do not exist or are empty.
    """
    unit = accessibility_of(model).accessibility_unit
    effect = effect or EFFECTS[unit]  # type: ignore[assignment]
    if effect not in DELTAS:
        raise OptionError(f"effect={effect!r}", "difference or log2fc")
    if effect == "difference" and unit != "probability":
        raise OptionError(f"effect='difference' is of probabilities, and {model.name!r} gives shares", "use 'log2fc'")
    delta = DELTAS[effect] if delta is None else delta
    options = {"idx1": idx1, "idx2": idx2, "delta": delta, "fdr_target": fdr_target, "min_pct": min_pct}
    options |= {"batch_correction": batch_correction, "batchid1": batchid1, "batchid2": batchid2, "n_draws": n_draws}
    options |= {"calibrate": calibrate, "batch_size": batch_size, "seed": seed, "modality": "peaks", "verbose": False}
    mode = "difference" if effect == "difference" else "change"
    table = _renamed(differential_expression(model, adata, groupby, group1, group2, mode=mode, **options), effect)
    if calibrate and verbose:
        unit_of_delta = "of the probabilities" if effect == "difference" else "(log2 fold change)"
        print(f"Effect: {effect}, at least {delta:g} {unit_of_delta}. {summary(calibration(table), 'peaks')}")
    return table


def _renamed(table: pd.DataFrame, effect: str) -> pd.DataFrame:
    """Under the names of the field, those of scvi-tools."""
    calls = next(name for name in table if str(name).startswith("is_de_fdr_"))
    names = {"proba_de": "prob_da", "scale1": "est_prob1", "scale2": "est_prob2", calls: calls.replace("_de_", "_da_")}
    names |= {f"non_zeros_proportion{group}": f"emp_prob{group}" for group in (1, 2)}
    dropped = [name for name in table if str(name).startswith(("raw_", "proba_not", "pseudocounts"))]
    renamed = table.drop(columns=dropped).rename(columns=names)
    sizes = {"difference": renamed["est_prob1"] - renamed["est_prob2"], "log2fc": renamed.get("lfc_median")}
    renamed.insert(2, "effect_size", sizes[effect])
    if "emp_prob1" in renamed:
        place = int(np.flatnonzero(renamed.columns == "emp_prob2")[0]) + 1
        renamed.insert(place, "emp_effect", renamed["emp_prob1"] - renamed["emp_prob2"])
    renamed.insert(len(renamed.columns) - 3, "effect", effect)
    renamed.attrs = {**table.attrs, "effect": effect}
    return renamed
