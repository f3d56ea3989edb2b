"""Zarr stores at addresses: rows, training and errors as of the same store in a folder."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pytest
from conftest import make_counts
from named import named

import scduet as sd
from scduet.data.schema import on_disk
from scduet.errors import DataError
from scduet.events import silent

OPTIONS = {"max_epochs": 1, "n_hidden": 8, "n_latent": 3, "callback": silent, "batch_key": "batch"}


@pytest.fixture(scope="module")
def whole():
    adata = make_counts(120, 30)
    adata.layers["counts"] = adata.X.copy()
    return adata


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(params=["memory", "http"])
def address(request, whole, tmp_path):
    whole.write_zarr(tmp_path / "cells.zarr")
    if request.param == "memory":
        memory = fsspec.filesystem("memory")
        memory.put(str(tmp_path / "cells.zarr"), "/cells.zarr", recursive=True)
        yield "memory://cells.zarr"
        memory.rm("/cells.zarr", recursive=True)
        return
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp, which is not installed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/cells.zarr"
    server.shutdown()


def test_rows_are_those_of_the_cells(whole, address):
    cells = on_disk(address)
    assert list(cells.obs_names) == list(whole.obs_names)
    rows = np.array([119, 3, 55, 0])
    for place in ("X", "layers/counts"):
        np.testing.assert_array_equal(cells.stored(place).rows(rows).toarray(), whole.X[rows].toarray())


def test_a_model_learns_from_an_address(whole, address):
    model = sd.fit(address, **OPTIONS)
    np.testing.assert_allclose(model.embed(address), model.embed(whole), atol=1e-5)


def test_an_address_beside_a_file(whole, address, tmp_path):
    whole[:40].write_h5ad(tmp_path / "more.h5ad")
    cells = on_disk([address, tmp_path / "more.h5ad"])
    assert cells.n_obs == 160
    assert cells.obs["store"].tolist() == ["cells"] * 120 + ["more"] * 40


@pytest.mark.parametrize("missing", ["memory://nowhere.zarr", "http://127.0.0.1:1/cells.zarr", "nosuch://cells.zarr"])
def test_an_address_that_holds_nothing_is_named(missing):
    with pytest.raises(DataError, match=named(missing)):
        sd.fit(missing, **OPTIONS)
