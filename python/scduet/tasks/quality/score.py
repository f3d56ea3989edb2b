"""How good is an integration: the table of embeddings and metrics, always with the unintegrated PCA beside."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from scduet.data import checks
from scduet.data.found import names_in
from scduet.data.levels import coded, places_of
from scduet.data.locate import locate_main, var_of_main
from scduet.data.main_matrix import matrix_of
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.events import Event, Listener
from scduet.metrics import METRICS
from scduet.metrics.core.estimates import Estimate
from scduet.metrics.core.neighbors import Neighbors, from_graph
from scduet.metrics.integration.suite import MetricInputs, SamplingPlan, chosen, evaluate
from scduet.options import listed, seed_of
from scduet.tasks.quality import baselines
from scduet.tasks.quality.provenance import learned_labels
from scduet.tasks.quality.shown import ScoreTable

BIO_WEIGHT = 0.6  # scIB (Luecken et al. 2022): total = 0.6 bio + 0.4 batch
DRAWINGS = ("umap", "tsne", "draw_graph", "spatial", "phate")  # obsm that are pictures, not embeddings to score


@dataclass(frozen=True)
class Entry:
    """A row of the table to be: an embedding, a corrected matrix with its PCA as embedding, or a graph of distances."""

    name: str
    x: np.ndarray | None = None
    graph: Neighbors | None = None
    corrected: object | None = None


def score(
    adata,
    embeddings: Sequence[str] | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    *,
    metrics: str | Iterable[str] = "default",
    layer: str | None = None,
    unlabeled_category: str | None = None,
    pseudotime_key: str | None = None,
    with_baselines: bool = True,
    long: bool = False,
    min_max: bool = False,
    exact_up_to: int = 100_000,
    n_queries: int = 5_000,
    seed: int = 0,
    callback: Listener | None = None,
) -> pd.DataFrame:
    """Score embeddings by how well they mix batches and keep cell types (scIB, Luecken et al. 2022, and successors).

    adata: AnnData or MuData; is not changed.
    embeddings: obsm keys; "layers/NAME" scores a corrected matrix by its PCA, "obsp/NAME" a graph of distances. None:
        all of obsm that is no drawing. Beside them always "X_pca", the unintegrated PCA (computed from `layer` or X
        where obsm has none), and "X_harmony" where harmonypy is installed, unless `with_baselines=False`.
    batch_key, labels_key: columns of obs, at least one; metrics that need the other are NaN, with the reason.
    metrics: "default", "scib" (the paper's set), "census", "all", or names; `scduet.metrics.METRICS` lists them.
    unlabeled_category: cells with this label, like cells without one, are left out and counted in a warning.
    pseudotime_key: column of obs with a pseudotime from before integration, for "trajectory"; NaN off the trajectory.
    long: one row an embedding and metric (value, standard_error, rank, reason) instead of one row an embedding.
    min_max: rescale each metric over the embeddings compared before averaging; off, since it makes totals depend on
        what else is compared.
    exact_up_to, n_queries: above so many cells a sample is compared with all, and the standard error is positive.
    callback: called with an Event before each metric: its message names the embedding and the metric.

    Returns a DataFrame, index "embedding": the metrics (raw values, higher is better), "bio", "batch", "total" =
    0.6 bio + 0.4 batch, and "rank" of the total. A metric with a missing value counts in no mean, so that rows stay
    comparable. `.attrs` holds "standard_error" and "reasons" as {embedding: {metric: ...}} (a reason for every missing
    value), "counted", the metrics that were averaged, and "notes", sentences for the reader, e.g. that Harmony is not
    installed, or that scANVI was trained on the labels it is scored by.

    Raises OptionError without a key, DataError for unknown keys, embeddings that are not finite, or fewer than two
    cells left.
    """
    if batch_key is None and labels_key is None and pseudotime_key is None:
        remedy = "pass batch_key= (the column of adata.obs with the batches), labels_key= (the cell types), or both"
        raise OptionError("score needs to know the batches or the cell types", remedy)
    for option, key in (("batch_key", batch_key), ("labels_key", labels_key), ("pseudotime_key", pseudotime_key)):
        if key is not None:
            checks.check_key(option, key)
    if batch_key is not None and batch_key == labels_key:
        raise OptionError(f"batch_key and labels_key are both {batch_key!r}", "name two columns")
    checks.check_cells(adata)
    if layer is not None:
        locate_main(adata, layer)  # is it there?
    names, seed = _chosen(metrics), seed_of(seed)
    adata = _cells_to_score(adata, batch_key, labels_key, pseudotime_key, unlabeled_category)
    labels, batch = (None if key is None else adata.obs[key].to_numpy() for key in (labels_key, batch_key))
    before = _before(adata, layer, needed=with_baselines or "pcr_comparison" in names)
    mixed = batch if with_baselines else None
    entries = _entries(adata, _named(adata, embeddings), before, mixed, with_baselines, seed)
    plan = SamplingPlan(exact_up_to=exact_up_to, n_queries=n_queries, seed=seed)
    extra = _metric_inputs(adata, names, layer, batch, pseudotime_key)
    found = {}
    for number, entry in enumerate(entries):
        said = _told(callback, entry.name, number, names, len(entries))
        more = replace(extra, corrected=entry.corrected)
        found[entry.name] = evaluate(entry.x, labels, batch, before, entry.graph, names, plan, more, said)
    table = long_table(found) if long else wide_table(found, min_max)
    table.attrs["notes"] = [
        *_notes(adata, list(found), labels_key),
        *_without_harmony(adata, list(found), before, mixed),
    ]
    return table


def _told(callback: Listener | None, embedding: str, number: int, names: list[str], n_embeddings: int):
    """Tells `callback` of each metric of an embedding."""
    if callback is None:
        return None
    before, total = number * len(names), n_embeddings * len(names)

    def tell(metric: str) -> None:
        callback(Event("progress", f"{embedding}: {metric}", before + names.index(metric), total, "metric"))

    return tell


def _chosen(metrics: str | Iterable[str]) -> list[str]:
    try:
        return chosen(metrics)
    except (ValueError, TypeError) as error:
        raise OptionError(f"metrics={metrics!r}: {error}") from None


def wide_table(found: dict[str, dict[str, Estimate]], min_max: bool = False) -> pd.DataFrame:
    """One row an embedding: metrics, means of the groups, total and rank; see `score`."""
    values = ScoreTable(pd.DataFrame({name: {m: e.value for m, e in row.items()} for name, row in found.items()}).T)
    counted = [m for m in values if METRICS[m].mean and values[m].notna().all()]
    scaled = values[counted]
    if min_max:
        scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min()).replace(0, np.nan)
    for group in ("bio", "batch"):
        values[group] = scaled[[m for m in counted if METRICS[m].group == group]].mean(axis=1)
    values["total"] = BIO_WEIGHT * values["bio"] + (1 - BIO_WEIGHT) * values["batch"]
    values["rank"] = values["total"].rank(ascending=False, method="min").astype("Int64")
    values.index.name = "embedding"
    values.attrs = {
        "standard_error": {name: {m: e.standard_error for m, e in row.items()} for name, row in found.items()},
        "reasons": {
            name: {m: e.reason for m, e in row.items() if e.reason} | _reasons_of_means(values.loc[name])
            for name, row in found.items()
        },
        "counted": counted,
    }
    return values


def _reasons_of_means(row: pd.Series) -> dict[str, str]:
    """Why the means of an embedding, and with them its total and rank, are missing where they are."""
    found = {}
    for group in ("bio", "batch"):
        asked = [m for m in row.index if m in METRICS and METRICS[m].group == group and METRICS[m].mean]
        if pd.isna(row[group]):
            why = "has a value for every embedding" if asked else "was asked for"
            found[group] = f"no metric that counts in this mean {why}"
    return found | ({"total": "it needs both means", "rank": "it needs the total"} if found else {})


def long_table(found: dict[str, dict[str, Estimate]]) -> pd.DataFrame:
    """One row an embedding and metric: group, value, standard_error, n_cells, rank among embeddings, reason."""
    rows = [
        (name, m, METRICS[m].group, e.value, e.standard_error, e.n_cells, e.reason)
        for name, row in found.items()
        for m, e in row.items()
    ]
    names = ["embedding", "metric", "group", "value", "standard_error", "n_cells", "reason"]
    table = pd.DataFrame(rows, columns=names)
    table.insert(5, "rank", table.groupby("metric")["value"].rank(ascending=False, method="min").astype("Int64"))
    return table


def _cells_to_score(adata, batch_key, labels_key, pseudotime_key, unlabeled: str | None):
    """The cells that have a label and a batch, keys checked."""
    for option, key in (("batch_key", batch_key), ("labels_key", labels_key), ("pseudotime_key", pseudotime_key)):
        if key is not None and key not in adata.obs:
            raise DataError(f"{option}={key!r} is not in obs", f"it has {some(adata.obs.columns, 8)}")
    keep = np.ones(adata.n_obs, bool)
    for key in {batch_key, labels_key} - {None}:
        keep &= coded(adata.obs[key], key).code >= 0
    if labels_key is not None:
        checks.refuse_measurement("labels_key", labels_key, adata.obs[labels_key])
    for option, key in (("batch_key", batch_key), ("labels_key", labels_key)):
        if key is not None:
            checks.check_levels(option, key, adata.obs[key])
    if labels_key is not None and unlabeled is not None:
        labels = coded(adata.obs[labels_key], labels_key)
        keep &= labels.code != places_of([unlabeled], labels.names)[0]
    if keep.sum() < 2:
        raise DataError(f"{keep.sum()} cells have both a label and a batch", "there is nothing to score")
    if not keep.all():
        left_out = f"{(~keep).sum()} of {len(keep)} cells have no label or batch and are left out of the scores"
        warnings.warn(left_out, ScduetWarning, stacklevel=3)
    return adata if keep.all() else adata[keep]


def _notes(adata, names: list[str], labels_key: str | None) -> list[str]:
    flattered = [name for name in names if labels_key is not None and learned_labels(adata, name) == labels_key]
    return [
        f"{name} was trained on the labels {labels_key!r} that it is scored by, so its scores of cell types are too "
        "high; to compare it with others, keep labels of some cells from its training and score these cells"
        for name in flattered
    ]


def _metric_inputs(adata, names: list[str], layer: str | None, batch, pseudotime_key: str | None) -> MetricInputs:
    """What the conservation metrics need, where they are asked for and the data have it."""
    from scduet.metrics.core.inputs import Undefined
    from scduet.metrics.integration.conservation import phase_scores

    time = None if pseudotime_key is None else _numbers(adata.obs[pseudotime_key], pseudotime_key)
    x = matrix_of(adata, layer)
    if x is None or not {"cell_cycle", "hvg_overlap"} & set(names):
        return MetricInputs(pseudotime=time)
    x = baselines.log_normalized(x)
    try:
        symbols = _symbols(var_of_main(adata, layer))
        phases = phase_scores(x, symbols, np.zeros(x.shape[0]) if batch is None else batch)
    except Undefined:
        phases = None
    return MetricInputs(phases, time, x)


def _numbers(values: pd.Series, key: str) -> np.ndarray:
    try:
        return values.to_numpy(float, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise DataError(f"obs[{key!r}] does not hold numbers: {error}", "name a column of numbers") from None


def _symbols(var: pd.DataFrame) -> pd.Index:
    """The names of the genes, or the column of var with more of the cell-cycle genes, e.g. beside Ensembl ids."""
    from scduet.metrics.integration.conservation import known_genes

    text = [pd.Index(var[name].astype(str)) for name in var if not pd.api.types.is_numeric_dtype(var[name])]
    return max([var.index, *text], key=known_genes)


def _named(adata, embeddings: Sequence[str] | None) -> list[str]:
    if embeddings is not None:
        embeddings = listed("embeddings", embeddings)
    if embeddings is None:
        two_d = [k for k in adata.obsm if k.startswith("X_") and not any(d in k.lower() for d in DRAWINGS)]
        return [key for key in two_d if key != "X_pca"]
    if not all(isinstance(name, str) for name in embeddings):
        raise OptionError(f"embeddings={embeddings!r}", f"they are keys of obsm: {some(adata.obsm, 8)}")
    stores = {"layers": names_in(getattr(adata, "layers", None)), "obsp": adata.obsp}
    for name in embeddings:
        store, _, key = name.partition("/")
        elsewhere = name in ("X_pca", "X_harmony") or key in stores.get(store, {})
        if name not in adata.obsm and not elsewhere:
            raise DataError(f"embedding {name!r} is not in obsm", f"it has {some(adata.obsm, 8)}")
    return list(dict.fromkeys(embeddings))


def _before(adata, layer: str | None, needed: bool) -> np.ndarray | None:
    """The unintegrated PCA, or None (with a warning) where there is nothing to compute it from."""
    if "X_pca" in adata.obsm:
        return _finite(adata.obsm["X_pca"], "X_pca")
    if not needed:
        return None
    try:
        return baselines.unintegrated_pca(adata, layer)
    except DataError as error:
        warnings.warn(f"no unintegrated PCA beside the embeddings: {error}", ScduetWarning, stacklevel=3)
        return None


def _entries(adata, names: list[str], before, batch, with_baselines: bool, seed: int) -> list[Entry]:
    wanted = [name for name in names if name not in ("X_pca", "X_harmony") or name in adata.obsm]
    entries = [_entry(adata, name) for name in wanted if name != "X_pca"]
    first = [Entry("X_pca", before)] if before is not None and (with_baselines or "X_pca" in names) else []
    has_harmony = any("harmony" in name.lower() for name in wanted)
    if before is not None and _harmony_fits(batch, before) and not has_harmony and baselines.harmony_installed():
        first.append(Entry("X_harmony", baselines.harmony(before, batch, seed)))
    if not first and not entries:
        raise DataError("there is no embedding to score", "give embeddings=[...] that are in obsm")
    return first + entries


def _harmony_fits(batch, before) -> bool:
    """Are there batches to correct, and a PCA to correct them in?"""
    return batch is not None and len(pd.unique(batch)) > 1 and before is not None


def _without_harmony(adata, names: list[str], before, batch) -> list[str]:
    """A note where Harmony would stand beside the embeddings if it were installed."""
    if baselines.harmony_installed() or not _harmony_fits(batch, before) or any("harmony" in n.lower() for n in names):
        return []
    return [
        "Harmony is not among these scores: harmonypy is not installed. To add it: pip install 'scduet[baselines]' "
        "(harmonypy's license is the GPL, version 3 or later)."
    ]


def _entry(adata, name: str) -> Entry:
    store, _, key = name.partition("/")
    if name in adata.obsm:
        return Entry(name, _finite(adata.obsm[name], name))
    if store == "obsp":
        return Entry(name, graph=from_graph(adata.obsp[key]))
    matrix = adata.layers[key]
    return Entry(name, baselines.principal_components(matrix), corrected=matrix)


def _finite(x, name: str) -> np.ndarray:
    from scduet.metrics.core.inputs import points

    try:
        return points(x, f"obsm[{name!r}]")
    except ValueError as error:
        raise DataError(str(error)) from error
