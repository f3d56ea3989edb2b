"""SOLO: a network that tells cells from artificial doublets by their states in a scVI.

    doublet = sum of the counts of two random cells; two doublets for each cell
    in      = posterior mean of the state, log of the library size
    out     = softmax(Linear(dropout(ReLU(BatchNorm(Linear(in))))))     doublet, singlet

Doublets, network and training are those of scvi-tools 1.4, except that the weights of the lowest validation loss are
kept rather than the last ones. Source: Bernstein et al. 2020, Cell Systems 11:95.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.api import Model, train_module
from scduet.contract import CellBatch, Expects, Input, Loss, Step
from scduet.data.sources import Cells, DenseSource, gathered, in_memory
from scduet.errors import OptionError
from scduet.events import Listener
from scduet.nn.layers import MLP
from scduet.nn.random import own_random_numbers
from scduet.tasks.posterior.likelihoods import latent_library_size
from scduet.train.config import TrainConfig
from scduet.train.loop import Rows, TrainingResult

CLASSES = ("doublet", "singlet")  # in the order of the network's outputs
RATIO, SEED = 2, 1  # artificial doublets for each cell, and the seed of scvi-tools' draw of them
TRAINING = TrainConfig(recipe="scvi-tools", max_epochs=400, early_stopping=True, early_stopping_patience=30)


@dataclass(frozen=True)
class SoloData:
    """What the network learns from: cells, and below them artificial doublets."""

    features: Float[np.ndarray, "row feature"]
    label: Int[np.ndarray, " row"]  # place in CLASSES

    @property
    def cells(self) -> Cells:
        n = len(self.label)
        return Cells(DenseSource(self.features), np.ones(n), np.zeros(n, np.int64), label=self.label)


class SoloClassifier(nn.Module):
    """Logits of CLASSES."""

    players = ("model",)
    expects: Expects = "any"
    inputs = {"x": Input("layer", sparse=False)}

    def __init__(self, n_in: int, n_hidden: int = 128, n_layers: int = 1, dropout_rate: float = 0.1):
        super().__init__()
        self.hidden = MLP(n_in, n_hidden, n_layers, dropout=dropout_rate)
        self.logits = nn.Linear(n_hidden, len(CLASSES))

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        error = F.cross_entropy(self.embed(cells), cells.label)  # type: ignore[arg-type]
        return Loss(error, {"classification": error}, len(cells))

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell 2"]:
        return self.logits(self.hidden(cells.x))


def solo_scores(
    model: Model,
    rows: Int[np.ndarray, " cell"],
    adata=None,
    use_depth: bool = True,
    seed: int = 0,
    callback: Listener | None = None,
) -> Float[np.ndarray, " cell"]:
    """Chance that each of the cells at `rows` is a doublet, by SOLO on the states of `model`.

    adata: None for the cells that the model was trained on. use_depth: show the network the library size.
    """
    data = solo_data(model, rows, adata)
    if not use_depth:
        data = replace(data, features=data.features[:, :-1])
    with own_random_numbers(seed):
        torch.manual_seed(seed)
        network = SoloClassifier(data.features.shape[1])
    train_solo(network, data, replace(TRAINING, seed=seed), callback)
    return solo_logits(network, data).softmax(1).numpy()[: len(rows), 0]


def solo_data(
    model: Model, rows: Int[np.ndarray, " cell"] | None = None, adata=None, ratio: int = RATIO, batch: int | None = None
) -> SoloData:
    """States and log library sizes of the cells at `rows`, and of `ratio` times as many artificial doublets.

    batch: code of the batch that the doublets are encoded as; None for that of most of the cells.

    Raises OptionError for a model with covariates, which a sum of two cells does not have.
    """
    if model.reference.n_categories or model.reference.n_continuous or model.reference.size_factor:
        raise OptionError(
            "SOLO cannot tell the covariates of a doublet", "train the model without covariates or size factors"
        )
    every = model.encode(adata)
    rows = np.arange(len(every)) if rows is None else rows
    counts = sp.csr_matrix(every.counts.rows(rows))
    batch = int(np.bincount(every.batch[rows]).argmax()) if batch is None else batch
    pairs = np.random.RandomState(SEED).choice(len(rows), (ratio * len(rows), 2))
    sums = sp.csr_matrix(counts[pairs[:, 0]] + counts[pairs[:, 1]])
    parts = [
        _features(model, _cells(counts, every.batch[rows])),
        _features(model, _cells(sums, np.full(len(pairs), batch))),
    ]
    label = np.repeat([CLASSES.index("singlet"), CLASSES.index("doublet")], [len(rows), len(pairs)])
    return SoloData(np.concatenate(parts), label)


def train_solo(
    network: SoloClassifier,
    data: SoloData,
    training: TrainConfig = TRAINING,
    callback: Listener | None = None,
    split: Rows | None = None,
) -> TrainingResult:
    """Train the network in place. split: rows to train on and rows held out."""
    return train_module(network, data.cells, training, callback, rows=split)[1]


@torch.inference_mode()
def solo_logits(network: SoloClassifier, data: SoloData) -> Float[Tensor, "row 2"]:
    """Logits of CLASSES of every row."""
    device = next(network.parameters()).device
    x = torch.from_numpy(gathered(data.cells.counts)).to(device)
    return network.eval().logits(network.hidden(x)).cpu()


def _cells(counts: sp.csr_matrix, batch: Int[np.ndarray, " cell"]) -> Cells:
    return Cells(in_memory(counts), np.asarray(counts.sum(1)).ravel(), batch)


def _features(model: Model, cells: Cells) -> Float[np.ndarray, "cell feature"]:
    own = replace(model, cells=cells)
    return np.column_stack([own.embed(), np.log(latent_library_size(own))])
