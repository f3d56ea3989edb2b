# A model of the user's own, in a Python file.

own_model <- function(folder) {
  file <- file.path(folder, "factors.py")
  writeLines(c(
    "from dataclasses import dataclass",
    "from torch import nn",
    "from scduet.contract import Loss",
    "@dataclass(frozen=True)",
    "class Config:",
    "    n_latent: int = 4",
    "class Factors(nn.Module):",
    "    Config, players, expects = Config, ('model',), 'counts'",
    "    def __init__(self, reference, config):",
    "        super().__init__()",
    "        self.down = nn.Linear(reference.n_genes, config.n_latent)",
    "        self.up = nn.Linear(config.n_latent, reference.n_genes)",
    "    def forward(self, cells, step):",
    "        x = cells.x.dense()",
    "        error = (self.up(self.down(x)) - x).square().sum(1).mean()",
    "        return Loss(error, {'error': error}, len(cells))",
    "    def embed(self, cells):",
    "        return self.down(cells.x.dense())"
  ), file)
  paste0(file, ":Factors")
}

test_that("a class in a Python file is a model like any other", {
  skip_if_no_engine()
  skip_if_no_seurat()
  folder <- tempfile("own")
  dir.create(folder)
  own <- own_model(folder)
  object <- small_seurat()
  object <- RunModel(object, own, features = rownames(object), n_latent = 3, max_epochs = 2, verbose = FALSE)
  expect_identical(dim(object[["Factors"]]), c(120L, 3L))
  path <- SaveModel(object, file.path(folder, "model"))
  expect_identical(LoadModel(path, model = own)$name, "Factors")
  expect_error(RunModel(object, own, n_latnt = 3), class = "scduet_error_option", regexp = "n_latent")
  expect_error(RunModel(object, sub("Factors", "Nothing", own)), class = "scduet_error_option", regexp = "Factors")
  expect_error(LoadModel(path, model = 5), class = "scduet_error")
})
