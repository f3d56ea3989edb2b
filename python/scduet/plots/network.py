"""Plots a gene network: the strongest links, colored by whether co-expression also finds them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from scduet.errors import DataError, some
from scduet.plots.style import STYLE, Figure, categorical_colors

KNOWN, NEW = "#777777", "#D55E00"  # links also found by co-expression, and only by the model
LONGEST = 45  # maximum length of a displayed term
N_COLORED = 6  # maximum number of colored programs


def gene_network(
    network: pd.DataFrame,
    *,
    genes: Sequence[str] | str | None = None,
    group: str | None = None,
    programs: pd.DataFrame | None = None,
    n_links: int = 150,
    seed: int = 0,
) -> Figure:
    """Plot the `n_links` strongest links of `scduet.gene_network`, or those of `genes`.

    Gray links are also found by co-expression, orange links only by the model; width shows strength. group: the group
    of cells, if there are several. programs: result of `scduet.gene_programs`, to color genes. Raises DataError for
    genes or groups without links.
    """
    links = strongest(network, genes, group, n_links)
    place = positions(links, seed)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 6), layout="constrained")
        axes = figure.subplots()
        _draw_links(axes, links, place)
        _draw_genes(axes, place, _programs_of(programs, list(place.index)))
        axes.set_axis_off()
        if len(axes.get_legend_handles_labels()[0]):
            figure.legend(loc="outside lower center", ncols=2)
    return figure


def strongest(network: pd.DataFrame, genes=None, group: str | None = None, n_links: int = 150) -> pd.DataFrame:
    """The model's strongest links, with their `size`: the weight, or its difference from the control."""
    groups = list(network["group"].unique())
    if group is None and len(groups) == 1:
        group = groups[0]
    if group not in groups:
        raise DataError(f"the network has no group {group!r}", f"pass group=, one of {some(groups, 9)}")
    links = network[(network["group"] == group) & network["by_model"]]
    wanted = [genes] if isinstance(genes, str) else genes
    if wanted is not None:
        links = links[links["gene"].isin(list(wanted)) | links["other"].isin(list(wanted))]
    if not len(links):
        raise DataError(f"no links {'' if wanted is None else f'of {some(wanted)} '}in the network", "ask for others")
    size = links["difference" if "difference" in links else "weight"].abs()
    return links.assign(size=size).nlargest(n_links, "size")


def positions(links: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Layout of the genes: x and y, force-directed (Fruchterman and Reingold 1991)."""
    import networkx as nx

    codes, names = pd.factorize(pd.concat([links["gene"], links["other"]]))
    graph = nx.Graph()
    graph.add_nodes_from(range(len(names)))
    weights = (links["size"].to_numpy(float) + 1e-6).tolist()
    graph.add_weighted_edges_from(zip(*codes.reshape(2, -1).tolist(), weights, strict=True))
    laid = nx.spring_layout(graph, weight="weight", iterations=200, seed=seed)
    return pd.DataFrame([laid[i] for i in range(len(names))], index=pd.Index(names), columns=pd.Index(["x", "y"]))


def _draw_links(axes: Axes, links: pd.DataFrame, place: pd.DataFrame) -> None:
    width = 0.4 + 2.2 * _scaled(links["size"].to_numpy(float))
    for known, color, name in ((True, KNOWN, "link by model and co-expression"), (False, NEW, "link by model only")):
        here = (links["by_coexpression"] == known).to_numpy()
        ends = [place.loc[links.loc[here, end]].to_numpy() for end in ("gene", "other")]
        if here.any():
            lines = np.stack(ends, axis=1)
            axes.add_collection(
                LineCollection(list(lines), linewidths=width[here], colors=color, alpha=0.6, label=name)
            )


def _draw_genes(axes: Axes, place: pd.DataFrame, program: list[str]) -> None:
    colors = categorical_colors(sorted(set(program)), neutral=("",))
    for name in colors:
        here = [other == name for other in program]
        axes.scatter(*place[here].to_numpy().T, s=26, color=colors[name], zorder=3, label=name or None)
    for gene, (x, y) in zip(place.index, place.to_numpy(), strict=True):
        axes.annotate(gene, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7, parse_math=False)


def _programs_of(programs: pd.DataFrame | None, genes: list[str]) -> list[str]:
    """A name for the program of each gene; "" for none, or for a program with few of these genes."""
    if programs is None:
        return [""] * len(genes)
    own = programs[programs["method"] == "model"]
    named = {gene: _title(row) for row in own.itertuples() for gene in row.genes.split(", ")}
    common = pd.Series([named[gene] for gene in genes if gene in named], dtype=object).value_counts()
    kept = set(common.index[:N_COLORED])
    return [named[gene] if named.get(gene) in kept else "" for gene in genes]


def _title(row) -> str:
    """The term that a program is enriched in (FDR below 0.05), if any, without the database's id."""
    if getattr(row, "fdr", 1) < 0.05:
        term = str(row.term).split("_Homo sapiens")[0].split(" (GO:")[0]
        return term if len(term) <= LONGEST else f"{term[: LONGEST - 3]}..."
    return f"program {row.program}"


def _scaled(size: Float[np.ndarray, " link"]) -> Float[np.ndarray, " link"]:
    """Sizes between 0 and 1."""
    spread = size.max() - size.min()
    return (size - size.min()) / spread if spread > 0 else np.ones_like(size)
