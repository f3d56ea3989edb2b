"""Numbers are written into R's memory whole, however many parts they are written in."""

import numpy as np
import pytest

from scduet.interop import r_memory


@pytest.mark.parametrize("size", [0, 1, 7, 8, 1001])
def test_large_vectors_are_written_in_parts(size, monkeypatch):
    there = np.full(size, np.nan)
    monkeypatch.setattr(r_memory, "LARGE", 8)
    monkeypatch.setattr(r_memory, "view", lambda address, kind, n: there)
    r_memory.write(np.arange(size, dtype=np.float32), "float64", "0")
    np.testing.assert_array_equal(there, np.arange(size))
