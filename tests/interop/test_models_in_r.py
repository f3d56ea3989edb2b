"""What R has of each model follows from its row; multimodal models give R the numbers that they give Python."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from interop.conftest import REPOSITORY

import scduet as sd
from scduet.models import MODELS
from scduet.options import options_of

sys.path.insert(0, str(REPOSITORY / "tools"))
import r_models


@pytest.mark.parametrize("name", [str(path.relative_to(r_models.PACKAGE)) for path in r_models.files()])
def test_the_files_are_what_the_generator_writes(name):
    path = r_models.PACKAGE / name
    assert path.read_text(encoding="utf-8") == r_models.files()[path], "run tools/r_models.py"


def test_a_new_row_gives_a_short_form_with_help_and_export(monkeypatch):
    from contract.conftest import TOYS

    monkeypatch.setitem(MODELS, "toy_citeseq", TOYS["toy_citeseq"])
    written = {path.name: text for path, text in r_models.files().items()}
    r = TOYS["toy_citeseq"].r
    assert f"export({r})\n" in written["NAMESPACE"]
    assert f"  - {r}\n" in written["_pkgdown.yml"]
    assert f"\n{r} <- function(object, protein.assay = NULL, inputs = NULL, ...)" in written["models.R"]
    page = written[f"{r}.Rd"]
    assert f"\\alias{{{r}}}" in page
    for option in options_of("toy_citeseq"):
        assert (f"\\item \\code{{{option.name}}} (default " in page) == (option.group == "model")


def test_every_class_of_the_facade_is_in_a_row():
    from scduet.scvi import model as facade

    classes = {name for name, one in vars(facade).items() if hasattr(one, "setup_anndata")} - {"ScviModel"}
    assert {"SCVI", "SCANVI"} <= classes <= {row.scvi_tools for row in MODELS.values()}


CITESEQ = """
suppressPackageStartupMessages({ library(SeuratObject); library(scduet) })
read <- function(name) as.matrix(read.csv(file.path("@", name), row.names = 1, check.names = FALSE))
sparse <- function(x) methods::as(t(x), "CsparseMatrix")
values <- function(assay) t(as.matrix(if (inherits(assay, "StdAssay")) LayerData(assay, layer = "data") else
  methods::slot(assay, "data")))
write <- function(x, name) write.csv(x, file.path("@", name))
counts <- sparse(read("rna.csv"))
proteins <- sparse(read("protein.csv"))
cells <- read.csv("@/obs.csv", row.names = 1)
object <- suppressWarnings(CreateSeuratObject(counts, meta.data = cells))
object[["ADT"]] <- CreateAssayObject(counts = proteins)
how <- list(features = rownames(counts), max_epochs = 2, n_hidden = 16, n_latent = 3, seed.use = 1, verbose = FALSE)
run <- function(f, object, ...) suppressWarnings(do.call(f, c(list(object), how, list(...))))
refused <- function(code) {
  e <- tryCatch(code, error = identity)
  cat(class(e)[1], gsub("[[:space:]]+", " ", conditionMessage(e)), "\\n")
}
"""

TOTALVI = """
object <- run(RunTotalVI, object, protein.assay = "ADT", panel = "panel", batch = "batch")
write(Embeddings(object, "totalvi"), "totalvi.csv")
named <- run(RunModel, object, model = "totalvi", inputs = c(protein = "ADT", panel = "panel"), batch = "batch",
             reduction.name = "named")
write(Embeddings(named, "named"), "named.csv")
object[["other"]] <- CreateAssayObject(counts = proteins)
DefaultAssay(object) <- "other"
object <- ProteinForeground(object, "totalvi", seed.use = 0)
write(values(object[["foreground"]]), "foreground.csv")
object <- ProteinForeground(object, "totalvi", seed.use = 0, features = rownames(proteins)[2:1], batch = "b")
write(values(object[["foreground"]]), "two.csv")
object <- NormalizeExpression(object, "totalvi", modality = "protein", assay.name = "denoised_ADT", seed.use = 0,
                              include_protein_background = TRUE)
write(values(object[["denoised_ADT"]]), "protein_background.csv")
object <- NormalizeExpression(object, "totalvi", seed.use = 0)
write(values(object[["denoised"]]), "denoised.csv")
markers <- FindModelMarkers(object, "a", group.by = "batch", modality = "protein", verbose = FALSE, min.pct = 0)
write(markers, "markers.csv")
further <- suppressWarnings(RunTotalVI(object, start = "totalvi", reduction.name = "further", assay = "RNA",
                                       max_epochs = 1, verbose = FALSE))
cat(ScduetModel(further, "further")$assays, "\n")
refused(RunTotalVI(object, batch = "batch"))
refused(RunTotalVI(object, protein_assay = "ADT"))
refused(RunTotalVI(object, protein_key = "ADT"))
refused(RunTotalVI(object, protein.assay = "ATD"))
refused(RunTotalVI(object, "ADT", panel = "pannel"))
refused(RunTotalVI(object, "ADT", inputs = c(protein = "ADT")))
refused(ProteinForeground(object, "totalvi", features = "CD99"))
refused(NormalizeExpression(object, "totalvi", modality = "protein", include_background = TRUE, assay.name = "x"))
sce <- SingleCellExperiment::SingleCellExperiment(
  list(counts = counts), colData = S4Vectors::DataFrame(cells),
  altExps = list(ADT = SummarizedExperiment::SummarizedExperiment(list(counts = proteins)))
)
sce <- run(RunTotalVI, sce, "ADT", panel = "panel", batch = "batch")
write(SingleCellExperiment::reducedDim(sce, "TOTALVI"), "sce.csv")
sce <- ProteinForeground(sce, seed.use = 0)
write(t(SummarizedExperiment::assay(SingleCellExperiment::altExp(sce, "foreground"))), "sce_foreground.csv")
cat(scduet:::embedding_name("totalvi"), "\\n")
"""


def cite_seq(n=120):
    random = np.random.default_rng(0)
    cells = [f"cell{i}" for i in range(n)]
    rna = pd.DataFrame(random.poisson(2.0, (n, 20)), cells, [f"G{i}" for i in range(20)])
    protein = pd.DataFrame(random.poisson(30.0, (n, 4)), cells, [f"CD{i}" for i in range(4)])
    protein.iloc[: n // 2] //= 8
    obs = pd.DataFrame({"batch": ["a", "b", "c"] * (n // 3), "panel": ["one", "two", "two"] * (n // 3)}, cells)
    return rna, protein, obs


def into(folder, **tables):
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv")


def as_cells(counts, obs):
    return AnnData(sp.csr_matrix(counts.to_numpy(np.float32)), obs, pd.DataFrame(index=counts.columns))


def test_totalvi_of_seurat_and_singlecellexperiment_is_that_of_python(r):
    rna, protein, obs = cite_seq()
    into(r.shared, rna=rna, protein=protein, obs=obs)
    said = r.run((CITESEQ + TOTALVI).replace("@", str(r.shared_in_r))).strip().splitlines()[-10:]
    assert said[0].split() == ["ADT"], "a model to start from says where its proteins are"
    assert "X_totalVI" in said[-1].split(), "its name in AnnData"
    errors = [line.split(maxsplit=1) for line in said[1:9]]
    kinds = ["inputs", "inputs", "argument", "inputs", "column", "argument", "data", "option"]
    assert [kind for kind, _ in errors] == [f"scduet_error_{kind}" for kind in kinds], errors
    named = ["ADT", "protein_assay", "protein.assay", "ATD", "pannel", "protein", "CD99", "include_background"]
    for (_, text), name in zip(errors, named, strict=True):
        assert name in text

    adata = as_cells(rna, obs)
    adata.obsm["ADT"] = protein
    options = {"max_epochs": 2, "n_hidden": 16, "n_latent": 3, "seed": 1, "batch_key": "batch"}
    model = sd.fit(adata, "totalvi", protein_key="ADT", panel_key="panel", genes=tuple(rna), **options)
    options = {"modality": "protein", "include_protein_background": True}
    expected = {
        "totalvi": model.embed(),
        "sce": model.embed(),
        "named": model.embed(),
        "foreground": sd.protein_foreground(model, adata),
        "sce_foreground": sd.protein_foreground(model, adata),
        "two": sd.protein_foreground(model, adata, protein_list=["CD1", "CD0"], transform_batch="b"),
        "protein_background": sd.normalized_expression(model, adata, **options),
        "denoised": sd.normalized_expression(model, adata, library_size=1e4),
    }
    for name, there in expected.items():
        here = pd.read_csv(r.shared / f"{name}.csv", index_col=0)
        assert list(here.index) == list(obs.index)
        if isinstance(there, pd.DataFrame):
            assert list(here) == list(there)
        np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-5, err_msg=name)
    markers = pd.read_csv(r.shared / "markers.csv", index_col=0)
    assert sorted(markers.index) == list(protein)


PEAKS = """
counts <- sparse(read("peaks.csv"))
object <- suppressWarnings(CreateSeuratObject(sparse(read("rna.csv")), meta.data = cells))
object[["ATAC"]] <- CreateAssayObject(counts = counts)
how$features <- rownames(counts)
for (name in c("PeakVI", "PoissonVI")) {
  key <- tolower(name)
  object <- run(get(paste0("Run", name)), object, assay = "ATAC", batch = "batch")
  write(Embeddings(object, key), paste0(key, ".csv"))
  object <- NormalizeAccessibility(object, key, seed.use = 0, normalize.regions = TRUE, batch = "a")
  write(values(object[["accessibility"]]), paste0(key, "_accessibility.csv"))
  object <- NormalizeExpression(object, key, seed.use = 0)
  write(values(object[["denoised"]]), paste0(key, "_denoised.csv"))
}
markers <- FindModelMarkers(object, "a", group.by = "batch", reduction = "peakvi", mode = "difference", delta = 0.05,
                            min.pct = 0.01, verbose = FALSE)
cat(names(markers), "\\n")
refused(ProteinForeground(object, "peakvi"))
"""


def test_models_of_peaks_take_the_assay_they_were_trained_on(r):
    rna, _, obs = cite_seq()
    random = np.random.default_rng(1)
    peaks = pd.DataFrame(random.poisson(0.6, (len(rna), 40)), rna.index, [f"chr1-{i}00-{i}50" for i in range(1, 41)])
    into(r.shared, rna=rna, protein=rna, obs=obs, peaks=peaks)
    said = r.run((CITESEQ + PEAKS).replace("@", str(r.shared_in_r))).strip().splitlines()
    assert "model_difference" in said[-2].split()
    assert said[-1].split()[0] == "scduet_error_option"
    adata = as_cells(peaks, obs)
    for name in ("peakvi", "poissonvi"):
        options = {"max_epochs": 2, "n_hidden": 16, "n_latent": 3, "seed": 1, "batch_key": "batch"}
        model = sd.fit(adata, name, genes=tuple(peaks), **options)
        open_ = sd.normalized_accessibility(model, adata, normalize_regions=True, transform_batch="a")
        expected = {"": model.embed(), "_accessibility": open_, "_denoised": sd.normalized_expression(model, adata)}
        for part, there in expected.items():
            here = pd.read_csv(r.shared / f"{name}{part}.csv", index_col=0)
            np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-6, err_msg=name + part)


MULTIVI = """
object[["ATAC"]] <- CreateAssayObject(counts = sparse(read("peaks.csv")))
how$n_hidden <- 8
object <- run(RunMultiVI, object, peaks.assay = "ATAC", protein.assay = "ADT", batch = "batch")
write(Embeddings(object, "multivi"), "multivi.csv")
object <- NormalizeAccessibility(object, "multivi", seed.use = 0, batch = "a")
write(values(object[["accessibility"]]), "open.csv")
object <- ProteinForeground(object, "multivi", seed.use = 0)
write(values(object[["foreground"]]), "proteins.csv")
genes <- object[, 1:30]
genes[["ATAC"]] <- NULL
joined <- run(RunMultiVI, merge(genes, object[, 31:120]), peaks.assay = "ATAC", protein.assay = "ADT", batch = "batch")
write(Embeddings(joined, "multivi"), "joined.csv")
refused(RunMultiVI(object, batch = "batch"))
"""


def test_multivi_of_seurat_is_that_of_python(r):
    """Cells without counts of peaks, or of an object without peaks that was merged with others, have none in Python."""
    rna, protein, obs = cite_seq()
    peaks = pd.DataFrame(np.random.default_rng(1).poisson(0.6, (len(rna), 40)), rna.index)
    peaks.columns = [f"chr1-{i}00-{i}50" for i in range(1, 41)]
    peaks.iloc[:30] = 0
    into(r.shared, rna=rna, protein=protein, obs=obs, peaks=peaks)
    said = r.run((CITESEQ + MULTIVI).replace("@", str(r.shared_in_r))).strip().splitlines()[-1]
    assert said.split()[0] == "scduet_error_inputs"
    assert "peaks.assay" in said
    adata = as_cells(rna, obs)
    adata.obsm["ADT"], adata.obsm["ATAC"] = protein, peaks
    options = {"max_epochs": 2, "n_hidden": 8, "n_latent": 3, "seed": 1, "batch_key": "batch", "genes": tuple(rna)}
    model = sd.fit(adata, "multivi", peaks_key="ATAC", protein_key="ADT", **options)
    open_ = sd.normalized_accessibility(model, adata, transform_batch="a")
    expected = {
        "multivi": model.embed(),
        "joined": model.embed(),
        "open": open_,
        "proteins": sd.protein_foreground(model, adata),
    }
    for name, there in expected.items():
        here = pd.read_csv(r.shared / f"{name}.csv", index_col=0)
        np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-5, err_msg=name)
