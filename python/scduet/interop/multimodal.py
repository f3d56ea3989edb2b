"""What R asks for to predict assays that were not measured, and to match cells."""

from __future__ import annotations

from dataclasses import dataclass

import scduet
from scduet.interop import codec, objects
from scduet.interop.kept_models import saved
from scduet.interop.models import fitting
from scduet.interop.options import Options, call


@dataclass(frozen=True)
class Predicted:
    """Expected log(1 + counts) of features x cells, their spread, and how well that works: one row a method."""

    names: codec.Text
    values: objects.Block
    spread: objects.Block
    table: list[codec.Column]


def predict_modality(folder: str, sha256: str, query, reference, modality: str, options: Options) -> Predicted:
    """The modality of the query's cells. The table says which method was used."""
    model = saved(folder, sha256)
    options = {**dict(options), "key_added": "predicted"}
    table = call(
        scduet.predict_modality, model, fitting(query, model), modality,
        reference=fitting(reference, model), options=options,
    )  # fmt: skip
    found, spread = query.obsm["predicted"], query.obsm["predicted_sd"]
    told = table.assign(used=table.index == table.attrs["used"]).reset_index()
    blocks = objects.block(found.to_numpy()), objects.block(spread.to_numpy())
    return Predicted(codec.as_text(found.columns), *blocks, codec.columns_of(told))


@dataclass(frozen=True)
class Matched:
    """Weights of matches, in R cells of a x cells of b, and how well matching works: one row a method."""

    weights: objects.Block
    table: list[codec.Column]


def match_cells(folder: str, sha256: str, a, b, reference, modalities: list[str] | None, options: Options) -> Matched:
    """The matches of the cells of a and b. The table says which method was used."""
    model = saved(folder, sha256)
    first, second, known = (fitting(cells, model) for cells in (a, b, reference))
    options = {**dict(options), "modalities": modalities}
    found = call(scduet.match_cells, first, second, model, reference=known, options=options)
    told = found.table.assign(used=found.table.index == found.used).reset_index()
    return Matched(objects.block(found.weights.T.tocsr()), codec.columns_of(told))
