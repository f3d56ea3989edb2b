"""R writes and Python asserts, Python writes and R asserts: the same objects, the same embedding."""

from __future__ import annotations

import csv

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from anndata import AnnData

import scduet

R_WRITES = """
suppressPackageStartupMessages({{ library(SeuratObject); library(scduet) }})
object <- suppressMessages(UpdateSeuratObject(pbmc_small))
object$half <- rep(c("yes", NA), 40)
object$day <- c(NA, 2:80)
object$sure <- rep(c(TRUE, NA, FALSE, TRUE), 20)
options(scduet.chunk_bytes = 512, scduet.direct = FALSE) # as bytes, in many chunks; elsewhere from memory to memory
WriteH5AD(object, "{0}/from_r.h5ad", verbose = FALSE)
a <- object[["RNA"]]
counts <- if (inherits(a, "StdAssay")) LayerData(a, layer = "counts") else methods::slot(a, "counts")
invisible(Matrix::writeMM(counts, "{0}/counts.mtx"))
write.csv(object[[]], "{0}/cells.csv")
write.csv(data.frame(gene = rownames(a), variable = rownames(a) %in% VariableFeatures(a)), "{0}/genes.csv")
write.csv(format(Embeddings(object, "pca"), digits = 17), "{0}/pca.csv")
write.csv(as.matrix(object[["RNA_snn"]]), "{0}/graph.csv")
"""


def test_what_r_writes_python_reads(r):
    r.run(R_WRITES.format(r.shared_in_r))
    adata, folder = anndata.read_h5ad(r.shared / "from_r.h5ad"), r.shared
    counts = sp.csr_matrix(scipy.io.mmread(folder / "counts.mtx")).T
    assert (counts != adata.X).nnz == 0
    cells = pd.read_csv(folder / "cells.csv", index_col=0)
    assert list(adata.obs_names) == list(cells.index)
    for column in ("groups", "RNA_snn_res.0.8", "letter.idents"):
        assert list(adata.obs[column].astype(str)) == list(cells[column].astype(str))
    assert adata.obs["nCount_RNA"].tolist() == cells["nCount_RNA"].tolist()
    for column in ("half", "day", "sure"):
        assert list(adata.obs[column].isna()) == list(cells[column].isna())
    assert adata.obs["day"].dropna().tolist() == cells["day"].dropna().tolist()
    genes = pd.read_csv(folder / "genes.csv")
    assert list(adata.var_names) == list(genes["gene"])
    assert list(adata.var["highly_variable"]) == list(genes["variable"])
    np.testing.assert_allclose(adata.obsm["X_pca"], pd.read_csv(folder / "pca.csv", index_col=0), rtol=1e-14)
    graph = pd.read_csv(folder / "graph.csv", index_col=0).to_numpy()
    np.testing.assert_allclose(adata.obsp["RNA_snn"].toarray(), graph, rtol=1e-14)


R_READS = """
suppressPackageStartupMessages({{ library(SeuratObject); library(scduet) }})
object <- ReadH5AD("{0}/from_python.h5ad", verbose = FALSE)
a <- object[["RNA"]]
counts <- if (inherits(a, "StdAssay")) LayerData(a, layer = "counts") else methods::slot(a, "counts")
invisible(Matrix::writeMM(counts, "{0}/back.mtx"))
data <- object[[]]
told <- vapply(data, function(x) paste(class(x)[1], sum(is.na(x))), "")
write.csv(data.frame(column = names(told), told = told), "{0}/told.csv", row.names = FALSE)
cat(levels(data$kind), rownames(object)[1:2], VariableFeatures(object), Embeddings(object, "scvi")[3, 2], sep = "|")
"""


def test_what_python_writes_r_reads(r):
    rng = np.random.default_rng(0)
    counts = sp.random(30, 12, 0.4, "csr", random_state=1, data_rvs=lambda n: rng.integers(1, 9, n)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(["b", None, "a"] * 10, categories=["b", "a", "unused"]),
            "n": np.arange(30),
            "maybe": pd.array([1, None, 3] * 10, dtype="Int64"),
            "flag": [True, False] * 15,
            "perhaps": pd.array([True, None] * 15, dtype="boolean"),
            "x": [np.nan, 1.5, -2] * 10,
        },
        index=[f"cell_{i}" for i in range(30)],
    )
    var = pd.DataFrame({"highly_variable": [i % 5 == 0 for i in range(12)]}, index=[f"gene.{i}" for i in range(12)])
    adata = AnnData(counts, obs, var, obsm={"X_scVI": rng.normal(size=(30, 3)).astype(np.float32)})
    adata.write_h5ad(r.shared / "from_python.h5ad")
    said = r.run(R_READS.format(r.shared_in_r)).split("|")
    assert said[:8] == ["b", "a", "unused", "gene.0", "gene.1", "gene.0", "gene.5", "gene.10"]
    assert float(said[8]) == pytest.approx(float(adata.obsm["X_scVI"][2, 1]), rel=1e-6)
    assert (counts != sp.csr_matrix(scipy.io.mmread(r.shared / "back.mtx")).T).nnz == 0
    with (r.shared / "told.csv").open() as file:
        told = {row["column"]: row["told"] for row in csv.DictReader(file)}
    expected = {"kind": "factor 10", "n": "integer 0", "maybe": "integer 10", "flag": "logical 0",
                "perhaps": "logical 15", "x": "numeric 10"}  # fmt: skip
    assert {name: told[name] for name in expected} == expected


R_TRAINS = """
suppressPackageStartupMessages({{ library(SeuratObject); library(scduet) }})
object <- ReadH5AD("{0}/shared.h5ad", verbose = FALSE)
object <- RunSCVI(object, batch = "batch", max_epochs = 3, n_latent = 4, verbose = FALSE)
SaveModel(object, "{0}/model")
write.csv(format(Embeddings(object, "scvi"), digits = 17), "{0}/embedding.csv")
"""


@pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
def test_the_same_seed_gives_the_same_genes_and_embedding_in_both_languages(r):
    rng = np.random.default_rng(2)
    counts = sp.csr_matrix(rng.poisson(1.5, (150, 30)).astype(np.float32))
    obs = pd.DataFrame({"batch": pd.Categorical(["a", "b"] * 75)}, index=[f"c{i}" for i in range(150)])
    var = pd.DataFrame({"highly_variable": [i % 3 > 0 for i in range(30)]}, index=[f"g{i}" for i in range(30)])
    adata = AnnData(counts, obs, var)
    adata.write_h5ad(r.shared / "shared.h5ad")
    r.run(R_TRAINS.format(r.shared_in_r))
    here = scduet.fit(adata, "scvi", batch_key="batch", max_epochs=3, n_latent=4, seed=42)
    there = pd.read_csv(r.shared / "embedding.csv", index_col=0)
    np.testing.assert_allclose(here.embed(), there, rtol=1e-4, atol=1e-5)
    loaded = scduet.load(r.shared / "model")
    assert loaded.genes == here.genes == [f"g{i}" for i in range(30) if i % 3 > 0]
    np.testing.assert_allclose(loaded.embed(adata), there, rtol=1e-4, atol=1e-5)


def test_layers_of_splicing_become_assays(r):
    draw = np.random.default_rng(0)
    x = sp.csr_matrix(draw.poisson(2, (6, 4)).astype(np.float32))
    adata = anndata.AnnData(x, layers={"unspliced": x * 2, "spliced": x, "other": x})
    adata.write_h5ad(r.shared / "spliced.h5ad")
    r.run(
        f"""suppressMessages(library(scduet)); o <- ReadH5AD({str(r.shared_in_r / "spliced.h5ad")!r}, verbose = FALSE)
        counts <- function(name) as.matrix(SeuratObject::GetAssayData(o[[name]], "counts"))
        stopifnot(setequal(SeuratObject::Assays(o), c("RNA", "spliced", "unspliced")))
        stopifnot(all(counts("unspliced") == 2 * counts("RNA")), all(counts("spliced") == counts("RNA")))"""
    )
