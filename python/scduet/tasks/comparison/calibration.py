"""How many genes a comparison calls when the labels of the cells are permuted, and what that does and does not show."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scduet.errors import OptionError, some

LIMITS = (
    "Permuted labels show the noise of sampling cells. They do not show errors of the model, or differences between "
    "donors or batches that coincide with the groups; replicates do (pseudobulk)."
)


def calibration(result: pd.DataFrame) -> pd.DataFrame:
    """Calls with permuted labels beside those of `differential_expression`: a row a comparison.

    n_genes, n_tested: genes of the model, and those that pass the filter (min_pct, lfc_threshold, only_pos).
    n_called: genes called. n_called_permuted: genes called when the labels of the cells are permuted.
    fdr_permuted: their quotient, at most 1. within_target: is that at most fdr_target?

    Permuting makes the groups exchangeable, so every call that is left comes from which cells were drawn. fdr_permuted
    is the false-discovery rate only if that is the one source of false calls. It does not see: errors of the model,
    which are the same for all cells; differences between donors when the groups hold different donors (cells of one
    donor are no replicates); batches or conditions that coincide with the groups; genes without counts, whose decoded
    expression is alike in both permuted groups (min_pct removes them).

    Raises OptionError for a result that was made with calibrate=False.
    """
    table = pd.DataFrame(result.attrs["calibration"]).set_index("comparison")
    if "n_called_permuted" not in table:
        raise OptionError("the result was made without permuted labels", "pass calibrate=True")
    share = (table["n_called_permuted"] / table["n_called"].clip(lower=1)).clip(upper=1)
    return table.assign(fdr_permuted=share, within_target=share <= table["fdr_target"])


def summary(table: pd.DataFrame, features: str = "genes") -> str:
    """The calibration in words."""
    called, permuted, tested, genes = (
        int(table[name].sum()) for name in ("n_called", "n_called_permuted", "n_tested", "n_genes")
    )
    comparisons = f" in {len(table)} comparisons" if len(table) > 1 else ""
    above = table.index[~table["within_target"]]
    bad = f"; above the target in {some(above)}" if len(above) else ""
    share, target = table["fdr_permuted"].mean(), table["fdr_target"].iloc[0]
    return (
        f"{called:,} of {tested:,} tested {features} called{comparisons}{_left_out(genes - tested, table.iloc[0])}. "
        f"With permuted labels: {permuted:,}, {share:.1%} of the calls (target {target:.0%}{bad}). {LIMITS}"
    )


def _left_out(n: int, filters: pd.Series) -> str:
    if not n:
        return ""
    why = {
        f"counts in under {filters['min_pct']:.0%} of the cells of both groups": filters["min_pct"] > 0,
        f"|raw_lfc| below {filters['lfc_threshold']:g}": filters["lfc_threshold"] > 0,
        "not higher in the first group": filters["only_pos"],
    }
    return f" ({n:,} not tested: {' or '.join(text for text, applies in why.items() if np.bool_(applies))})"
