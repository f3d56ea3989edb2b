"""Counts on disk are those in memory: same rows, same checks, read once an epoch; a file that changes is refused."""

import os
import shutil

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from named import named

from scduet.data import on_disk as files
from scduet.data.loader import epoch_order, minibatches
from scduet.data.samplers import Shard
from scduet.data.schema import Fields, Schema
from scduet.errors import DataError

LAYOUTS = {
    "csr h5ad": (".h5ad", lambda x: x, {"compression": "gzip"}),
    "csr zarr": (".zarr", lambda x: x, {}),
    "csr zarr 3": (".zarr", lambda x: x, {}),
    "sharded csr zarr 3": (".zarr", lambda x: x, {"shards": True}),
    "dense h5ad": (".h5ad", lambda x: x.toarray(), {}),
    "dense zarr": (".zarr", lambda x: x.toarray(), {}),
    "int64 csr h5ad": (".h5ad", lambda x: x.astype(np.int64), {}),
    "unsorted csr h5ad": (".h5ad", lambda x: x[:, ::-1][:, ::-1], {}),
}


@pytest.fixture
def small_pool(monkeypatch):
    """So little in memory at a time that 200 cells need many requests."""
    monkeypatch.setattr(files.FileSource, "entries_at_once", 600)
    monkeypatch.setattr(files, "ENTRIES_AT_ONCE", 600)
    monkeypatch.setattr(files, "GAP_ENTRIES", 100)


def written(counts, tmp_path, layout="csr h5ad"):
    ending, change, options = LAYOUTS[layout]
    path = tmp_path / f"cells{ending}"
    copy = counts.copy()
    copy.X = change(counts.X)
    if options.get("shards"):
        sharded(copy, path)
        return path
    with anndata.settings.override(zarr_write_format=3 if layout.endswith("3") else 2):
        (copy.write_h5ad if ending == ".h5ad" else copy.write_zarr)(path, **options)
    return path


def sharded(adata, path):
    """As anndata 0.13 and annbatch write: chunks of 64 entries, in shards of 256."""
    root = zarr.open_group(str(path), mode="w", zarr_format=3)

    def write(func, group, key, elem, dataset_kwargs, iospec):
        is_matrix = iospec.encoding_type == "csr_matrix"
        func(group, key, elem, dataset_kwargs={"chunks": (64,), "shards": (256,)} if is_matrix else dataset_kwargs)

    with anndata.settings.override(zarr_write_format=3):
        anndata.experimental.write_dispatched(root, "/", adata, callback=write)
    assert root["X/data"].shards == (256,)


def encoded(path, **fields):
    return Schema.learn(path, Fields(**fields)).encode(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_those_of_the_matrix_in_memory(counts, tmp_path, small_pool, layout):
    path = written(counts, tmp_path, layout)
    chosen = tuple(f"gene{i}" for i in reversed(range(50)))
    order = np.random.default_rng(0).permutation(200)[:90]
    for cells, truth in (
        (encoded(path), counts.X.toarray()),
        (encoded(path, genes=chosen), counts[:, list(chosen)].X.toarray()),
    ):
        assert (cells.counts.rows(order).toarray() == truth[order]).all()
        assert (cells.counts.rows(np.array([7, 7, 3])).toarray() == truth[[7, 7, 3]]).all()
        assert np.allclose(cells.total, truth.sum(1))


def test_annotations_layers_and_backed_objects(counts, tmp_path):
    counts.layers["twice"] = counts.X * 2
    path = written(counts, tmp_path)
    fields = {"batch_key": "batch", "labels_key": "cell_type"}
    memory = Schema.learn(counts, Fields(**fields)).encode(counts)
    backed = anndata.read_h5ad(path, backed="r")
    for given in (path, str(path), backed):
        cells = encoded(given, **fields)
        assert (cells.batch == memory.batch).all()
        assert (cells.label == memory.label).all()
        assert isinstance(cells.counts, files.FileSource)
        doubled = encoded(given, layer="twice").counts.rows(np.arange(200))
        assert (doubled.toarray() == 2 * counts.X.toarray()).all()
    with pytest.raises(DataError, match=named("AnnData", "part.to_memory()")):
        encoded(backed[:50])


def test_each_row_comes_once_an_epoch_and_each_stretch_is_read_once(counts, tmp_path, small_pool, monkeypatch):
    cells, rows = encoded(written(counts, tmp_path)), np.random.default_rng(0).permutation(200)[:180]
    read, plain = [], files.FileSource._read
    monkeypatch.setattr(files, "GAP_ENTRIES", 100)
    monkeypatch.setattr(
        files.FileSource, "_read", lambda self, arrays, *span: read.append(span) or plain(self, arrays, *span)
    )
    block = 20
    order, edges = epoch_order(cells, rows, 16, (0, 0), Shard(), block)
    batches = list(minibatches(cells, order, 16, edges=edges))
    assert sorted(order) == sorted(rows)
    assert np.concatenate([batch.index for batch in batches]).tolist() == order.tolist()
    for batch in batches:
        assert (batch.x.dense().numpy() == counts.X[batch.index.numpy()].toarray()).all()
    assert sum(last - first for first, last in read) <= 200 + len(read) * block / 4  # a block may end two requests


def test_scattered_rows_are_read_in_bounded_stretches(counts, tmp_path, monkeypatch):
    """Every tenth row, as in a validation: what lies between is read along, but never much at a time."""
    monkeypatch.setattr(files, "STRETCH_ENTRIES", 300)
    cells, longest, plain = encoded(written(counts, tmp_path)), [], files.FileSource._read
    row_at_most = int(np.diff(cells.counts.indptr).max())

    def read(self, arrays, first, last):
        longest.append(self.indptr[last] - self.indptr[first])
        return plain(self, arrays, first, last)

    monkeypatch.setattr(files.FileSource, "_read", read)
    rows = np.arange(3, 200, 10)
    assert (cells.counts.rows(rows).toarray() == counts.X[rows].toarray()).all()
    assert len(longest) > 5
    assert max(longest) <= 300 + row_at_most


def test_orders_differ_between_epochs_and_seeds_and_mix_blocks(counts, tmp_path, small_pool):
    cells, rows = encoded(written(counts, tmp_path)), np.arange(200)
    first, _ = epoch_order(cells, rows, 16, (0, 0), Shard(), 5)
    assert (first == epoch_order(cells, rows, 16, (0, 0), Shard(), 5)[0]).all()
    assert (first != epoch_order(cells, rows, 16, (0, 1), Shard(), 5)[0]).mean() > 0.8
    assert (first != epoch_order(cells, rows, 16, (1, 0), Shard(), 5)[0]).mean() > 0.8
    assert len({row // 5 for row in first[:16]}) > 3  # one minibatch holds rows of several blocks


def test_bad_values_are_named_as_in_memory(counts, tmp_path, small_pool):
    counts.X = counts.X.tocsr()
    counts.X.data[-1] = 0.5
    with pytest.raises(DataError, match=named("X", "'cell199'", "allow_non_integer=True")):
        encoded(written(counts, tmp_path))


def test_a_file_that_changes_is_refused(counts, tmp_path):
    path = written(counts, tmp_path, "dense h5ad")
    cells = encoded(path)
    stamp = path.stat()
    with h5py.File(path, "r+") as file:
        file["X"][3, 7] = file["X"][3, 7] + 1
    with pytest.raises(DataError, match=named(path, "checkpoint=")):
        cells.counts.rows(np.arange(5))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # a change that leaves no trace in the file's times
    with pytest.raises(DataError, match=named(path, "checkpoint=")):
        cells.counts.rows(np.arange(5))
    assert (cells.counts.rows(np.arange(4, 9)).toarray() == counts.X[4:9].toarray()).all()  # these did not


def test_a_moved_entry_is_noticed(counts, tmp_path):
    """Sums of rows stay the same when a count moves to another gene; the marks do not."""
    path = written(counts, tmp_path)
    cells = encoded(path)
    stamp = path.stat()
    with h5py.File(path, "r+") as file:
        row = file["X/indices"][: file["X/indptr"][1]]
        file["X/indices"][len(row) - 1] = 59 if row[-1] != 59 else 58
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(DataError, match=named(path, "checkpoint=")):
        cells.counts.rows(np.array([0]))


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _chunk_of(path, name):
    return next(p for p in sorted((path / "X" / name).rglob("*")) if p.is_file() and not p.name.startswith((".", "z")))


def _halve_chunk(path):
    _truncate(_chunk_of(path, "data"))


def _lose_chunk(path):
    _chunk_of(path, "indices").unlink()


DAMAGE = {
    "truncated h5ad": ("csr h5ad", _truncate, ["cells.h5ad", "OSError"]),
    "truncated zarr chunk": ("csr zarr", _halve_chunk, ["cells.zarr", "RuntimeError"]),
    "lost zarr chunk": ("csr zarr", _lose_chunk, ["X", "cells.zarr", "'indices'"]),
    "gone": ("csr h5ad", lambda path: path.unlink(), ["cells.h5ad"]),
    "no matrix": ("csr zarr", lambda path: shutil.rmtree(path / "X"), ["X", "cells.zarr"]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named_before_work_starts(counts, tmp_path, case):
    layout, damage, names = DAMAGE[case]
    path = written(counts, tmp_path, layout)
    damage(path)
    with pytest.raises(DataError, match=named(*names)):
        encoded(path)


def test_a_chunk_lost_during_work_is_noticed(counts, tmp_path):
    path = written(counts, tmp_path, "csr zarr")
    cells = encoded(path)
    _chunk_of(path, "data").unlink()  # zarr would read it as zeros
    with pytest.raises(DataError, match=named(path, "checkpoint=")):
        cells.counts.rows(np.arange(200))


def test_what_cannot_be_read_by_rows_is_said(counts, tmp_path):
    counts.X = sp.csc_matrix(counts.X)
    counts.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match=named("X", "cells.h5ad", "CSC", "CSR")):
        encoded(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match=named("'cells.loom'", ".h5ad", ".h5mu", ".zarr")):
        files.opened(tmp_path / "cells.loom")


def test_the_block_is_no_smaller_than_a_chunk_of_the_file():
    source = files.FileSource("x.h5ad", "X", (1000, 50), np.arange(1001) * 100, True, chunk=900_000)
    assert source.block == 9000
