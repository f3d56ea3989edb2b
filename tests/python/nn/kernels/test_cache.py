"""The session that compiles a kernel and those that read it from the cache get the same bits."""

import os
import subprocess
import sys

BITS = """
import torch
from scduet.nn.kernels import accessibility, jit
from scduet.contract import SparseRows

compiled = []
with jit.compilation_announced(compiled.append):
    torch.manual_seed(0)
    x = torch.poisson(torch.full((40, 300), 0.15))
    row, column = x.nonzero(as_tuple=True)
    rows = SparseRows(x[row, column], column, torch.searchsorted(row, torch.arange(41)), tuple(x.shape))
    logits, cells, peaks = torch.randn(40, 300), torch.rand(4, 40) / 2 + 0.2, torch.rand(4, 300) / 2 + 0.2
    cost = accessibility.bernoulli(rows, logits, cells, peaks)
print(bool(compiled), cost.numpy().tobytes().hex())
"""


def test_a_fresh_kernel_and_a_cached_one_agree_to_the_bit(tmp_path):
    """A function that a kernel calls used to be optimized twice, and the first session took another copy of it."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", BITS]
    said = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    (fresh, bits), (again, same) = (run.stdout.split() for run in said)
    assert (fresh, again) == ("True", "False")
    assert same == bits
