"""Assays, alternative experiments and matrices of R are inputs of a model, with the numbers that Python gives."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from contract.conftest import TOYS
from interop.conftest import REPOSITORY

import scduet as sd
from scduet.models import MODELS

REGISTER = f"""
suppressPackageStartupMessages({{{{ library(SeuratObject); library(scduet) }}}})
reticulate::py_run_string("import sys; sys.path.insert(0, '{REPOSITORY / "tests"}')
from scduet.models import MODELS
from contract.conftest import TOYS
MODELS.update(TOYS)")
object <- suppressWarnings(suppressMessages(UpdateSeuratObject(pbmc_small)))
a <- object[["RNA"]]
counts <- if (inherits(a, "StdAssay")) LayerData(a, layer = "counts") else methods::slot(a, "counts")
set.seed(1)
proteins <- matrix(rpois(5 * 80, 20), 5, dimnames = list(paste0("CD", 1:5), colnames(object)))
object[["ADT"]] <- CreateAssayObject(counts = methods::as(proteins, "CsparseMatrix"))
write.csv(as.matrix(counts), "{{0}}/counts.csv")
write.csv(proteins, "{{0}}/proteins.csv")
write.csv(data.frame(x = object$groups), "{{0}}/groups.csv")
how <- list(features = rownames(object), batch = "groups", max_epochs = 2, n_latent = 4, seed.use = 1, verbose = FALSE)
run <- function(object, ...) suppressWarnings(do.call(RunModel, c(list(object), how, list(...))))
"""

SEURAT = """
object <- run(object, model = "toy_citeseq", inputs = c(protein = "ADT"))
write.csv(Embeddings(object, "toy_citeseq"), "{0}/seurat.csv")
query <- suppressWarnings(suppressMessages(MapToReference(object, object, reduction = "toy_citeseq", verbose = FALSE)))
write.csv(Embeddings(query, "ref.toy_citeseq"), "{0}/mapped.csv")
decoded <- NormalizeExpression(object, reduction = "toy_citeseq", modality = "protein", seed.use = 0)
expected <- decoded[["denoised"]]
write.csv(t(as.matrix(if (inherits(expected, "StdAssay")) LayerData(expected, layer = "data") else
  methods::slot(expected, "data"))), "{0}/decoded.csv")
markers <- FindModelMarkers(object, "g1", group.by = "groups", modality = "protein", min.pct = 0, verbose = FALSE)
write.csv(markers, "{0}/markers.csv")
wrong <- function(...) cat(class(tryCatch(run(object, ...), error = identity))[1:2], "\\n")
wrong(model = "toy_citeseq", inputs = c(protein = "ATD"))
wrong(model = "scvi", inputs = c(protein = "ADT"))
wrong(model = "toy_citeseq", inputs = "ADT")
sce <- SingleCellExperiment::SingleCellExperiment(
  list(counts = counts), colData = S4Vectors::DataFrame(groups = object$groups),
  altExps = list(ADT = SummarizedExperiment::SummarizedExperiment(list(counts = proteins)))
)
sce <- run(sce, model = "toy_citeseq", inputs = c(protein = "ADT"))
write.csv(SingleCellExperiment::reducedDim(sce, "TOY_CITESEQ"), "{0}/sce.csv")
sets <- matrix(c(1, 0), nrow(counts), 2, dimnames = list(rownames(counts), c("one", "two")))
mask <- list(mask = sets[nrow(sets):1, ])
matrix <- suppressWarnings(RunModel(counts, model = "toy_masked", inputs = mask, batch = object$groups,
  features = rownames(counts), max_epochs = 2, verbose = FALSE))
cat(dim(matrix), "\\n")
"""


@pytest.mark.filterwarnings("ignore:only")
def test_an_assay_is_an_input(r, monkeypatch):
    out = r.run((REGISTER + SEURAT).replace("{{", "{").replace("}}", "}").replace("{0}", str(r.shared_in_r)))
    *wrong, shape = out.strip().splitlines()[-4:]
    assert wrong[0].split()[0] == wrong[2].split()[0] == "scduet_error_inputs"
    assert wrong[1].split()[0] == "scduet_error_option"
    assert shape.split() == ["80", "2"]
    for name, row in TOYS.items():
        monkeypatch.setitem(MODELS, name, row)
    counts, proteins = (pd.read_csv(r.shared / f"{name}.csv", index_col=0).T for name in ("counts", "proteins"))
    obs = pd.DataFrame({"groups": pd.read_csv(r.shared / "groups.csv")["x"].to_numpy()}, counts.index)
    adata = AnnData(sp.csr_matrix(counts.to_numpy(np.float32)), obs, pd.DataFrame(index=counts.columns))
    adata.obsm["ADT"] = proteins
    options = {"batch_key": "groups", "max_epochs": 2, "n_latent": 4, "seed": 1, "genes": tuple(counts.columns)}
    model = sd.fit(adata, "toy_citeseq", protein_key="ADT", **options)
    there = model.embed()
    for name in ("seurat", "mapped", "sce"):
        np.testing.assert_allclose(pd.read_csv(r.shared / f"{name}.csv", index_col=0), there, rtol=1e-4, atol=1e-5)
    decoded = pd.read_csv(r.shared / "decoded.csv", index_col=0)
    pd.testing.assert_frame_equal(
        decoded, sd.normalized_expression(model, adata, modality="protein"), rtol=1e-4, check_dtype=False
    )
    markers = pd.read_csv(r.shared / "markers.csv", index_col=0).loc[list(proteins.columns)]
    np.testing.assert_allclose(markers["pct.1"], (proteins[(obs["groups"] == "g1").to_numpy()] > 0).mean())
    assert markers["model_log2FC"].notna().all()
