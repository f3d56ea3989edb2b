"""Which modalities were measured in the cells of a MultiVI: in how many cells, and in each cell of a minibatch."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from scduet.contract import Measured, Reference
from scduet.data.sources import Cells
from scduet.errors import DataError
from scduet.models.multimodal import protein_background
from scduet.models.multimodal.experts import Part
from scduet.shapes import CellCode

MODALITIES = ("rna", "peaks", "protein")  # in the order of their weights
BITS = (1, 2, 4)  # of these: what was measured in a cell as the sum of them, its code
PAIRED = BITS[0] + BITS[1]


def measure(cells: Cells, reference: Reference) -> dict[str, Measured]:
    """What totalVI measures in proteins, and cells_measured (8,): how many cells have each code."""
    totals = [cells.total, *(cells.extra[name].totals() for name in MODALITIES[1:] if name in cells.extra)]
    code = sum((np.nan_to_num(total) > 0) * bit for total, bit in zip(totals, BITS, strict=False))
    found = protein_background.measured(cells, reference) if "protein" in cells.extra else {}
    found = {name: values for name, values in found.items() if name.startswith("protein_")}
    return found | {"cells_measured": Measured(np.bincount(code, minlength=8).astype(np.float32))}


def cells_measured(reference: Reference) -> Float[np.ndarray, "8"]:
    """How many of the cells trained on have each code; zeros for a model of scvi-tools, which does not keep it."""
    return reference.arrays.get("cells_measured", np.zeros(8, np.float32))


def check_paired(reference: Reference) -> None:
    """Raise DataError where RNA or peaks were not measured in a cell."""
    n_lacking = int(sum(n for code, n in enumerate(cells_measured(reference)) if code & PAIRED != PAIRED))
    if n_lacking:
        message = f"fully_paired=True, and {n_lacking} cells have no counts of RNA or none of peaks"
        raise DataError(message, "leave fully_paired out, or those cells")


def code_of(parts: Mapping[str, Part]) -> CellCode:
    """The code of each cell of a minibatch."""
    bits = zip(parts.values(), BITS, strict=False)
    return torch.stack([part.known * bit for part, bit in bits]).sum(0)
