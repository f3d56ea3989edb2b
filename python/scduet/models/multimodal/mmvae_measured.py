"""What a family of multimodal autoencoders looks up in the cells before it is built, and when it refuses them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

from scduet.contract import Measured, Reference
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError

MODALITIES = ("rna", "protein", "peaks")


def measure(cells: Cells, reference: Reference) -> dict[str, Measured]:
    """Of the cells that are trained on, with a modality measured in a cell where that has any count of it:

    measured_together (batch, modality, modality): number of cells of each batch with both
    mean_log_total (2,): mean logarithm of the total of genes, and of peaks
    protein_counted (batch, protein): was a protein counted in a batch?
    protein_log_mean (protein,): logarithm of the mean count of each protein
    """
    names = [name for name in MODALITIES if name == "rna" or name in cells.extra]
    totals = {name: np.nan_to_num(cells.total if name == "rna" else cells.extra[name].totals()) for name in names}
    known = np.zeros((len(cells), len(MODALITIES)), np.float32)
    for name, total in totals.items():
        known[:, MODALITIES.index(name)] = total > 0
    together = np.zeros((reference.n_batches, len(MODALITIES), len(MODALITIES)), np.float32)
    np.add.at(together, cells.batch, known[:, :, None] * known[:, None])
    log_total = [_mean_log(totals[name]) if name in totals else 0.0 for name in ("rna", "peaks")]
    found = {"measured_together": Measured(together, "batch")}
    found["mean_log_total"] = Measured(np.array(log_total, np.float32))
    return found | (_proteins(cells, reference.n_batches) if "protein" in names else {})


def check_tied(name: str, reference: Reference, modalities: Sequence[str], align: str = "none") -> None:
    """Raise OptionError for one modality, DataError where nothing ties those that there are together."""
    if len(modalities) < 2:
        raise OptionError(
            f"{name!r} is for two modalities or more, and was given RNA alone", "pass protein_key= or peaks_key="
        )
    if "measured_together" not in reference.arrays:
        return
    places = [MODALITIES.index(name) for name in modalities]
    by_batch = reference.arrays["measured_together"][:, places][:, :, places]
    together = by_batch.sum(0)
    for name, n in zip(modalities, np.diagonal(together), strict=True):
        if n == 0:
            raise DataError(f"{name!r} was measured in no cell", f"leave {name}_key= out, or is it in another place?")
    for (i, a), (j, b) in combinations(enumerate(modalities), 2):
        if not _reached(together > 0)[i, j]:
            _refuse_unpaired(reference, a, b, by_batch[:, [i, j], [i, j]] > 0, align)


def _refuse_unpaired(reference: Reference, a: str, b: str, there: Bool[np.ndarray, "batch 2"], align: str) -> None:
    """Two modalities that no cells link can be aligned by labels, and where they share a batch, alone."""
    if align != "adversary" or reference.n_labels < 2:
        text = f"no cell has both {a!r} and {b!r}: nothing ties them together"
        why = "alike distributions can be laid on each other with the cell types exchanged"
        raise DataError(text, f"{why}; add cells with both, or take mmvae with preset='translation' and labels_key=")
    if not there.all(1).any():
        text = f"{a!r} and {b!r} share no batch, so that one cannot tell what is batch and what is modality"
        raise DataError(text, "leave batch_key= out, or add cells of both to a batch")


def _reached(linked: Bool[np.ndarray, "modality modality"]) -> Bool[np.ndarray, "modality modality"]:
    """Which modalities are linked, directly or by way of others."""
    found = linked
    for _ in range(len(linked)):
        found = (found.astype(int) @ found.astype(int)) > 0
    return found


def _mean_log(total: Float[np.ndarray, " cell"]) -> float:
    seen = total[total > 0]
    return float(np.log(seen).mean()) if len(seen) else 0.0


def _proteins(cells: Cells, n_batches: int) -> dict[str, Measured]:
    source = cells.extra["protein"]
    total, times = np.zeros((n_batches, source.n_genes)), np.zeros((n_batches, source.n_genes))
    for start, rows in source.pieces():
        batch = cells.batch[start : start + len(rows)]
        np.add.at(total, batch, np.nan_to_num(rows))
        np.add.at(times, batch, ~np.isnan(rows))
    counted = total > 0
    mean = (total * counted).sum(0) / np.maximum((times * counted).sum(0), 1)
    found = {"protein_counted": Measured(counted.astype(np.float32), "batch")}
    return found | {"protein_log_mean": Measured(np.log(mean + 0.1).astype(np.float32))}
