"""Self-contained HTML reports of an integration: data, training, figures, scores, reproducibility."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from scduet.data.checks import check_cells, check_key
from scduet.errors import DataError, some
from scduet.io.atomic import place_whole
from scduet.io.cells import check_target
from scduet.options import check_arguments, seed_of
from scduet.reports import sections
from scduet.reports.explorer import check_choice
from scduet.reports.page import Section, render
from scduet.tasks.quality.score import score
from scduet.tasks.workflows.draw import lay_out

if TYPE_CHECKING:
    from scduet.api import Model

__all__ = ["report"]


def report(
    adata,
    path: str | Path = "report.html",
    *,
    model: Model | Sequence[Model] | Mapping[str, Model] | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    embeddings: Sequence[str] | None = None,
    scores: pd.DataFrame | None = None,
    layer: str | None = None,
    color_by: Sequence[str] = (),
    genes: Sequence[str] = (),
    title: str = "Integration report",
    overwrite: bool = False,
    max_cells: int = 20_000,
    seed: int = 0,
) -> Path:
    """Write a self-contained HTML report to `path` and return the path.

    adata: AnnData with the embeddings in obsm; not modified.
    model: the Model of the embeddings, for its options, training curves and column names; or several, as a list or a
        mapping from display names, of which the first provides the column names.
    batch_key, labels_key, layer: as in `fit`; by default those of `model`.
    embeddings: obsm keys; None for all except 2D layouts. The unintegrated PCA is always included.
    scores: the table returned by `score`; None to compute it.
    color_by, genes: further columns of obs, and up to 200 genes, by which readers may color a map of the cells.
    max_cells: maximum number of cells to plot, sampled at random.

    Raises DataError for missing names, FormatError if `path` exists (unless `overwrite`).
    """
    check_cells(adata)
    check_arguments(max_cells=max_cells)
    seed = seed_of(seed)
    for option, key in (("batch_key", batch_key), ("labels_key", labels_key)):
        if key is not None:
            check_key(option, key)
    path = check_target(path, overwrite, endings=(".html",))
    models = _named(model)
    fields = next(iter(models.values())).schema.fields if models else None
    batch_key = batch_key or (fields.batch_key if fields else None)
    labels_key = labels_key or (fields.labels_key if fields else None)
    layer = layer or (fields.layer if fields else None)
    keys = [key for key in (batch_key, labels_key) if key]
    missing = [key for key in keys if key not in adata.obs]
    if missing:
        raise DataError(f"{some(missing)} not in obs", f"it has {some(adata.obs.columns, 8)}")
    check_choice(adata, color_by, genes, layer)
    if scores is None and keys:
        scores = score(adata, embeddings, batch_key, labels_key, layer=layer)
    found = [
        sections.data(adata, layer, batch_key, labels_key),
        *[
            part(one, name if len(models) > 1 else "")
            for name, one in models.items()
            for part in (sections.model, sections.training)
        ],
        *_maps(adata, embeddings, keys, color_by, genes, layer, max_cells, seed),
        *([] if scores is None else [sections.scores(scores)]),
        sections.repeat(models, batch_key, labels_key),
    ]
    page = render(title, found)
    place_whole(path, lambda new: new.write_text(page, encoding="utf-8"))
    return path


def _maps(adata, embeddings, keys, color_by, genes, layer, max_cells: int, seed: int) -> list[Section]:
    """Pictures before and after, and a map to color; none where nothing is to be colored."""
    columns = list(dict.fromkeys([*reversed(keys), *color_by]))
    if not columns and not genes:
        return []
    drawing = lay_out(adata, embeddings, layer=layer, max_cells=max_cells, seed=seed)
    pictures = [sections.pictures(adata, drawing, keys)] if keys else []
    return [*pictures, sections.explore(adata, drawing, columns, list(genes), layer)]


def _named(model: Model | Sequence[Model] | Mapping[str, Model] | None) -> dict[str, Model]:
    """The models by display name; a second scvi is "scvi 2"."""
    if isinstance(model, Mapping):
        return dict(model)
    several = [] if model is None else list(model) if isinstance(model, Sequence) else [model]
    kinds = [one.name for one in several]
    number = [kinds[: place + 1].count(kind) for place, kind in enumerate(kinds)]
    return {kind if n == 1 else f"{kind} {n}": one for kind, n, one in zip(kinds, number, several, strict=True)}
