"""Deconvolution from a terminal: the proportions are those of Python."""

import anndata
import numpy as np
import pandas as pd
import pytest
from named import assert_named

import scduet as sd
from scduet.cli import main


@pytest.fixture
def files(tmp_path):
    """Single cells of three types, and spots that are sums of four of them."""
    cells = sd.datasets.simulate(n_cells=150, n_genes=60, n_types=3, n_batches=1, seed=0)
    members = np.random.default_rng(0).integers(0, 150, (40, 4))
    spots = anndata.AnnData(np.stack([np.asarray(cells.X[rows].sum(0)).ravel() for rows in members]), var=cells.var[[]])
    spots.obs_names = [f"spot {i}" for i in range(40)]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    spots.write_h5ad(tmp_path / "spots.h5ad")
    return spots, cells, tmp_path


@pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
def test_proportions_are_those_of_python(files, capsys):
    spots, cells, folder = files
    asked = ["deconvolve", str(folder / "spots.h5ad"), str(folder / "cells.h5ad"), "--labels-key", "cell_type"]
    table, spread = folder / "table.csv", folder / "spread.csv"
    further = ["--table", str(table), "--spread", str(spread), "--n-genes", "40", "--per", "rna"]
    assert main([*asked, "-o", str(folder / "out.h5ad"), *further]) == 0
    assert_named(capsys.readouterr().out, "poisson", "nnls", "RNA")
    found = sd.deconvolve(spots, cells, labels_key="cell_type", n_genes=40, per="rna")
    kind = found.proportions.columns[0]
    counts = folder / "counts.csv"
    with_counts = [*asked, "-o", str(folder / "again.csv"), "--n-genes", "40", "--expression", kind]
    assert main([*with_counts, "--expression-output", str(counts)]) == 0
    assert np.allclose(pd.read_csv(counts, index_col=0), found.expression(kind))
    assert main([*with_counts, "--overwrite"]) == 2
    assert_named(capsys.readouterr().err, "--expression-output")
    wrong = [
        *asked,
        "-o",
        str(folder / "x.csv"),
        "--expression",
        "nobody",
        "--expression-output",
        str(folder / "y.csv"),
    ]
    assert main(wrong) == 2
    assert_named(capsys.readouterr().err, "'nobody'")
    written = anndata.read_h5ad(folder / "out.h5ad")
    assert np.allclose(written.obsm["proportions"], found.proportions)
    assert np.allclose(pd.read_csv(spread, index_col=0), found.spread)
    assert list(pd.read_csv(table)["method"]) == list(found.agreement.index)
    assert main([*asked, "-o", str(folder / "bulk.csv"), "--bulk"]) == 0
    bulk = sd.deconvolve_bulk(spots, cells, labels_key="cell_type")
    assert np.allclose(pd.read_csv(folder / "bulk.csv", index_col=0), bulk.proportions)
    assert main([*asked, "-o", str(folder / "other.csv"), "--model", "rctd"]) == 2
    assert_named(capsys.readouterr().err, "'rctd'", "nnls")
