"""Files of cells: formats agree, foreign and damaged files get a clear error, and writing is all or nothing."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from named import named
from scipy.io import mmwrite

from scduet.cli import main
from scduet.data.simulate import simulate
from scduet.errors import DataError, FormatError
from scduet.io.cells import check_folder, convert, read, write

REAL = Path(__file__).resolve().parents[4] / "shared/data/files/10x/10x_data"


@pytest.fixture(scope="module")
def cells():
    adata = simulate(30, 20, seed=4)
    adata.var_names = ["G1", "G1", *(f"G{i}" for i in range(2, 20))]  # symbols repeat in 10x files
    return adata


def write_10x(cells, folder, zipped, names, kinds=True):
    """A 10x folder as Cell Ranger 2 (plain, genes.tsv), Cell Ranger 3 (gzipped, features.tsv) or STARsolo writes it."""
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", cells.X.T.tocoo().astype(int), field="integer")
    kind = ["Gene Expression"] * 19 + ["Antibody Capture"]
    rows = [f"ENSG{i}\t{name}" + (f"\t{kind[i]}" if kinds else "") for i, name in enumerate(cells.var_names)]
    (folder / names).write_text("\n".join(rows) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(cells.obs_names) + "\n")
    for path in list(folder.iterdir()) if zipped else []:
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
            shutil.copyfileobj(plain, packed)
        path.unlink()


@pytest.mark.parametrize(
    ("zipped", "names", "kinds"),
    [(False, "genes.tsv", False), (True, "features.tsv", True), (False, "features.tsv", True)],
    ids=["Cell Ranger 2", "Cell Ranger 3", "STARsolo"],
)
def test_10x_folders(cells, tmp_path, zipped, names, kinds):
    write_10x(cells, tmp_path / "10x", zipped, names, kinds)
    found = read(tmp_path / "10x")
    n_genes = 19 if kinds else 20  # antibodies are not genes
    assert (cells.X[:, :n_genes] != found.X).nnz == 0
    assert found.X.format == "csr"
    assert list(found.obs_names) == list(cells.obs_names)
    assert list(found.var_names[:3]) == ["G1", "G1-1", "G2"]
    assert list(found.var["gene_ids"][:2]) == ["ENSG0", "ENSG1"]
    if kinds:
        assert (found.obsm["Antibody Capture"] != cells.X[:, 19:]).nnz == 0
        assert list(found.uns["Antibody Capture_names"]) == [cells.var_names[19]]


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_written_and_read_again_is_the_same(tmp_path, ending):
    adata = simulate(30, 20, seed=4)
    write(adata, tmp_path / f"a.{ending}")
    again = convert(tmp_path / f"a.{ending}", tmp_path / "b.h5ad")
    assert (again.X != adata.X).nnz == 0
    assert list(again.obs["cell_type"]) == list(adata.obs["cell_type"])
    assert (read(tmp_path / "b.h5ad").X != adata.X).nnz == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"a.{ending}", "b.h5ad"])


@pytest.mark.skipif(not REAL.exists(), reason="there is no ../shared/data")
@pytest.mark.parametrize(
    ("name", "shape"),
    [("1.2.0/filtered_gene_bc_matrices_h5.h5", (12, 343)), ("3.0.0/filtered_feature_bc_matrix.h5", (1107, 507))],
)
def test_real_10x_files(name, shape):
    found = read(REAL / name)
    assert found.shape == shape
    assert found.var_names.is_unique
    assert np.array_equal(found.X.data, np.rint(found.X.data))


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("x.rds", b"RDX3", ["'x.rds'", "x.h5ad"]),
        ("x.xlsx", b"PK", ["'x.xlsx'", ".h5ad", ".zarr", "10x"]),
        ("x.h5ad", b"not HDF5 at all", ["x.h5ad", "OSError"]),
        ("x.h5", b"\x89HDF\r\n\x1a\n", ["x.h5", "OSError"]),
    ],
)
def test_foreign_and_damaged_files_are_named(tmp_path, name, content, names):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=named(*names)):
        read(tmp_path / name)


def test_a_folder_without_a_matrix_and_an_absent_file(tmp_path):
    with pytest.raises(FormatError, match=named(tmp_path, "matrix.mtx")):
        read(tmp_path)
    with pytest.raises(FormatError, match=named(tmp_path / "gone.h5ad")):
        read(tmp_path / "gone.h5ad")


def test_an_existing_target_is_kept_unless_told(cells, tmp_path):
    adata = simulate(30, 20, seed=4)
    write(adata, tmp_path / "a.zarr")
    with pytest.raises(FormatError, match=named(tmp_path / "a.zarr")):
        write(adata, tmp_path / "a.zarr")
    write(adata[:10].copy(), tmp_path / "a.zarr", overwrite=True)
    assert read(tmp_path / "a.zarr").n_obs == 10
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr" / "thesis.txt").write_text("dear to me")
    with pytest.raises(FormatError, match=named(tmp_path / "b.zarr", "zarr")):
        write(adata, tmp_path / "b.zarr", overwrite=True)
    assert (tmp_path / "b.zarr" / "thesis.txt").exists()


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write(simulate(30, 20, seed=4), tmp_path / "a.h5ad")
    broken = simulate(30, 20, seed=5)
    broken.uns["unwritable"] = object()
    with pytest.raises(Exception, match=named("unwritable")):
        write(broken, tmp_path / "a.h5ad", overwrite=True)
    assert (read(tmp_path / "a.h5ad").X != simulate(30, 20, seed=4).X).nnz == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


def test_a_folder_that_takes_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=named(tmp_path / "gone")):
        check_folder(tmp_path / "gone")
    with pytest.raises(DataError, match=named(tmp_path, "MB")):
        check_folder(tmp_path, needed=1 << 60)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_files_of_several_modalities_train_embed_and_keep_their_modalities(tmp_path):
    mudata = pytest.importorskip("mudata")
    cells = simulate(120, 30, seed=4)
    proteins = simulate(120, 5, seed=5)
    proteins.var_names = [f"CD{i}" for i in range(5)]
    proteins.obs_names = cells.obs_names
    mudata.MuData({"rna": cells, "prot": proteins}).write_h5mu(tmp_path / "a.h5mu")
    fit = ["--max-epochs", "1", "--n-hidden", "8", "--overwrite", "-q"]
    for more in ([], ["--on-disk"]):
        target = str(tmp_path / "b.h5mu")
        assert main(["integrate", str(tmp_path / "a.h5mu"), "--output", target, *fit, *more]) == 0
        found = mudata.read_h5mu(target)
        assert found.obsm["X_scVI"].shape == (120, 10)
        assert (found.mod["prot"].X != proteins.X).nnz == 0
    with pytest.raises(FormatError, match=r"\.h5mu"):
        write(found, tmp_path / "c.h5ad")
    with pytest.raises(FormatError, match=named(tmp_path / "b.h5mu", "'rna'", "'prot'")):
        read(tmp_path / "b.h5mu")
