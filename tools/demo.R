# The R half of `make demo`: a Seurat object in, a Seurat object with the reduction "scvi" out, and a picture of it.
# Called as: Rscript tools/demo.R FOLDER BATCH LABEL
arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
groups <- Filter(nzchar, arguments[2:3])

suppressPackageStartupMessages({
  library(Seurat)
  library(scduet)
})

obj <- ReadH5AD(file.path(folder, "counts.h5ad"), verbose = FALSE)
obj <- RunSCVI(obj, batch = groups[1])
dims <- seq_len(ncol(obj[["scvi"]]))
obj <- RunUMAP(obj, reduction = "scvi", dims = dims, umap.method = "uwot", metric = "cosine", verbose = FALSE)
saveRDS(obj, file.path(folder, "seurat.rds"))

png(file.path(folder, "dimplot.png"), width = 700 * length(groups), height = 600, res = 110)
print(DimPlot(obj, reduction = "umap", group.by = groups))
invisible(dev.off())
