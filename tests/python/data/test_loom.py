"""Loom files, written with h5py as the format's specification says, become the AnnData that they describe."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import scduet as sd
from scduet.cli import main
from scduet.errors import FormatError
from scduet.io import loom
from scduet.io.cells import read

REAL = Path(__file__).resolve().parents[4] / "shared/data/files/loom/mpfc-starmap.loom"
N_GENES, N_CELLS = 30, 120
COUNTS = np.random.default_rng(0).poisson(0.5, (N_CELLS, N_GENES)).astype(np.float32)
TYPES = ["β cell" if i % 3 else "NK" for i in range(N_CELLS)]


@pytest.fixture
def path(tmp_path):
    """A file of format 3.0.0: https://linnarssonlab.org/loompy/format."""
    text = h5py.string_dtype("utf-8")
    with h5py.File(tmp_path / "cells.loom", "w") as root:
        root["attrs/LOOM_SPEC_VERSION"] = "3.0.0"
        root.create_dataset("matrix", data=COUNTS.T, chunks=(30, 64), maxshape=(N_GENES, None), compression="gzip")
        root.create_dataset("layers/unspliced", data=COUNTS.T.astype("uint16") * 2, compression="gzip")
        root.create_dataset("row_attrs/Gene", data=["A", "A", *(f"G{i}" for i in range(2, N_GENES))], dtype=text)
        root["row_attrs/Selected"] = np.arange(N_GENES) % 2
        root.create_dataset("col_attrs/CellID", data=[f"cell:{i}x" for i in range(N_CELLS)], dtype=text)
        root.create_dataset("col_attrs/cell_type", data=TYPES, dtype=text)
        root["col_attrs/Run"] = np.arange(N_CELLS)[:, None] % 2
        root["col_attrs/PCA"] = np.arange(2.0 * N_CELLS).reshape(N_CELLS, 2)
        root["col_attrs/Embedding"] = np.array([(i, -i) for i in range(N_CELLS)], [("_X", "f4"), ("_Y", "f4")])
        for part, values in {"a": [0, 1], "b": [1, 2], "w": [0.5, 0.25]}.items():
            root[f"col_graphs/knn/{part}"] = values
        root.create_group("row_graphs")
    return tmp_path / "cells.loom"


@pytest.mark.parametrize("at_once", [loom.VALUES_AT_ONCE, 1])
def test_all_parts_are_read(path, monkeypatch, at_once):
    monkeypatch.setattr(loom, "VALUES_AT_ONCE", at_once)  # 1: all cells of a chunk at a time
    adata = read(path)
    assert sp.issparse(adata.X)
    assert (adata.X.format, adata.X.dtype) == ("csr", np.float32)
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    np.testing.assert_array_equal(adata.layers["unspliced"].toarray(), 2 * COUNTS)
    assert list(adata.obs_names[:2]) == ["cell:0x", "cell:1x"]
    assert list(adata.var_names[:3]) == ["A", "A-1", "G2"]
    assert list(adata.obs["cell_type"]) == TYPES
    assert list(adata.obs["Run"]) == [0, 1] * (N_CELLS // 2)
    assert list(adata.var["Selected"]) == [0, 1] * (N_GENES // 2)
    np.testing.assert_array_equal(adata.obsm["PCA"], np.arange(2.0 * N_CELLS).reshape(N_CELLS, 2))
    assert list(adata.obsm["Embedding"]["_Y"]) == [-i for i in range(N_CELLS)]
    assert adata.obsp["knn"].nnz == 2
    assert adata.obsp["knn"][1, 2] == 0.25


def test_a_file_of_format_2_has_text_in_ascii(tmp_path):
    with h5py.File(tmp_path / "old.loom", "w") as root:
        root.attrs["LOOM_SPEC_VERSION"] = "2.0.1"
        root["matrix"] = COUNTS.T
        root["row_attrs/Accession"] = np.array([f"ENSG{i}" for i in range(N_GENES)], "S")
        root["col_attrs/cell_type"] = np.array(["&#946; cell"] * N_CELLS, "S")
        root.create_group("layers")
    adata = read(tmp_path / "old.loom")
    assert set(adata.obs["cell_type"]) == {"β cell"}
    assert list(adata.var_names[:2]) == ["ENSG0", "ENSG1"]
    assert list(adata.obs_names[:2]) == ["0", "1"]


def test_the_command_line_reads_and_converts(path, tmp_path):
    assert main(["convert", str(path), str(tmp_path / "cells.h5ad")]) == 0
    again, direct = read(tmp_path / "cells.h5ad"), read(path)
    assert (again.X != direct.X).nnz == 0
    assert list(again.obs["cell_type"]) == TYPES
    flags = ["--max-epochs", "1", "--n-hidden", "8", "-o", str(tmp_path / "out.h5ad")]
    assert main(["integrate", str(path), *flags]) == 0
    expected = read(path)
    sd.integrate(expected, max_epochs=1, n_hidden=8)
    np.testing.assert_array_equal(read(tmp_path / "out.h5ad").obsm["X_scVI"], expected.obsm["X_scVI"])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda root: root.pop("matrix"), "/matrix"),
        (lambda root: root.update({"col_attrs/short": np.arange(3)}), "/col_attrs/short"),
        (lambda root: root.update({"row_attrs/single": 3}), "/row_attrs/single"),
        (lambda root: root.update({"layers/small": np.zeros((2, 2))}), "/layers/small"),
        (lambda root: root.pop("col_graphs/knn/w"), "'w'"),
        (lambda root: root["col_graphs/knn/b"].write_direct(np.array([1, 700])), "/col_graphs/knn"),
    ],
)
def test_parts_that_do_not_fit_are_named(path, spoil, named):
    with h5py.File(path, "r+") as root:
        spoil(root)
    with pytest.raises(FormatError) as error:
        read(path)
    assert named in error.value.message
    assert "cells.loom" in error.value.message


@pytest.mark.skipif(not REAL.exists(), reason="there is no ../shared/data")
def test_a_real_file():
    adata = read(REAL)
    with h5py.File(REAL) as root:
        np.testing.assert_array_equal(adata.X.toarray(), np.asarray(root["matrix"]).T)
    assert adata.shape == (3704, 158)
    assert set(adata.obs) == {"BatchID", "Clusters"}
    assert adata.obsm["Spatial_coordinates"].shape == (3704, 2)


def test_a_file_that_is_no_hdf5_is_named(tmp_path):
    (tmp_path / "x.loom").write_bytes(b"loom")
    with pytest.raises(FormatError, match=r"x\.loom"):
        read(tmp_path / "x.loom")
