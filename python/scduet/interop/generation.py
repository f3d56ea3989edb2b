"""What R asks for to generate cells."""

from __future__ import annotations

import scduet
from scduet.interop.kept_models import saved
from scduet.interop.models import fitting
from scduet.interop.options import Options, call


def generate_cells(folder: str, sha256: str, adata, n: int, options: Options):
    """New cells of a saved model, as an AnnData; see `scduet.generate_cells`."""
    model = saved(folder, sha256)
    return call(scduet.generate_cells, model, n, adata=fitting(adata, model), options=options)
