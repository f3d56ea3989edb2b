"""scvi-tools' models of its module `external`."""

from __future__ import annotations

from scduet.scvi.gimvi import GIMVI
from scduet.scvi.peaks import POISSONVI
from scduet.scvi.registry import instead_of
from scduet.scvi.solo import SOLO
from scduet.scvi.spots import RNAStereoscope, SpatialStereoscope
from scduet.scvi.velocity import VELOVI

__all__ = ["GIMVI", "POISSONVI", "SOLO", "VELOVI", "RNAStereoscope", "SpatialStereoscope"]
_NOT_HERE = (
    *("CYTOVI", "CellAssign", "ContrastiveVI", "Decipher", "METHYLANVI", "METHYLVI", "MRVI", "RESOLVI"),
    *("SCAR", "SCBASSET", "SCVIVA", "SysVI", "TOTALANVI"),
    *("Tangram", "TorchMRVI"),
)
__getattr__ = instead_of(
    "scduet.scvi.external", dict.fromkeys(_NOT_HERE, "scduet.models.MODELS lists the models that are here")
)
