"""Predict what perturbed cells would express, beside simple rules and what can be known at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData, concat
from jaxtyping import Float

from scduet.errors import DataError, OptionError, some
from scduet.events import Listener, counted
from scduet.options import check_arguments, listed, refuse_unknown, seed_of
from scduet.tasks.perturbation import trained as networks
from scduet.tasks.perturbation.asked import cases_asked, what_is_asked, with_controls
from scduet.tasks.perturbation.baselines import RULES, Change
from scduet.tasks.perturbation.cases import Case, check_case, parts_seen, source_of, task_name
from scduet.tasks.perturbation.choice import check_model, choose
from scduet.tasks.perturbation.embedding import embedding_of
from scduet.tasks.perturbation.held_out import Evaluation, Study, cases_to_hold_out
from scduet.tasks.perturbation.held_out import evaluate as scored
from scduet.tasks.perturbation.interface import MODELS, OF_GENES, with_company
from scduet.tasks.perturbation.pseudobulk import Controls, controls_of
from scduet.tasks.perturbation.result import PredictedPerturbation, indexed, verdict_on
from scduet.tasks.perturbation.screen import read_screen, warn_of_few
from scduet.tasks.perturbation.targets import joined

OF_RULES: Mapping[str, tuple[str, ...]] = {"linear": ("n_components", "ridge"), "neighbors": ("temperature",)}


def predict_perturbation(
    adata: AnnData,
    perturbation_key: str,
    targets: str | Sequence[str] | None = None,
    *,
    control: str | None = None,
    context_key: str | None = None,
    contexts: str | Sequence[str] | None = None,
    batch_key: str | None = None,
    dose_key: str | None = None,
    model: Any = "auto",
    compare: Sequence[str] = (),
    gene_embedding: Any = None,
    cells: Literal["mean", "cells"] = "mean",
    clip: bool = True,
    evaluate: Literal["held-out"] | None = "held-out",
    controls: Literal["split", "shared"] = "split",
    n_splits: int = 5,
    seed: int = 0,
    layer: str | None = None,
    total_key: str | None = None,
    drop_escaped: str | None = None,
    callback: Listener | None = None,
    **options: Any,
) -> PredictedPerturbation:
    """Predict the mean expression of perturbed cells, and say how far such predictions can be trusted.

    Three tasks, told apart by what was observed: a perturbation in a context (cell type, donor) that did not see it, a
    combination of perturbations, and the perturbation of a gene that no other was of. Perturbations that are observed
    are predicted as if they were not.

    adata: log-normalized values, or counts, which are normalized.
    perturbation_key: column of obs with "A", "A+B", "A+ctrl", "A|B", or "A_B" where A and B are genes or other levels;
        the order does not matter. control: its level of control cells; None: ctrl, control, NT, non-targeting, vehicle
        or DMSO. dose_key: column with numbers; targets are then "drug@0.5", and doses are interpolated.
    targets: perturbations to predict; None for those seen in other contexts, or only the table without `context_key`.
    context_key, contexts: column of obs, and those of its levels to predict for; None: those that did not see the
        target, or all of them.
    batch_key: controls are matched within these batches.
    model: "auto"; a rule, "no change", "mean", "additive", "weighted" (by likeness of the contexts' control cells),
        "matching mean", "linear", "neighbors", "interpolation" (of doses); a model of `interface.MODELS`; or an object
        with `predict_perturbed`. "auto" is "weighted" for contexts ("additive" with fewer than three), "additive" for
        combinations, and for unseen genes "linear" or "neighbors" if they beat the mean on held-out genes by size and
        by direction, else "mean". compare: models that enter the table too, and win if they beat the rule.
    gene_embedding: what is known of genes, for "linear" and "neighbors": DataFrame (gene, dimension), gene sets or the
        path of a GMT, or a model with vectors of genes. Without it "linear" uses the expression of the targeted gene.
    cells: "cells" also predicts a cell for each control cell. clip: at 0, the means and cells but not the scores.
    evaluate: "held-out" predicts observed perturbations from the others; a model that is trained for it, the three
        largest. None for no table. controls: "split" measures the truth against one half of the control cells and
        predicts from the other, over `n_splits` splits; "shared" inflates correlations, as in most papers.
    total_key: column of obs with the total count of each cell, where the genes are a selection.
    drop_escaped: column of obs with the classes of Mixscape; "NP" cells are left out of training, not of the truth.
    options: n_components, ridge (linear), temperature (neighbors), or those of the model: "scgpt" needs transformer=, a
        scGPT or its folder, and brings a row of the same network with random weights.

    Sources: Ahlmann-Eltze, Huber and Anders 2025, Nature Methods 22:1657 (linear); Vinas Torne et al. 2025 (matching
    mean); Lotfollahi, Wolf and Theis 2019, Nature Methods 16:715 (differences averaged over types).

    Raises DataError for an absent control, a context with fewer than 20 control cells, or a perturbation of which
    nothing is known; OptionError for models that do not fit the task. Warns of perturbations with fewer than 10 cells.
    """
    check_arguments(n_splits=n_splits)
    _check(model, compare, cells, evaluate, controls)
    how, rest = _options(model, compare, options)
    screen = read_screen(
        adata, perturbation_key, control, context_key, batch_key, dose_key, layer, total_key, drop_escaped
    )
    asked_targets, asked_contexts = what_is_asked(screen, targets, contexts, context_key, dose_key)
    screen = with_controls(screen, asked_contexts, context_key)
    warn_of_few(screen)
    parts = {part for target in [*screen.targets, *asked_targets] for part in target}
    study = Study.of(screen, embedding_of(gene_embedding, parts, adata), how)
    cases = cases_asked(study, targets is not None, asked_targets, asked_contexts)
    for case in cases:
        check_case(screen, study.pairs, case, study.embedding)
        check_model(study, case, model)
    names = with_company([model, *compare])
    if any(name in OF_GENES for name in names):
        rest["transformer"] = networks.scgpt_of(rest.get("transformer"))
    evaluation = _evaluated(study, cases, names, rest, evaluate, model, controls, n_splits, seed, callback)
    chosen = [choose(study, case, model, names, evaluation) for case in cases]
    every = controls_of(screen, study.pairs)
    fitted = _fitted(study, cases, chosen, model, rest, seed, callback)
    found = [_predicted(study, case, name, every, fitted) for case, name in zip(cases, chosen, strict=True)]
    result = _result(study, cases, chosen, found, every, evaluation, clip)
    notes = [*screen.notes, *_notes(study, cases, chosen, model, evaluate)]
    predicted = _cells(study, cases, found, clip) if cells == "cells" and cases else None
    return replace(result, notes=tuple(notes), cells=predicted, trained=fitted)


def _check(model: Any, compare: Any, cells: Any, evaluate: Any, controls: Any) -> None:
    known = ["auto", *dict.fromkeys(name for rules in RULES.values() for name in rules if "," not in name), *MODELS]
    if isinstance(model, str) and model not in known:
        raise OptionError(f"unknown model {model!r}", f"choose from {', '.join(known)}")
    if not isinstance(model, str):
        networks.check_model(model)
    for name in listed("compare", compare):
        if name not in MODELS:
            raise OptionError(f"compare: {name!r} is not trained", f"name some of {', '.join(MODELS) or 'none yet'}")
    for option, value, allowed in (
        ("cells", cells, ("mean", "cells")),
        ("evaluate", evaluate, ("held-out", None)),
        ("controls", controls, ("split", "shared")),
    ):
        if value not in allowed:
            raise OptionError(f"option {option!r} cannot be {value!r}", f"it is one of {', '.join(map(repr, allowed))}")


def _options(model: Any, compare: Sequence[str], options: Mapping[str, Any]):
    """Options of the rules by rule, and those of the models."""
    how = {rule: {name: options[name] for name in own if name in options} for rule, own in OF_RULES.items()}
    of_rules = {name for own in OF_RULES.values() for name in own}
    rest = {name: value for name, value in options.items() if name not in of_rules}
    if not (isinstance(model, str) and model in MODELS) and not compare:
        refuse_unknown(rest, of_rules, f"model {model!r}")
    for name in of_rules & set(options):
        if isinstance(options[name], bool) or not isinstance(options[name], (int, float)) or options[name] <= 0:
            raise OptionError(f"option {name!r} cannot be {options[name]!r}", "it is above 0")
    return how, rest


def _evaluated(study, cases, names, rest, evaluate, model, controls, n_splits, seed, callback) -> Evaluation:
    of_genes = [case for case in cases if case.task == "gene"]
    wanted = cases if evaluate else (of_genes if model == "auto" else [])
    held = cases_to_hold_out(study, wanted) if evaluate or wanted else []
    further = networks.by_models(study, names, rest, seed, callback) if names and evaluate else None
    return scored(
        study, held, n_splits=n_splits, seed=seed_of(seed), controls=controls, further=further,
        told=counted(callback, "predicting held-out perturbations", "metric"),
    )  # fmt: skip


def _fitted(study: Study, cases, chosen, model, rest, seed, callback) -> Any:
    """The trained model that predicts some of the cases, or None."""
    if not isinstance(model, str):
        return model
    name = next((name for name in chosen if name in MODELS), None)
    if name is None:
        return None
    return networks.train(study, name, cases, None, {"seed": seed_of(seed), "callback": callback, **rest})


def _predicted(study: Study, case: Case, name: str, every: Controls, fitted: Any) -> Change | np.ndarray:
    """The change of the mean by a rule (gene,), or of each control cell by a model (cell, gene)."""
    base, source = every.of_context[case.context], source_of(study.pairs, every)
    rules = study.predicted(case, base, source) if name in RULES[case.task] else {}
    if name in rules:
        return rules[name]
    if fitted is None:
        remedy = "check gene_embedding=, or use another model"
        raise DataError(f"model={name!r} knows too little of {case.name!r} to predict it", remedy)
    here = study.screen.is_control & (study.screen.context == case.context)
    return networks.shifts(fitted, study, case, here)


def _result(study, cases, chosen, found, every: Controls, evaluation: Evaluation, clip: bool) -> PredictedPerturbation:
    screen, pairs = study.screen, study.pairs
    rows = [(screen.contexts[case.context], case.name) for case in cases]
    if not rows:
        return PredictedPerturbation(evaluation.table, evaluation.held_out, evaluation.profiles)
    base = every.of_context[[case.context for case in cases]]
    change = np.array([x if x.ndim == 1 else x.mean(0) for x in found])
    mean = np.maximum(base + change, 0) if clip else base + change
    support = pd.DataFrame(
        {
            "task": [task_name(screen, pairs, case) for case in cases],
            "model": chosen,
            "parts_seen": [parts_seen(screen, pairs, case) if case.task == "combination" else np.nan for case in cases],
            "n_rows": [len(case.rows) for case in cases],
            "n_cells": [int(pairs.n[case.rows].sum()) for case in cases],
            "n_control": [int(every.n[case.context]) for case in cases],
            "nearest": [_nearest(study, case, every) for case in cases],
            "verdict": [_verdict(study, case, name, evaluation) for case, name in zip(cases, chosen, strict=True)],
        },
        index=pd.MultiIndex.from_tuples(rows, names=["context", "target"]),
    )
    frames = {name: indexed(rows, x, screen.genes) for name, x in (("mean", mean), ("control", base))}
    frames["change"] = frames["mean"] - frames["control"]
    return PredictedPerturbation(evaluation.table, evaluation.held_out, evaluation.profiles, support=support, **frames)


def _nearest(study: Study, case: Case, every: Controls) -> str:
    """The context whose control cells are most alike, or the perturbation whose genes are."""
    rows = study.pairs.context[case.rows] if case.task == "context" else study.pairs.target[case.rows]
    if case.task == "context":
        far = np.square(every.of_context[rows] - every.of_context[case.context]).sum(1)
        return study.screen.contexts[rows[np.argmin(far)]]
    known = study.embedding
    if known is None or not known.knows(case.target):
        return ""
    targets = [study.screen.targets[i] for i in rows]
    alike = known.alike(case.target, targets)
    return "" if np.isnan(alike).all() else joined(targets[int(np.nanargmax(alike))])


def _verdict(study: Study, case: Case, name: str, evaluation: Evaluation) -> str:
    held = evaluation.held_out
    if case.pair is not None and len(held):
        context = study.screen.contexts[case.context]
        own = held[(held["context"] == context) & (held["target"] == case.name) & (held["method"] == name)]
        if len(own):
            return str(own["verdict"].iloc[0])
    return verdict_on(evaluation.table, task_name(study.screen, study.pairs, case), name)


def _notes(study: Study, cases: Sequence[Case], chosen: Sequence[str], model: Any, evaluate: Any) -> list[str]:
    found = []
    by_mean = (case for case, name in zip(cases, chosen, strict=True) if case.task == "gene" and name == "mean")
    means = dict.fromkeys(case.name for case in by_mean)
    if means and model == "auto":
        found.append(f"{some(means)}: nothing beats the mean of the other perturbations, which is given")
    seen = dict.fromkeys(case.name for case in cases if case.pair is not None)
    if seen:
        found.append(f"{some(seen)}: observed, but predicted without these cells")
    if not isinstance(model, str) and evaluate:
        found.append("a model that is trained already is not in the table: nobody knows what it has seen")
    return found


def _cells(study: Study, cases: Sequence[Case], found: Sequence[np.ndarray], clip: bool) -> AnnData:
    """A predicted cell for each control cell of the context of each case."""
    parts = []
    for case, change in zip(cases, found, strict=True):
        rows = np.flatnonzero(study.screen.is_control & (study.screen.context == case.context))
        start = study.screen.values[rows].toarray()
        values: Float[np.ndarray, "cell gene"] = (start + change).astype(np.float32)
        values = np.maximum(values, 0) if clip else values
        source = study.screen.cells[rows].astype(str)
        context = study.screen.contexts[case.context]
        obs = pd.DataFrame(
            {"target": case.name, "context": context, "source": source},
            index=pd.Index([f"{name}|{case.name}" for name in source]),
        )
        layers = {"change": values - start}
        parts.append(AnnData(sp.csr_matrix(values), obs, pd.DataFrame(index=study.screen.genes), layers=layers))
    return concat(parts, merge="same") if len(parts) > 1 else parts[0]
