"""Files of 10x Genomics as they are found: each gives the counts that were written, or names what is wrong."""

import gzip

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from named import named

from scduet.errors import FormatError, ScduetWarning
from scduet.io.cells import read

COUNTS = np.random.default_rng(0).poisson(1.0, (7, 5))  # (gene, cell)
GENES = [[f"ENSG{i}", f"G{i}", "Gene Expression"] for i in range(7)]
CELLS = [[f"{base}ACGTACGTACGTAC-{i}"] for i, base in enumerate("ACGTA")]


def folder(path, counts=COUNTS, genes=GENES, cells=CELLS, prefix="", zipped=True, features="features.tsv"):
    path.mkdir(exist_ok=True)
    scipy.io.mmwrite(path / "m.mtx", sp.coo_matrix(counts), field="integer")
    texts = {
        "matrix.mtx": (path / "m.mtx").read_text(),
        features: "".join("\t".join(row) + "\n" for row in genes),
        "barcodes.tsv": "".join("\t".join(row) + "\n" for row in cells),
    }
    (path / "m.mtx").unlink()
    for name, text in texts.items():
        if zipped:
            (path / f"{prefix}{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (path / f"{prefix}{name}").write_text(text)
    return path


def assert_counts(adata):
    assert adata.X.toarray().tolist() == COUNTS.T.tolist()
    assert list(adata.var_names) == [row[1] for row in GENES]
    assert list(adata.obs_names) == [row[0] for row in CELLS]


def test_names_with_a_prefix_as_geo_has_them(tmp_path):
    assert_counts(read(folder(tmp_path / "one", prefix="GSM1_")))
    folder(tmp_path / "two", prefix="GSM1_")
    folder(tmp_path / "two", np.ones((7, 5)), prefix="GSM2.", zipped=False, features="genes.tsv")
    with pytest.raises(FormatError, match=named("'GSM1_'", "'GSM2.'")):
        read(tmp_path / "two")
    assert_counts(read(tmp_path / "two" / "GSM1_"))
    assert read(tmp_path / "two" / "GSM2.").X.sum() == 35
    with pytest.raises(FormatError, match=named("GSM3_")):
        read(tmp_path / "two" / "GSM3_")


def test_a_line_of_names_of_columns_is_no_gene_and_no_cell(tmp_path):
    assert_counts(read(folder(tmp_path / "x", genes=[["gene_id", "gene_name", "type"], *GENES], cells=[["x"], *CELLS])))


def test_cells_as_rows_are_told(tmp_path):
    with pytest.warns(ScduetWarning, match=named("x")):
        adata = read(folder(tmp_path / "x", COUNTS.T))
    assert_counts(adata)


def test_numbers_that_do_not_fit_and_missing_files_are_named(tmp_path):
    with pytest.raises(FormatError, match=named("wrong", 7, 4, 5)):
        read(folder(tmp_path / "wrong", cells=CELLS[:4]))
    with pytest.raises(FormatError, match=named("more", 8, 5)):
        read(folder(tmp_path / "more", genes=[*GENES, ["ENSG9", "G9", "Gene Expression"]]))
    (folder(tmp_path / "half", prefix="a_") / "a_barcodes.tsv.gz").unlink()
    with pytest.raises(FormatError, match=named("a_barcodes.tsv")):
        read(tmp_path / "half")


def write_matrix(group, counts=COUNTS, cells=CELLS, **texts):
    matrix = sp.csc_matrix(counts)
    for name in ("data", "indices", "indptr"):
        group[name] = getattr(matrix, name)
    group["shape"], group["barcodes"] = matrix.shape, np.array([row[0] for row in cells], "S")
    for name, values in texts.items():
        group[name.replace("__", "/")] = np.array(values, "S")


IDS, NAMES = ([row[i] for row in GENES] for i in (0, 1))


def test_h5_without_feature_types(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as root:
        write_matrix(root.create_group("matrix"), features__id=IDS, features__name=NAMES)
    adata = read(tmp_path / "x.h5")
    assert_counts(adata)
    assert list(adata.var["gene_ids"]) == IDS


def test_h5_with_other_features_keeps_them_beside_the_genes(tmp_path):
    kinds = ["Gene Expression"] * 5 + ["Antibody Capture"] * 2
    with h5py.File(tmp_path / "x.h5", "w") as root:
        genomes = {"features__feature_type": kinds, "features__genome": ["GRCh38"] * 5 + [""] * 2}
        write_matrix(root.create_group("matrix"), features__id=IDS, features__name=NAMES, **genomes)
    adata = read(tmp_path / "x.h5")
    assert adata.X.toarray().tolist() == COUNTS[:5].T.tolist()
    assert adata.obsm["Antibody Capture"].toarray().tolist() == COUNTS[5:].T.tolist()
    assert set(adata.var["genome"]) == {"GRCh38"}


def test_a_protein_keeps_the_name_of_its_gene_in_h5_and_folder(tmp_path):
    kinds, names = (
        ["Gene Expression"] * 4 + ["Antibody Capture", "Peaks", "Peaks"],
        ["CD4", "G", "G", "H", "CD4", "p", "q"],
    )
    with h5py.File(tmp_path / "x.h5", "w") as root:
        write_matrix(root.create_group("matrix"), features__id=IDS, features__name=names, features__feature_type=kinds)
    genes = [list(row) for row in zip(IDS, names, kinds, strict=True)]
    for adata in (read(tmp_path / "x.h5"), read(folder(tmp_path / "x", genes=genes))):
        assert list(adata.var_names) == ["CD4", "G", "G-1", "H"]
        assert list(adata.uns["Antibody Capture_names"]) == ["CD4"]
        assert list(adata.uns["Peaks_var"]["gene_ids"]) == IDS[5:]
        assert adata.obsm["Peaks"].toarray().tolist() == COUNTS[5:].T.tolist()


def test_h5_with_two_genomes_has_the_genes_of_both(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as root:
        for genome, rows in (("hg19", slice(0, 4)), ("mm10", slice(4, 7))):
            write_matrix(root.create_group(genome), COUNTS[rows], genes=IDS[rows], gene_names=NAMES[rows])
    adata = read(tmp_path / "x.h5")
    assert_counts(adata)
    assert list(adata.var["genome"]) == ["hg19"] * 4 + ["mm10"] * 3
    with h5py.File(tmp_path / "y.h5", "w") as root:
        write_matrix(root.create_group("hg19"), COUNTS[:, :2], CELLS[:2], genes=IDS, gene_names=NAMES)
        write_matrix(root.create_group("mm10"), COUNTS[:, 2:], CELLS[2:], genes=IDS, gene_names=NAMES)
    with pytest.raises(FormatError, match=named("y.h5", "'hg19'", "'mm10'")):
        read(tmp_path / "y.h5")


def test_an_h5ad_called_h5_is_read_and_another_file_named(tmp_path):
    adata = ad.AnnData(sp.csr_matrix(COUNTS.T.astype("f4")), pd.DataFrame(index=[row[0] for row in CELLS]))
    adata.var_names = NAMES
    adata.write_h5ad(tmp_path / "x.h5")
    assert_counts(read(tmp_path / "x.h5"))
    with h5py.File(tmp_path / "y.h5", "w") as root:
        root["numbers"] = [1, 2]
        root.create_group("stuff")
    with pytest.raises(FormatError, match=named("y.h5", "'numbers'")):
        read(tmp_path / "y.h5")
