# Seurat's label transfer: reads reference.mtx, query.mtx (gene x cell) and labels.txt (a code a reference cell) from a
# folder, writes scores.csv (query cell x code).  Rscript transfer.R <folder> <seed>
suppressPackageStartupMessages({
  library(Seurat)
  library(Matrix)
})
options(warn = -1)
arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[[1]]
set.seed(as.integer(arguments[[2]]))

object_of <- function(name) {
  counts <- as(readMM(file.path(folder, paste0(name, ".mtx"))), "CsparseMatrix")
  dimnames(counts) <- list(paste0("g", seq_len(nrow(counts))), paste0(name, seq_len(ncol(counts))))
  NormalizeData(CreateSeuratObject(counts), verbose = FALSE)
}

reference <- object_of("reference")
query <- object_of("query")
reference <- FindVariableFeatures(reference, nfeatures = 2000, verbose = FALSE)
reference <- ScaleData(reference, verbose = FALSE)
n <- min(30, ncol(reference) - 1, ncol(query) - 1)
reference <- RunPCA(reference, npcs = n, verbose = FALSE)
anchors <- FindTransferAnchors(reference, query, dims = seq_len(n), reference.reduction = "pca", verbose = FALSE)
code <- paste0("c", readLines(file.path(folder, "labels.txt")))
found <- TransferData(anchors, refdata = code, dims = seq_len(n), verbose = FALSE)
scores <- found[, grepl("^prediction.score.c", names(found)), drop = FALSE]
names(scores) <- sub("^prediction.score.c", "", names(scores))
write.csv(scores, file.path(folder, "scores.csv"), row.names = FALSE)
