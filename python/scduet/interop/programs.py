"""What R asks for of programs: their genes, and which differ between groups."""

from __future__ import annotations

import numpy as np

import scduet
from scduet.interop import codec
from scduet.interop.kept_models import saved
from scduet.interop.models import fitting
from scduet.interop.options import Options, call
from scduet.tasks.genes.programs import programs_of


def program_genes(folder: str, sha256: str, options: Options) -> list[codec.Column]:
    """The table of `scduet.program_genes`, with the dimension of each program, from 1 on."""
    model = saved(folder, sha256)
    return codec.columns_of(_numbered(model, call(scduet.program_genes, model, options=options)))


def differential_programs(folder: str, sha256: str, adata, options: Options) -> list[codec.Column]:
    """The table of `scduet.differential_programs`, with the dimension of each program, from 1 on."""
    model = saved(folder, sha256)
    table = call(scduet.differential_programs, model, fitting(adata, model), options=options)
    return codec.columns_of(_numbered(model, table))


def _numbered(model, table):
    place = {name: i + 1 for i, name in enumerate(programs_of(model).names)}
    return table.assign(dimension=np.array([place[name] for name in table["program"]], np.int64))
