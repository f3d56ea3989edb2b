"""What R asks for of programs and networks: genes, what differs between groups, what nodes are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import scduet
from scduet.interop import codec
from scduet.interop.kept_models import saved
from scduet.interop.models import fitting
from scduet.interop.options import Options, call
from scduet.tasks.genes.programs import programs_of


@dataclass(frozen=True)
class NodeWeights:
    """A row for each node and label, and what holds for all of them by name."""

    nodes: list[codec.Column]
    facts: dict[str, float]


def program_genes(folder: str, sha256: str, options: Options) -> list[codec.Column]:
    """The table of `scduet.program_genes`, with the dimension of each program, from 1 on."""
    model = saved(folder, sha256)
    return codec.columns_of(_numbered(model, call(scduet.program_genes, model, options=options)))


def differential_programs(folder: str, sha256: str, adata, options: Options) -> list[codec.Column]:
    """The table of `scduet.differential_programs`, with the dimension of each program, from 1 on."""
    model = saved(folder, sha256)
    table = call(scduet.differential_programs, model, fitting(adata, model), options=options)
    return codec.columns_of(_numbered(model, table))


def node_weights(folder: str, sha256: str, adata, options: Options) -> NodeWeights:
    """The table of `scduet.node_weights`; `adata`: the cells that the model was trained on."""
    model = saved(folder, sha256)
    table = call(scduet.node_weights, model, fitting(adata, model), options=options)
    return NodeWeights(codec.columns_of(table), dict(table.attrs))


def _numbered(model, table):
    place = {name: i + 1 for i, name in enumerate(programs_of(model).names)}
    return table.assign(dimension=np.array([place[name] for name in table["program"]], np.int64))
