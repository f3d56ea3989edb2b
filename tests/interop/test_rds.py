"""Real R data files that others wrote, read without R: the same as R finds in them."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

pytest.importorskip("rdata", reason="rdata is not installed: pip install scduet[r]")

from scduet.errors import FormatError
from scduet.interop.rds import read_rds

FILES = {  # file -> R's way to the counts, the number of reductions, a column of the metadata
    "seurat/pbmc_small_seurat_v2.0.0.rda": ('attr(o, "raw.data")', ["X_pca", "X_tsne"], "res.0.8"),
    "seurat/pbmc_small_seurat_v3.0.0.9000.rda": (
        'attr(attr(o, "assays")$RNA, "counts")',
        ["X_pca", "X_tsne"],
        "groups",
    ),
    "seurat/pbmc_small_seuratobject_v4.0.0.rda": (
        'attr(attr(o, "assays")$RNA, "counts")',
        ["X_pca", "X_tsne"],
        "groups",
    ),
    "seurat/cider_pancreas_v4.0.3.RData": ('attr(attr(o, "assays")$RNA, "counts")', [], "Batch"),
    "seurat/fhil_pbmc3k_assay5_v5.0.2.rda": ('attr(attr(o, "assays")$RNA, "layers")$counts', [], "orig.ident"),
}
R = """
invisible(loadNamespace("Matrix")); space <- new.env(); load("{file}", space); o <- get(ls(space)[1], space)
x <- {counts}; d <- attr(o, "meta.data")
cat(sprintf("[%d, %d, %.10g, %.10g, %.10g, %d]", nrow(x), ncol(x), sum(x), sum(Matrix::colSums(x)^2),
  sum(Matrix::rowSums(x)^2), length(unique(d[["{column}"]]))))
"""


@pytest.mark.parametrize("name", FILES)
def test_seurat_objects_of_every_version_hold_what_r_finds(host_r, real_file, name):
    file, (counts, reductions, column) = real_file(name), FILES[name]
    code = R.format(file=file, counts=counts, column=column)
    said = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True).stdout
    genes, cells, total, by_cell, by_gene, levels = json.loads(said)
    adata = read_rds(file)
    per_cell, per_gene = (np.asarray(adata.X.sum(axis)).ravel().astype(float) for axis in (1, 0))
    assert adata.shape == (cells, genes)
    np.testing.assert_allclose([per_cell.sum(), (per_cell**2).sum(), (per_gene**2).sum()], [total, by_cell, by_gene])
    assert sorted(adata.obsm) == reductions
    assert adata.obs[column].nunique(dropna=False) == levels


def test_an_old_and_a_new_single_cell_experiment_are_read(real_file):
    old, new = read_rds(real_file("sce/clustifyr_sce_small.rda")), read_rds(real_file("sce/muscat_example_sce.rda"))
    assert old.shape == (200, 200)
    assert list(old.layers) == ["data"]
    assert new.shape == (1556, 1267)
    assert "X_tsne" in new.obsm
    assert set(new.obs["group_id"].cat.categories) == {"ctrl", "stim"}


def test_a_file_that_is_none_says_so(tmp_path):
    (tmp_path / "x.rds").write_bytes(b"not an R file")
    with pytest.raises(FormatError, match="cannot be read"):
        read_rds(tmp_path / "x.rds")
    with pytest.raises(FormatError, match="no file"):
        read_rds(tmp_path / "y.rds")
