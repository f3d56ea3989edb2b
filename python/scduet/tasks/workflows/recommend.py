"""Which method for these data, and when no deep model is needed, by the table of `recommend_rules`."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from scduet.data import checks
from scduet.data.checks import LOOKED_AT, look_like_counts
from scduet.data.found import names_in
from scduet.data.levels import coded
from scduet.data.locate import locate_main
from scduet.data.main_matrix import matrix_of
from scduet.data.on_disk import CellsOnDisk
from scduet.data.schema import on_disk
from scduet.errors import DataError, OptionError
from scduet.tasks.quality.shown import Recommendations
from scduet.tasks.velocity.judgement import least_permutation
from scduet.tasks.workflows.recommend_rules import ALIASES, RULES, TASKS, Rule

COLUMNS = {  # what a column of obs is taken for when no key is given, the first that is there
    "batch_key": ("batch", "donor", "donor_id", "sample", "sample_id", "patient", "library", "run", "tech", "study"),
    "labels_key": ("cell_type", "celltype", "cell_types", "labels", "cell_ontology_class", "annotation"),
}


COMPARE = {"<": operator.lt, "<=": operator.le, ">=": operator.ge, "==": operator.eq}


def recommend(
    adata,
    task: str | None = None,
    *,
    batch_key: str | None = None,
    labels_key: str | None = None,
    unlabeled_category: str = "Unknown",
    layer: str | None = None,
) -> pd.DataFrame:
    """Which method to use on `adata`, from published comparisons, and whether a deep model is worth it.

    adata: an AnnData, or the path of an .h5ad or .zarr. Values of the first 1,000 cells are looked at.
    task: one of `TASKS`, or None for all.
    batch_key, labels_key: columns of obs; None: a column with one of the names in `COLUMNS`, if there is one.

    Returns a table with one row a task: task, method, deep_model (whether one is needed), reason, source (who found
    so), data (what of these data led to it). Raises OptionError for an unknown task, DataError for a missing column.
    """
    tasks = _tasks(task)
    found, told = traits(on_disk(adata), batch_key, labels_key, unlabeled_category, layer)
    rows = [_row(next(r for r in RULES if r.task == name and _fits(r, found)), found, told) for name in tasks]
    return Recommendations(rows, columns=["task", "method", "deep_model", "reason", "source", "data"])


def traits(
    adata, batch_key: str | None, labels_key: str | None, unlabeled_category: str, layer: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """What of the data the rules ask for, and how each is told."""
    batch, labels = _column(adata, "batch_key", batch_key), _column(adata, "labels_key", labels_key)
    n_batches = max(1, len(coded(adata.obs[batch], batch).names)) if batch else 1
    known = coded(adata.obs[labels], labels).names if labels else ()
    n_labels = sum(name != unlabeled_category for name in known)
    counts = _are_counts(adata, layer)
    told = {
        "n_cells": f"{adata.n_obs} cells",
        "n_batches": f"{n_batches} batches in obs[{batch!r}]" if batch else "no batch_key, so one batch",
        "n_labels": f"{n_labels} cell types in obs[{labels!r}]" if labels else "no cell types in obs",
        "counts": f"{'X' if layer is None else layer} holds {'raw counts' if counts else 'no raw counts'}",
    }
    found = {"n_cells": adata.n_obs, "n_batches": n_batches, "n_labels": n_labels, "counts": counts}
    found["unspliced"], found["beyond_noise"], velocity = _of_velocity(adata)
    return found, told | velocity


def _of_velocity(adata) -> tuple[float, float, dict[str, str]]:
    """Share of unspliced molecules of the first cells, and how far a velocity's score is above that of noise."""
    layers = adata.keys("layers") if isinstance(adata, CellsOnDisk) else names_in(adata.layers)
    share, told = 0.0, "no layer 'unspliced'"
    if "unspliced" in layers:
        spliced, unspliced = _first(adata, "spliced" if "spliced" in layers else None), _first(adata, "unspliced")
        total = 0.0 if spliced is None else float(spliced.sum())
        share = float(unspliced.sum()) / max(total + float(unspliced.sum()), 1.0)
        told = f"{share:.1%} of the molecules are unspliced"
    known = dict(getattr(adata, "uns", {})).get("scduet_velocity", {})
    score = float(known.get("scores", {}).get("permutation", np.inf))
    fitted = f"permutation score {score:.1f}" if np.isfinite(score) else "no velocity yet"
    beyond = score - least_permutation(known.get("model"))
    return share, beyond, {"unspliced": told, "beyond_noise": fitted}


def _tasks(task: str | None) -> tuple[str, ...]:
    if task is None:
        return TASKS
    name = str(task).lower()
    if name in TASKS or name in ALIASES:
        return (name,) if name in TASKS else ALIASES[name]
    near = get_close_matches(name, [*TASKS, *ALIASES], n=1)
    raise OptionError(f"unknown task {task!r}", f"did you mean {near[0]!r}?" if near else f"choose from {list(TASKS)}")


def _fits(rule: Rule, found: Mapping[str, Any]) -> bool:
    return all(COMPARE[how](found[trait], value) for trait, how, value in rule.when)


def _row(rule: Rule, found: Mapping[str, Any], told: Mapping[str, str]) -> tuple:
    asked = [trait for other in RULES if other.task == rule.task for trait, _, _ in other.when]
    because = "; ".join(told[trait] for trait in dict.fromkeys(asked)) or "holds for all data"
    return rule.task, rule.method, rule.deep, rule.reason, rule.source, because


def _column(adata, option: str, given: str | None) -> str | None:
    if given is not None:
        checks.check_key(option, given)
    if given is not None and given not in adata.obs:
        raise DataError(f"no column {given!r} in adata.obs", f"pass {option}= with one of {sorted(adata.obs.columns)}")
    return given or next((name for name in COLUMNS[option] if name in adata.obs), None)


def _are_counts(adata, layer: str | None) -> bool:
    """Whether the first cells hold whole numbers, none below zero."""
    values = _first(adata, layer)
    return values is not None and look_like_counts(values)


def _first(adata, layer: str | None) -> Any:
    """Values of the first cells, on disk those that are stored; None without a matrix."""
    if isinstance(adata, CellsOnDisk):
        return locate_main(adata, layer).values.rows(np.arange(min(LOOKED_AT, adata.n_obs))).data
    values = matrix_of(adata, layer)
    return None if values is None else values[:LOOKED_AT]
