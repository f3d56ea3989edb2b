"""What `predict_perturbation` and `score_perturbation` give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scduet.tasks.perturbation.table import CEILING

SHOWN = ["n", "relative_error", "delta", "delta_vs_mean", "discrimination", "size", "r2"]


@dataclass(frozen=True, repr=False)
class Scores:
    """How well held-out perturbations are predicted.

    table: means over held-out perturbations with a measurable effect; rows by (task, method), the last of each task is
        the ceiling, what a perfect prediction would get from a truth as noisy as this one.
    held_out: the same for each (context, target, method), with half_correlation, measurable and verdict.
    profiles: (context, target) -> DataFrame, gene x (observed change and that by each method), of the first split.
    notes: what was assumed or done to the data.
    """

    table: pd.DataFrame
    held_out: pd.DataFrame
    profiles: Mapping[tuple[str, str], pd.DataFrame]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "\n".join([*self.notes, shown(self.table)])


@dataclass(frozen=True, repr=False)
class PredictedPerturbation(Scores):
    """Predicted means, how they are supported, and the honest table.

    mean, change, control: DataFrames (prediction, gene) of log-normalized values, rows by (context, target): predicted
        mean expression, its difference from the control, and the mean of the control cells.
    support: by (context, target): task, model, parts_seen, n_rows (contexts or perturbations learned from), n_cells,
        n_control, nearest (context or perturbation), verdict.
    cells: None, or AnnData of a predicted cell for each control cell (obs: target, context, source), with the change in
        layers["change"].
    trained: the trained model, if there is one.
    """

    mean: pd.DataFrame = field(default_factory=pd.DataFrame)
    change: pd.DataFrame = field(default_factory=pd.DataFrame)
    control: pd.DataFrame = field(default_factory=pd.DataFrame)
    support: pd.DataFrame = field(default_factory=pd.DataFrame)
    cells: AnnData | None = None
    trained: Any = None

    def __repr__(self) -> str:
        asked = f"\n\n{self.support.to_string()}" if len(self.support) else ""
        return super().__repr__() + asked


def shown(table: pd.DataFrame) -> str:
    """The table as text, with "-" where a score is undefined."""
    if table.empty:
        return "no held-out perturbation with a measurable effect"
    text = table[SHOWN].map(lambda x: "-" if pd.isna(x) else f"{x:.3f}")
    text["n"] = table["n"].astype(int)
    return text.to_string()


def verdict_on(table: pd.DataFrame, task: str, model: str) -> str:
    """What held-out perturbations say of predicting by `model`."""
    if (task, model) not in table.index:
        return "not evaluated"
    errors = table.loc[task, "relative_error"].drop([CEILING], errors="ignore").astype(float)
    own, best = float(errors[model]), str(errors.idxmin())
    if own >= 1:
        return "no better than no change" if model != "no change" else "no change"
    return f"better than no change; {best} is closer" if best != model else "best on held-out perturbations"


def indexed(rows: list[tuple[str, str]], values: np.ndarray, genes: pd.Index) -> pd.DataFrame:
    """(prediction, gene) with rows by context and target."""
    index = pd.MultiIndex.from_tuples(rows, names=["context", "target"])
    return pd.DataFrame(values, index=index, columns=genes)
