"""Gene sets from a user's GMT file, and whether groups of genes are enriched in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom

from scduet.data.tables import read_gmt
from scduet.errors import DataError, some

SMALLEST, LARGEST = 3, 500  # genes that a set must share with the background to be tested, as in GSEA's manner
GeneSets = Mapping[str, Collection[str]]


def gene_sets_of(given: GeneSets | str | Path) -> GeneSets:
    """Gene sets as they are, or from a GMT file."""
    return given if isinstance(given, Mapping) else read_gmt(given)


def enrichment(
    groups: Mapping[str, Collection[str]], gene_sets: GeneSets | str | Path, background: Collection[str]
) -> pd.DataFrame:
    """Which sets the genes of each group are enriched in: hypergeometric test, Benjamini-Hochberg over all tests.

    groups: name -> genes. gene_sets: name -> genes, or the path of a GMT file. background: all genes that could have
    been in a group; sets are cut to these, and tested if they have 3 to 500 of them.

    Returns a DataFrame, one row for each group and set that share a gene, by p: group, term, overlap, group_size,
    term_size, fold (observed over expected overlap), p_value (P(overlap or more)), fdr, genes.
    Raises DataError when the sets and the background share no genes.
    """
    background = frozenset(background)
    sets = {name: background & frozenset(genes) for name, genes in gene_sets_of(gene_sets).items()}
    if not any(sets.values()):
        known = some(sorted(next(iter(gene_sets_of(gene_sets).values()))))
        message = f"the gene sets know none of these genes: {some(sorted(background))}"
        raise DataError(message, f"they know names like {known}")
    sets = {name: genes for name, genes in sets.items() if SMALLEST <= len(genes) <= LARGEST}
    rows = [
        (group, term, len(shared), len(inside), len(members), ", ".join(sorted(shared)))
        for group, genes in groups.items()
        for inside in [background & frozenset(genes)]
        for term, members in sets.items()
        if (shared := inside & members)
    ]
    names = ["group", "term", "overlap", "group_size", "term_size", "genes"]
    return _tested(pd.DataFrame(rows, columns=pd.Index(names)), len(background), len(groups) * len(sets))


def _tested(table: pd.DataFrame, n: int, n_tests: int) -> pd.DataFrame:
    """p of each row, and its false discovery rate among all tests: pairs without a shared gene have p = 1."""
    overlap, size, term = (table[name].to_numpy(float) for name in ("overlap", "group_size", "term_size"))
    p = np.asarray(hypergeom.sf(overlap - 1, n, term, size))
    every = np.concatenate([p, np.ones(n_tests - len(p))])
    fdr = false_discovery_control(np.clip(every, 0, 1))[: len(p)] if len(every) else p
    found = table.assign(fold=overlap * n / (size * term), p_value=p, fdr=fdr)
    order = ["group", "term", "overlap", "group_size", "term_size", "fold", "p_value", "fdr", "genes"]
    return found.sort_values("p_value", kind="stable")[order].reset_index(drop=True)
