"""Minibatches cut on a device are those that the loader makes on the host."""

import numpy as np
import pytest
import torch

from scduet.data.device_cache import device_cache
from scduet.data.loader import minibatches
from scduet.data.samplers import boundaries
from scduet.data.schema import Fields, Schema


@pytest.mark.parametrize("genes", [None, tuple(f"gene{i}" for i in reversed(range(50)))])
def test_a_resident_minibatch_is_the_loaders(counts, genes):
    counts.obs["size"] = counts.obs["size"] + 0.1
    fields = Fields(
        batch_key="batch",
        labels_key="cell_type",
        genes=genes,
        categorical_covariate_keys=("site",),
        continuous_covariate_keys=("age",),
        size_factor_key="size",
    )
    cells, order = Schema.learn(counts, fields).encode(counts), np.random.default_rng(0).permutation(200)[:150]
    there = device_cache(cells, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    edges = boundaries(len(order), 32)
    for batch, other in zip(there.minibatches(order, edges), minibatches(cells, order, 32), strict=True):
        here = batch.to("cpu")
        assert torch.equal(here.x.dense(), other.x.dense())
        assert torch.equal(here.x.row, other.x.row)
        for name in ("index", "batch", "label"):
            assert torch.equal(getattr(here, name), getattr(other, name))
        for name in ("categorical", "continuous", "size_factor"):
            assert torch.equal(getattr(here.covariates, name), getattr(other.covariates, name))
