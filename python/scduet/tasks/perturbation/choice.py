"""Which rule or model predicts: as asked for, or the one that held-out perturbations speak for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from scduet.errors import DataError, OptionError
from scduet.tasks.perturbation.baselines import FEWEST, FEWEST_TO_WEIGH, RULES
from scduet.tasks.perturbation.cases import Case, task_name
from scduet.tasks.perturbation.held_out import Evaluation, Study, enough_to_learn
from scduet.tasks.perturbation.interface import MODELS, can_flag

LEARNS = ("weighted", "linear")  # rules that take more contexts or perturbations than a mean


def check_model(study: Study, case: Case, model: Any) -> None:
    """Raise for a model that does not suit the task, or has too little to learn from."""
    if isinstance(model, str) and not can_flag(model, case.target, study.screen.genes):
        what = f"model={model!r} predicts perturbations of measured genes, and {case.name!r} is of none"
        raise DataError(what, "check the spelling, or use another model")
    rule = isinstance(model, str) and model not in MODELS and model != "auto"
    if rule and model not in RULES[case.task]:
        what = f"model={model!r} does not predict {case.name!r}, a task of kind {case.task!r}"
        raise OptionError(what, f"choose from {', '.join(name for name in RULES[case.task] if ',' not in name)}")
    learns = (not rule and model != "auto") or model in LEARNS
    needed = FEWEST_TO_WEIGH if model == "weighted" else FEWEST.get(case.task, 1)
    if learns and len(case.rows) < needed:
        kind = "contexts" if case.task == "context" else "perturbations"
        what = f"{len(case.rows)} {kind} to learn {case.name!r} from; {str(model)!r} needs {needed}"
        raise DataError(what, "use model='auto' or 'additive'")


def choose(study: Study, case: Case, model: Any, names: Sequence[str], evaluation: Evaluation) -> str:
    """The name of the rule or model for a case."""
    if model != "auto":
        return model if isinstance(model, str) else type(model).__name__
    task, learns = task_name(study.screen, study.pairs, case), enough_to_learn(case)
    if case.task == "gene":
        rule = _best_for_genes(evaluation.table) if learns else "mean"
    else:
        alike = len(case.rows) >= FEWEST_TO_WEIGH
        rule = {"context": "weighted" if alike else "additive", "combination": "additive", "dose": "interpolation"}[
            case.task
        ]
    return next((name for name in names if learns and _beats(evaluation.held_out, task, name, rule)), rule)


def _best_for_genes(table: pd.DataFrame) -> str:
    """ "linear" or "neighbors" where it beats the mean by size and by direction, and its own shuffle; else "mean"."""
    if "gene" not in table.index.get_level_values(0):
        return "mean"
    rows = table.loc["gene"]
    chance = max(rows["delta_vs_mean"].get("neighbors, shuffled", 0.0), 0.0)
    good = [
        name
        for name in ("linear", "neighbors")
        if name in rows.index
        and rows.loc[name, "relative_error"] < rows.loc["mean", "relative_error"]
        and rows.loc[name, "delta_vs_mean"] > chance
    ]
    return min(good, key=lambda name: rows.loc[name, "relative_error"], default="mean")


def _beats(held_out: pd.DataFrame, task: str, name: str, rule: str) -> bool:
    """Whether a model has the smaller error and the larger delta on the perturbations that it was asked for."""
    if held_out.empty:
        return False
    rows = held_out[(held_out["task"] == task) & held_out["measurable"]].set_index(["context", "target"])
    own = rows[rows["method"] == name]
    other = rows[rows["method"] == rule].reindex(own.index)
    better = (
        own["relative_error"].mean() < other["relative_error"].mean() and own["delta"].mean() > other["delta"].mean()
    )
    return bool(len(own)) and bool(better)
