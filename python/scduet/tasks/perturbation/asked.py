"""What the user asks to be predicted: perturbations by name, contexts with control cells enough, and their pairs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from scduet.data.levels import absent
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.options import listed
from scduet.tasks.perturbation.cases import Case
from scduet.tasks.perturbation.held_out import Study
from scduet.tasks.perturbation.screen import FEWEST_CONTROLS, Screen, dosed
from scduet.tasks.perturbation.targets import Target


def what_is_asked(screen: Screen, targets, contexts, context_key, dose_key) -> tuple[list[Target], list[int] | None]:
    """Targets by name, none twice, and codes of the contexts, or None for all."""
    found: list[Target] = []
    for name in [] if targets is None else listed("targets", targets):
        plain, _, dose = str(name).partition("@") if dose_key is not None else (name, "", "")
        target = screen.grammar.target(plain)
        if not target:
            raise OptionError(f"targets: {name!r} is the control", "name perturbations")
        if dose_key is None:
            found.append(target)
        elif dose:
            found.append(dosed(target, _number(name, dose)))
        else:
            same = [own for own in screen.targets if tuple(p.rpartition("@")[0] for p in own) == target]
            if not same:
                raise DataError(f"targets: {name!r} was seen at no dose", "write it with one: 'drug@0.5'")
            found += same
    if contexts is None:
        return list(dict.fromkeys(found)), None
    if context_key is None:
        raise OptionError("contexts= without context_key=", "name the column of obs")
    wanted = listed("contexts", contexts)
    unknown = absent(wanted, screen.contexts)
    if unknown or not wanted:
        raise DataError(
            f"{some(unknown) or 'nothing'} is not in obs[{context_key!r}]", f"it has {some(screen.contexts, 9)}"
        )
    return list(dict.fromkeys(found)), [screen.contexts.index(str(name)) for name in wanted]


def _number(name: Any, dose: str) -> float:
    try:
        return float(dose)
    except ValueError:
        raise OptionError(f"targets: {name!r} has no number after '@'", "write it as 'drug@0.5'") from None


def with_controls(screen: Screen, asked: list[int] | None, key: str | None) -> Screen:
    """Without contexts that have too few control cells. Raises DataError where one of these is asked for."""
    n = np.bincount(screen.context[screen.is_control], minlength=len(screen.contexts))
    few = np.flatnonzero(n < FEWEST_CONTROLS)
    if not len(few):
        return screen
    names = [f"{screen.contexts[i]} ({n[i]})" if key else f"the data ({n[i]})" for i in few]
    wanted = sorted(set(few) & set(range(len(n)) if asked is None and len(few) == len(n) else asked or []))
    if wanted:
        what = f"fewer than {FEWEST_CONTROLS} control cells in {some([names[list(few).index(i)] for i in wanted])}"
        raise DataError(what, "their mean would be noise: name other contexts, or other controls")
    told = f"left out, with fewer than {FEWEST_CONTROLS} control cells: {some(names, 6)}"
    warnings.warn(f"contexts {told}", ScduetWarning, stacklevel=3)
    return screen.of(~np.isin(screen.context, few))


def cases_asked(study: Study, named: bool, targets: list[Target], contexts: list[int] | None) -> list[Case]:
    screen, pairs = study.screen, study.pairs
    there = set(zip(pairs.context.tolist(), (screen.targets[i] for i in pairs.target), strict=True))
    usable = [i for i in range(len(screen.contexts)) if study.usable()[i]]
    if not named and len(usable) < 2:
        return []
    found = []
    for target in targets if named else screen.targets[1:]:
        lacking = [i for i in usable if (i, target) not in there]
        for context in (lacking or usable if named else lacking) if contexts is None else contexts:
            case = study.case(context, target)
            if named or case.task == "context":
                found.append(case)
    return found
