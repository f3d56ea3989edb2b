"""What each node of a knowledge-primed network is worth for the labels, over replicates and beside a control."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from scduet.api import measured, train
from scduet.count_model import Model
from scduet.data import inference
from scduet.data.samplers import split
from scduet.data.sources import Cells, MemorySource
from scduet.errors import DataError, OptionError
from scduet.events import silent
from scduet.models.rna.kpnn import KPNN, PIECE
from scduet.nn.random import own_random_numbers
from scduet.options import check_arguments, seed_of

BATCH = 1024
FOLD = 2.0  # by which control genes differ between labels, up or down
FLOOR = 0.25  # quantile of the control weights that is added to each, so that a ratio to almost nothing is not large


def node_weights(
    model: Model, adata=None, *, replicates: int = 10, control: bool = True, seed: int = 0
) -> pd.DataFrame:
    """Weights of the nodes of a KPNN: how much each moves the probability of each label (Fortelny & Bock 2020).

    adata: cells whose derivatives are averaged; None for the cells trained on. For a loaded model, which has none, also
        the cells that the replicates are trained on: those that it was trained on itself.
    replicates: networks to train, `model` the first of them; single ones disagree.
    control: also train as many networks on simulated counts in which every gene tells the labels apart, by a factor of
        2 up or down: what the wiring alone gives.

    Returns a table with a row for each node and label (of two labels the second), the highest weights first:
        node, label, level (1: next to the genes);
        weight: mean over replicates of |mean over cells of d P(label) / d activation|, and sd over replicates;
        control: the same of the control networks; ratio: weight over control (plus their lower quartile).
    attrs: "agreement" of replicates, the mean correlation of the weights of two; "accuracy" and "control_accuracy", the
    mean share of held-out cells that are classified right.

    Rank nodes by `ratio`, and believe only what is on top by both. Raises OptionError for another model, or for a
    loaded one without `adata`; DataError where no cell of `adata` has a label.
    """
    module, seed = model.module, seed_of(seed)
    check_arguments(n_samples=replicates)
    if not isinstance(module, KPNN):
        raise OptionError(f"{model.name!r} has no nodes that are known", "train sd.fit(adata, 'kpnn', gene_graph=)")
    cells = _with_cells(model, adata)
    model = replace(model, cells=cells)
    runs = [model, *(_retrained(model, cells, seed + i) for i in range(1, replicates))]
    weights = np.stack([_weights(run, adata) for run in runs])  # (replicate, label, node)
    table = _table(module, weights, list(model.schema.values(str(model.schema.fields.labels_key))))
    table.attrs |= {"agreement": _agreement(weights), "accuracy": float(np.mean([_accuracy(run) for run in runs]))}
    if control:
        rewired = _control(cells, module.reference.n_labels, seed)
        others = [_retrained(model, rewired, seed + i) for i in range(replicates)]
        by_wiring = np.stack([_weights(run, None) for run in others]).mean(0)
        floor = np.quantile(by_wiring, FLOOR, axis=1, keepdims=True)
        table["control"] = _rows(by_wiring)
        table["ratio"] = table["weight"] / _rows(by_wiring + floor)
        table.attrs["control_accuracy"] = float(np.mean([_accuracy(run) for run in others]))
    by = "ratio" if control else "weight"
    return table.sort_values(by, ascending=False, ignore_index=True)


def _with_cells(model: Model, adata) -> Cells:
    """The cells to train replicates on: those of the model, of a loaded one those of `adata`."""
    if model.cells is not None:
        return model.cells
    if adata is None:
        raise OptionError("replicates need the cells that the model was trained on", "pass them as adata")
    cells = model.encode(adata)
    if cells.label is None or not (cells.label >= 0).any():
        column = model.schema.fields.labels_key
        raise DataError(f"no cell has a label of the model in obs[{column!r}]", "pass the cells it was trained on")
    return cells


def _retrained(model: Model, cells: Cells, seed: int) -> Model:
    """A new network of the same wiring and options."""
    reference = measured(KPNN, replace(model.reference, arrays={}), cells)
    with own_random_numbers(seed):
        torch.manual_seed(seed)
        module = KPNN(reference, model.config)
    new = replace(model, module=module, reference=reference)
    return train(new, cells, replace(model.training, seed=seed), silent)


def _weights(model: Model, adata) -> Float[np.ndarray, "label node"]:
    module: KPNN = model.module.eval()  # type: ignore[assignment]
    cells = model.encode(adata)  # not by `map`, whose inference mode knows no derivatives
    batches = inference.in_order(cells)
    found = inference.each(module.node_weights, batches, len(cells), BATCH, model.device, None)
    slopes = torch.cat([slope for _, slope in found])
    return slopes.mean(0).abs().cpu().numpy().reshape(module.reference.n_labels, -1)


def _accuracy(model: Model) -> float:
    """Share of the labeled cells that were held out, or of all if none was, that are classified right."""
    cells: Cells = model.cells  # type: ignore[assignment]
    label, (train, held_out) = cells.label, split(len(cells), model.training.train_size or 1.0, model.training.seed)
    rows = held_out if len(held_out) else train
    rows = rows[label[rows] >= 0]  # type: ignore[index]
    found = model.map(model.module.classify).argmax(1).cpu().numpy()  # type: ignore[arg-type]
    return float((found[rows] == label[rows]).mean())  # type: ignore[index]


def _control(cells: Cells, n_labels: int, seed: int) -> Cells:
    """Cells of the same depth and labels; each gene has twice or half its share in each label but the first."""
    draw, n_genes = np.random.default_rng(seed), cells.counts.n_genes
    share = np.zeros(n_genes)
    for start in range(0, len(cells), PIECE):
        rows = np.arange(start, min(start + PIECE, len(cells)))
        share += np.asarray(cells.counts.rows(rows).sum(0), np.float64).ravel()
    share /= share.sum()
    fold = np.where(draw.random((n_labels, n_genes)) < 0.5, FOLD, 1 / FOLD)
    fold[0] = 1
    code = np.where(cells.label < 0, 0, cells.label)  # type: ignore[operator]
    chance = np.minimum(share * fold, 1)
    drawn = (draw.binomial(int(n), chance[k]) for n, k in zip(cells.total, code, strict=True))
    counts = sp.csr_matrix(sp.vstack([sp.csr_matrix(row, dtype=np.float32) for row in drawn]))
    total = np.asarray(counts.sum(1), np.float32).ravel()
    return replace(cells, counts=MemorySource(counts), total=total).marked()


def _agreement(weights: Float[np.ndarray, "replicate label node"]) -> float:
    n = len(weights)
    if n < 2:
        return float("nan")
    r = np.corrcoef(weights.reshape(n, -1))
    return float(r[np.triu_indices(n, 1)].mean())


def _table(module: KPNN, weights: Float[np.ndarray, "replicate label node"], labels: list) -> pd.DataFrame:
    graph = module.graph
    shown = labels[-1:] if len(labels) == 2 else labels
    return pd.DataFrame(
        {
            "node": np.tile(graph.nodes, len(shown)),
            "label": np.repeat(shown, len(graph.nodes)),
            "level": np.tile(graph.level, len(shown)),
            "weight": _rows(weights.mean(0)),
            "sd": _rows(weights.std(0, ddof=1) if len(weights) > 1 else np.full(weights.shape[1:], np.nan)),
        }
    )


def _rows(weights: Float[np.ndarray, "label node"]) -> Float[np.ndarray, " row"]:
    """Of two labels the second, whose derivatives are those of the first with the other sign."""
    return weights[-1] if len(weights) == 2 else weights.ravel()
