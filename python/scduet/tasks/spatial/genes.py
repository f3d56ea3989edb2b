"""Which genes mixtures and reference share, and which of them are used."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Literal

import pandas as pd

from scduet.data.checks import check_names
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.options import listed
from scduet.tasks.spatial.reference import Reference, described, markers, most_variable

Choice = Literal["variable", "markers"] | Sequence[str]

N_VARIABLE, N_MARKERS = 2000, 100  # in all; for each type
ENSEMBL = re.compile(r"ENS[A-Z]{0,4}G\d{6,}", re.IGNORECASE)


def shared(mixtures: pd.Index, reference: pd.Index, what: str = "spots", fewest: int = 2) -> pd.Index:
    """Genes that both have, in the order of the reference. Raises DataError where these are too few to go on."""
    check_names(mixtures, "gene")
    both = reference[reference.isin(mixtures)]
    if len(both) >= fewest:
        return both
    raise DataError(f"{what} and reference share {len(both)} genes", _why_none(mixtures, reference, what))


def choose(reference: Reference, genes: pd.Index, choice: Choice, n_genes: int | None) -> pd.DataFrame:
    """The genes to use, as rows in the order of `genes`; columns say why.

    choice: "variable", "markers", or names. n_genes: in all, or of "markers" for each type; None for 2,000 and 100.
    Raises OptionError for another choice, and DataError for names that are not shared, or fewer genes than types.
    """
    if isinstance(choice, str):
        if choice not in ("variable", "markers"):
            raise OptionError(f"genes={choice!r}", "it is 'variable', 'markers', or a list of names")
        rank, default = (most_variable, N_VARIABLE) if choice == "variable" else (markers, N_MARKERS)
        found = rank(reference, genes, n_genes or default)
        found.insert(0, "chosen_as", choice.removesuffix("s"))
    else:
        wanted = pd.Index([str(name) for name in listed("genes", choice)])
        check_names(wanted, "gene")
        absent = wanted[~wanted.isin(genes)]
        if len(absent):
            raise DataError(f"genes={some(absent)} are not in both", f"{len(genes)} genes are, e.g. {some(genes)}")
        found = pd.DataFrame({"chosen_as": "listed"}, genes[genes.isin(wanted)])
    if len(found) < len(reference.types):
        remedy = "use more genes, or merge types"
        raise DataError(f"{len(found)} genes for {len(reference.types)} types: proportions are not determined", remedy)
    return found


def check_types(reference: Reference, genes: pd.Index) -> pd.DataFrame:
    """What is known of the types on these genes; warns of those that hardly differ from another one."""
    table = described(reference, genes)
    weak = table[table["n_markers"] <= 1]
    if len(weak):
        pairs = [f"{kind} ({row.n_markers}, nearest {row.nearest})" for kind, row in weak.iterrows()]
        advice = "read their sum with the nearest type, or use more genes (n_genes=)"
        message = f"types with one marker gene or none among the genes used: {some(pairs, 9)}; {advice}"
        warnings.warn(message, ScduetWarning, stacklevel=4)
    return table


def _why_none(mixtures: pd.Index, reference: pd.Index, what: str) -> str:
    ids = [any(map(ENSEMBL.match, names[:50].astype(str))) for names in (mixtures, reference)]
    if ids[0] != ids[1]:
        with_ids, other = (what, "the reference") if ids[0] else ("the reference", what)
        return f"{with_ids}: Ensembl ids, {other}: symbols; set var_names of one to what the other has"
    if mixtures.str.upper().isin(reference.str.upper()).any():
        return "their names differ in case: are they of two species? Set var_names to the same spelling"
    return f"{what} have {some(mixtures)}, the reference {some(reference)}"
