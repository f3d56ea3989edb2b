"""Find doublets: droplets with two cells, in each capture for itself."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scduet.api import Model, fit
from scduet.data.checks import check_key
from scduet.data.counts import counts_of
from scduet.data.levels import coded
from scduet.data.locate import column
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.events import Listener, counted
from scduet.options import refuse_unknown, seed_of
from scduet.tasks.posterior.solo import solo_scores
from scduet.tasks.quality import doublet_scores
from scduet.tasks.quality.doublet_scores import Scores, called, expected_rate, heterotypic_share

METHODS = ("neighbors", "solo", "scrublet")
FEWEST_CELLS, FEWEST_GENES = 100, 30  # of a capture
MANY_CELLS = 25_000  # more than one capture of 10x yields: its rate of doublets would be 20%
CAPTURES = ("capture", "lane", "library", "batch", "sample", "run", "channel", "orig.ident")  # columns of obs
_BARCODE = re.compile(r"^[ACGT]{8,}[-_.](\w+)$")  # "ACGT...-2": the second of several captures, as 10x names them
FOUND = "scduet_doublets"  # of uns


@dataclass(frozen=True)
class Capture:
    """The cells of one capture."""

    name: str
    rows: np.ndarray


def find_doublets(
    adata: AnnData,
    method: str | Model = "neighbors",
    *,
    batch_key: str | None = None,
    rate: float | Mapping[str, float] | None = None,
    labels_key: str | None = None,
    layer: str | None = None,
    genes: Any = None,
    use_depth: bool = True,
    seed: int = 0,
    callback: Listener | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Score how much each cell looks like two cells, and call as many doublets as are to be expected.

    adata: AnnData with raw counts (cell, gene) in X or in `layer`, before filtering by doublets or depth. Gains
        obs["doublet_score"] (0 to 1), obs["predicted_doublet"] and uns["scduet_doublets"].
    method: "neighbors": shares of artificial doublets among the neighbors of a cell, and gradient-boosted trees; the
        best here on two data sets with known doublets. "solo": the network of Bernstein et al. 2020 on the states of a
        scVI; on a trained scVI if that is given instead of a name. "scrublet": as in scanpy.
    batch_key: column of obs with the capture (lane of the chip, 10x library). Two cells meet in one capture only, so
        captures are never mixed.
    rate: share of the cells that are doublets; capture -> rate where these differ. None for that of a whole 10x
        capture, 0.8% for each 1,000 cells; wrong for a sample of a larger capture.
    labels_key: column of obs with cell types, which tells how many doublets are of two alike cells and cannot be found;
        None for clusters.
    genes: as for `fit`: None for var["highly_variable"], else all, of which the 2,000 most variable are used.
    use_depth: of SOLO: show the network the library size.
    options: of "solo": options of `fit` for its scVI.

    In a capture of n cells the rate * n * (1 - sum of squared shares of the types) highest scores are called. A score
    is no probability. An average precision of 0.4 is usual on real captures; doublets of two cells of one type are not
    found.

    Returns a row for each capture: n_cells, rate, heterotypic (share of doublets of two types), n_called, and cutoff,
    the lowest score called. Raises DataError for captures with fewer than 100 cells, OptionError.
    """
    name = _checked(adata, method, options)
    check_rate(rate)
    for option, key in {"batch_key": batch_key, "labels_key": labels_key}.items():
        if key is not None:
            check_key(option, key)
    features, counts = counts_of(adata, layer, genes)
    if len(features) < FEWEST_GENES:
        raise DataError(f"{len(features)} genes are too few to find doublets", f"use {FEWEST_GENES} or more")
    captures = _captures(adata, batch_key)
    labels = None if labels_key is None else coded(column(adata, labels_key), labels_key).code
    rates = _rates(rate, captures)
    seed_of(seed)
    scores, flags = np.zeros(adata.n_obs), np.zeros(adata.n_obs, bool)
    told, table = counted(callback if name != "solo" else None, "finding doublets", "cell"), []
    for capture, share in zip(captures, rates, strict=True):
        rows = capture.rows[np.argsort(np.asarray(adata.obs_names)[capture.rows], kind="stable")]
        # by name: the scores do not depend on the order of the cells
        of_capture = sp.csr_matrix(counts[rows])
        if isinstance(method, Model):
            found = solo_scores(method, rows, adata, use_depth, seed, callback)
        else:
            found = _scores(name, of_capture, features, use_depth, seed, callback, options)
        mixed = heterotypic_share(of_capture, None if labels is None else labels[rows], seed)
        scores[rows], flags[rows] = found, called(found, round(share * len(rows) * mixed))
        cutoff = scores[rows][flags[rows]].min(initial=np.inf)
        table.append((capture.name, len(rows), share, mixed, int(flags[rows].sum()), cutoff))
        if told is not None:
            told(sum(row[1] for row in table), adata.n_obs, 0.0)
    adata.obs["doublet_score"], adata.obs["predicted_doublet"] = scores, flags
    columns = ["capture", "n_cells", "rate", "heterotypic", "n_called", "cutoff"]
    found = pd.DataFrame(table, columns=columns).set_index("capture")
    adata.uns[FOUND] = {"method": name, "batch_key": batch_key or "", "captures": found}
    return found


def check_rate(rate: Any) -> None:
    """Raise OptionError for what is no share of doublets."""
    for value in rate.values() if isinstance(rate, Mapping) else [rate]:
        if rate is not None and (isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1):
            raise OptionError(f"option 'rate' cannot be {value!r}", "it is a share of the cells: between 0 and 1")


def _scores(
    name: str, counts: sp.csr_matrix, features: list[str], use_depth: bool, seed: int, callback, options
) -> Scores:
    if name == "neighbors":
        return doublet_scores.neighbor_scores(counts, seed)
    if name == "scrublet":
        return doublet_scores.scrublet_scores(counts, seed)
    cells = AnnData(counts, var=pd.DataFrame(index=features))
    model = fit(cells, "scvi", callback=callback, seed=seed, **options)
    return solo_scores(model, np.arange(len(cells)), None, use_depth, seed, callback)


def _checked(adata: Any, method: Any, options: Mapping[str, Any]) -> str:
    """Name of the method, once it is known that its options are right."""
    if not isinstance(adata, AnnData) or adata.isbacked:
        raise OptionError(f"find_doublets needs cells in memory, not {type(adata).__name__}", "read the file first")
    if isinstance(method, Model):
        refuse_unknown(options, [], "a trained model")
        if method.name != "scvi":
            raise OptionError(f"SOLO looks at the states of a 'scvi', not of a {method.name!r}", "train a scvi")
        return "solo"
    if method not in METHODS:
        raise OptionError(f"unknown method {method!r}", f"choose from {', '.join(METHODS)}")
    if method != "solo":
        refuse_unknown(options, ["batch_key", "rate", "labels_key", "layer", "genes", "seed"], f"method {method!r}")
    return method


def _captures(adata: AnnData, batch_key: str | None) -> list[Capture]:
    if batch_key is None:
        _warn_of_captures(adata)
        found = [Capture("all", np.arange(adata.n_obs))]
    else:
        levels = coded(column(adata, batch_key), batch_key, required=True)
        found = [Capture(name, np.flatnonzero(levels.code == i)) for i, name in enumerate(levels.names)]
    small = [f"{capture.name!r} ({len(capture.rows)})" for capture in found if len(capture.rows) < FEWEST_CELLS]
    if small:
        remedy = f"doublets are found among {FEWEST_CELLS} cells or more: leave these out"
        raise DataError(f"captures with too few cells: {some(small)}", remedy)
    return found


def _warn_of_captures(adata: AnnData) -> None:
    """Warn where the cells look like those of several captures."""
    suffixes = {match[1] for match in map(_BARCODE.match, map(str, adata.obs_names)) if match}
    columns = [key for key in adata.obs if str(key).lower() in CAPTURES and adata.obs[key].astype(str).nunique() > 1]
    why = None
    if len(suffixes) > 1:
        why = f"the barcodes end in {some(sorted(suffixes))}"
    elif columns:
        why = f"obs has the column {columns[0]!r}"
    elif adata.n_obs > MANY_CELLS:
        why = f"there are {adata.n_obs} cells"
    if why is not None:
        message = f"cells of several captures? {why}: name the column of captures as batch_key="
        warnings.warn(message, ScduetWarning, stacklevel=4)


def _rates(rate: float | Mapping[str, float] | None, captures: list[Capture]) -> Iterator[float]:
    if isinstance(rate, Mapping):
        given = {str(name): float(value) for name, value in rate.items()}
        absent = [capture.name for capture in captures if capture.name not in given]
        if absent:
            raise OptionError(f"no rate for the captures {some(absent)}", "rate= has one for each")
        return iter([given[capture.name] for capture in captures])
    return iter([min(expected_rate(len(c.rows)), 0.5) if rate is None else float(rate) for c in captures])
