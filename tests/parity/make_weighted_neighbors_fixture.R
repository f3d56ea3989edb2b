# Writes what Seurat's FindMultiModalNeighbors finds in the embeddings a.csv, b.csv and c.csv (no header) of a folder, for
# fixtures/weighted_neighbors.npz: Rscript make_weighted_neighbors_fixture.R FOLDER. Made with Seurat 4.3.0.

suppressMessages(library(Seurat))
folder <- commandArgs(TRUE)[1]

search <- Seurat:::NNHelper # exact by RANN; Annoy, which Seurat asks for, misses some neighbors
exact <- function(data, query = data, k, method, ...) search(data, query, k, method = "rann")
assignInNamespace("NNHelper", exact, "Seurat")

write_out <- function(x, name) {
  write.table(format(x, digits = 15), file.path(folder, name), sep = ",", row.names = FALSE, col.names = FALSE, quote = FALSE)
}

make <- function(files, k, range, tag) {
  x <- lapply(files, function(file) as.matrix(read.csv(file.path(folder, file), header = FALSE)))
  cells <- paste0("c", seq_len(nrow(x[[1]])))
  obj <- CreateSeuratObject(matrix(1, 2, length(cells), dimnames = list(c("a", "b"), cells)))
  for (i in seq_along(x)) {
    dimnames(x[[i]]) <- list(cells, paste0("R", i, "_", seq_len(ncol(x[[i]]))))
    obj[[paste0("r", i)]] <- CreateDimReducObject(x[[i]], key = paste0("R", i, "_"), assay = "RNA")
  }
  weights <- paste0("w", seq_along(x))
  obj <- FindMultiModalNeighbors(obj, as.list(paste0("r", seq_along(x))), lapply(x, function(m) seq_len(ncol(m))),
    k.nn = k, knn.range = range, modality.weight.name = weights, verbose = FALSE
  )
  write_out(Indices(obj[["weighted.nn"]]) - 1, paste0(tag, "_index.csv"))
  write_out(Distances(obj[["weighted.nn"]]), paste0(tag, "_distance.csv"))
  write_out(as.matrix(obj[[weights]]), paste0(tag, "_weights.csv"))
}

make(c("a.csv", "b.csv"), 8, 40, "two")
make(c("a.csv", "b.csv", "c.csv"), 10, 30, "three")
