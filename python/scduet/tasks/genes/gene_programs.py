"""Programs: groups of genes that hang together in a gene network, and which known gene sets they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from scduet.errors import DataError, OptionError, some
from scduet.metrics.core.leiden import leiden
from scduet.tasks.genes.gene_sets import GeneSets, enrichment, gene_sets_of
from scduet.tasks.quality.attached import Attached

METHODS = {"model": ("by_model", "weight", "difference"),
           "coexpression": ("by_coexpression", "coexpression", "coexpression_difference")}  # fmt: skip
SPECIFIC = 50  # genes of the network in a set, at most, for sharing it to say something about two genes
NEEDED = ("gene", "other", "weight", "coexpression", "by_model", "by_coexpression")


def gene_programs(
    network: pd.DataFrame,
    gene_sets: GeneSets | str | Path | None = None,
    *,
    resolution: float = 20.0,
    min_genes: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Leiden communities of the links of `gene_network`, by the model and by co-expression alike.

    gene_sets: path of a GMT file, or name -> genes: adds the set that each program is most enriched in.
    resolution: of the modularity; more gives smaller programs (scGPT's authors take 20 to 40). min_genes: smaller
    programs are left out.

    Returns a DataFrame, one row a program: group, method ("model" or "coexpression"), program (0 is the largest),
    n_genes, genes (comma and blank between them); with gene sets also term, overlap, term_size, fold, p_value, fdr,
    term_genes. `attrs["enrichment"]` has all terms, `attrs["links"]` the share of links between genes of a common set
    (of at most 50 genes): by the model, by co-expression, and of random pairs.
    Raises DataError for a table that is no gene network or shares no gene with the sets.
    Source: Cui et al., Nature Methods 2024 (gene programs of scGPT); Traag et al. 2019 (Leiden).
    """
    _check(network, resolution)
    rows = [
        {"group": group, "method": method, "program": i, "n_genes": len(genes), "genes": ", ".join(genes)}
        for (group, method), links in _parts(network)
        for i, genes in enumerate(_communities(links, method, resolution, min_genes, seed))
    ]
    programs = pd.DataFrame(rows, columns=pd.Index(["group", "method", "program", "n_genes", "genes"]))
    return programs if gene_sets is None else _named(programs, network, gene_sets_of(gene_sets))


def _parts(network: pd.DataFrame):
    """Links of each group of cells, by each method."""
    for group, links in network.groupby("group", sort=False):
        for method, (kept, _, _) in METHODS.items():
            yield (str(group), method), links[links[kept]]


def _communities(links: pd.DataFrame, method: str, resolution: float, min_genes: int, seed: int) -> list[list[str]]:
    """Genes of each community, the largest first; links of no positive weight do not count."""
    _, weight, difference = METHODS[method]
    score = links[difference if difference in links else weight].to_numpy(float)
    links, score = links[score > 0], score[score > 0]
    if not len(links):
        return []
    codes, names = pd.factorize(pd.concat([links["gene"], links["other"]]))
    graph = sparse.coo_array((score, tuple(codes.reshape(2, -1))), shape=(len(names), len(names)))
    community = leiden(graph + graph.T, resolution, seed, n_iterations=10)
    found = [names[community == number] for number in range(community.max() + 1)]
    genes = [sorted(members) for members in found if len(members) >= min_genes]
    return sorted(genes, key=lambda members: (-len(members), members))


def _named(programs: pd.DataFrame, network: pd.DataFrame, gene_sets: GeneSets) -> pd.DataFrame:
    """The programs with the set that each is most enriched in."""
    background = pd.unique(network[["gene", "other"]].to_numpy().ravel())
    keys = ["group", "method"]
    tables = []
    for (group, method), part in programs.groupby(keys, sort=False):
        named = {str(row.program): row.genes.split(", ") for row in part.itertuples()}
        tables.append(enrichment(named, gene_sets, background).assign(cells=group, method=method))
    terms = pd.concat(tables, ignore_index=True) if tables else enrichment({}, gene_sets, background)
    if tables:
        terms = terms.rename(columns={"group": "program", "cells": "group"}).astype({"program": int})
        best = terms.drop_duplicates([*keys, "program"]).rename(columns={"genes": "term_genes"})
        programs = programs.merge(best.drop(columns="group_size"), "left", [*keys, "program"])
    links = _agreement(network, gene_sets, background)
    programs.attrs = {"enrichment": Attached(terms), "links": Attached(links)}
    return programs


def _agreement(network: pd.DataFrame, gene_sets: GeneSets, background) -> pd.DataFrame:
    """Of the links between genes of any small set, the share between genes of a common one; and of random pairs."""
    place = {gene: i for i, gene in enumerate(background)}
    common = np.zeros((len(place), len(place)), bool)
    for genes in gene_sets.values():
        members = np.array([place[gene] for gene in genes if gene in place], int)
        if len(members) <= SPECIFIC:
            common[np.ix_(members, members)] = True
    known = np.diag(common).copy()
    np.fill_diagonal(common, False)
    rows = []
    for (group, method), links in _parts(network):
        gene, other = (links[name].map(place).to_numpy(int) for name in ("gene", "other"))
        both = known[gene] & known[other]
        rows.append((group, method, int(both.sum()), float(common[gene, other][both].mean()) if both.any() else np.nan))
    n = int(known.sum())
    chance = common.sum() / max(n * (n - 1), 1)
    rows.append(("", "random pairs", n * (n - 1) // 2, float(chance)))
    return pd.DataFrame(rows, columns=pd.Index(["group", "method", "links", "in_common_set"]))


def _check(network: pd.DataFrame, resolution: float) -> None:
    missing = [name for name in ("group", *NEEDED) if name not in network]
    if missing:
        raise DataError(f"this table has no column {some(missing)}", "pass the result of gene_network")
    if resolution <= 0:
        raise OptionError(f"resolution cannot be {resolution}", "it is above 0; more gives smaller programs")
