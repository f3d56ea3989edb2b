"""Names of perturbations as users write them: one spelling for each, the control among them, guides refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from scduet.errors import DataError, OptionError, some
from scduet.tasks.perturbation.interface import CONTROL

Target = tuple[str, ...]  # the genes or drugs of a perturbation, sorted; () is the control
CONTROLS = ("ctrl", "control", "nt", "nontargeting", "vehicle", "dmso")
_PLAIN = re.compile(r"[\s_\-.]")
_SURE = re.compile(r"\s*[+|]\s*")  # always between two targets; "_" only where both sides are known
_MIXSCAPE = re.compile(r"\s(KO|NP|KD)$")  # "IFNGR2 KO", "IFNGR2 NP" (escaped) of Seurat's RunMixscape
_GUIDE = re.compile(r"^(.+?)[_\-. ]?(?:sgRNA|sg|g|guide)[_\-]?\d+$")
_NUMBERED = re.compile(r"^(.+?)[_\-.]\d+$")


@dataclass(frozen=True)
class Grammar:
    """How the names of one data set are read."""

    control: str  # the level of control cells, as the user has it
    genes: frozenset[str]
    known: frozenset[str]  # genes, and levels that stand alone

    def target(self, name: str) -> Target:
        """The targets of "A", "A+ctrl", "ctrl+A", "A+B", "B+A", "A|B" or "A_B", sorted; () of the control."""
        name = _MIXSCAPE.sub("", str(name).strip())
        if self.is_control(name):
            return ()
        parts = [part for part in _SURE.split(name) if part]
        if len(parts) == 1:
            parts = self._by_underscore(name)
        return tuple(sorted({part for part in parts if not self.is_control(part)}))

    def is_control(self, name: str) -> bool:
        return name == self.control or _plain(name) in CONTROLS

    def _by_underscore(self, name: str) -> list[str]:
        """ "A_B" as two targets where both are genes, other levels or the control."""
        if name in self.known:
            return [name]
        for place in (i for i, letter in enumerate(name) if letter == "_"):
            pair = [name[:place], name[place + 1 :]]
            if all(part in self.known or self.is_control(part) for part in pair):
                return pair
        return [name]


def joined(target: Target) -> str:
    """The name that stands for a perturbation in results: "CEBPA+KLF1"."""
    return "+".join(target) or CONTROL


def grammar_of(levels: Sequence[str], key: str, control: str | None, genes: Iterable[str]) -> Grammar:
    """How the levels of obs[key] are read.

    control: the level of control cells, or None for the only one with a usual name (`CONTROLS`). Raises DataError where
    it is absent or cannot be told, and for levels that are guides of one gene.
    """
    usual = [level for level in levels if _plain(level) in CONTROLS]
    if control is None:
        if len(usual) != 1:
            found = f"{some(usual)} could each be" if usual else f"none of {some(levels, 6)} is a usual name of"
            raise DataError(f"obs[{key!r}]: {found} the control", "pass control=")
        control = usual[0]
    elif not isinstance(control, str):
        raise OptionError(f"option 'control' cannot be {control!r}", f"it is a level of obs[{key!r}]")
    elif control not in levels:
        raise DataError(f"control={control!r} is not in obs[{key!r}]", f"it has {some(levels, 9)}")
    parts = {part for level in levels for part in _SURE.split(level) if "_" not in part}
    grammar = Grammar(control, frozenset(genes), frozenset(genes) | parts)
    refuse_guides(levels, key, grammar)
    return grammar


def refuse_guides(levels: Collection[str], key: str, grammar: Grammar) -> None:
    """Raise DataError where levels are guides: a gene's other guides would be in training when one is held out."""
    guides: dict[str, list[str]] = {}
    for level in levels:
        base = guided(level)
        if base is not None and not grammar.is_control(base) and level not in grammar.genes:
            guides.setdefault(base, []).append(level)
    named = [level for of in guides.values() for level in of if _GUIDE.match(level)]
    mostly = len(named) > 0.5 * len(levels)
    for base, of in guides.items():
        known = base in grammar.genes or base in levels
        if (known and (len(of) > 1 or base in levels)) or (mostly and len(set(of) & set(named)) > 1):
            remedy = "name the column with the target genes: guides of one gene tell of each other"
            raise DataError(f"{key}: {some(sorted(of))} are guides of {base!r}", remedy)


def guided(name: str) -> str | None:
    """The gene of the name of a guide such as "STAT2g1", "STAT2_sg1" or "STAT2_1", None for other names."""
    match = _GUIDE.match(name) or _NUMBERED.match(name)
    return match[1] if match else None


def refuse_leaks(tested: Iterable[str], trained: Iterable[str], grammar: Grammar) -> set[Target]:
    """The targets of `trained`; raises DataError for a tested perturbation that is among them in any spelling."""
    seen = {grammar.target(name): name for name in trained}
    genes = {_gene(name, target): name for target, name in seen.items()}
    for name in tested:
        target = grammar.target(name)
        leak = seen.get(target) or genes.get(_gene(name, target))
        if target and leak is not None:
            spelled = f" as {leak!r}" if leak != name else ""
            remedy = "leave it out of the predictions: what was trained on is no test"
            raise DataError(f"the tested perturbation {name!r} was in training{spelled}", remedy)
    return set(seen) - {()}


def _gene(name: str, target: Target) -> str:
    """The gene that a guide is of, or the name of all other perturbations."""
    return (guided(name) if len(target) == 1 else None) or joined(target)


def _plain(name: str) -> str:
    return _PLAIN.sub("", str(name)).lower()
