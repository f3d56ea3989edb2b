"""One pass over all entries tells what looking at each of them tells."""

import numpy as np
import pytest
import scipy.sparse as sp

from scduet.data import passes
from scduet.data.sources import in_memory
from scduet.errors import DataError


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("enough", [1, passes.ENOUGH])
@pytest.mark.parametrize("value", [-1, 0.5, 1e-45, -0.25, np.inf, -np.inf, np.nan, 2**24 + 2, 0])
def test_counts_are_finite_whole_and_not_negative(value, kind, enough, monkeypatch):
    monkeypatch.setattr(passes, "ENOUGH", enough)
    values = np.arange(100, dtype=kind)
    values[77] = value
    assert passes.are_counts(values) == (value in (0, 2**24 + 2))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8])
def test_row_sums_are_those_of_scipy(kind, monkeypatch):
    x = sp.random(50, 30, 0.3, format="csr", random_state=0, data_rvs=lambda n: np.arange(n) % 200).astype(kind)
    for enough in (1, passes.ENOUGH):
        monkeypatch.setattr(passes, "ENOUGH", enough)
        sums = passes.row_sums(x.data, x.indptr)
        assert sums.dtype == (np.float32 if kind in (np.float32, np.uint8) else np.float64)
        np.testing.assert_allclose(sums, x.astype(np.float64).sum(1).A1, rtol=1e-6)


@pytest.mark.parametrize("column", [-1, 30])
def test_entries_outside_of_the_matrix_are_refused(column):
    x = sp.random(50, 30, 0.3, format="csr", random_state=0)
    assert x.has_canonical_format
    x.indices[x.indptr[8] if column < 0 else x.indptr[8] - 1] = column
    with pytest.raises(DataError, match="outside of the 30 columns"):
        in_memory(x)
