"""What totalVI measures in protein counts before it is built: which were detected, and how high their background is."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from scduet.contract import Measured, Reference
from scduet.data.sources import Cells, gathered
from scduet.errors import ScduetWarning, some
from scduet.models.rna.scvi import library_moments

N_CELLS = 100  # of a batch, to whose proteins mixtures are fitted
MIN_PROTEINS = 5  # for a mixture of two
FLAT = 0.05  # standard deviation where there is no mixture to fit
MIN_VARIANCE, TOLERANCE, STEPS = 1e-6, 1e-3, 100  # of expectation maximization, as in scikit-learn
PANEL = "panel"


def measured(cells: Cells, reference: Reference) -> dict[str, Measured]:
    """Moments of the library size, and by panel (or batch, where there is no panel):

    protein_detected (panel, protein): has it a count above zero in any cell?
    protein_background_mean, protein_background_sd (panel,): of the lower component of mixtures of log(1 + count)
    protein_missing (2,): is a protein undetected in a panel that has cells? and is one marked as not measured (NaN)?
    """
    panel, n_panels = panels(cells, reference)
    detected, unmeasured = _detected(cells.extra["protein"], panel, n_panels)
    filled = np.bincount(panel[panel >= 0], minlength=n_panels) > 0
    _warn_undetected(detected, unmeasured, filled)
    background = [_background(cells.extra["protein"], np.flatnonzero(panel == i), detected[i]) for i in range(n_panels)]
    axis = None if PANEL in cells.extra else "batch"
    found = {
        "protein_detected": detected,
        "protein_background_mean": np.array([mean for mean, _ in background]),
        "protein_background_sd": np.array([sd for _, sd in background]),
    }
    by_panel = {name: Measured(values.astype(np.float32), axis) for name, values in found.items()}
    missing = np.array([not detected[filled].all(), unmeasured.any()], np.float32)
    return {**library_moments(cells, reference), **by_panel, "protein_missing": Measured(missing)}


def panels(cells: Cells, reference: Reference) -> tuple[Int[np.ndarray, " cell"], int]:
    """The panel of each cell, -1 where it is not known; and how many there are."""
    if PANEL not in cells.extra:
        return cells.batch, reference.n_batches
    level = np.nan_to_num(gathered(cells.extra[PANEL]))
    return np.where(level.any(1), level.argmax(1), -1), level.shape[1]


def _detected(
    proteins: Any, panel: Int[np.ndarray, " cell"], n_panels: int
) -> tuple[Bool[np.ndarray, "panel protein"], Bool[np.ndarray, "panel protein"]]:
    """Which proteins have counts in each panel, and which are NaN in a cell of it."""
    detected, unmeasured = (np.zeros((n_panels, proteins.n_genes), bool) for _ in range(2))
    for start, rows in proteins.pieces():
        here = panel[start : start + len(rows)]
        for i in np.unique(here[here >= 0]):
            detected[i] |= (rows[here == i] > 0).any(0)
            unmeasured[i] |= np.isnan(rows[here == i]).any(0)
    return detected, unmeasured


def _warn_undetected(detected: Any, unmeasured: Any, filled: Any) -> None:
    silent = ~detected & ~unmeasured & filled[:, None]
    if silent.any():
        told = [f"columns {some(np.flatnonzero(row), 5)} in number {i}" for i, row in enumerate(silent) if row.any()]
        text = f"proteins without a count in a whole batch or panel are taken for not measured there: {some(told, 4)}"
        remedy = "mark what was not measured as NaN, and pass override_missing_proteins=True if zeros are counts"
        warnings.warn(f"{text}; {remedy}", ScduetWarning, stacklevel=2)


def _background(proteins: Any, rows: Int[np.ndarray, " cell"], detected: Bool[np.ndarray, " protein"]):
    """Mean of the log background over some of these cells, and the standard deviation of that mean."""
    if len(rows) == 0:
        return 0.0, 1.0
    chosen = np.random.default_rng(0).choice(rows, N_CELLS)
    values = np.log1p(proteins.rows(np.sort(chosen))[:, detected].astype(np.float64))
    values = values[~np.isnan(values).any(1)]
    if detected.sum() < MIN_PROTEINS or len(values) == 0:
        return 0.0, FLAT
    mean, variance = lower_components(values)
    return float(mean.mean()), float(np.sqrt(variance.sum()) / len(values))


def lower_components(
    values: Float[np.ndarray, "cell protein"],
) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
    """Mean and variance of the lower of two normal components fitted to each row; 0 and FLAT² where all are equal."""
    lower = _split(values)
    weight = np.stack([lower, ~lower], -1).astype(float)
    before = np.full(len(values), -np.inf)
    active = np.ones(len(values), bool)
    for _ in range(STEPS):
        share, mean, variance = _maximized(values, weight)
        log_density = np.log(share) - 0.5 * (np.log(2 * np.pi * variance) + (values[..., None] - mean) ** 2 / variance)
        total = np.logaddexp(log_density[..., 0], log_density[..., 1])
        weight = np.where(active[:, None, None], np.exp(log_density - total[..., None]), weight)
        likelihood = total.mean(1)
        active &= np.abs(likelihood - before) >= TOLERANCE
        before = likelihood
    _, mean, variance = (found[:, 0] for found in _maximized(values, weight))
    row, flat = np.arange(len(values)), np.ptp(values, 1) == 0
    least = mean.argmin(1)
    return np.where(flat, 0, mean[row, least]), np.where(flat, FLAT**2, variance[row, least])


def _split(values: Float[np.ndarray, "cell protein"]) -> Bool[np.ndarray, "cell protein"]:
    """Which values of each row are in the lower of two groups with the least squares within them (k-means)."""
    ordered, n = np.sort(values, 1), values.shape[1]
    size, total = np.arange(1, n), ordered.cumsum(1)
    below, above = total[:, :-1], total[:, -1:] - total[:, :-1]
    between = below**2 / size + above**2 / (n - size)
    between[ordered[:, 1:] == ordered[:, :-1]] = -np.inf  # equal values are not parted
    best = between.argmax(1)
    return values <= np.take_along_axis(ordered, best[:, None], 1)


def _maximized(values: Float[np.ndarray, "cell protein"], weight: Float[np.ndarray, "cell protein 2"]):
    """Share, mean and variance of both components of each row, (cell, 1, 2)."""
    size = weight.sum(1, keepdims=True) + 10 * np.finfo(float).eps
    mean = (weight * values[..., None]).sum(1, keepdims=True) / size
    variance = (weight * (values[..., None] - mean) ** 2).sum(1, keepdims=True) / size + MIN_VARIANCE
    return size / values.shape[1], mean, variance
