"""RNA velocity from a terminal: the layer, the scores and the sentence of Python."""

import anndata
import numpy as np
import pytest
from named import assert_named
from python.tasks.test_velocity import ORDER, simulated

import scduet as sd
from scduet.cli import main


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("velocity")
    simulated().write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def test_the_result_is_that_of_python(cells, tmp_path, capsys):
    out, figure = tmp_path / "out.h5ad", tmp_path / "streams.png"
    known = [word for start, end in ORDER for word in ("--transition", f"{start}:{end}")]
    asked = ["velocity", str(cells), "-o", str(out), "--labels-key", "type", "--figure", str(figure), *known]
    assert main([*asked, "--model", "stochastic"]) == 0
    told = capsys.readouterr()
    expected = anndata.read_h5ad(cells)
    found = sd.velocity(expected, "stochastic", labels_key="type", transitions=ORDER)
    assert found.verdict in told.err
    assert f"{found.scores['permutation']:.3f}" in told.out
    written = anndata.read_h5ad(out)
    np.testing.assert_allclose(written.layers["velocity"], expected.layers["velocity"], rtol=1e-5, atol=1e-6)
    assert figure.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("more", "code", "named"),
    [
        (["--unspliced", "nascent"], 1, ("'nascent'",)),
        (["--model", "kinetic"], 2, ("'kinetic'",)),
        (["--save-model", "x"], 2, ("--save-model",)),
        (["--transition", "early"], 2, ("'transitions'",)),
    ],
)
def test_what_is_wrong_is_said(cells, tmp_path, capsys, more, code, named):
    assert main(["velocity", str(cells), "-o", str(tmp_path / "out.h5ad"), *more]) == code
    assert_named(capsys.readouterr().err, *named)
    assert not (tmp_path / "out.h5ad").exists()
