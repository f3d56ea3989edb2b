"""Real R data files that others wrote, read without R: the same as R finds in them."""

from __future__ import annotations

import json
import subprocess

import anndata
import numpy as np
import pytest
from named import named

pytest.importorskip("rdata", reason="rdata is not installed: pip install scduet[r]")

import scduet
from scduet.data.found import names_in
from scduet.errors import FormatError, ScduetWarning
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
    assert names_in(old.layers) == ["data"]
    assert new.shape == (1556, 1267)
    assert "X_tsne" in new.obsm
    assert set(new.obs["group_id"].cat.categories) == {"ctrl", "stim"}


EXPERIMENT = """
suppressPackageStartupMessages(library(SingleCellExperiment)); o <- readRDS("{file}"); x <- assay(o, 1)
cat(sprintf('{{"shape": [%d, %d], "sums": [%.10g, %.10g, %.10g], "first": ["%s", "%s"], "aligned": %.10g,
  "missing": %d}}',
  ncol(o), nrow(o), sum(x), sum(colSums(x)^2), sum(rowSums(x)^2), rownames(o)[1], colnames(o)[1], sum(o$NALIGNED),
  sum(is.na(o$Animal.ID))))
"""


def test_an_rds_of_a_single_cell_experiment_holds_what_r_finds(host_r, real_file):
    file = real_file("sce/rds2py_simple_sce.rds")
    said = subprocess.run(["Rscript", "-e", EXPERIMENT.format(file=file)], capture_output=True, text=True, check=True)
    truth = json.loads(said.stdout)
    adata = scduet.read_rds(file)
    assert len(adata.uns["ERCC_names"]) == adata.obsm["ERCC"].shape[1] > 0
    per_cell, per_gene = (np.asarray(adata.X.sum(axis)).ravel().astype(float) for axis in (1, 0))
    np.testing.assert_allclose([per_cell.sum(), (per_cell**2).sum(), (per_gene**2).sum()], truth["sums"])
    assert list(adata.shape) == truth["shape"]
    assert [adata.var_names[0], adata.obs_names[0]] == truth["first"]
    assert adata.obs["NALIGNED"].sum() == pytest.approx(truth["aligned"])
    assert adata.obs["Animal.ID"].isna().sum() == truth["missing"]


def test_genes_of_an_experiment_keep_what_is_known_of_them(host_r, tmp_path):
    made = """suppressPackageStartupMessages(library(SingleCellExperiment)); f <- commandArgs(TRUE)
    x <- matrix(1:6, 2, dimnames = list(c("g", "h"), c("a", "b", "c"))); d <- DataFrame(length = c(7L, NA))
    saveRDS(SingleCellExperiment(list(counts = x), rowData = d), f)"""
    subprocess.run(["Rscript", "-e", made, tmp_path / "x.rds"], capture_output=True, check=True)
    adata = read_rds(tmp_path / "x.rds")
    assert adata.X.toarray().tolist() == [[1, 2], [3, 4], [5, 6]]
    assert adata.var["length"].isna().tolist() == [False, True]
    assert adata.var.loc["g", "length"] == 7


def test_graphs_loadings_and_identities_are_those_that_the_r_package_hands_over(r, real_file):
    """The same object, read here without R and by as_anndata() in R."""
    file, place = real_file("seurat/pbmc_small_seuratobject_v4.0.0.rda"), r.shared / "whole.h5ad"
    r.run(
        f"""suppressMessages({{ library(SeuratObject); library(scduet) }}); load({str(file)!r})
        o <- UpdateSeuratObject(pbmc_small); counts <- GetAssayData(o[["RNA"]], "counts")
        o[["ADT"]] <- CreateAssayObject(counts = counts[1:5, ])
        saveRDS(o, {str(r.shared_in_r / "whole.rds")!r})
        WriteH5AD(o, {str(r.shared_in_r / "whole.h5ad")!r}, verbose = FALSE)"""
    )
    here, there = read_rds(r.shared / "whole.rds"), anndata.read_h5ad(place)
    assert list(here.obs["ident"]) == list(there.obs["ident"])
    assert sorted(here.obsm) == sorted(there.obsm)
    assert (here.obsm["ADT"] != there.obsm["ADT"]).nnz == 0
    np.testing.assert_array_equal(here.varm["PCs"], there.varm["PCs"])
    assert here.obsp["RNA_snn"].nnz == there.obsp["RNA_snn"].nnz > 0
    np.testing.assert_array_equal(here.obsp["RNA_snn"].toarray(), there.obsp["RNA_snn"].toarray())
    notes = [json.loads(adata.uns["scduet"]) for adata in (here, there)]
    assert (
        notes[0]["assays"] == notes[1]["assays"] == {"ADT": {"layer": "counts", "features": list(here.var_names[:5])}}
    )


EXPERIMENTS = """
suppressPackageStartupMessages({library(SingleCellExperiment); library(DelayedArray)}); f <- commandArgs(TRUE)
x <- matrix(1:20 * 2, 4, dimnames = list(paste0("g", 1:4), paste0("c", 1:5)))
d <- DataFrame(day = as.Date("2024-02-29") + 0:4, time = as.POSIXct("2024-03-31 03:30:00", tz = "Europe/Paris") + 0:4,
  run = Rle(c("a", "b"), c(2, 3)), level = Rle(factor(c("u", "v"), levels = c("v", "u")), c(1, 4)),
  flat = array(5:1, 5),
  word = c(iconv("M\\u00fcller", "UTF-8", "latin1"), "a", NA, "\\u03b2", "x"), row.names = colnames(x))
d$span <- as.difftime(1:5, units = "mins"); d$pair <- matrix(1, 5, 2)
setClass("HDF5ArraySeed", contains = "Array", slots = c(filepath = "character", dim = "integer"))
make <- function(counts) SingleCellExperiment(list(counts = counts, logcounts = x / 7), colData = d)
kinds <- list(
  plain = x, sparse = DelayedArray(as(x, "dgCMatrix")), part = DelayedArray(x[c(3, 1, 4, 2), ])[c(2, 4, 1, 3), ],
  turned = t(DelayedArray(t(x))), named = `dimnames<-`(DelayedArray(unname(x)), dimnames(x)),
  done = DelayedArray(x) + 1, elsewhere = DelayedArray(new("HDF5ArraySeed", filepath = "away.h5", dim = dim(x))))
for (kind in names(kinds)) saveRDS(make(kinds[[kind]]), file.path(f, paste0(kind, ".rds")))
saveRDS(SingleCellExperiment(list(counts = unname(x))), file.path(f, "bare.rds"))
saveRDS(SingleCellExperiment(list(unname(x))), file.path(f, "unnamed.rds"))
"""


@pytest.fixture(scope="module")
def experiments(host_r, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    subprocess.run(["Rscript", "-e", EXPERIMENTS, folder], capture_output=True, check=True)
    return folder


X = (np.arange(1, 21) * 2.0).reshape(5, 4)


@pytest.mark.parametrize("kind", ["plain", "sparse", "part", "turned", "named"])
def test_counts_that_are_delayed_but_in_the_file_are_read(experiments, kind):
    with pytest.warns(ScduetWarning, match=named("'span'", "'pair'")):
        adata = read_rds(experiments / f"{kind}.rds")
    np.testing.assert_array_equal(adata.X.toarray(), X)
    np.testing.assert_allclose(adata.layers["data"], X / 7)
    assert [list(adata.var_names), adata.obs_names[4]] == [["g1", "g2", "g3", "g4"], "c5"]


@pytest.mark.filterwarnings("ignore:left out:scduet.errors.ScduetWarning")
def test_columns_of_an_experiment_are_what_r_has(experiments):
    obs = read_rds(experiments / "plain.rds").obs
    assert obs["day"].dt.strftime("%Y-%m-%d").tolist()[:2] == ["2024-02-29", "2024-03-01"]
    assert obs["time"].iloc[1].isoformat() == "2024-03-31T03:30:01+02:00"
    assert obs["run"].tolist() == ["a", "a", "b", "b", "b"]
    assert list(obs["level"]) == ["u", "v", "v", "v", "v"]
    assert list(obs["level"].cat.categories) == ["v", "u"]
    assert obs["flat"].tolist() == [5, 4, 3, 2, 1]
    assert obs["word"].fillna("missing").tolist() == ["Müller", "a", "missing", "β", "x"]  # NaN in pandas 3
    assert not {"span", "pair"} & set(obs)


@pytest.mark.parametrize(("kind", "named_thing"), [("done", "DelayedUnaryIsoOp"), ("elsewhere", "away.h5")])
def test_a_matrix_that_cannot_be_read_is_named(experiments, kind, named_thing):
    with pytest.warns(ScduetWarning) as told:
        adata = read_rds(experiments / f"{kind}.rds")
    assert any("counts" in str(w.message) and named_thing in str(w.message) for w in told)
    np.testing.assert_allclose(adata.X.toarray(), X / 7)
    assert "counts" not in adata.layers


@pytest.mark.parametrize("kind", ["bare", "unnamed"])
def test_cells_and_genes_without_names_are_numbered(experiments, kind):
    adata = read_rds(experiments / f"{kind}.rds")
    np.testing.assert_array_equal(adata.X.toarray(), X)
    assert [adata.obs_names[4], adata.var_names[3]] == ["cell5", "gene4"]


SEURAT = """
suppressPackageStartupMessages({{ library(SeuratObject); library(scduet) }})
object <- suppressMessages(UpdateSeuratObject(pbmc_small))
object$ident <- "mine"; object$day <- as.Date("2024-01-01") + 0:79; object$down <- 80:1
adt <- matrix(1:160, 2, dimnames = list(c("CD3", "CD4"), colnames(object)))
object[["ADT"]] <- CreateAssayObject(as(adt, "CsparseMatrix"))
{sketch}
saveRDS(object, "{0}/odd.rds")
"""
SKETCH = """
counts <- LayerData(object[["RNA"]], "counts")
object[["sketch"]] <- CreateAssay5Object(counts = counts[, 11:50]); DefaultAssay(object) <- "sketch"
"""


def test_a_seurat_object_with_odd_columns_is_read_and_a_sketch_of_it(r):
    r.run(SEURAT.format(r.shared_in_r, sketch=""))
    adata = read_rds(r.shared / "odd.rds")
    assert adata.obs["down"].tolist() == list(range(80, 0, -1))
    assert set(adata.obs["ident"]) == {"mine"}
    assert adata.obs["ident.1"].nunique() == 3
    assert adata.obs["day"].iloc[79].isoformat() == "2024-03-20T00:00:00"
    whole = adata.obsm["ADT"].toarray()
    if r.name == "host":
        return  # sketches are of Seurat 5
    r.run(SEURAT.format(r.shared_in_r, sketch=SKETCH))
    with pytest.warns(ScduetWarning, match=named("'sketch'", 40, 80)):
        sketch = read_rds(r.shared / "odd.rds")
    assert list(sketch.obs_names) == list(adata.obs_names[10:50])
    np.testing.assert_array_equal(sketch.X.toarray(), adata.X.toarray()[10:50])
    np.testing.assert_array_equal(sketch.obsm["RNA"].toarray(), adata.X.toarray()[10:50])
    np.testing.assert_array_equal(sketch.obsm["ADT"].toarray(), whole[10:50])
    assert sketch.obs["ident.1"].tolist() == adata.obs["ident.1"].tolist()[10:50]


def test_a_file_that_is_none_says_so(tmp_path):
    (tmp_path / "x.rds").write_bytes(b"not an R file")
    with pytest.raises(FormatError, match=named("x.rds")):
        read_rds(tmp_path / "x.rds")
    with pytest.raises(FormatError, match=named("y.rds")):
        read_rds(tmp_path / "y.rds")


CHROMATIN = """
suppressPackageStartupMessages(library(Seurat))
setClass("ChromatinAssay", contains = "Assay", slots = c(ranges = "ANY", motifs = "ANY", fragments = "list"))
made <- function(from, n, names) {
  x <- matrix(seq_len(n * 4) + from, n, dimnames = list(names, letters[1:4]))
  methods::as(x, "CsparseMatrix")
}
o <- CreateSeuratObject(made(0, 3, c("CD4", "g", "h")))
peaks <- as(CreateAssayObject(made(100, 2, c("chr1-1-2", "chr1-3-4"))), "ChromatinAssay")
peaks@fragments <- list("fragments.tsv.gz")
o[["peaks"]] <- peaks
o[["ADT"]] <- CreateAssayObject(counts = made(200, 2, c("CD4", "CD8")))
saveRDS(o, commandArgs(TRUE))
"""


def test_proteins_and_signacs_peaks_are_read_where_their_class_is_unknown(host_r, tmp_path):
    subprocess.run(["Rscript", "-e", CHROMATIN, tmp_path / "x.rds"], capture_output=True, check=True)
    with pytest.warns(ScduetWarning, match=named("'peaks'", "'fragments'")):
        adata = read_rds(tmp_path / "x.rds")
    assert adata.obsm["peaks"].toarray().tolist() == (100 + np.arange(1, 9).reshape(4, 2)).tolist()
    assert list(adata.uns["peaks_names"]) == ["chr1-1-2", "chr1-3-4"]
    assert adata.obsm["ADT"].toarray().tolist() == (200 + np.arange(1, 9).reshape(4, 2)).tolist()
    assert list(adata.uns["ADT_names"]) == ["CD4", "CD8"]


ALTERNATIVE = """
suppressPackageStartupMessages(library(SingleCellExperiment))
made <- function(names) SingleCellExperiment(list(counts = matrix(1:6, 2, dimnames = list(names, letters[1:3]))))
o <- made(c("CD4", "g")); altExp(o, "ADT") <- made(c("CD4", "CD8"))
altExp(o, "HTO") <- SummarizedExperiment(list(counts = matrix(7:9, 1, dimnames = list("tag", letters[1:3]))))
saveRDS(o, commandArgs(TRUE))
"""


def test_alternative_experiments_are_read_beside_the_genes(host_r, tmp_path):
    subprocess.run(["Rscript", "-e", ALTERNATIVE, tmp_path / "x.rds"], capture_output=True, check=True)
    adata = read_rds(tmp_path / "x.rds")
    assert adata.obsm["ADT"].toarray().tolist() == [[1, 2], [3, 4], [5, 6]]
    assert adata.obsm["HTO"].toarray().tolist() == [[7], [8], [9]]
    assert (list(adata.uns["ADT_names"]), list(adata.uns["HTO_names"])) == (["CD4", "CD8"], ["tag"])
