"""Score anybody's predictions of perturbed cells, beside simple rules and the ceiling."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scduet.data.levels import text
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.events import Listener, counted
from scduet.options import check_arguments, listed, seed_of
from scduet.tasks.perturbation.baselines import Change
from scduet.tasks.perturbation.cases import Case
from scduet.tasks.perturbation.embedding import embedding_of
from scduet.tasks.perturbation.held_out import Study, evaluate
from scduet.tasks.perturbation.pseudobulk import Split, split_by, split_of
from scduet.tasks.perturbation.result import PredictedPerturbation, Scores
from scduet.tasks.perturbation.screen import FEWEST_CONTROLS, Screen, means, read_screen, warn_of_few
from scduet.tasks.perturbation.targets import Target, refuse_leaks

Predictions = pd.DataFrame | AnnData | PredictedPerturbation
Named = dict[str, dict[tuple[int, Target], Change]]  # method -> (context, target) -> values of the scored genes


def score_perturbation(
    predictions: Predictions | Mapping[str, Predictions],
    adata: AnnData,
    perturbation_key: str,
    *,
    kind: Literal["mean", "change"] = "mean",
    trained_on: Collection[str] | None = None,
    control: str | None = None,
    control_cells: Collection[str] | None = None,
    context_key: str | None = None,
    batch_key: str | None = None,
    gene_embedding: Any = None,
    controls: Literal["split", "shared"] = "split",
    n_splits: int = 5,
    seed: int = 0,
    layer: str | None = None,
    total_key: str | None = None,
    callback: Listener | None = None,
) -> Scores:
    """The table of `predict_perturbation` for predictions of any method: GEARS, CPA, State, or your own.

    predictions: DataFrame (target, gene) of log-normalized mean expression, with `context_key` rows by (context,
        target); AnnData of predicted cells, log-normalized like `adata`, with the columns `perturbation_key` and
        `context_key`; what `predict_perturbation` gave; or several of these by name. kind: "change" for differences
        from the control instead of means.
    adata, perturbation_key, control, context_key, batch_key, layer, total_key: the observed cells, as for
        `predict_perturbation`.
    trained_on: the perturbations that the predictor has seen: the rules learn from these alone, and a predicted
        perturbation among them, in whatever order or as a guide of the same gene, is refused. None: each is predicted
        by the rules from all others.
    control_cells: names of the control cells that the predictor has seen: the truth is then measured against the
        others. Without them it is measured against a half of which the predictor may have seen all.
    gene_embedding, controls, n_splits, seed: as for `predict_perturbation`.

    Raises DataError where predictions share no gene or perturbation with `adata`, or leaked into training.
    """
    check_arguments(n_splits=n_splits)
    for option, value, allowed in (("kind", kind, ("mean", "change")), ("controls", controls, ("split", "shared"))):
        if value not in allowed:
            raise OptionError(f"option {option!r} cannot be {value!r}", f"it is one of {', '.join(map(repr, allowed))}")
    screen = read_screen(adata, perturbation_key, control, context_key, batch_key, None, layer, total_key)
    named = predictions if isinstance(predictions, Mapping) else {"prediction": predictions}
    tables = {str(name): _table(x, perturbation_key, context_key, screen) for name, x in named.items()}
    screen, found, notes = _matched(screen, tables)
    warn_of_few(screen)
    parts = {part for target in screen.targets for part in target}
    study = Study.of(screen, embedding_of(gene_embedding, parts, adata))
    cases = _cases(study, found, trained_on)
    splits = _splits(study, control_cells, controls, n_splits, seed_of(seed))

    def given(case: Case, split: Split, train: bool) -> dict[str, Change]:
        base = 0 if kind == "change" else split.seen.matched[case.pair]
        key = (case.context, case.target)
        return {name: values[key] - base for name, values in found.items() if key in values}

    told = counted(callback, "scoring perturbations", "metric")
    result = evaluate(study, cases, splits=splits, seed=seed, further=given, told=told)
    return Scores(result.table, result.held_out, result.profiles, (*screen.notes, *notes))


def _table(given: Any, key: str, context_key: str | None, screen: Screen) -> pd.DataFrame:
    """Predictions as means by (context, target) as the user wrote them."""
    if isinstance(given, PredictedPerturbation):
        given = given.mean
    if isinstance(given, AnnData):
        columns = [name for name in (context_key, key) if name is not None]
        lacking = [name for name in columns if name not in given.obs]
        if lacking:
            raise DataError(f"the predicted cells have no column {lacking[0]!r} in obs", "name it as in adata")
        group = given.obs[columns].astype(str).agg("\x1f".join, axis=1)
        code, names = pd.factorize(group)
        index = pd.Index(names) if context_key is None else pd.MultiIndex.from_tuples([n.split("\x1f") for n in names])
        import scipy.sparse as sp

        given = pd.DataFrame(means(sp.csr_matrix(given.X), code, len(names)), index, given.var_names)
    if not isinstance(given, pd.DataFrame) or given.empty:
        raise DataError(
            f"predictions are a {type(given).__name__}", "give a DataFrame (target, gene), or predicted cells"
        )
    depth = 1 if context_key is None else 2
    if given.index.nlevels == 2 and depth == 1 and given.index.get_level_values(0).nunique() == 1:
        given = given.droplevel(0)
    if given.index.nlevels != depth:
        wanted = "the target" if depth == 1 else "context and target (a MultiIndex)"
        raise DataError(f"rows of the predictions have {given.index.nlevels} names", f"they are named by {wanted}")
    if not np.isfinite(given.to_numpy(float)).all():
        raise DataError("the predictions hold NaN or infinite values", "leave out these targets or genes")
    return given


def _matched(screen: Screen, tables: Mapping[str, pd.DataFrame]) -> tuple[Screen, Named, list[str]]:
    """The screen with the genes of all predictions, and these by context and target."""
    genes = screen.genes
    for table in tables.values():
        genes = genes.intersection(table.columns.astype(str), sort=False)
    if len(genes) < 2:
        other = some(next(iter(tables.values())).columns)
        raise DataError(f"predictions and cells share {len(genes)} genes", f"predicted are {other}")
    notes = [] if len(genes) == len(screen.genes) else [f"scored on {len(genes)} of {len(screen.genes)} genes"]
    columns = screen.genes.get_indexer(genes)
    screen = replace(screen, values=screen.values[:, columns], given=None, genes=genes)
    observed = {(c, t) for c, t in zip(screen.context.tolist(), (screen.targets[i] for i in screen.target))}  # noqa: B905
    found: Named = {}
    for name, table in tables.items():
        values = table.set_axis(table.columns.astype(str), axis=1)[list(genes)].to_numpy(float)
        keys = [_key(row, screen) for row in table.index]
        absent = [row for row, key in zip(table.index, keys, strict=True) if key not in observed]
        if len(absent) == len(keys):
            raise DataError(f"none of the predicted {some(absent)} is observed in adata", "nothing to compare with")
        if absent:
            told = f"{name}: {some(absent)} are not observed in adata, and not scored"
            warnings.warn(told, ScduetWarning, stacklevel=4)
        twice = pd.Index([str(key) for key in keys])
        if not twice.is_unique:
            rows = [row for row, again in zip(table.index, twice.duplicated(), strict=True) if again]
            raise DataError(
                f"predictions of one perturbation repeat: {some(rows)}", "the order of targets means nothing"
            )
        found[name] = {key: row for key, row in zip(keys, values, strict=True) if key in observed}
    return screen, found, notes


def _key(row: Any, screen: Screen) -> tuple[int, Target]:
    context, name = row if isinstance(row, tuple) else (screen.contexts[0], row)
    known = screen.contexts.index(text(context)) if text(context) in screen.contexts else -1
    return known, screen.grammar.target(str(name))


def _cases(study: Study, found: Named, trained_on: Collection[str] | None) -> list[Case]:
    """Observed pairs with a prediction. Raises DataError for those that leaked into training."""
    screen, pairs, usable = study.screen, study.pairs, study.usable()
    wanted = dict.fromkeys(key for values in found.values() for key in values)
    few = [screen.contexts[context] for context, _ in wanted if not usable[context]]
    if few:
        raise DataError(f"fewer than {FEWEST_CONTROLS} control cells in {some(dict.fromkeys(few))}", "leave it out")
    cases = [study.case(context, target) for context, target in wanted if target]
    if trained_on is None:
        return [case for case in cases if len(case.rows)]
    trained = refuse_leaks([case.name for case in cases], listed("trained_on", trained_on), screen.grammar)
    here = np.array([screen.targets[i] in trained for i in pairs.target])
    kept = [replace(case, rows=case.rows[here[case.rows]]) for case in cases]
    if not any(len(case.rows) for case in kept):
        raise DataError(f"none of trained_on is in adata: {some(trained_on)}", "name perturbations of adata")
    return [case for case in kept if len(case.rows)]


def _splits(
    study: Study, control_cells: Collection[str] | None, controls: str, n_splits: int, seed: int
) -> Sequence[Split]:
    if control_cells is None:
        return [split_of(study.screen, study.pairs, seed + i, controls == "shared") for i in range(n_splits)]
    screen = study.screen
    seen = screen.cells.isin(listed("control_cells", control_cells)) & screen.is_control
    if seen.sum() < 1 or (screen.is_control & ~seen).sum() < 1:
        what = f"control_cells= names {seen.sum()} of {screen.is_control.sum()} control cells"
        raise DataError(what, "name those that the predictor has seen, and leave some to measure the truth against")
    half = np.random.default_rng(seed).random(len(seen)) < 0.5
    return [split_by(screen, study.pairs, np.where(screen.is_control, ~seen, half))]
