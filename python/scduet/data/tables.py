"""Gene sets and other tables from files."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pandas as pd

from scduet.errors import DataError, FormatError, some


def read_gmt(path: str | Path) -> dict[str, frozenset[str]]:
    """The gene sets of a GMT file (.gmt or .gmt.gz): name, description, genes, set apart by tabs; one set a line.

    Weights after a comma ("CD3D,1.0", as Enrichr writes them) are dropped. Raises FormatError where there is no set.
    """
    path = Path(path)
    try:
        read = gzip.open if path.suffix == ".gz" else open
        with read(path, "rt", encoding="utf-8") as file:
            lines = [line.rstrip("\r\n").split("\t") for line in file if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read: {error}", "give the path of a .gmt or .gmt.gz file") from None
    sets = {name: frozenset(gene.split(",")[0] for gene in genes if gene) for name, _, *genes in _whole(lines, path)}
    if not sets:
        raise FormatError(f"{path} holds no gene set", "a GMT file has a set a line: name, description, genes")
    return sets


def read_table(path: Path) -> Any:
    """A .gmt as a dict of sets, a .csv or .tsv as a DataFrame whose first column names the rows.

    Raises FormatError for a .gmt and DataError for a table that cannot be read.
    """
    if ".gmt" in path.suffixes:
        return read_gmt(path)
    try:
        return pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",", index_col=0)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", "give the path of a .csv, .tsv or .gmt file") from error


def read_predictions(path: Path, by_context: bool) -> pd.DataFrame:
    """A table (target, gene) from a .csv or .tsv, rows by (context, target) if `by_context`.

    A first column "context" that is "all" throughout is dropped otherwise. Raises DataError for what cannot be read.
    """
    table = read_table(path)
    if isinstance(table, dict) or not len(table.columns):
        raise DataError(f"{path} holds no predictions", "give a .csv or .tsv with a row for each target")
    if table.index.name != "context" or by_context:
        return table.set_index(table.columns[0], append=True) if by_context else table
    if set(table.index) != {"all"}:
        raise DataError(f"{path} has predictions by context", "name the column of contexts")
    return table.set_index(table.columns[0])


def read_column(path: Path) -> pd.Series:
    """The second column of a .csv or .tsv by its first, both as they are. Raises DataError for what cannot be read."""
    table = read_table(path)
    if isinstance(table, dict) or not len(table.columns):
        raise DataError(f"{path} has no second column", "give a .csv or .tsv with a name and a value in each row")
    return table.iloc[:, 0]


def _whole(lines: list[list[str]], path: Path) -> list[list[str]]:
    """Raises FormatError for a line that is no set."""
    short = [i + 1 for i, line in enumerate(lines) if len(line) < 3]
    if short:
        raise FormatError(f"{path}: line {short[0]} has no genes", "a line is: name, description, genes, by tabs")
    return lines


def filled(first: pd.Series, second: pd.Series, key: str) -> pd.Series:
    """`first`, with the values of `second` where it has none."""
    a, b = first.astype(object), second.astype(object)
    differ = first.index[a.notna() & b.notna() & (a.astype(str) != b.astype(str))]
    if len(differ):
        raise DataError(f"modalities differ in {key!r} of {len(differ)} cells: {some(differ)}", "put it into mdata.obs")
    if a.notna().all() or b.isna().all():
        return first
    categorical = all(isinstance(one.dtype, pd.CategoricalDtype) for one in (first, second))
    levels = list(dict.fromkeys([*first.cat.categories, *second.cat.categories])) if categorical else None
    filled = a.where(a.notna(), b)
    return filled.astype(pd.CategoricalDtype(levels)) if categorical else filled.infer_objects()
