"""The loops of differential expression give what their plain forms give."""

import numpy as np
import pytest
import scipy.sparse as sp

from scduet.nn.kernels import pairs
from scduet.nn.kernels.jit import KERNELS

RNG = np.random.default_rng(0)
SHARE = RNG.dirichlet(np.full(37, 0.3), 150).astype(np.float32)
FIRST, SECOND = RNG.integers(0, 150, (2, 131))
COUNTS = sp.random(40, 37, 0.3, format="csr", dtype=np.float32, random_state=0)


def counted():
    return pairs.count_ratios(
        SHARE, FIRST, SECOND, np.float32(1e-3), np.float32(0.8), np.float32(1.25), np.float32(1e-3)
    )


def put():
    out = np.empty((20, len(FIRST)), np.float32)
    pairs.put_ratios(SHARE, FIRST, SECOND, 11, np.float32(1e-3), out)
    return out


def summed():
    return np.stack(pairs.sum_and_largest(SHARE))


def added():
    sums, weights = np.zeros((37, 4)), np.linspace(1, 2, 15)
    pairs.add_counts(COUNTS.data, COUNTS.indices, COUNTS.indptr, np.arange(20, 35), weights, 3 * weights, sums)
    return sums


@pytest.mark.parametrize("loop", [counted, put, summed, added])
def test_the_compiled_loop_gives_what_the_plain_form_gives(loop):
    compiled = loop()
    kernels = KERNELS.set(False)
    try:
        plain = loop()
    finally:
        KERNELS.reset(kernels)
    assert np.ptp(plain) > 0
    np.testing.assert_allclose(compiled, plain, rtol=1e-6)
