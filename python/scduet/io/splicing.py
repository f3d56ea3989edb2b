"""Reads folders with spliced and unspliced counts, for RNA velocity: of STARsolo (Velocyto) and of alevin-fry.

STARsolo: https://github.com/alexdobin/STAR/blob/master/docs/STARsolo.md; early versions wrote the three counts as three
columns of one matrix.mtx (STAR, issue 774). alevin-fry: the thirds of its matrix are spliced, unspliced and ambiguous,
as load_fry of pyroe (https://pyroe.readthedocs.io) and loadFry of fishpond read them.
"""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.utils import make_index_unique
from scipy.io import mmread

from scduet.errors import FormatError, ScduetWarning
from scduet.io.tenx import MATRIX, one_of, table

KINDS = ("spliced", "unspliced", "ambiguous")  # in the order of STARsolo's columns and alevin-fry's thirds
SUFFIXES = ("", "-U", "-A")  # of alevin-fry's names of genes
FRY = ("quants_mat.mtx", "quants_mat_rows.txt", "quants_mat_cols.txt")
REPORTS = ("quant.json", "meta_info.json")  # of alevin-fry 0.4.1 and later, and before
AGAIN = "copy it again"


def is_starsolo(path: Path) -> bool:
    """Whether `path` is Velocyto/raw or Velocyto/filtered of STARsolo."""
    return path.is_dir() and (any(_file(path, f"{kind}.mtx") for kind in KINDS[:2]) or _columns(path) == 5)


def is_alevin_fry(path: Path) -> bool:
    """Whether `path` is the output folder of `alevin-fry quant`, or the folder alevin in it."""
    return any(_file(folder, name) for folder in (path, path / "alevin") for name in FRY)


def read_starsolo(path: Path) -> AnnData:
    """X and layers["spliced"], ["unspliced"], and ["ambiguous"] where it is there; X is the spliced counts.

    Names are the symbols of features.tsv, made unique; the ids are in var["gene_ids"]. Raises FormatError, naming the
    file, where one is missing, damaged or of another size.
    """
    features, barcodes = one_of(path, "", "features.tsv", "genes.tsv"), one_of(path, "", "barcodes.tsv")
    genes, cells = table(features), table(barcodes)
    if _file(path, "spliced.mtx") is None and _columns(path) == 5:
        files: dict[str, Path] = dict.fromkeys(KINDS, one_of(path, "", MATRIX[0]))
        layers = _three_columns(files["spliced"])
    else:
        files = {kind: one_of(path, "", f"{kind}.mtx") for kind in KINDS[:2]}
        extra = _file(path, "ambiguous.mtx")
        files |= {} if extra is None else {"ambiguous": extra}
        layers = {kind: _matrix(file) for kind, file in files.items()}
    for kind, counts in layers.items():
        _check_size(files[kind], counts, {features: len(genes), barcodes: len(cells)})
    var = pd.DataFrame({"gene_ids": genes[0].to_numpy()}, index=genes[min(1, genes.shape[1] - 1)].to_numpy())
    if genes.shape[1] > 2:
        var["feature_types"] = genes[2].to_numpy()
    return _cells({kind: counts.T for kind, counts in layers.items()}, cells[0], var)


def read_alevin_fry(path: Path) -> AnnData:
    """X and layers["spliced"] are spliced + ambiguous, as pyroe's formats "scRNA" and "velocity" have them.

    layers["unspliced"], and layers["ambiguous"], which is a part of "spliced". Of a folder that was not counted in USA
    mode only X. Names are those of gene_id_to_name.tsv (simpleaf writes it), else the ids, which are in
    var["gene_ids"]. Fractions of molecules, from resolutions with EM, are rounded, with a ScduetWarning.

    Raises FormatError, naming the file, where one is missing, damaged or of another size.
    """
    folder = path / "alevin" if any(_file(path / "alevin", name) for name in FRY) else path
    top = folder.parent if folder.name == "alevin" else folder
    matrix, rows, columns = (one_of(folder, "", name) for name in FRY)
    cells, names = table(rows)[0], table(columns)[0].to_numpy(str)
    counts = _matrix(matrix)
    _check_size(matrix, counts, {rows: len(cells), columns: len(names)})
    if not _in_thirds(columns, names, top):
        return _cells(_whole(matrix, {"X": counts}), cells, _named(names, top))
    n = len(names) // 3
    spliced, unspliced, ambiguous = (counts[:, start : start + n] for start in (0, n, 2 * n))
    layers = {"spliced": sp.csr_matrix(spliced + ambiguous), "unspliced": unspliced, "ambiguous": ambiguous}
    return _cells(_whole(matrix, layers), cells, _named(names[:n], top))


def _in_thirds(columns: Path, names: np.ndarray, top: Path) -> bool:
    """Whether the genes are there three times, as in USA mode: with suffixes, or the same names again."""
    n, rest = divmod(len(names), 3)
    thirds = [names[i * n : (i + 1) * n] for i in range(3)]
    suffixed = not rest and all(
        np.array_equal(third, np.char.add(thirds[0], suffix)) for third, suffix in zip(thirds, SUFFIXES, strict=True)
    )
    repeated = not rest and all(np.array_equal(third, thirds[0]) for third in thirds)
    report = next((top / name for name in REPORTS if (top / name).is_file()), None)
    if report is not None and _says_usa(report) and not (suffixed or repeated):
        message = f"{columns} does not list the same genes three times, though {report.name} says usa_mode"
        raise FormatError(message, AGAIN)
    return suffixed or repeated


def _says_usa(report: Path) -> bool:
    try:
        return bool(json.loads(report.read_text("utf-8")).get("usa_mode"))
    except (ValueError, AttributeError) as error:
        raise FormatError(f"{report} is not the report of alevin-fry quant", AGAIN) from error


def _named(ids: np.ndarray, top: Path) -> pd.DataFrame:
    file = top / "gene_id_to_name.tsv"
    known = dict(table(file).iloc[:, :2].to_numpy(str)) if file.is_file() else {}
    return pd.DataFrame({"gene_ids": ids}, index=[known.get(gene) or gene for gene in ids])


def _whole(file: Path, layers: dict[str, sp.csr_matrix]) -> dict[str, sp.csr_matrix]:
    whole = {kind: counts.copy() for kind, counts in layers.items()}
    for counts in whole.values():
        counts.data = np.rint(counts.data)
    if any(not np.array_equal(counts.data, whole[kind].data) for kind, counts in layers.items()):
        totals = (f"{kind} {counts.sum():.0f}, now {whole[kind].sum():.0f}" for kind, counts in layers.items())
        message = f"{file} has fractions of molecules, which were rounded (molecules: {'; '.join(totals)})"
        warnings.warn(
            f"{message}; alevin-fry quant --resolution cr-like counts whole ones", ScduetWarning, stacklevel=4
        )
    return whole


def _cells(layers: dict[str, sp.spmatrix], barcodes: pd.Series, var: pd.DataFrame) -> AnnData:
    """layers: (cell, gene). The first is also X."""
    plain = {kind: sp.csr_matrix(counts, dtype=np.float32) for kind, counts in layers.items()}
    for counts in plain.values():
        counts.eliminate_zeros()
    var.index = make_index_unique(pd.Index(var.index))
    first = next(iter(plain.values()))
    found = AnnData(first.copy(), obs=pd.DataFrame(index=make_index_unique(pd.Index(barcodes.to_numpy(str)))), var=var)
    for kind, counts in plain.items():
        if kind != "X":
            found.layers[kind] = counts
    return found


def _check_size(file: Path, counts: sp.spmatrix, lines: dict[Path, int]) -> None:
    """Refuse a matrix whose rows and columns are not as many as the lines of the files that name them."""
    expected = tuple(lines.values())
    if counts.shape != expected:
        beside = " and ".join(f"{other.name} has {n} lines" for other, n in lines.items())
        raise FormatError(f"{file} is {counts.shape[0]} x {counts.shape[1]}, but {beside}", AGAIN)


def _matrix(file: Path) -> sp.csr_matrix:
    try:
        return sp.csr_matrix(mmread(file))
    except (ValueError, OSError, EOFError) as error:
        raise FormatError(f"{file} cannot be read: {' '.join(str(error).split())}", AGAIN) from error


def _three_columns(file: Path) -> dict[str, sp.csr_matrix]:
    """A matrix (gene, cell) with row, column, and the count of each kind in a line, which no other reader takes."""
    try:
        with _opened(file) as lines:
            *shape, n = (int(word) for word in next(line for line in lines if not line.startswith("%")).split())
            entries = pd.read_csv(lines, sep=r"\s+", header=None, dtype=np.int64).to_numpy()
    except (ValueError, OSError, EOFError) as error:
        raise FormatError(f"{file} cannot be read: {' '.join(str(error).split())}", AGAIN) from error
    if len(entries) != n or (entries[:, :2] < 1).any() or (entries[:, :2] > shape).any():
        raise FormatError(f"{file} does not hold {n} entries of a matrix of {shape}, as its head says", AGAIN)
    places = entries[:, :2].T - 1
    return {kind: sp.csr_matrix((entries[:, 2 + i], places), shape) for i, kind in enumerate(KINDS)}


def _columns(folder: Path) -> int:
    """Of the first entry of matrix.mtx; 3 in Matrix Market. 0 without entries or a readable file."""
    file = _file(folder, MATRIX[0])
    if file is None:
        return 0
    try:
        with _opened(file) as lines:
            entries = (line.split() for line in lines if not line.startswith("%"))
            next(entries, None)
            return len(next(entries, ()))
    except (OSError, EOFError, UnicodeDecodeError):  # the reader of 10x folders says what is wrong
        return 0


def _opened(file: Path):
    return gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8")


def _file(folder: Path, name: str) -> Path | None:
    """`name` in `folder`, gzipped or not."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
