"""Reading and atomic writing of single-cell files."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float

from scduet.errors import DataError, FormatError, ScduetWarning, some
from scduet.io import modalities, splicing, tenx, visium
from scduet.io.atomic import place_whole, probe
from scduet.io.loom import read_loom
from scduet.io.storable import as_stored, refuse_unwritable, restored

EMBEDDINGS = "scduet_embeddings"  # entry of uns that records the model of each embedding
_SPARE = 16 << 20  # bytes that must be free in a folder in addition to the estimate


def convert(source: str | Path, target: str | Path, *, overwrite: bool = False) -> Any:
    """Read `source` in any format of `READERS` and write it as `target`, .h5ad, .h5mu or .zarr; returns the cells.

    Raises FormatError for an unknown format, a damaged file, or an existing target (unless `overwrite`).
    """
    check_target(target, overwrite, file_size(source), tuple(WRITERS))
    data = as_in(target, read(source, multimodal=True))
    write(data, target, overwrite=overwrite)
    return data


def as_in(target: str | Path, data: Any) -> Any:
    """AnnData or MuData as the format of `target` has it: a MuData in .h5mu, else an AnnData."""
    if Path(target).suffix.lower() == ".h5mu":
        return modalities.as_mudata(data) if isinstance(data, AnnData) else data
    return data if isinstance(data, AnnData) else modalities.as_one(data)


def read(path: str | Path, *, multimodal: bool = False) -> AnnData:
    """Read an .h5ad file, a .zarr folder, a .loom or 10x .h5 file, or a folder: 10x, Visium, STARsolo, alevin-fry.

    A 10x folder has matrix.mtx. Of STARsolo's Velocyto/raw and Velocyto/filtered, and of alevin-fry's output, spliced
    and unspliced counts are layers; see `scduet.io.splicing`. Gene names in 10x files are made unique. For a folder
    with several samples, as in GEO, pass FOLDER/PREFIX, e.g. "GSE123_RAW/GSM456_".

    For 10x files, X contains the genes, and obsm the other features by type, e.g. "Antibody Capture". multimodal: also
    read .h5mu, as a MuData.

    Raises FormatError, naming the file and the supported formats, for other or damaged files.
    """
    path = Path(path)
    if not path.exists() and not tenx.is_folder(path):
        raise FormatError(f"{path} does not exist", "check the path")
    reader = READERS[_kind(path)]
    try:
        adata = reader(path)
    except FormatError:
        raise
    except Exception as error:  # readers fail in their own ways: KeyError, OSError, zlib.error, ...
        raise FormatError(
            f"{path} cannot be read: {_one_line(error)}", "is the file complete, and of the type of its suffix?"
        ) from error
    if isinstance(adata, AnnData):
        return restored(adata)
    if multimodal and hasattr(adata, "mod"):
        return adata
    what = f"several modalities ({some(list(adata.mod))})" if hasattr(adata, "mod") else "no AnnData"
    raise FormatError(f"{path} holds {what}", "give one modality as .h5ad, or another file")


def write(adata: AnnData, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write `adata` atomically as .h5ad or .zarr (a MuData as .h5mu), by the suffix of `path`.

    Dates and times are written as text, with a ScduetWarning. Raises FormatError for another suffix, if `path` exists
    (unless `overwrite`), and for parts that the format cannot store, which it names.
    """
    path = check_target(path, overwrite, endings=(".h5mu",) if hasattr(adata, "mod") else ())
    writer = WRITERS[path.suffix.lower()]
    if isinstance(adata, AnnData):
        adata, times = as_stored(adata)
        if times:
            warnings.warn(f"dates and times are written as text: {some(times, 9)}", ScduetWarning, stacklevel=2)
    refuse_unwritable(adata, path)
    place_whole(path, lambda new: writer(adata, new))
    return path


def check_target(path: str | Path, overwrite: bool = False, needed: int = 0, endings: tuple[str, ...] = ()) -> Path:
    """Check, before work starts, that `path` can be written: suffix, folder, permission, `needed` bytes of space.

    `endings`: supported suffixes; by default .h5ad and .zarr. Raises FormatError or DataError.
    """
    path, endings = Path(path).absolute(), endings or (".h5ad", ".zarr")
    if path.suffix.lower() not in endings:
        raise FormatError(f"cannot write {path.name!r}", f"use the suffix {' or '.join(endings)}")
    check_folder(path.parent, needed)
    if path.exists() and not overwrite:
        raise FormatError(f"{path} exists", "choose another name, or allow overwriting")
    if path.is_dir() and not (path / ".zgroup").exists() and not (path / "zarr.json").exists():
        raise FormatError(f"{path} is a folder that is not a zarr store", "choose another name")
    return path


def check_folder(folder: Path, needed: int = 0) -> None:
    """Check that `folder` is writable and has `needed` bytes of free space. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist", "create it first")
    try:
        probe(folder)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}", "choose another folder") from error
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise DataError(
            f"{folder} has {free >> 20} MB free, but about {(needed + _SPARE) >> 20} MB are needed", "free space first"
        )


def file_size(path: str | Path) -> int:
    """Size in bytes of a file, or of all files in a folder; 0 if it does not exist."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path] if path.exists() else []
    return sum(file.stat().st_size for file in files)


def write_embedding(latent: Float[np.ndarray, "cell latent"], cells: Sequence[str], path: str | Path) -> None:
    """Write only an embedding: as array (.npy), or with columns of cell names and latent_0, latent_1, ... (.csv)."""
    path = Path(path).absolute()
    table = pd.DataFrame(
        latent, index=pd.Index(cells, name="cell"), columns=[f"latent_{i}" for i in range(latent.shape[1])]
    )
    place_whole(path, table.to_csv if path.suffix.lower() == ".csv" else lambda new: np.save(new, latent))


def write_expression(found: pd.DataFrame, adata: AnnData, path: str | Path, *, overwrite: bool = False) -> None:
    """Write expression (cell x gene): .csv a table, .h5ad or .zarr cells with it as X, and obs and obsm of `adata`."""
    path = Path(path).absolute()
    if path.suffix.lower() == ".csv":
        place_whole(path, found.rename_axis("cell").to_csv)
    else:
        write(AnnData(found, obs=adata.obs, obsm=dict(adata.obsm)), path, overwrite=overwrite)


def add_embedding(
    source: str | Path,
    target: str | Path,
    key: str,
    latent: Float[np.ndarray, "cell latent"],
    made: Mapping[str, str] | None = None,
) -> None:
    """Write a copy of the .h5ad or .zarr `source`, with `latent` in obsm[key], as `target`; the counts are not read.

    made: the provenance of the embedding, see `scduet.tasks.quality.provenance`.
    """

    def make(new: Path) -> None:
        (shutil.copytree if Path(source).is_dir() else shutil.copyfile)(source, new)
        _write_elements(new, {f"obsm/{key}": latent, **({f"uns/{EMBEDDINGS}/{key}": dict(made)} if made else {})})

    place_whole(Path(target), make)


def _write_elements(path: Path, elements: Mapping[str, Any]) -> None:
    """Write each value of `elements` to its place in the file, e.g. "obsm/X_scVI"."""
    import h5py
    import zarr
    from anndata.io import write_elem

    if path.is_dir():
        root = zarr.open_group(str(path), mode="r+", use_consolidated=False)
        for place, value in elements.items():
            _write_element(root, place, value, write_elem)
        zarr.consolidate_metadata(str(path))
        return
    with h5py.File(path, "r+") as root:
        for place, value in elements.items():
            _write_element(root, place, value, write_elem)


def _write_element(root: Any, place: str, value: Any, write_elem: Callable) -> None:
    """Missing parent groups are created as AnnData writes them."""
    *folders, name = place.split("/")
    for folder in folders:
        if folder not in root:
            write_elem(root, folder, {})
        root = root[folder]
    write_elem(root, name, value)


def _kind(path: Path) -> str:
    """The key of `READERS` for `path`."""
    if visium.is_folder(path):
        return "Visium folder"
    if splicing.is_starsolo(path):
        return "STARsolo folder"
    if splicing.is_alevin_fry(path):
        return "alevin-fry folder"
    if path.suffix.lower() != ".zarr" and tenx.is_folder(path):
        return "10x folder"
    if path.is_dir() and path.suffix.lower() != ".zarr":
        raise FormatError(
            f"{path} is a folder without matrix.mtx: {some(sorted(p.name for p in path.iterdir()))}", _KNOWN
        )
    ending = path.suffix.lower()
    if ending not in READERS:
        raise FormatError(f"cannot read {path.name!r}", _HINTS.get(ending, _KNOWN))
    return ending


def _read_h5mu(path: Path):
    try:
        import mudata
    except ImportError as error:
        raise FormatError(f"{path} needs the package mudata", "pip install 'scduet[multimodal]'") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "From 0.4", FutureWarning)  # how mudata will treat obs, which we do not use
        return mudata.read_h5mu(path)


def _write_h5mu(mdata, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "From 0.4", FutureWarning)
        mdata.write_h5mu(path)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


READERS: Mapping[str, Callable[[Path], AnnData]] = {
    ".h5ad": anndata.read_h5ad,
    ".h5mu": _read_h5mu,
    ".zarr": anndata.read_zarr,
    ".loom": read_loom,
    ".h5": tenx.read_h5,
    "10x folder": tenx.read_folder,
    "Visium folder": visium.read_folder,
    "STARsolo folder": splicing.read_starsolo,
    "alevin-fry folder": splicing.read_alevin_fry,
}
WRITERS: Mapping[str, Callable[[AnnData, Path], object]] = {
    ".h5ad": lambda adata, path: adata.write_h5ad(path, compression="gzip"),
    ".h5mu": _write_h5mu,
    ".zarr": lambda adata, path: adata.write_zarr(path),
}
_KNOWN = (
    "scduet reads .h5ad, .zarr, .loom, 10x .h5, and folders: 10x with matrix.mtx, Visium, STARsolo's Velocyto/raw or "
    "Velocyto/filtered, alevin-fry"
)
_HINTS = {
    **dict.fromkeys((".rds", ".rda", ".rdata"), "convert it to .h5ad first: scduet convert x.rds x.h5ad"),
    ".csv": "read it with e.g. scanpy.read_csv, and write an .h5ad",
    ".mtx": "pass the folder that contains matrix.mtx, barcodes and features",
}
