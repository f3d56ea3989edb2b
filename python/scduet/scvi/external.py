"""scvi-tools' models of its module `external`."""

from __future__ import annotations

from scduet.scvi.peaks import POISSONVI
from scduet.scvi.registry import instead_of
from scduet.scvi.solo import SOLO

__all__ = ["POISSONVI", "SOLO"]
_NOT_HERE = (
    *("CYTOVI", "CellAssign", "ContrastiveVI", "Decipher", "GIMVI", "METHYLANVI", "METHYLVI", "MRVI", "RESOLVI"),
    *("RNAStereoscope", "SCAR", "SCBASSET", "SCVIVA", "SpatialStereoscope", "SysVI", "TOTALANVI"),
    *("Tangram", "TorchMRVI", "VELOVI"),
)
__getattr__ = instead_of(
    "scduet.scvi.external", dict.fromkeys(_NOT_HERE, "scduet.models.MODELS lists the models that are here")
)
