"""Hold perturbations out, predict them by every rule and model, and score what comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from scduet.tasks.perturbation.baselines import FEWEST, Change, Source
from scduet.tasks.perturbation.cases import Case, by_rules, case_of, evidence, source_of, task_name
from scduet.tasks.perturbation.embedding import GeneEmbedding
from scduet.tasks.perturbation.pseudobulk import Pairs, Split, pairs_of, split_of
from scduet.tasks.perturbation.screen import FEW_CELLS, FEWEST_CONTROLS, Screen
from scduet.tasks.perturbation.table import (
    CEILING,
    MEASURABLE,
    Truth,
    Yardstick,
    averaged,
    ceiling_of,
    scores_of,
    spread_of,
    summarized,
    verdict_of,
    yardstick_of,
)

MOST_TRAINED = 3  # held-out cases for which a model is trained anew

Further = Callable[[Case, Split, bool], Mapping[str, Change]]  # other predictions by name; whether to train for them


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

    def predicted(self, case: Case, base: Change, source: Source) -> dict[str, Change]:
        """By every rule of the task that can say something."""
        seen = evidence(self.screen, self.pairs, case, base, source, self.embedding)
        return by_rules(seen, case.task, self.options)

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
    splits: Sequence[Split] | None = None,
    further: Further | None = None,
    told: Callable[[int, int, float], object] | None = None,
) -> Evaluation:
    """Predict each case from the others, `n_splits` times with other halves of the controls, and score.

    splits: instead of random ones. further: other predictions of a case in a split, told whether a model may be trained
        for them: in the first split, for the largest cases.
    """
    if not cases:
        return Evaluation(summarized(pd.DataFrame()), pd.DataFrame(), {})
    screen, pairs = study.screen, study.pairs
    splits = splits or [split_of(screen, pairs, seed + i, controls == "shared") for i in range(n_splits)]
    rounds = [Round.of(study, split) for split in [*splits, split_of(screen, pairs, seed, shared=True)]]
    spread = spread_of(screen, pairs)
    trained = set(sorted(range(len(cases)), key=lambda i: -int(pairs.n[cases[i].pair]))[:MOST_TRAINED])
    rows, ends, profiles = [], [], {}
    for number, case in enumerate(cases):
        context = screen.contexts[case.context]
        key = {"task": task_name(screen, pairs, case), "context": context, "target": case.name}
        yardstick = yardstick_of(screen, pairs, case, spread)
        *found, shared = (
            _scored(study, case, each, yardstick, further, i == 0 and number in trained)
            for i, each in enumerate(rounds)
        )
        for scores, _ in found:
            for method, own in scores.items():
                was = shared[0].get(method, {}).get("delta", np.nan)
                rows.append({**key, "method": method, **own, "delta_shared": was})
        profiles[context, case.name] = _profile(study, case, rounds[0], found[0][1])
        genes = np.flatnonzero(~screen.genes.isin(case.target))
        r, best = ceiling_of(pairs, case.pair, splits, genes)  # type: ignore[arg-type]
        ends.append({**key, "method": CEILING, "half_correlation": r, **best})
        if told is not None:
            told(number + 1, len(cases), 0.0)
    return _evaluation(averaged(rows), pd.DataFrame(ends), profiles)


def enough_to_learn(case: Case) -> bool:
    """Whether there are contexts or perturbations enough for more than means."""
    return len(case.rows) >= FEWEST.get(case.task, 1)


@dataclass(frozen=True)
class Round:
    """A split with what is learned from in it, and the truth."""

    split: Split
    source: Source
    truth: Truth

    @classmethod
    def of(cls, study: Study, split: Split) -> Round:
        return cls(split, source_of(study.pairs, split.seen), Truth.of(study.pairs, split))


def _scored(
    study: Study, case: Case, each: Round, yardstick: Yardstick, further: Further | None, train: bool
) -> tuple[dict[str, dict[str, float]], dict[str, Change]]:
    """Scores by method, and the predicted changes."""
    base = each.split.seen.of_context[case.context]
    changes = study.predicted(case, base, each.source)
    if further is not None:
        changes |= further(case, each.split, train)
    reference = each.source.change[case.rows].mean(0)
    return scores_of(case, each.truth, yardstick, changes, base, reference), changes


def _profile(study: Study, case: Case, each: Round, changes: Mapping[str, Change]) -> pd.DataFrame:
    columns = {"observed": each.truth.change[case.pair], **changes}
    return pd.DataFrame({name: x.astype(np.float32) for name, x in columns.items()}, index=study.screen.genes)


def _evaluation(rows: pd.DataFrame, ends: pd.DataFrame, profiles: Mapping) -> Evaluation:
    reliability = ends.set_index(["context", "target"])["half_correlation"]
    held_out = pd.concat([rows, ends.drop(columns="half_correlation")], ignore_index=True)
    held_out["half_correlation"] = reliability.loc[pd.MultiIndex.from_frame(held_out[["context", "target"]])].to_numpy()
    held_out["measurable"] = held_out["half_correlation"] >= MEASURABLE
    held_out["verdict"] = [
        "" if row["method"] in (CEILING, "no change") else verdict_of(row, row["measurable"])
        for row in held_out.to_dict("records")
    ]  # fmt: skip
    return Evaluation(summarized(held_out), held_out, profiles)
