"""What R asks of published transformers: vectors of cells and genes. Objects in, what R keeps out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import scduet
from scduet.errors import OptionError
from scduet.interop import codec, objects
from scduet.interop.models import Genes, Scored, listener, scored

Options = dict[str, Any] | tuple[()]  # R's list without elements comes as an empty list
R_NAMES = {"geneformer": "RunGeneformer", "scgpt": "RunScGPT", "scfoundation": "RunScFoundation"}


@dataclass(frozen=True)
class Embedded:
    """Vectors of cells (R's cell x dimension), what made them, and with labels how good they are."""

    facts: dict[str, Any]
    embedding: objects.Block
    scores: Scored | None


@dataclass(frozen=True)
class Perturbed:
    """One row for each set of genes, and the values of every cell."""

    genes: list[codec.Column]
    cells: list[codec.Column]


def embed_pretrained(
    adata, folder: str, family: str | None, options: Options, callback: Callable | None = None
) -> Embedded:
    """Embed the cells with the transformer in `folder`, which must be of `family` if that is given."""
    model = _read(folder, family)
    table = scduet.embed_pretrained(adata, model, callback=listener(callback), **plain(options))
    facts = {"model": model.name, "folder": folder, "licence": model.licence, "version": scduet.__version__}
    return Embedded(facts, objects.block(adata.obsm[model.key].T), None if table is None else scored(table))


def embed_genes(folder: str, adata=None, options: Options = ()) -> Genes:
    """Vectors of the genes (R's gene x dimension): those learned, or the means of their states in the cells."""
    table = _read(folder).embed_genes(adata, **plain(options))
    return Genes(codec.as_text(table.index), objects.block(table.to_numpy().T))


def perturb_genes(
    adata, folder: str, genes: dict[str, list[str]], options: Options, callback: Callable | None = None
) -> Perturbed:
    """Each set of genes perturbed in the cells, in the eyes of the Geneformer in `folder`."""
    table = scduet.perturb_in_silico(folder, adata, genes, callback=listener(callback), **plain(options))
    return Perturbed(codec.columns_of(table.reset_index()), codec.columns_of(table.attrs["cells"]))


def plain(options: Options) -> dict[str, Any]:
    """Options with whole numbers as such: R's are all of floating point."""
    whole = {k: int(v) for k, v in dict(options).items() if isinstance(v, float) and v.is_integer()}
    return {**dict(options), **whole}


def _read(folder: str, family: str | None = None):
    from scduet.checkpoints import pretrained

    model = pretrained.read(folder)
    if family is not None and model.name != family:
        raise OptionError(f"{folder} is a folder of {model.name}, not of {family}", f"use {R_NAMES[model.name]}()")
    return model
