"""Where a model finds its main matrix, and which of its features it uses."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scduet.contract import Input
from scduet.data import checks, locate
from scduet.data.feature_names import of_kind
from scduet.errors import DataError, ScduetWarning, some


def place_for(names: Sequence[str], layer: str | None, main: str) -> str | None:
    """Where a model whose main matrix is e.g. "peaks" finds it: `layer`, or in a MuData the modality named like it.

    names: of the modalities.
    Raises DataError where a MuData of several modalities has none, or several, of that name.
    """
    if len(names) < 2 or (layer or "").startswith("mod/"):
        return layer
    found = of_kind(names, main)
    if len(found) != 1:
        raise DataError("which modality holds the main matrix?", f"pass layer='mod/NAME'; there are {names}")
    if layer is None or found == ["rna"]:
        return layer if found == ["rna"] else f"mod/{found[0]}"
    return f"mod/{found[0]}/{layer if layer in ('X', *locate.RAW) or '/' in layer else f'layers/{layer}'}"


def has_main(names: Sequence[str], layer: str | None) -> bool:
    """Whether the main matrix of a trained model is in a MuData with modalities of these `names`; none: no MuData.

    layer: as `place_for` gave it, which names every modality but that of RNA.
    """
    if layer is not None and layer.startswith("mod/"):
        return not names or layer.split("/")[1] in names
    return not names or bool(of_kind(list(names), "rna"))


def genes_of(
    var: pd.DataFrame, wanted: str | tuple[str, ...] | None, claimed: Mapping[str, set[str]], modality: str
) -> tuple[str, ...]:
    """Names of the genes to use, in the order of the data (or as listed).

    var: what is known of the columns of the main matrix, which is of this modality. claimed: what `in_inputs` says.
    """
    var = _of_modality(var, modality)
    for name, kinds in claimed.items():
        var = var[~var[name].astype(str).isin(kinds)] if name in var else var
    if wanted is None:
        wanted = "highly_variable" if "highly_variable" in var else tuple(var.index)
    if not isinstance(wanted, str):
        repeated = [gene for gene, n in Counter(wanted).items() if n > 1]
        if repeated:
            raise DataError(f"genes= lists {some(repeated)} more than once", "list each gene once")
        return tuple(str(gene) for gene in wanted)
    chosen = tuple(var.index[checks.flags(var, wanted)])
    if not chosen:
        raise DataError(f"var[{wanted!r}] chooses no gene", "pass genes= with names")
    return chosen


def describe_genes(genes: Sequence[str], wanted: str | tuple[str, ...] | None, var: pd.DataFrame) -> str:
    """One line that says which of the features in `var` are used, and why; `wanted` is the option `genes`."""
    n, of = len(genes), len(var)
    if wanted is None and "highly_variable" in var:
        return f"using {n} highly variable genes of {of} (var['highly_variable'])"
    if wanted is None and of > 10_000:
        text = f"using all {of} genes; 1,000 to 10,000 highly variable genes usually integrate better and train faster"
        warnings.warn(text, ScduetWarning, stacklevel=3)
    return f"using {n} of {of} genes"


def _of_modality(var: pd.DataFrame, modality: str) -> pd.DataFrame:
    """The features of the main matrix that are of its kind, where that is told of them."""
    told = var.get(locate.FEATURE_TYPES, pd.Series(dtype=object)).astype(str)
    kinds = of_kind(told.unique().tolist(), modality)
    return var[told.isin(kinds)] if kinds else var


def in_inputs(adata: Any, fields: Any, further: Mapping[str, Input]) -> dict[str, set[str]]:
    """Columns of var, and their values, that inputs take from X: such features are no genes."""
    claimed: dict[str, set[str]] = {}
    for given in further.values():
        place = getattr(fields, given.option)
        place = locate.resolve(adata, place, given) if locate.is_there(adata, place, given) else None
        if isinstance(place, str) and place.startswith("var/") and "=" in place:
            name, _, kind = place.removeprefix("var/").partition("=")
            claimed.setdefault(name, set()).add(kind)
    return claimed
