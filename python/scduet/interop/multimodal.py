"""What R asks for to predict assays that were not measured."""

from __future__ import annotations

from dataclasses import dataclass

import scduet
from scduet.interop import codec, objects
from scduet.interop.kept_models import saved
from scduet.interop.models import fitting
from scduet.interop.options import Options, call


@dataclass(frozen=True)
class Predicted:
    """Expected log(1 + counts) of features x cells, and how well that works: one row a method."""

    names: codec.Text
    values: objects.Block
    table: list[codec.Column]


def predict_modality(folder: str, sha256: str, query, reference, modality: str, options: Options) -> Predicted:
    """The modality of the query's cells. The table says which method was used."""
    model = saved(folder, sha256)
    options = {**dict(options), "key_added": "predicted"}
    table = call(
        scduet.predict_modality, model, fitting(query, model), modality,
        reference=fitting(reference, model), options=options,
    )  # fmt: skip
    found = query.obsm["predicted"]
    told = table.assign(used=table.index == table.attrs["used"]).reset_index()
    return Predicted(codec.as_text(found.columns), objects.block(found.to_numpy()), codec.columns_of(told))
