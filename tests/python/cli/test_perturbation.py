"""Predicted perturbations from a terminal: the means, the cells and the table of Python."""

import anndata
import numpy as np
import pandas as pd
import pytest
from named import assert_named
from perturbation_toys import GENES, contexts, screen

import scduet as sd
from scduet.cli import main


@pytest.fixture
def cells(tmp_path):
    found = contexts(np.random.default_rng(0))
    found = found[~((found.obs["context"] == "A") & (found.obs["perturbation"] == "stim"))].copy()
    found.write_h5ad(tmp_path / "cells.h5ad")
    return found


def test_means_cells_and_table_are_those_of_python_and_can_be_scored(cells, tmp_path, capsys):
    data, means, table, made = (str(tmp_path / name) for name in ("cells.h5ad", "m.csv", "t.csv", "c.h5ad"))
    asked = ["--perturbation-key", "perturbation", "--context-key", "context", "-q"]
    assert main(["perturb", data, *asked, "-o", means, "--table", table]) == 0
    assert "ceiling" in capsys.readouterr().out
    pred = sd.predict_perturbation(cells, "perturbation", context_key="context", cells="cells")
    written = pd.read_csv(means, index_col=[0, 1])
    pd.testing.assert_frame_equal(written, pred.mean, check_names=False)
    pd.testing.assert_frame_equal(pd.read_csv(table, index_col=[0, 1]), pred.table)
    assert main(["perturb", data, *asked, "-o", made, "--no-evaluate"]) == 0
    np.testing.assert_allclose(anndata.read_h5ad(made).X.toarray(), pred.cells.X.toarray(), rtol=1e-6)
    full = contexts(np.random.default_rng(0))
    full.write_h5ad(tmp_path / "full.h5ad")
    capsys.readouterr()
    again = [*asked, "--table", table, "--overwrite"]
    assert main(["score-perturbation", str(tmp_path / "full.h5ad"), means, *again]) == 0
    expected = sd.score_perturbation(pred, full, "perturbation", context_key="context").table
    pd.testing.assert_frame_equal(pd.read_csv(table, index_col=[0, 1]), expected)


def test_what_is_wrong_is_named(cells, tmp_path, capsys):
    data = str(tmp_path / "cells.h5ad")
    assert main(["perturb", data, "--perturbation-key", "perturbation", "--control", "NT"]) == 1
    assert_named(capsys.readouterr().err, "--control", "NT")
    assert main(["perturb", data, "--perturbation-key", "perturbation", "--model", "scgan"]) == 2
    assert_named(capsys.readouterr().err, "'scgan'")
    assert main(["perturb", data, "--perturbation-key", "perturbation", "--model", "scgpt"]) == 2
    assert_named(capsys.readouterr().err, "--model", "--transformer")
    (tmp_path / "x.csv").write_text("context,target,G0\nA,stim,1\n")
    assert main(["score-perturbation", data, str(tmp_path / "x.csv"), "--perturbation-key", "perturbation"]) == 1
    assert_named(capsys.readouterr().err, "x.csv")


def test_perturbations_are_ranked_as_in_python(tmp_path, capsys):
    change = np.eye(6, len(GENES), 10) * 2 + np.eye(6, len(GENES), 20)
    names = [f"G{i}" for i in range(6)]
    cells = screen(np.random.default_rng(0), names, change)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    profile = pd.Series(change[2], GENES)
    profile.to_csv(tmp_path / "profile.csv", header=["change"])
    kinds = dict(zip(names, ["one", "two"] * 3, strict=True))
    pd.Series(kinds).to_csv(tmp_path / "kinds.csv", header=["mechanism"])
    paths = [str(tmp_path / name) for name in ("cells.h5ad", "profile.csv")]
    table = str(tmp_path / "t.csv")
    more = ["--perturbation-key", "perturbation", "--mechanisms", str(tmp_path / "kinds.csv"), "--table", table]
    assert main(["rank-perturbations", *paths, *more]) == 0
    expected = sd.rank_perturbations(profile, cells, "perturbation", mechanisms=kinds)
    pd.testing.assert_frame_equal(pd.read_csv(table, index_col=0), expected, check_names=False)
    assert expected.index[0] == "G2"
    assert_named(capsys.readouterr().out, "G2", "3.5", "one")
    (tmp_path / "empty.csv").write_text("gene\nG0\n")
    assert main(["rank-perturbations", paths[0], str(tmp_path / "empty.csv"), *more[:2]]) == 1
    assert_named(capsys.readouterr().err, "empty.csv")
