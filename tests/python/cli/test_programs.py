"""Programs from a terminal: the tables of Python."""

import numpy as np
import pandas as pd
import pytest
from named import assert_named

import scduet as sd
from scduet.cli import main

pytestmark = pytest.mark.filterwarnings("default::scduet.errors.ScduetWarning")


def test_the_tables_are_those_of_python(counts, tmp_path, capsys):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    sets = {"first": counts.var_names[:30], "second": counts.var_names[20:60]}
    lines = ["\t".join([name, "", *genes]) for name, genes in sets.items()]
    (tmp_path / "sets.gmt").write_text("\n".join(lines) + "\n")
    cells, model, table, genes = (str(tmp_path / name) for name in ("cells.h5ad", "model", "table.csv", "genes.csv"))
    options = ["--gene-sets", str(tmp_path / "sets.gmt"), "--max-epochs", "2", "--n-hidden", "8"]
    assert main(["fit", cells, "--model", "expimap", "-o", model, *options]) == 0
    compared = ["--groupby", "cell_type", "--group1", "B"]
    assert main(["programs", cells, "--model", model, "-o", table, "--genes", genes, *compared]) == 0
    trained = sd.load(model)
    expected = sd.differential_programs(trained, counts, "cell_type", "B")
    pd.testing.assert_frame_equal(pd.read_csv(table), expected)
    found = pd.read_csv(genes)
    assert found["gene"].tolist() == sd.program_genes(trained)["gene"].tolist()
    assert np.allclose(found["loading"], sd.program_genes(trained)["loading"])
    assert main(["programs", cells, "--model", model, "-o", table, "--overwrite", "--groupby", "nowhere"]) == 1
    assert_named(capsys.readouterr().err, "'nowhere'")


def test_weights_of_nodes_are_those_of_python(counts, tmp_path, capsys):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    edges = [("tf1", gene) for gene in counts.var_names[:10]] + [("tf2", gene) for gene in counts.var_names[10:20]]
    graph = pd.DataFrame([*edges, ("top", "tf1"), ("top", "tf2")], columns=["parent", "child"])
    graph.to_csv(tmp_path / "graph.csv", index=False)
    cells, model, table, edges = (str(tmp_path / name) for name in ("cells.h5ad", "model", "table.csv", "graph.csv"))
    asked = ["--labels-key", "cell_type", "--gene-graph", edges, "--max-epochs", "2"]
    assert main(["fit", cells, "--model", "kpnn", "-o", model, *asked]) == 0
    few = ["--replicates", "2", "--no-control"]
    assert main(["node-weights", cells, "--model", model, "-o", table, *few]) == 0
    expected = sd.node_weights(sd.load(model), counts, replicates=2, control=False)
    pd.testing.assert_frame_equal(pd.read_csv(table), expected, check_dtype=False)
    assert f"agreement: {expected.attrs['agreement']:.3f}" in capsys.readouterr().out
    assert main(["node-weights", cells, "--model", model, "-o", table, "--overwrite", "--replicates", "0"]) == 2
    assert_named(capsys.readouterr().err, "0")
