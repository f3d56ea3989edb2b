"""Without compiled loops (SCDUET_KERNELS=0) everything gives the same numbers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp

from scduet.nn.kernels import tokens

TRAIN = """
import json
from conftest import make_counts
import scduet as sd
from scduet.nn.kernels import jit

options = dict(batch_key="batch", labels_key="cell_type", dropout_rate=0.0, max_epochs=3, n_hidden=16, n_latent=4)
model = sd.fit(make_counts(), "{model}", **options)

print(json.dumps([jit.KERNELS.get(), model.history["loss_train"].tolist(), model.embed()[:5].tolist()]))
"""


def trained(model: str, kernels: str):
    environment = os.environ | {"SCDUET_KERNELS": kernels, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", TRAIN.format(model=model)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])


@pytest.mark.parametrize("model", ["scvi", "scanvi"])
def test_training_and_embedding(model):
    """Dropout is off: its random numbers are a hash in the kernels, and torch's without them."""
    (on, loss, latent), (off, plain_loss, plain_latent) = trained(model, "1"), trained(model, "0")
    assert (on, off) == (True, False)
    np.testing.assert_allclose(plain_loss, loss, rtol=1e-3)
    np.testing.assert_allclose(plain_latent, latent, rtol=0.05, atol=0.01)


def rows(seed: int):
    random = np.random.default_rng(seed)
    counts = random.poisson(random.gamma(0.6, 2, (25, 40)) * random.choice([0.1, 1, 30], (25, 1))).astype(np.float32)
    counts[3], counts[4, :10] = 0, 2.5
    x = sp.csr_matrix(counts)
    token = np.where(random.random(40) < 0.2, -1, random.permutation(40) + 4)
    return (x.data, x.indices, x.indptr, token), random


@pytest.mark.parametrize("specials", [(-1, -1), (2, 3)])
def test_ranks(specials):
    counts, random = rows(0)
    usual, room = np.where(counts[3] >= 0, random.lognormal(size=40), np.inf), np.full(25, 12)
    outs = [np.zeros(25 * 12, np.int32) for _ in "ab"]
    found = [f(*counts, usual, np.array(specials), room, out) for f, out in zip(PAIRS["rank"], outs, strict=True)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(*outs)


@pytest.mark.parametrize("random_ties", [True, False])
@pytest.mark.parametrize("with_zeros", [True, False])
def test_bins(random_ties, with_zeros):
    counts, _ = rows(1)
    others = np.unique(counts[3][counts[3] >= 0]) if with_zeros else np.empty(0, counts[3].dtype)
    cell, room = np.arange(25, dtype=np.uint64) * np.uint64(977), np.full(25, 15)
    fixed = others, cell, (random_ties, 3), np.linspace(0, 1, 50), (2, np.float32(-2)), room
    outs = [(np.zeros(25 * 15, np.int32), np.zeros(25 * 15, np.float32)) for _ in "ab"]
    found = [f(*counts, *fixed, *out) for f, out in zip(PAIRS["bin"], outs, strict=True)]
    np.testing.assert_array_equal(*found)
    for compiled, plain in zip(*outs, strict=True):
        np.testing.assert_array_equal(compiled, plain)


def test_log_normalized_counts():
    counts, _ = rows(2)
    outs = [(np.zeros(25 * 42, np.int32), np.zeros(25 * 42, np.float32)) for _ in "ab"]
    given = *counts, (100, 101)
    (lengths, total), (plain_lengths, plain_total) = (
        f(*given, *out) for f, out in zip(PAIRS["log"], outs, strict=True)
    )
    np.testing.assert_array_equal(lengths, plain_lengths)
    np.testing.assert_allclose(total, plain_total)
    np.testing.assert_array_equal(outs[0][0], outs[1][0])
    np.testing.assert_allclose(outs[0][1], outs[1][1], rtol=1e-6)


PAIRS = {
    "rank": (tokens._rank, tokens._rank_plain),
    "bin": (tokens._bin, tokens._bin_plain),
    "log": (tokens._log_normalize, tokens._log_normalize_plain),
}
