"""Denoising from a terminal: the layer and the table of Python."""

import anndata
import numpy as np
import pandas as pd
import pytest
from named import assert_named

import scduet as sd
from scduet.cli import main
from scduet.tasks.quality import denoisers

pytestmark = pytest.mark.filterwarnings("default:layers:scduet.errors.ScduetWarning")  # that tests belong on counts


def test_the_layer_and_the_table_are_those_of_python(counts, tmp_path, capsys):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    cells, out, table = (str(tmp_path / name) for name in ("cells.h5ad", "out.h5ad", "table.csv"))
    assert main(["denoise", cells, "-o", out, "--method", "walk", "--t", "2", "--key-added", "smooth"]) == 0
    assert_named(capsys.readouterr().err, "layers['smooth']")
    np.testing.assert_allclose(anndata.read_h5ad(out).layers["smooth"], denoisers.walk(counts.X, 2), rtol=1e-5)
    asked = ["--method", "walk", "--labels-key", "cell_type", "--no-false-signals", "-o", table]
    assert main(["compare-denoisers", cells, *asked]) == 0
    assert "walk" in capsys.readouterr().out
    expected = sd.compare_denoisers(counts, ("walk",), labels_key="cell_type", false_signals=False)
    pd.testing.assert_frame_equal(pd.read_csv(table, index_col="method"), expected)
    assert main(["denoise", cells, "-o", out, "--overwrite", "--method", "wlak"]) == 2
    assert_named(capsys.readouterr().err, "'wlak'")
