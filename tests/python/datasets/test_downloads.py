"""Published files come from where the table says, once, and other bytes are refused; the server is on loopback."""

import functools
import http.server
import shutil
import threading

import numpy as np
import pytest
from conftest import DATA, NO_DATA
from named import named

import scduet as sd
from scduet.errors import DataError, FormatError, OptionError
from scduet.interop import datasets

ORIGINALS = {  # of the files in ../shared/data/files
    "pbmc3k": "seurat/fhil_pbmc3k_assay5_v5.0.2.rda",
    "kang": "sce/muscat_example_sce.rda",
    "pancreas": "seurat/cider_pancreas_v4.0.3.RData",
}


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that is served in place of the public host; downloads go to another."""
    root = tmp_path / "host"
    root.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(datasets, "HOST", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("SCDUET_DATA", str(tmp_path / "cache"))
    yield root
    server.shutdown()
    server.server_close()


def publish(root, name):
    file, source = datasets.FILES[name], DATA / "files" / ORIGINALS[name]
    if not source.exists():
        pytest.skip(f"{NO_DATA}: {source.name}")
    place = root / file.repository / file.commit / file.path
    place.parent.mkdir(parents=True)
    shutil.copyfile(source, place)
    return place


@pytest.mark.parametrize(
    ("name", "shape", "columns"),
    [
        ("pbmc3k", (2700, 32738), {"nCount_RNA"}),
        ("kang", (1556, 1267), {"cell_type", "condition", "donor"}),
        ("pancreas", (350, 12474), {"cell_type", "species", "sample"}),
    ],
)
def test_a_file_is_downloaded_once_and_holds_counts(served, name, shape, columns):
    place = publish(served, name)
    adata = getattr(sd.datasets, name)()
    assert adata.shape == shape
    assert columns <= set(adata.obs)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.data, np.rint(adata.X.data))
    place.unlink()
    np.testing.assert_array_equal(getattr(sd.datasets, name)().X.sum(0), adata.X.sum(0))


def test_what_is_known_of_the_cells(served):
    publish(served, "kang")
    adata = sd.datasets.kang()
    assert sorted(adata.obs["donor"].unique()) == ["101", "107"]
    assert adata.obs.groupby("condition", observed=True).size().to_dict().keys() == {"ctrl", "stim"}


def test_other_bytes_are_refused_and_not_kept(served, tmp_path):
    file = datasets.FILES["kang"]
    place = served / file.repository / file.commit / file.path
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    with pytest.raises(FormatError, match=named(file.url)):
        sd.datasets.kang()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_no_network_says_where_the_file_may_be_put(served, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=named(tmp_path / "cache")):  # the server has no such file
        sd.datasets.pancreas()
    monkeypatch.setattr(datasets, "HOST", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=named(tmp_path / "cache")):
        sd.datasets.pancreas()
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=named("pooch")):
        sd.datasets.pancreas()
