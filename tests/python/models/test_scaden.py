"""Scaden's simulated mixtures are what they are said to be, and its input is that of the paper at a common depth."""

import anndata as ad
import numpy as np
import pytest
import torch
from named import named

import scduet as sd
from scduet.contract import CellBatch, Reference, SparseRows
from scduet.errors import OptionError
from scduet.events import silent
from scduet.models.spatial.scaden import TOTAL, Config, Scaden, scaled


def cells_of(labels):
    """Cells whose counts tell what they are: cell i has i + 1 counts of gene i."""
    n = len(labels)
    x = SparseRows(torch.arange(1.0, n + 1), torch.arange(n), torch.arange(n + 1), (n, n))
    return CellBatch(x, torch.arange(n), torch.zeros(n, dtype=torch.long), torch.tensor(labels))


@pytest.mark.parametrize("per", ["cell", "rna"])
def test_mixtures_have_the_shares_that_are_said(per):
    labels = [0, 0, 1, 1, 2, -1]
    module = Scaden(Reference(n_genes=6, n_labels=4), Config(per=per, n_mixtures=400, cells_per_mixture=50))
    x, share = module.mixtures(cells_of(labels), torch.Generator().manual_seed(0))
    times = x / torch.arange(1, 7)  # how often each cell was drawn
    assert torch.allclose(times.sum(1), torch.tensor(50.0))
    assert not times[:, 5].any(), "a cell without a label"
    amount = times if per == "cell" else x
    expected = torch.stack([amount[:, [i for i, k in enumerate(labels) if k == kind]].sum(1) for kind in range(4)], 1)
    assert torch.allclose(share, expected / expected.sum(1, keepdim=True), atol=1e-6)
    assert not share[:, 3].any(), "a type without a cell in the minibatch"
    lacking = (share[:, :3] == 0).any(1)
    assert lacking[:200].float().mean() < 0.15 < 0.6 < lacking[200:].float().mean()
    if per == "cell":
        assert 0.25 < share[:, 0].mean() < 0.42, "types are alike"


def test_samples_are_scaled_to_one_depth_and_to_one():
    x = torch.tensor([[0.0, 5.0, 20.0], [3.0, 3.0, 12.0]])
    level = np.log2(x.numpy() / x.numpy().sum(1, keepdims=True) * TOTAL + 1)
    low, high = level.min(1, keepdims=True), level.max(1, keepdims=True)
    assert np.allclose(scaled(x), (level - low) / (high - low), atol=1e-5)
    assert torch.allclose(scaled(7 * x), scaled(x), atol=1e-6)


def test_networks_are_those_of_the_paper():
    module = Scaden(Reference(n_genes=30, n_labels=3), Config())
    widths = [[layer.out_features for layer in part if isinstance(layer, torch.nn.Linear)] for part in module.networks]
    assert widths == [[256, 128, 64, 32, 3], [512, 256, 128, 64, 3], [1024, 512, 256, 128, 3]]


def test_what_it_cannot_learn_from_is_refused():
    cells = sd.datasets.simulate(n_cells=100, n_genes=20, n_types=2, n_batches=2, seed=0)
    with pytest.raises(OptionError, match=named("'scaden'", "labels_key=")):
        sd.fit(cells, "scaden", callback=silent)
    with pytest.raises(OptionError, match=named("'scaden'", "batch_key")):
        sd.fit(cells, "scaden", labels_key="cell_type", batch_key="batch", callback=silent)
    with pytest.raises(OptionError, match=named("cells_per_mixture", 0)):
        sd.fit(ad.AnnData(cells.X), "scaden", cells_per_mixture=0, callback=silent)
