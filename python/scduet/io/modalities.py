"""Cells with several kinds of features as a MuData, and as one AnnData with the further kinds in obsm."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scduet.data.found import names_in
from scduet.data.locate import FEATURE_TYPES, modalities_of
from scduet.errors import DataError, FormatError, ScduetWarning, some

KINDS = {"Gene Expression": "rna", "Antibody Capture": "prot", "Peaks": "atac"}  # of 10x -> modalities, as in muon
MAX_TABLE = 1000  # columns of a modality that becomes a table; more stay sparse, where cells cannot be missing


def as_mudata(adata: AnnData) -> Any:
    """The cells as a MuData: kinds of features in X, and counts in obsm that have names, become modalities.

    The rest stays in the modality "rna". Cells of which an entry of obsm has no value (NaN) are not in its modality.
    """
    try:
        from mudata import MuData
    except ImportError as error:
        raise FormatError("a .h5mu needs the package mudata", "pip install 'scduet[multimodal]'") from error
    moved = {key: table for key in adata.obsm if (table := _counts_with_names(adata, key)) is not None}
    rest = adata.copy()
    for key in moved:
        del rest.obsm[key]
        rest.uns.pop(f"{key}_names", None)
    parts = _by_kind(rest)
    parts |= {key: _part(table, adata.obs_names) for key, table in moved.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what obs will be since mudata 0.4: it gets its columns below
        made = MuData(parts)
        made.obs = adata.obs.copy()
    return made


def as_one(mdata: Any) -> AnnData:
    """The cells of the modality "rna" (or the only one) as an AnnData, with the counts of others in obsm.

    A cell that lacks a modality has NaN there. A ScduetWarning names what an AnnData has no place for.
    Raises DataError where no modality is "rna".
    """
    names = modalities_of(mdata)
    if "rna" not in names and len(names) > 1:
        raise DataError(f"none of the modalities {names} is called 'rna', to become X", "rename one of them")
    main = "rna" if "rna" in names else names[0]
    made, left = mdata.mod[main].copy(), []
    outside = mdata.obs_names[~mdata.obs_names.isin(made.obs_names)]
    if len(outside):
        left.append(f"{len(outside)} cells without {main!r} ({some(outside)})")
    for column in mdata.obs:
        if column not in made.obs and not str(column).startswith(f"{main}:"):
            made.obs[column] = mdata.obs[column].reindex(made.obs_names)
    for name in (one for one in names if one != main):
        left += [f"{what} of {name!r}" for what in _put(made, name, mdata.mod[name])]
    for store in ("obsm", "uns"):
        whole = {key: value for key, value in getattr(mdata, store).items() if key not in names}
        place = mdata.obs_names.get_indexer(made.obs_names)
        for key, value in whole.items():
            getattr(made, store).setdefault(key, value[place] if store == "obsm" else value)
    if left:
        warnings.warn(f"not in the AnnData: {', '.join(left)}", ScduetWarning, stacklevel=3)
    return made


def _counts_with_names(adata: AnnData, key: str) -> pd.DataFrame | None:
    """An entry of obsm as a table, if its columns have names and its values are counts."""
    value = adata.obsm[key]
    if not isinstance(value, pd.DataFrame):
        names = adata.uns.get(f"{key}_names")
        if names is None or np.shape(names) != (value.shape[1],):
            return None
        names = pd.Index([str(name) for name in names])
        sparse = pd.DataFrame.sparse.from_spmatrix if sp.issparse(value) else pd.DataFrame
        value = sparse(value, index=adata.obs_names, columns=names)
    if value.shape[1] == 0 or not all(pd.api.types.is_numeric_dtype(kind) for kind in value.dtypes):
        return None
    numbers = _numbers(value)
    numbers = numbers.data if sp.issparse(numbers) else numbers[~np.isnan(numbers)]
    return value if (numbers >= 0).all() and (numbers == np.rint(numbers)).all() else None


def _numbers(table: pd.DataFrame) -> Any:
    """The values of a table: CSR if its columns are sparse."""
    if all(isinstance(kind, pd.SparseDtype) for kind in table.dtypes):
        return sp.csr_matrix(table.sparse.to_coo(), dtype=np.float32)
    return table.to_numpy(np.float32)


def _part(table: pd.DataFrame, cells: pd.Index) -> AnnData:
    numbers = _numbers(table)
    there = np.ones(len(table), bool) if sp.issparse(numbers) else ~np.isnan(numbers).all(1)
    kept = numbers[there]
    kept = kept if sp.issparse(kept) or np.isnan(kept).any() else sp.csr_matrix(kept)
    return AnnData(kept, pd.DataFrame(index=cells[there]), pd.DataFrame(index=table.columns.astype(str)))


def _by_kind(adata: AnnData) -> dict[str, AnnData]:
    """The features of X by their kind; one modality "rna" where there is one kind."""
    kinds = adata.var[FEATURE_TYPES].astype(str) if FEATURE_TYPES in adata.var else pd.Series(dtype=str)
    if kinds.nunique() < 2:
        return {"rna": adata}
    parts = {KINDS.get(str(kind), str(kind)): adata[:, (kinds == kind).to_numpy()].copy() for kind in kinds.unique()}
    main = "rna" if "rna" in parts else next(iter(parts))
    for name, part in parts.items():
        if name != main:  # what is about cells stays with the main modality
            part.obs = part.obs[[]]
            for store in (part.obsm, part.obsp, part.uns):
                store.clear()
            part.raw = None
    return parts


def _put(made: AnnData, name: str, part: AnnData) -> Iterator[str]:
    """Put the counts of a modality into obsm, and its columns of obs beside the others. Yields what is left out."""
    if name in made.obsm:
        raise FormatError(f"obsm[{name!r}] has the name of a modality", "rename one of them")
    place = part.obs_names.get_indexer(made.obs_names)
    absent, values = place < 0, part.X
    if part.n_vars <= MAX_TABLE:
        numbers = np.array(values.toarray() if sp.issparse(values) else values, np.float32)[place]
        numbers[absent] = np.nan
        made.obsm[name] = pd.DataFrame(numbers, made.obs_names, part.var_names)
    else:
        rows = sp.csr_matrix(values)[place]
        made.obsm[name] = sp.csr_matrix(sp.diags((~absent).astype(np.float32)) @ rows)
        made.uns[f"{name}_names"] = part.var_names.to_numpy(str)
        if absent.any():
            yield f"that {int(absent.sum())} cells were not measured (their {part.n_vars} columns are zero)"
    for column in part.obs:
        key = f"{name}:{column}"
        if column not in made.obs and key not in made.obs:
            made.obs[key] = part.obs[column].reindex(made.obs_names)
    outside = ~part.obs_names.isin(made.obs_names)
    if outside.any():
        yield f"{int(outside.sum())} cells"
    if len(part.var.columns):
        yield f"var columns {some(part.var.columns, 9)}"
    for store in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        if keys := names_in(getattr(part, store)):
            yield f"{store} {some(keys, 9)}"
    if part.raw is not None:
        yield "raw"
