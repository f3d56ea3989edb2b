"""Names of features: peaks by where they are, however that is written; and what files call kinds of features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

PEAK = r"^(.+)[:\-_](\d+)[-_](\d+)$"  # chr1:100-200 of 10x, chr1-100-200 of Signac, chr1_100_200
KINDS: Mapping[str, tuple[str, ...]] = {  # modality of a model -> names of modalities and feature_types, in lower case
    "rna": ("rna", "gex", "gene expression"),
    "peaks": ("atac", "peaks", "chromatin", "chromatin accessibility"),
    "protein": ("prot", "protein", "adt", "antibody capture"),
}


def places_of(wanted: pd.Index, names: pd.Index) -> np.ndarray:
    """Place of each of `wanted` among `names`, -1 where it is not there; two spellings of a peak are the same."""
    place = names.get_indexer(wanted)
    absent = np.flatnonzero(place < 0)
    unknown = wanted[absent].astype(str)
    if len(absent) and unknown.str.match(PEAK).any():
        known = _one_spelling(names)
        if known.is_unique:
            place[absent] = known.get_indexer(_one_spelling(unknown))
    return place


def of_kind(names: pd.Series | list[str], modality: str) -> list[str]:
    """The names, without repeats, that mean this modality of a model."""
    return [str(name) for name in dict.fromkeys(names) if str(name).lower() in KINDS.get(modality, ())]


def _one_spelling(names: pd.Index) -> pd.Index:
    return names.str.replace(PEAK, r"\1:\2-\3", regex=True)
