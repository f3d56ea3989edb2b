"""Doublets from a terminal: the columns and the table of Python."""

import anndata
import pandas as pd
from named import assert_named

import scduet as sd
from scduet.cli import main


def test_the_columns_and_the_table_are_those_of_python(counts, tmp_path, capsys):
    counts.obs["lane"] = ["first"] * 100 + ["second"] * 100
    counts.write_h5ad(tmp_path / "cells.h5ad")
    cells, out = str(tmp_path / "cells.h5ad"), str(tmp_path / "out.h5ad")
    asked = ["doublets", cells, "-o", out, "--batch-key", "lane", "--rate", "0.1", "--labels-key", "cell_type"]
    assert main([*asked, "--seed", "3"]) == 0
    assert_named(capsys.readouterr().out, "first", "second", "heterotypic")
    sd.find_doublets(counts, batch_key="lane", rate=0.1, labels_key="cell_type", seed=3)
    columns = ["doublet_score", "predicted_doublet"]
    pd.testing.assert_frame_equal(anndata.read_h5ad(out).obs[columns], counts.obs[columns])
    assert main([*asked, "--overwrite", "--method", "slo"]) == 2
    assert_named(capsys.readouterr().err, "'slo'")
