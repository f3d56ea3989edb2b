"""Proportions of cell types in the spots of a tissue, with a single-cell reference."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scduet.data.counts import counts_of
from scduet.data.locate import locate
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.events import Listener, counted
from scduet.options import check_arguments, refuse_unknown, seed_of
from scduet.tasks.spatial import genes as gene_choice
from scduet.tasks.spatial import held_out
from scduet.tasks.spatial import reference as references
from scduet.tasks.spatial.fitting import Problem, solved
from scduet.tasks.spatial.genes import Choice
from scduet.tasks.spatial.nuclei import check_nuclei
from scduet.tasks.spatial.reference import Reference
from scduet.tasks.spatial.result import NOUNS, Deconvolution


@dataclass(frozen=True)
class Deconvolver:
    """A method of `deconvolve`."""

    genes: Literal["variable", "markers"]  # used where none are named
    deep: bool = False


DECONVOLVERS: Mapping[str, Deconvolver] = {
    "poisson": Deconvolver("variable"),
    "weighted_nnls": Deconvolver("markers"),
    "nnls": Deconvolver("variable"),
    "destvi": Deconvolver("variable", deep=True),
    "stereoscope": Deconvolver("variable", deep=True),
}


def deconvolve(
    spots: AnnData,
    reference: AnnData,
    *,
    labels_key: str,
    model: str = "poisson",
    per: Literal["cell", "rna"] = "cell",
    layer: str | None = None,
    reference_layer: str | None = None,
    genes: Choice | None = None,
    n_genes: int | None = None,
    platform_effect: bool = True,
    n_splits: int = 3,
    key_added: str = "proportions",
    seed: int = 0,
    callback: Listener | None = None,
    **options: Any,
) -> Deconvolution:
    """Estimate the proportions of the reference's cell types in each spot, and say how far to trust them.

    spots: AnnData with raw counts (spot, gene). Gains obsm[key_added], a DataFrame of proportions, obsm[key_added +
        "_spread"], obs[key_added + "_unexplained"], and uns[key_added]: the model, the table of agreement and notes.
    reference: AnnData with raw counts of single cells, and cell types in obs[labels_key]. Cells without one are not
        used. Genes that both have are matched by name.
    model: "poisson": EM for the Poisson likelihood from the composition common to all spots; the number of steps is the
        one after which half of the molecules predicts the other half best. Where the reference fits well that is
        hundreds (the maximum of the likelihood), in shallow or unlike data few. "nnls": least squares. "weighted_nnls":
        with genes weighted by 1 / expected count. "destvi", "stereoscope": deep models, see their pages.
    per: "cell": shares of cells, by the mean total count of each type in the reference. "rna": shares of RNA, which is
        what all of these methods estimate first, and what to use where totals in the reference mean little.
    genes: "variable": the `n_genes` (2,000) that vary most in the reference. "markers": up to `n_genes` (100) for each
        type with the largest fold change against the next best. Or names. None for "markers" of "weighted_nnls", else
        "variable".
    platform_effect: give each gene a factor for how much more the spots show of it than the reference. Between two
        technologies it varies by a factor of two and more, and without it no method fits; between alike ones it does no
        harm.
    n_splits: times that the molecules are dealt out to two halves, for the spread; "stereoscope" is trained on each.
    options: of a deep model and its training; `reference_max_epochs` etc. of that on the reference.

    The plain methods are always run too. On independent pseudo-spots they are as good as the deep models, in seconds.

    Raises DataError for spots or cells without raw counts, without any count, or without shared genes, and OptionError.
    Warns of types with fewer than 10 cells or with one marker gene or none, and of a reference of nuclei.

    Returns a `Deconvolution`: proportions, spread, agreement, types, genes, mixtures, unexplained, notes, and
    `expression(type)`, the counts of each spot that belong to a type.
    """
    row = _checked(spots, model, per, key_added, options)
    check_arguments(n_splits=n_splits, **({} if n_genes is None else {"n_genes": n_genes}))
    seed_of(seed)
    known = references.learn(reference, labels_key, reference_layer)
    problem = read(
        spots,
        known,
        layer,
        genes=row.genes if genes is None else genes,
        n_genes=n_genes,
        platform=platform_effect,
        per=per,
    )
    deep = None
    if row.deep:
        from scduet.tasks.spatial.deep import fit_spots

        both = to_train_on(problem, reference, labels_key, reference_layer)
        if options.get("smoothed_layer") is not None:
            _keep_layer(spots, options["smoothed_layer"], both[0])
        how = {"labels_key": labels_key, "seed": seed, "callback": callback, **options}
        deep = partial(fit_spots, model, *both, genes=list(problem.chosen.index), **how)
    told = counted(None if row.deep else callback, "deconvolving", "cell")
    spread = partial(held_out.spread_of_molecules, n_splits=n_splits, seed=seed)
    found = solved(problem, model, seed, spread, deep, told)
    _write(spots, found, key_added, labels_key)
    return found


def read(
    mixtures: AnnData, reference: Reference, layer: str | None, *, genes: Choice, n_genes: int | None, platform: bool,
    per: str, what: str = "spots",
) -> Problem:  # fmt: skip
    """Spots of whole counts, or samples, beside the reference, once it is known that they can be compared."""
    shared = gene_choice.shared(mixtures.var_names, reference.genes, what)
    chosen = gene_choice.choose(reference, shared, genes, n_genes)
    types = gene_choice.check_types(reference, chosen.index)
    fractions = what != "spots"
    counts_of(mixtures, layer, list(chosen.index), fractions)  # names mixtures without a count in the genes that decide
    _, counts = counts_of(mixtures, layer, list(shared), fractions)
    check_nuclei(np.asarray(counts.sum(0)).ravel(), reference, shared, what)
    return Problem(mixtures.obs_names, sp.csr_matrix(counts), shared, chosen, types, reference, platform, per, what)


def to_train_on(
    problem: Problem, reference: AnnData, labels_key: str, reference_layer: str | None
) -> tuple[AnnData, AnnData]:
    """Counts of the genes used, of mixtures and of the reference's cells with their types."""
    used = list(problem.chosen.index)
    cells = AnnData(counts_of(reference, reference_layer, used)[1], reference.obs[[labels_key]].copy())
    mixtures = AnnData(problem.on_used, pd.DataFrame(index=problem.names))
    for part in (mixtures, cells):
        part.var_names = used
    return mixtures, cells


def _keep_layer(spots: AnnData, name: str, into: AnnData) -> None:
    """Raises DataError that lists the layers for one that is not there."""
    locate(spots, f"layers/{name}")
    into.layers[name] = spots[:, into.var_names].layers[name]


def check_per(per: Any) -> None:
    """Raise OptionError for what proportions cannot be shares of."""
    if per not in NOUNS:
        raise OptionError(f"per={per!r}", f"it is {' or '.join(map(repr, NOUNS))}")


def _checked(spots: Any, model: str, per: str, key_added: str, options: Mapping[str, Any]) -> Deconvolver:
    if not isinstance(spots, AnnData) or spots.isbacked:
        raise DataError(f"deconvolve needs spots in memory, not {type(spots).__name__}", "read the file first")
    if model not in DECONVOLVERS:
        raise OptionError(f"unknown model {model!r}", f"choose from {', '.join(DECONVOLVERS)}")
    check_per(per)
    if not DECONVOLVERS[model].deep:
        refuse_unknown(options, ["genes", "n_genes", "platform_effect", "n_splits"], f"model {model!r}")
    if key_added in spots.obsm and key_added not in spots.uns:
        raise OptionError(f"obsm[{key_added!r}] is there, and deconvolve did not write it", "pass another key_added=")
    return DECONVOLVERS[model]


def _write(spots: AnnData, found: Deconvolution, key: str, labels_key: str) -> None:
    """Results into the AnnData, with names of types that a file can hold ("/" it cannot)."""
    columns = [str(name).replace("/", "-") for name in found.proportions]
    spots.obsm[key] = found.proportions.set_axis(columns, axis=1)
    if found.spread is not None:
        spots.obsm[f"{key}_spread"] = found.spread.set_axis(columns, axis=1)
    spots.obs[f"{key}_unexplained"] = found.mixtures["unexplained"]
    spots.uns[key] = {
        "model": found.model, "per": found.per, "labels_key": labels_key, "unexplained": found.unexplained,
        "agreement": found.agreement, "notes": np.array(found.notes, dtype=str),
    }  # fmt: skip
    for note in found.notes[1:]:
        warnings.warn(note, ScduetWarning, stacklevel=3)
