"""RNA velocity in one call: moments, a model, a graph of cells, arrows on an embedding, and a judgement beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float

from scduet.api import Model
from scduet.data.checks import check_key
from scduet.errors import DataError, OptionError, some
from scduet.events import Listener
from scduet.options import check_arguments, options_of, refuse_unknown, seed_of
from scduet.tasks.velocity import draws
from scduet.tasks.velocity.fields import Field, by_dynamics, by_regression, by_velovi
from scduet.tasks.velocity.judgement import check_transitions, clusters, judged, verdict_of, verdict_of_all
from scduet.tasks.velocity.latent_time import shared_time
from scduet.tasks.velocity.prepare import Moments, moments_of
from scduet.tasks.velocity.transitions import cosines, project
from scduet.tasks.velocity.transitions import transitions as next_cells

MODELS = ("steady_state", "stochastic", "dynamical", "velovi")
FOUND = "scduet_velocity"  # of uns
GRAPH = "velocity_graph"  # of obsp
FITS = ("Ms_fit", "Mu_fit")  # of layers


@dataclass(frozen=True, repr=False)
class Velocity:
    """What `velocity` found beside the layer of velocities."""

    method: str
    scores: pd.Series
    verdict: str  # whether the data support a direction
    permutation: pd.DataFrame  # permutation scores, (gene, type)
    model: Model | None = None

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {value:.3g}" for name, value in self.scores.items())
        return f"velocity by {self.method}: {told}\n{self.verdict}"


def velocity(
    adata: AnnData,
    model: str | Model = "steady_state",
    *,
    spliced: str = "spliced",
    unspliced: str = "unspliced",
    labels_key: str | None = None,
    transitions: Sequence[tuple[str, str]] = (),
    basis: str | None = None,
    genes: Any = None,
    n_top_genes: int = 2000,
    n_neighbors: int = 30,
    n_pcs: int = 30,
    n_samples: int = 25,
    key_added: str = "velocity",
    seed: int = 0,
    callback: Listener | None = None,
    **options: Any,
) -> Velocity:
    """Estimate where cells are going from spliced and unspliced counts, and say whether the data support it.

    adata: AnnData with raw counts of both kinds (cell, gene), of 100 cells or more. Gains, with NaN for genes without a
        velocity: layers[key_added]; layers["Ms"] and ["Mu"] (moments); var["velocity_genes"], ["velocity_gamma"] (slope
        of unspliced on spliced in the steady state), ["velocity_r2"], ["velocity_permutation"]; obs["velocity_length"],
        ["velocity_confidence"]; obsp["velocity_graph"] (cosines), obsm["velocity_<basis>"] (arrows),
        uns["scduet_velocity"]. With "dynamical" and "velovi" also obs["latent_time"] (0 to 20), layers["Ms_fit"] and
        ["Mu_fit"] (expected moments); with "velovi" obs["velocity_uncertainty"] (variance of the angle over draws).
    model: "steady_state" (La Manno et al. 2018) and "stochastic" (Bergen et al. 2020) take seconds; "dynamical" (Bergen
        et al. 2020) takes a minute and gives times; "velovi" (Gayoso, Weiler et al. 2024) takes minutes to an hour and
        gives times and an uncertainty; or a veloVI that an earlier call trained on these cells.
    spliced, unspliced: layers, or other places such as "X".
    labels_key: column of obs with cell types, within which cells are shuffled to judge the fit; None for clusters.
    transitions: known pairs of types (from, to). They alone can tell whether the direction is right.
    basis: key of obsm on which to draw, e.g. "X_umap"; None for X_umap if it is there, else X_pca, made if needed.
    genes, n_top_genes, n_neighbors, n_pcs: see `velocity_moments`.
    n_samples: of "velovi", draws that velocities and times are means over.
    options: of "velovi", those of `fit`.

    Returns, beside the model: `scores` with genes (that have a velocity), unspliced (share of the molecules),
    confidence (mean correlation with the velocities of neighbors; a wrong direction has it too), permutation (how much
    better the fit is of cells than of shuffled cells: median over genes of the largest t statistic over types), and
    with `transitions` direction (mean cosine of the arrows with the ways across, -1 to 1) and direction_genes (the same
    in the space of genes); and `verdict`, a sentence.
    Raises DataError for values that are no counts, a missing layer, fewer than 100 cells, and where no gene has both
    kinds of counts; OptionError.
    """
    name = _checked(adata, model, key_added, basis, options)
    check_arguments(n_samples=n_samples)
    known = None if labels_key is None else draws.type_names(adata, labels_key)
    pairs = check_transitions(transitions, known)
    found = moments_of(adata, spliced, unspliced, genes, n_top_genes, n_neighbors, n_pcs)
    labels = clusters(found.pca, seed_of(seed)) if known is None else known
    if name == "velovi":
        field = by_velovi(found, model, labels, n_samples, seed, callback, options)
    elif name == "dynamical":
        field = by_dynamics(found, labels, seed, callback)
    else:
        field = by_regression(found, name, labels, seed)
    graph = cosines(field.x, field.velocity, found.index, field.root)
    place = basis or ("X_umap" if "X_umap" in adata.obsm else "X_pca")
    if place not in adata.obsm:
        adata.obsm["X_pca"] = found.pca
    places = np.asarray(adata.obsm[place], np.float64)
    arrows = project(next_cells(graph), places)
    scores, confidence = judged(found, field, labels, pairs, arrows, places)
    verdict = verdict_of(scores.rename(name))
    _forget(adata)
    _write(adata, found, field, key_added)
    if field.time is not None:
        shared = shared_time(field.time, graph, found.average) if name == "dynamical" else field.time.mean(1)
        adata.obs["latent_time"] = shared
    adata.obsp[GRAPH], adata.obsm[_arrows_key(place)] = graph, arrows
    adata.obs["velocity_confidence"] = confidence
    adata.uns[FOUND] = {
        "model": name,
        "spliced": spliced,
        "unspliced": unspliced,
        "layer": key_added,
        "scores": scores.to_dict(),
        "verdict": verdict,
    }
    return Velocity(name, scores, verdict, field.permutation, field.model)


def velocity_embedding(adata: AnnData, basis: str = "X_umap") -> Float[np.ndarray, "cell dim"]:
    """Draw the velocities that `velocity` found on another embedding.

    basis: key of obsm. Writes obsm["velocity_<basis>"], e.g. "velocity_umap", and returns it: of each cell the expected
    unit step to its neighbors less that of a walk without preference. Raises DataError without a velocity.
    """
    check_key("basis", basis)
    if GRAPH not in getattr(adata, "obsp", {}):
        raise DataError(f"no obsp[{GRAPH!r}]", "run velocity() first")
    _check_basis(adata, basis)
    arrows = project(next_cells(sp.csr_matrix(adata.obsp[GRAPH])), np.asarray(adata.obsm[basis], np.float64))
    adata.obsm[_arrows_key(basis)] = arrows
    return arrows


def compare_velocity(
    adata: AnnData, models: Sequence[str] = MODELS, *, options: Mapping[str, Any] | None = None, **given: Any
) -> pd.DataFrame:
    """Run several models on the same cells, and say how far they agree.

    adata: as for `velocity`; not modified. options: of "velovi", those of `fit`. given: further arguments of
        `velocity`, e.g. labels_key and transitions.

    Returns a row for each model: the scores of `velocity`, and the columns agreement_<model>, the mean over cells of
    the cosine between the arrows of both models, -1 to 1. Models that do not agree are a reason for doubt; that they
    agree is no proof, as they read the same counts. `attrs["verdict"]` says in a sentence how many of the models find a
    direction that the data support, and whether they agree.
    """
    unknown = [name for name in models if name not in MODELS]
    if unknown or not models or isinstance(models, str):
        raise OptionError(f"option 'models' cannot be {models!r}", f"it is a list of {', '.join(MODELS)}")
    rows, arrows = {}, {}
    for name in models:
        cells = AnnData(adata.X, obs=adata.obs, var=adata.var, layers=dict(adata.layers), obsm=dict(adata.obsm))
        cells.uns[FOUND] = adata.uns.get(FOUND, {})  # says that an earlier velocity wrote its layer
        rows[name] = velocity(cells, name, **given, **(options or {} if name == "velovi" else {})).scores
        place = given.get("basis") or ("X_umap" if "X_umap" in adata.obsm else "X_pca")
        arrows[name] = cells.obsm[_arrows_key(place)]
    table = pd.DataFrame(rows).T.rename_axis("model")
    for name in models:
        table[f"agreement_{name}"] = [_mean_cosine(arrows[name], arrows[other]) for other in models]
    table.attrs["verdict"] = verdict_of_all(table)
    return table


def _mean_cosine(a: Float[np.ndarray, "cell dim"], b: Float[np.ndarray, "cell dim"]) -> float:
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.divide((a * b).sum(1), length, out=np.zeros(len(a)), where=length > 0).mean())


def _checked(adata: Any, model: Any, key_added: str, basis: Any, options: Mapping[str, Any]) -> str:
    """Name of the model, once it is known that its options are right and that there is room for the result."""
    if not isinstance(adata, AnnData) or adata.isbacked:
        raise OptionError(f"velocity needs cells in memory, not {type(adata).__name__}", "read the file first")
    if isinstance(model, Model):
        draws.velovi_of(model)
        refuse_unknown(options, [], "a trained model")
    elif model not in MODELS:
        raise OptionError(f"unknown model {model!r}", f"choose from {', '.join(MODELS)}")
    else:
        known = [option.name for option in options_of("velovi") if option.name not in ("layer", "unspliced", "seed")]
        refuse_unknown(options, known if model == "velovi" else [], f"model {model!r}")
    name = model.name if isinstance(model, Model) else model
    check_key("key_added", key_added)
    written = adata.uns.get(FOUND, {}).get("layer")
    if key_added in adata.layers and key_added != written:
        raise OptionError(f"layers[{key_added!r}] is there, and velocity did not write it", "pass another key_added=")
    if basis is not None and basis != "X_pca":
        check_key("basis", basis)
        _check_basis(adata, basis)
    return name


def _check_basis(adata: AnnData, basis: str) -> None:
    if basis not in adata.obsm:
        raise DataError(f"no obsm[{basis!r}]", f"it has {some(adata.obsm, 8)}")


def _arrows_key(basis: str) -> str:
    return f"velocity_{basis.removeprefix('X_')}"


def _forget(adata: AnnData) -> None:
    """Times and fits of an earlier velocity, which another model may not have."""
    if FOUND in adata.uns:
        adata.obs.drop(columns="latent_time", errors="ignore", inplace=True)
        for key in FITS:
            adata.layers.pop(key, None)


def _write(adata: AnnData, found: Moments, field: Field, key_added: str) -> None:
    """What is known of each gene and cell, in the columns of `adata`."""
    columns = adata.var_names.get_indexer(pd.Index(found.genes))
    of_field = columns[field.genes]
    for key, values, place in (
        ("Ms", found.ms, columns),
        ("Mu", found.mu, columns),
        (key_added, field.velocity * field.units, of_field),
        *((key, values, of_field) for key, values in zip(FITS, field.fit or (), strict=False)),
    ):
        layer = np.full(adata.shape, np.nan, np.float32)
        layer[:, place] = values
        adata.layers[key] = layer
    best = field.permutation.max(axis=1)
    for key, values in {"gamma": field.gamma, "r2": field.r2, "permutation": best}.items():
        whole = np.full(adata.n_vars, np.nan)
        whole[of_field] = values
        adata.var[f"velocity_{key}"] = whole
    adata.var["velocity_genes"] = np.isin(np.arange(adata.n_vars), of_field)
    adata.obs["velocity_length"] = np.linalg.norm(field.velocity, axis=1)
    if field.uncertainty is not None:
        adata.obs["velocity_uncertainty"] = field.uncertainty["angle_variance"].to_numpy()
