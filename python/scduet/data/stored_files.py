"""Opens HDF5 files and zarr stores, known by their content, and reads the tables of an AnnData in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scduet.data.remote import Remote
from scduet.errors import DataError, ScduetError


def encoding(stored: Any) -> str:
    """How a matrix is stored: "csr_matrix", "csc_matrix", "array", ..., also as anndata before 0.7 said it."""
    old = stored.attrs.get("h5sparse_format")
    return str(stored.attrs.get("encoding-type", "")) if old is None else f"{_text(old)}_matrix"


def table(root: Any, stored: Any) -> Any:
    """A data frame, or another part that is read into memory. Before anndata 0.7 a table was an array of records, and
    the categories of its columns were in uns."""
    names = getattr(getattr(stored, "dtype", None), "names", None)
    if names is None:
        from anndata.io import read_elem

        return read_elem(stored)
    records = stored[()]
    columns = {name: _decoded(records[name]) for name in names}
    found = pd.DataFrame(columns).set_index(names[0])
    found.index.name = None if names[0] == "index" else names[0]
    for name in found:
        if f"uns/{name}_categories" in root:
            levels = _decoded(np.atleast_1d(root[f"uns/{name}_categories"][()]))
            found[name] = pd.Categorical.from_codes(found[name].astype(int), levels)
    return found


def _decoded(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind not in "SO" else np.array([_text(value) for value in values], dtype=object)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _open_h5(path: Path):
    import h5py

    return h5py.File(path, "r")


@contextmanager
def _open_zarr(path: Path | Remote):
    import zarr

    yield zarr.open_group(str(path), mode="r")


SUFFIXES = (".h5ad", ".h5mu", ".zarr")
ZARR = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")  # files that tell a zarr group, whatever the folder is called


def _opener(path: Path | Remote) -> Callable[[Any], Any]:
    """By content: an HDF5 file or a zarr group, whatever its name."""
    if path.is_dir() and any(_is_there(path / name) for name in ZARR):
        return _open_zarr
    named = path.suffix.lower() in (".h5ad", ".h5mu")
    if isinstance(path, Path) and (named or (path.is_file() and _is_hdf5(path))):
        return _open_h5
    if isinstance(path, Remote):
        raise DataError(f"there is no zarr store at {path}", "write one with adata.write_zarr; .h5ad must be local")
    raise DataError(
        f"cannot read rows of {path.name!r}",
        "give .h5ad, .h5mu or .zarr, or read it into memory (on the command line: leave out --on-disk)",
    )


def _is_there(path: Path | Remote) -> bool:
    """Raises DataError naming an address that cannot be asked."""
    try:
        return path.exists()
    except Exception as error:  # each of fsspec's systems has its own
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error})", "is the address right?") from error


def _is_hdf5(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


@contextmanager
def reading(path: Path | Remote) -> Iterator[Any]:
    """The root of the file; whatever goes wrong while it is read becomes a DataError that names it."""
    if isinstance(path, Path) and not path.exists() and path.suffix.lower() in SUFFIXES:
        raise DataError(f"{path} does not exist", "is the name right?")
    opener = _opener(path)
    try:
        with opener(path) as root:
            yield root
    except (ScduetError, MemoryError):
        raise
    except Exception as error:  # h5py, zarr and the codecs fail in their own ways: OSError, RuntimeError, KeyError, ...
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{path} cannot be read ({reason})", "is it complete? copy or write it again") from error
