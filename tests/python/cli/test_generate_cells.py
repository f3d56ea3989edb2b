"""Cells from a terminal are those of Python."""

import anndata
from named import assert_named

import scduet as sd
from scduet.cli import main


def test_generated_cells_are_those_of_python(counts, tmp_path, capsys):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    options = {"labels_key": "cell_type", "n_hidden": 8, "max_epochs": 2, "callback": lambda event: None}
    sd.fit(counts, "scvi", batch_key="batch", **options).save(tmp_path / "model")
    cells, model, out = (str(tmp_path / name) for name in ("cells.h5ad", "model", "out.h5ad"))
    asked = ["generate-cells", cells, "--model", model, "-o", out, "-n", "30"]
    assert main([*asked, "--label", "B", "--label", "T", "--seed", "3"]) == 0
    written, loaded = anndata.read_h5ad(out), sd.load(model)
    made = sd.generate_cells(loaded, 30, adata=counts, label=["B", "T"], seed=3)
    assert (written.X != made.X).nnz == 0
    assert list(written.obs["source"]) == list(made.obs["source"])
    assert set(written.obs["cell_type"]) == {"B", "T"}
    assert main([*asked, "--overwrite", "--label", "none"]) == 1
    assert_named(capsys.readouterr().err, "none")
    assert main([*asked]) == 1  # the file is there
