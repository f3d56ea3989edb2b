"""Looks at all entries: whether they are counts, what they add up to, and whether they lie in the matrix."""

import numpy as np
import pytest
import scipy.sparse as sp
from named import named

from scduet.data import checks
from scduet.data.sources import in_memory
from scduet.errors import DataError


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("value", [-1, 0.5, 1e-45, -0.25, np.inf, -np.inf, np.nan, 2**24 + 2, 0])
def test_counts_are_finite_whole_and_not_negative(value, kind, monkeypatch):
    values = np.arange(100, dtype=kind)
    values[77] = value
    for piece in (10, 78, 1000):
        monkeypatch.setattr(checks, "PIECE", piece)
        assert checks.are_counts(values) == (value in (0, 2**24 + 2))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8])
def test_totals_are_the_sums_of_the_rows(kind):
    x = sp.random(50, 30, 0.05, format="csr", random_state=0, data_rvs=lambda n: np.arange(n) % 200).astype(kind)
    assert (np.diff(x.indptr) == 0).any()  # rows without an entry
    totals = in_memory(x).totals()
    assert totals.dtype == (np.float32 if kind in (np.float32, np.uint8) else np.float64)
    np.testing.assert_allclose(totals, x.astype(np.float64).sum(1).A1, rtol=1e-6)
    assert len(in_memory(x[:0]).totals()) == 0


@pytest.mark.parametrize("column", [-1, 30])
def test_entries_outside_of_the_matrix_are_refused(column):
    x = sp.random(50, 30, 0.3, format="csr", random_state=0)
    assert x.has_canonical_format
    x.indices[x.indptr[8] if column < 0 else x.indptr[8] - 1] = column
    with pytest.raises(DataError, match=named(30, "columns")):
        in_memory(x)


def test_neighboring_rows_are_a_look_at_the_matrix():
    x = sp.random(50, 30, 0.3, format="csr", random_state=0, dtype=np.float32)
    source = in_memory(x)
    near, far = source.rows(np.arange(7, 20)), source.rows(np.array([7, 9, 8]))
    assert np.shares_memory(near.data, x.data)
    assert not np.shares_memory(far.data, x.data)
    assert (near != x[7:20]).nnz == 0
    assert (far != x[[7, 9, 8]]).nnz == 0
    x.data.flags.writeable = False  # as in a mapped file: torch wants numbers that can be written to
    assert not np.shares_memory(in_memory(x).rows(np.arange(7, 20)).data, x.data)
