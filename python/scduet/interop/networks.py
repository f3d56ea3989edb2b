"""What R asks of gene networks: links, programs, and where a drawing has its genes. Objects in, what R keeps out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import scduet
from scduet.interop import codec
from scduet.interop.kept_models import saved
from scduet.interop.options import Options, call


@dataclass(frozen=True)
class Network:
    """Links between genes, their programs, the terms of these, and how often links join genes of a common set."""

    links: list[codec.Column]
    programs: list[codec.Column]
    terms: list[codec.Column]
    agreement: list[codec.Column]


@dataclass(frozen=True)
class Drawing:
    """Where each gene is, and where each link begins and ends."""

    genes: list[codec.Column]
    links: list[codec.Column]


def gene_network(
    adata,
    folder: str,
    sha256: str | None,
    options: Options,
    gene_sets: str | dict[str, list[str]] | None = None,
    resolution: float = 20.0,
    seed: int = 0,
) -> Network:
    """The network of a saved model (`sha256` known) or of the transformer in `folder`, and its programs."""
    model = saved(folder, sha256)
    links = call(scduet.gene_network, model, adata, options=options)
    sets = Path(gene_sets) if isinstance(gene_sets, str) else gene_sets
    programs = scduet.gene_programs(links, sets, resolution=resolution, seed=seed)
    nothing = pd.DataFrame()
    found = (programs.attrs.get(name, nothing) for name in ("enrichment", "links"))
    return Network(*(codec.columns_of(table) for table in (links, programs, *found)))


def network_drawing(links: pd.DataFrame, genes: list[str] | None, group: str | None, n_links: int) -> Drawing:
    """The strongest links of a network, laid out."""
    from scduet.plots.network import positions, strongest

    chosen = strongest(links, genes, group, int(n_links))
    place = positions(chosen)
    ends = {f"{axis}{end}": place.loc[chosen[name], axis].to_numpy()
            for end, name in (("", "gene"), ("end", "other")) for axis in ("x", "y")}  # fmt: skip
    told = chosen[["gene", "other", "size", "by_coexpression"]].reset_index(drop=True).assign(**ends)
    return Drawing(codec.columns_of(place.rename_axis("gene").reset_index()), codec.columns_of(told))
