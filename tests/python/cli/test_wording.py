"""Messages of the command line name its options, not arguments of Python."""

import pytest
import typer
from conftest import make_counts
from named import assert_named

from scduet.cli import build, main
from scduet.cli.wording import as_typed, flags_of

FLAGS = {"labels_key": "--labels-key", "method": "--method", "model": "--model", "columns": "--column"}


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("pass labels_key=", "pass --labels-key"),
        ("method='magic' needs", "--method magic needs"),
        ("labels_key=None", "no --labels-key"),
        ("labels_key=True or labels_key=False", "--labels-key or --no-labels-key"),
        ("columns=[1, 2]; n_cells=5", "--column [1, 2]; n_cells=5"),
        ("option 'method' cannot be 'x'", "option --method cannot be 'x'"),
        ("option 'callback' cannot be 5", "option 'callback' cannot be 5"),
        ("adata.model=3, x['labels_key=1'] and labels_key==2", "adata.model=3, x['labels_key=1'] and labels_key==2"),
    ],
)
def test_arguments_become_options(message, typed):
    assert as_typed(message, FLAGS) == typed


def test_flags_are_those_of_the_command():
    command = typer.main.get_command(build())
    assert flags_of(command, ["export-viewer", "x.h5ad"])["columns"] == "--column"
    assert flags_of(command, ["--help"]) == {}


@pytest.mark.parametrize(
    ("arguments", "flag", "argument"),
    [
        (["de", "DATA", "-o", "OUT.csv", "--groupby", "cell_type"], "--model", "model="),
        (["fit", "DATA", "-o", "OUT", "--model", "scanvi", "--max-epochs", "1"], "--labels-key", "labels_key="),
        (["fit", "DATA", "-o", "OUT", "--max-epochs", "0"], "--max-epochs", "'max_epochs'"),
    ],
)
def test_errors_name_the_option(tmp_path, capsys, arguments, flag, argument):
    make_counts(120, 20).write_h5ad(tmp_path / "cells.h5ad")
    named = {"DATA": str(tmp_path / "cells.h5ad"), "OUT.csv": str(tmp_path / "out.csv"), "OUT": str(tmp_path / "out")}
    assert main([named.get(word, word) for word in arguments]) in (1, 2)
    told = capsys.readouterr().err
    assert_named(told, flag)
    assert argument not in told
