"""Sections of the report: data, model, training, figures, scores, reproducibility."""

from __future__ import annotations

import dataclasses
import inspect
import platform
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scduet._version import __version__
from scduet.data.main_matrix import matrix_of
from scduet.metrics import METRICS
from scduet.options import options_of
from scduet.plots.embedding import embedding_panels, legend_entries
from scduet.plots.training import SPLITS, training_curves
from scduet.reports.explorer import explorer
from scduet.reports.page import Cell, Gallery, Picture, Section, Table
from scduet.tasks.quality.shown import notes
from scduet.tasks.workflows.draw import Drawing, title_of

if TYPE_CHECKING:
    from scduet.api import Model

_PACKAGES = ("torch", "numpy", "scipy", "anndata", "scanpy", "scikit-learn")
_LARGEST = 40  # maximum rows of the table of cell types
_GROUPS = {"bio": "Cell types kept apart", "batch": "Batches mixed"}
_MEANS = {
    "bio": "Mean of the cell-type metrics.",
    "batch": "Mean of the batch metrics.",
    "total": "0.6 x cell types + 0.4 x batches (Luecken et al. 2022).",
}


def data(adata, layer: str | None, batch_key: str | None, labels_key: str | None) -> Section:
    """Sizes, depth, and cells of each type in each batch."""
    facts = [["cells", f"{adata.n_obs:,}"], ["genes", f"{adata.n_vars:,}"], *_depth(adata, layer)]
    for what, key in (("batches", batch_key), ("cell types", labels_key)):
        if key:
            facts.append([f"{what} ({key})", f"{adata.obs[key].nunique():,}"])
    tables = [Table(["data", ""], facts)]
    if batch_key or labels_key:
        tables.append(_cells_by(adata, batch_key, labels_key))
    return Section("Data", tables=tables)


def model(model, name: str = "") -> Section:
    """The model and its options, non-default ones first. name: display name, if there are several models."""
    given = {**_values(model.config), **_values(model.training), **_values(model.schema.fields)}
    rows = {o.name: [o.name, _shown(given[o.name]), o.help] for o in options_of(model.name) if o.name in given}
    changed = [name for name in rows if name in _changed(model)]
    header = ["option", "value", "what it does"]
    return Section(
        _titled("Model", name),
        [f"{model.name} of {len(model.genes):,} genes, {sum(p.numel() for p in model.module.parameters()):,} weights."],
        [
            *([Table(header, [rows[name] for name in changed], prose=True)] if changed else []),
            Table(
                header,
                [row for name, row in rows.items() if name not in changed],
                folded="All other options, at their defaults",
                prose=True,
            ),
        ],
    )


def training(model, name: str = "") -> Section:
    """Training curves of the loss and its terms."""
    history: pd.DataFrame = model.history
    if not len(history):
        return Section(_titled("Training", name), ["The history has no epochs."])
    terms = [name.removesuffix("_train") for name in history.columns if name.endswith("_train")]
    curves = {term: history[_columns_of(history, term)] for term in terms}
    shown = [Picture.of(training_curves(values, legend=False), f"{term} by epoch") for term, values in curves.items()]
    text = f"{len(history)} epochs" + (f" in {history['seconds'].sum():.0f} s" if "seconds" in history else "")
    legend = {f"{split} cells": color for split, (color, _) in SPLITS.items() if f"loss_{split}" in history}
    told = f"{text}. Loss terms per cell; lower is better. Dotted line: epoch with the lowest validation loss."
    return Section(_titled("Training", name), [told], galleries=[Gallery(shown, legend=legend)])


def pictures(adata, drawing: Drawing, keys: Sequence[str]) -> Section:
    """UMAP before and after, colored by batch and by cell type."""
    galleries = []
    for key in keys:
        values = drawing.annotation(adata, key)
        shown = [
            Picture.of(embedding_panels({title: xy}, {key: values}, legend=False), f"UMAP of {title} colored by {key}")
            for title, xy in drawing.places.items()
        ]
        galleries.append(Gallery(shown, key, legend_entries(values)))
    sample = f"A random sample of {len(drawing.rows):,} cells. " if len(drawing.rows) < adata.n_obs else ""
    text = f"{sample}UMAP distorts distances and areas: treat it as an illustration and rely on the scores."
    return Section("Before and after", [text], galleries=galleries)


def explore(adata, drawing: Drawing, columns: Sequence[str], genes: Sequence[str], layer: str | None) -> Section:
    """A map to color by a column or a gene."""
    shown = explorer(adata, drawing, columns, genes, layer)
    text = "Point at a cell for its name and value; choose a level in the legend to see its cells alone."
    told = [text, "Genes: log(1 + counts of 10,000 of the cell)."] if genes else [text]
    return Section("Explore", told, explorer=shown)


def scores(table: pd.DataFrame) -> Section:
    """Metrics as rows, embeddings as columns, and what each metric measures."""
    metrics = [name for name in table.columns if name in METRICS and table[name].notna().any()]
    order = sorted(metrics, key=lambda name: list(_GROUPS).index(METRICS[name].group))
    rows = [[METRICS[name].label, *_score_cells(table[name])] for name in order]
    groups = {i: _GROUPS[METRICS[name].group] for i, name in reversed(list(enumerate(order)))}
    groups = {i: text for i, text in groups.items() if i == 0 or METRICS[order[i - 1]].group != METRICS[order[i]].group}
    means = [name for name in _MEANS if name in table and table[name].notna().any()]
    groups[len(rows)] = "Summary"
    rows += [[_GROUPS.get(name, "Total"), *_score_cells(table[name])] for name in means]
    text = [
        "In every row higher is better; bars run from 0 to 1, and the best of a row is bold. The unintegrated PCA is "
        "the baseline: a deep model that does not beat it is not worth its cost."
    ]
    meanings = {METRICS[name].label: _meaning(name) for name in order} | {
        _GROUPS.get(m, "Total"): _MEANS[m] for m in means
    }
    return Section(
        "Scores",
        text + notes(table),
        [Table(["metric", *map(title_of, table.index)], rows, groups)],
        terms=meanings,
    )


def repeat(models: Mapping[str, Model], batch_key: str | None, labels_key: str | None) -> Section:
    """Versions and code to reproduce the results."""
    versions = {"scduet": __version__, "python": platform.python_version(), "system": platform.platform()}
    versions |= {name: metadata.version(name) for name in _PACKAGES}
    table = Table(["software", "version"], [[name, value] for name, value in versions.items()], folded="Versions")
    if not models:
        return Section("How to repeat this", tables=[table])
    calls = "\n".join(_call(name, one) for name, one in models.items())
    keys = "".join(f", {name}={key!r}" for name, key in (("batch_key", batch_key), ("labels_key", labels_key)) if key)
    code = f"import scduet as sd\n\n{calls}\nsd.score(adata{keys})"
    text = "On a CPU with the same versions and number of threads, this reproduces the results up to rounding."
    return Section("How to repeat this", [text], [table], code=code)


def _call(name: str, model: Model) -> str:
    """The call that trains this model; a second model of the same kind needs another obsm key."""
    options = _changed(model) | ({} if name == model.name else {"key_added": f"X_{name}"})
    said = "".join(f",\n    {option}={value!r}" for option, value in options.items())
    return f"model = sd.integrate(adata, {model.name!r}{said})"


def _titled(title: str, name: str) -> str:
    return f"{title}: {name}" if name else title


def _depth(adata, layer: str | None) -> list[list[str]]:
    matrix = matrix_of(adata, layer)
    if matrix is None:
        return []
    stored = matrix.data if sparse.issparse(matrix) else np.asarray(matrix)
    detected = np.asarray((matrix > 0).sum(1)).ravel()
    facts = [["genes detected in a cell, median", f"{np.median(detected):,.0f}"]]
    if np.array_equal(stored[:100_000], np.rint(stored[:100_000])):
        facts.append(["counts of a cell, median", f"{np.median(np.asarray(matrix.sum(1)).ravel()):,.0f}"])
    return facts


def _cells_by(adata, batch_key: str | None, labels_key: str | None) -> Table:
    """Cells of each type (rows) in each batch (columns)."""
    first = labels_key or batch_key
    rows = adata.obs[first].astype(object).where(adata.obs[first].notna(), "not annotated").astype(str)
    columns = adata.obs[batch_key].astype(str) if labels_key and batch_key else pd.Series("cells", adata.obs_names)
    counts = pd.crosstab(rows.to_numpy(), columns.to_numpy())
    counts = counts.loc[counts.sum(1).sort_values(ascending=False, kind="stable").index]
    shown = [
        [str(name), *(f"{n:,}" for n in values)] for name, values in zip(counts.index, counts.to_numpy(), strict=True)
    ]
    if len(shown) > _LARGEST:
        shown = [*shown[:_LARGEST], [f"and {len(shown) - _LARGEST} more", *[""] * counts.shape[1]]]
    return Table([str(first), *map(str, counts.columns)], shown)


def _values(config: Any) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def _changed(model) -> dict[str, Any]:
    """Options with non-default values, set by the recipe or the user."""
    given = {**_values(model.schema.fields), **_values(model.training), **_values(model.config)}
    return {o.name: given[o.name] for o in options_of(model.name) if o.name in given and given[o.name] != o.default}


def _columns_of(history: pd.DataFrame, term: str) -> list[str]:
    """The columns of one term, and the one that determines the best epoch."""
    wanted = (f"{term}_train", f"{term}_validation", "loss_validation")
    return [name for name in history.columns if name in wanted]


def _score_cells(values: pd.Series) -> list[Cell]:
    best = values.max()
    return [
        Cell("not defined") if pd.isna(v) else Cell(f"{v:.3f}", float(np.clip(v, 0, 1)), bool(v == best))
        for v in values
    ]


def _meaning(name: str) -> str:
    """The first sentence of the metric's documentation, and its range."""
    metric = METRICS[name]
    module, _, function = metric.function.rpartition(".")
    described = inspect.getdoc(getattr(import_module(f"scduet.metrics.{module}"), function)) or ""
    first, _, _ = described.partition("\n\n")
    return f"{' '.join(first.split())} From {metric.low:g} to {metric.high:g}; higher is better."


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value)) if len(value) <= 3 else f"{len(value)} values"
    return "not set" if value is None else str(value)
