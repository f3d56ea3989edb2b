"""Hold perturbations out, predict them by every rule and model, and score what comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from scduet.tasks.perturbation.baselines import FEWEST, Change
from scduet.tasks.perturbation.cases import Case, by_rules, case_of, evidence, task_name
from scduet.tasks.perturbation.embedding import GeneEmbedding
from scduet.tasks.perturbation.pseudobulk import Controls, Pairs, Split, pairs_of, split_of
from scduet.tasks.perturbation.screen import FEW_CELLS, FEWEST_CONTROLS, Screen
from scduet.tasks.perturbation.table import (
    CEILING,
    MEASURABLE,
    averaged,
    ceiling_of,
    scores_of,
    spread_of,
    summarized,
    truth_of,
    verdict_of,
)

MOST_TRAINED = 3  # held-out cases for which a model is trained anew

Further = Callable[[Case, Split], Mapping[str, Change]]  # predictions of trained models, by name


@dataclass(frozen=True)
class Study:
    """A screen with its means, what is known of its genes, and options of the rules."""

    screen: Screen
    pairs: Pairs
    embedding: GeneEmbedding | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, screen: Screen, embedding: GeneEmbedding | None = None, options: Mapping[str, Any] | None = None):
        return cls(screen, pairs_of(screen), embedding, options or {})

    def case(self, context: int, target) -> Case:
        return case_of(self.screen, self.pairs, context, target)

    def predicted(self, case: Case, controls: Controls) -> dict[str, Change]:
        return by_rules(evidence(self.screen, self.pairs, case, controls, self.embedding), case.task, self.options)

    def usable(self) -> np.ndarray:
        """Whether a context has controls enough."""
        n = np.bincount(self.screen.context[self.screen.is_control], minlength=len(self.screen.contexts))
        return n >= FEWEST_CONTROLS


@dataclass(frozen=True)
class Evaluation:
    """Scores of held-out predictions, and the changes themselves."""

    table: pd.DataFrame
    held_out: pd.DataFrame
    profiles: Mapping[tuple[str, str], pd.DataFrame]  # (context, target) -> gene x ("observed" and methods), one split


def cases_to_hold_out(study: Study, asked: Sequence[Case]) -> list[Case]:
    """Observed pairs that are predicted as those asked for will be; all of them where nothing is asked for.

    Of the task "context" those of the same perturbations, of the others those of the same contexts.
    """
    pairs, usable = study.pairs, study.usable()
    tasks = {case.task for case in asked}
    targets = {case.target for case in asked if case.task == "context"}
    contexts = {case.context for case in asked if case.task != "context"}
    found = []
    for pair in np.flatnonzero((pairs.n >= FEW_CELLS) & usable[pairs.context]):
        context, target = int(pairs.context[pair]), study.screen.targets[pairs.target[pair]]
        case = study.case(context, target)
        wanted = case.target in targets if case.task == "context" else case.context in contexts
        enough = len(case.rows) >= (2 if case.task == "context" else 1)
        if enough and (not asked or (case.task in tasks and wanted)):
            found.append(case)
    return found


def evaluate(
    study: Study,
    cases: Sequence[Case],
    *,
    n_splits: int = 5,
    seed: int = 0,
    controls: str = "split",
    further: Further | None = None,
    told: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Predict each case from the others, `n_splits` times with other halves of the controls, and score.

    further: predictions of trained models, asked for in the first split and for the largest cases only.
    """
    if not cases:
        return Evaluation(summarized(pd.DataFrame()), pd.DataFrame(), {})
    screen, pairs = study.screen, study.pairs
    splits = [split_of(screen, pairs, seed + i, controls == "shared") for i in range(n_splits)]
    shared, spread = split_of(screen, pairs, seed, shared=True), spread_of(screen, pairs)
    trained = set(sorted(range(len(cases)), key=lambda i: -int(pairs.n[cases[i].pair]))[:MOST_TRAINED])
    rows, ends, profiles = [], [], {}
    for number, case in enumerate(cases):
        key = {
            "task": task_name(screen, pairs, case), "context": screen.contexts[case.context], "target": case.name,
        }  # fmt: skip
        as_published = _scored(study, case, shared, spread, study.predicted(case, shared.seen))
        for i, split in enumerate(splits):
            changes = study.predicted(case, split.seen)
            if further is not None and i == 0 and number in trained:
                changes |= further(case, split)
            for method, found in _scored(study, case, split, spread, changes).items():
                was = as_published.get(method, {}).get("delta", np.nan)
                rows.append({**key, "method": method, **found, "delta_shared": was})
            if i == 0:
                profiles[key["context"], key["target"]] = _profile(study, case, split, changes)
        genes = np.flatnonzero(~screen.genes.isin(case.target))
        r, best = ceiling_of(pairs, case.pair, splits, genes)  # type: ignore[arg-type]
        ends.append({**key, "method": CEILING, "half_correlation": r, **best})
        if told is not None:
            told(number + 1, len(cases))
    return _evaluation(averaged(rows), pd.DataFrame(ends), profiles)


def enough_to_learn(study: Study, case: Case) -> bool:
    """Whether there are contexts or perturbations enough for more than means."""
    return len(case.rows) >= FEWEST.get(case.task, 1)


def _scored(study: Study, case: Case, split: Split, spread: Any, changes: Mapping[str, Change]) -> dict[str, dict]:
    truth = truth_of(study.screen, study.pairs, case, split, spread)
    base = split.seen.of_context[case.context]
    reference = (study.pairs.trained[case.rows] - split.seen.matched[case.rows]).mean(0)
    return {method: scores_of(truth, change, base, reference) for method, change in changes.items()}


def _profile(study: Study, case: Case, split: Split, changes: Mapping[str, Change]) -> pd.DataFrame:
    observed = study.pairs.observed[case.pair] - split.truth.matched[case.pair]
    columns = {"observed": observed, **changes}
    return pd.DataFrame({name: x.astype(np.float32) for name, x in columns.items()}, index=study.screen.genes)


def _evaluation(rows: pd.DataFrame, ends: pd.DataFrame, profiles: Mapping) -> Evaluation:
    reliability = ends.set_index(["context", "target"])["half_correlation"]
    held_out = pd.concat([rows, ends.drop(columns="half_correlation")], ignore_index=True)
    held_out["half_correlation"] = reliability.loc[
        pd.MultiIndex.from_frame(held_out[["context", "target"]])
    ].to_numpy()
    held_out["measurable"] = held_out["half_correlation"] >= MEASURABLE
    held_out["verdict"] = [
        "" if row["method"] == CEILING else verdict_of(row, row["measurable"])
        for row in held_out.to_dict("records")
    ]  # fmt: skip
    return Evaluation(summarized(held_out), held_out, profiles)
