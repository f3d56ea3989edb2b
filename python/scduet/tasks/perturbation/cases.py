"""One perturbation in one context that is to be predicted: which task it is, and which cells may be learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from scduet.errors import DataError, OptionError
from scduet.tasks.perturbation.baselines import RULES, Change, Evidence, Source
from scduet.tasks.perturbation.embedding import GeneEmbedding
from scduet.tasks.perturbation.pseudobulk import Controls, Pairs
from scduet.tasks.perturbation.screen import Screen, dose_of
from scduet.tasks.perturbation.targets import Target, joined

TASKS = ("context", "combination", "gene", "dose")


@dataclass(frozen=True)
class Case:
    """A perturbation to predict for a context."""

    task: str  # one of TASKS
    context: int
    target: Target
    rows: Int[np.ndarray, " row"]  # pairs that may be learned from
    pair: int | None  # where cells are observed, that is their pair; they are never learned from

    @property
    def name(self) -> str:
        return joined(self.target)


def case_of(screen: Screen, pairs: Pairs, context: int, target: Target) -> Case:
    """What is asked where the perturbation `target` is to be predicted in a context."""
    sets = [set(screen.targets[i]) for i in pairs.target]
    same = np.array([screen.targets[i] == target for i in pairs.target])
    here = pairs.context == context
    pair = next(iter(np.flatnonzero(same & here).tolist()), None)
    if (same & ~here).any():
        return Case("context", context, target, np.flatnonzero(same & ~here), pair)
    own = dose_of(target)
    other_doses = here & ~same & np.array([_same_drug(screen.targets[i], own) for i in pairs.target])
    if own is not None and other_doses.any():
        return Case("dose", context, target, np.flatnonzero(other_doses), pair)
    if len(target) > 1:
        return Case("combination", context, target, np.flatnonzero(here & ~same), pair)
    apart = np.array([not found & set(target) for found in sets])
    return Case("gene", context, target, np.flatnonzero(here & apart), pair)


def _same_drug(target: Target, own: tuple[Target, float] | None) -> bool:
    other = dose_of(target)
    return own is not None and other is not None and other[0] == own[0]


def parts_seen(screen: Screen, pairs: Pairs, case: Case) -> int:
    """How many parts of a combination were seen alone in the context."""
    alone = {screen.targets[pairs.target[row]] for row in case.rows}
    return sum((part,) in alone for part in case.target)


def task_name(screen: Screen, pairs: Pairs, case: Case) -> str:
    """The task as in the table: combinations apart by how many of their parts were seen alone."""
    if case.task != "combination":
        return case.task
    return f"combination, {parts_seen(screen, pairs, case)} of {len(case.target)} seen"


def source_of(pairs: Pairs, controls: Controls) -> Source:
    """What is learned from, with these controls."""
    return Source(pairs.trained, controls.matched, controls.of_context[pairs.context])


def evidence(
    screen: Screen, pairs: Pairs, case: Case, base: Change, source: Source, embedding: GeneEmbedding | None
) -> Evidence:
    """What a rule may see of the other cells. base: mean of the control cells of the context."""
    if case.task == "context":
        rows = [screen.contexts[i] for i in pairs.context[case.rows]]
    else:
        rows = [screen.targets[i] for i in pairs.target[case.rows]]
    return Evidence(case.target, base, source, case.rows, rows, screen.genes, embedding)


def by_rules(seen: Evidence, task: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Change]:
    """The change by each rule of the task that can say something. options: rule -> its arguments."""
    found = {name: rule(seen, **options.get(name, {})) for name, rule in RULES[task].items()}
    return {name: change for name, change in found.items() if change is not None}


def check_case(screen: Screen, pairs: Pairs, case: Case, embedding: GeneEmbedding | None) -> None:
    """Raise DataError for a perturbation of which nothing is known."""
    if not len(case.rows):
        what = f"there is nothing to learn {case.name!r} from in {screen.contexts[case.context]!r}"
        raise DataError(what, "other perturbed cells are needed")
    if case.task == "dose":
        top = max(own[1] for row in case.rows if (own := dose_of(screen.targets[pairs.target[row]])))
        asked = dose_of(case.target)
        if asked is not None and asked[1] > top:
            raise OptionError(f"{case.name!r} is beyond the largest dose, {top:g}", "doses are interpolated only")
    if case.task == "context" or case.task == "dose" or parts_seen(screen, pairs, case):
        return
    if embedding is not None:
        unknown = [part for part in case.target if part not in embedding.place]
        where, remedy = "in gene_embedding", "give an embedding that has it"
    else:
        unknown = [part for part in case.target if part not in screen.genes]
        where, remedy = "among the measured genes", "check the spelling, or pass gene_embedding="
    if unknown:
        raise DataError(f"{unknown[0]!r} was seen in no perturbation, and is not {where}", remedy)
