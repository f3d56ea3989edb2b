"""scGPT as a model of `predict_perturbation`: fine-tuned on pairs of a control and a perturbed cell."""

from __future__ import annotations

from scduet._torch import torch

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Bool, Float, Int

from scduet.api import train_module
from scduet.data.loader import Rows
from scduet.errors import DataError
from scduet.events import Listener
from scduet.nn.random import own_random_numbers
from scduet.options import build, refuse_unknown
from scduet.tasks.foundation.finetune import RATES, RECIPE, option_names
from scduet.tasks.perturbation.interface import CONTROL
from scduet.tasks.perturbation.trained import scgpt_of
from scduet.train import device as devices
from scduet.train.config import TrainConfig
from scduet.transformer_model import Transformer
from scduet.transformers.objectives.perturbation import Config, PerturbedBatch, Perturber

TOKENS = 1 << 16  # of a minibatch in prediction


@dataclass(frozen=True)
class Pairs:
    """Makes minibatches of pairs: which genes are tokens, and where a pair is flagged."""

    token: Int[np.ndarray, " gene"]  # in the vocabulary; that of padding for unknown genes
    control: sp.csr_matrix  # log-normalized (pair, gene)
    perturbation: Int[np.ndarray, " pair"]  # row of `flags`
    flags: Bool[np.ndarray, "perturbation gene"]
    max_genes: int
    seed: int

    def __call__(self, rows: Rows) -> PerturbedBatch:
        flag = self.flags[self.perturbation[rows.index]]
        genes = self.genes(flag.any(0), rows.index)
        target = torch.from_numpy(rows.counts[:, genes].toarray().astype(np.float32))
        shown = self.control[rows.index][:, genes].toarray()
        return batch_of(self.token[genes], shown, flag[:, genes], rows.index, target)

    def genes(self, flagged: Bool[np.ndarray, " gene"], index: Int[np.ndarray, " pair"]) -> Int[np.ndarray, " shown"]:
        """The genes of a minibatch: those that are perturbed in it, and a random choice of the others."""
        if self.max_genes >= len(flagged):
            return np.arange(len(flagged))
        always, others = np.flatnonzero(flagged), np.flatnonzero(~flagged)
        draw = np.random.default_rng((self.seed, *index.tolist()))  # whichever thread makes the minibatch
        return np.sort(np.r_[always, draw.choice(others, max(self.max_genes - len(always), 0), replace=False)])


@dataclass(frozen=True)
class PerturbedScGPT:
    """A fine-tuned scGPT, and the genes that it predicts."""

    module: Perturber
    token: Int[np.ndarray, " gene"]
    genes: Any  # pd.Index

    def predict_perturbed(self, control: AnnData, context: str, perturbation: str) -> Float[np.ndarray, "cell gene"]:
        """The control cells, all genes shown, with flags at the genes of the perturbation."""
        flag = flags_of([perturbation], self.genes)[0]
        if perturbation != CONTROL and not flag.any():
            raise DataError(f"{perturbation!r} is of no measured gene", "scGPT flags genes among those of adata")
        values, device = control.layers["lognormal"], next(self.module.parameters()).device
        size, found = max(TOKENS // len(self.genes), 1), []
        self.module.eval()
        for start in range(0, control.n_obs, size):
            shown = values[start : start + size].toarray()
            index = np.arange(start, start + len(shown))
            cells = batch_of(self.token, shown, np.broadcast_to(flag, shown.shape), index)
            with torch.inference_mode():
                found.append(self.module.predict(cells.to(device)).cpu().numpy())  # pyright: ignore
        return np.concatenate(found)


def train_scgpt(
    cells: AnnData,
    *,
    seed: int,
    callback: Listener | None,
    transformer: Transformer | str | Path | None = None,
    random_weights: bool = False,
    **options: Any,
) -> PerturbedScGPT:
    """Fine-tune a copy of `transformer`, a scGPT or its folder. random_weights: of the same shape, but not pretrained.

    options: of `transformers.objectives.perturbation.Config` and TrainConfig.
    """
    base = scgpt_of(transformer)
    refuse_unknown(options, option_names(Config), "model 'scgpt'")
    own = {name: value for name, value in options.items() if name not in option_names()}
    config = build(Config, own)
    given = {name: value for name, value in options.items() if name not in own}
    training = build(TrainConfig, {**RECIPE, "max_epochs": 15, "lr": RATES[config.tuning], "seed": seed, **given})
    target, source = paired(cells, np.random.default_rng(training.seed))
    perturbed = cells[target].copy()
    perturbed.obs_names_make_unique()
    encoded, tokenizer = base.prepared(perturbed, layer="lognormal")
    names = cells.obs["perturbation"].cat.categories
    known = tokenizer.token  # pyright: ignore[reportAttributeAccessIssue]
    token = np.where(known < 0, base.vocabulary.special["<pad>"], known)
    code = perturbed.obs["perturbation"].cat.set_categories(names).cat.codes.to_numpy()
    flags, control = flags_of(names, cells.var_names), sp.csr_matrix(cells.layers["lognormal"])[source]
    with own_random_numbers(training.seed):
        encoder = base.module
        encoder = type(encoder)(encoder.config, encoder.vocabulary) if random_weights else copy.deepcopy(encoder)  # pyright: ignore
        module = Perturber(encoder, config)  # pyright: ignore[reportArgumentType]
    pairs = Pairs(token, control, code, flags, config.max_genes, training.seed)
    train_module(module, encoded, training, callback, pairs)
    module.to(devices.choose(training.accelerator))
    return PerturbedScGPT(module.eval(), token, cells.var_names)


def train_random(cells: AnnData, **how: Any) -> PerturbedScGPT:
    """The same network, not pretrained: what the table needs to tell what pretraining gave."""
    return train_scgpt(cells, random_weights=True, **how)


def paired(cells: AnnData, draw: np.random.Generator) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Rows of perturbed cells whose target is measured, and of a random control for each; controls with themselves.

    A control of the same context and batch, or where there is none of the same context, or any.
    """
    names = cells.obs["perturbation"].cat
    measured = flags_of(names.categories, cells.var_names).any(1)
    is_control = (cells.obs["perturbation"] == CONTROL).to_numpy()
    kept = np.flatnonzero(is_control | measured[names.codes])
    if not is_control.any() or len(kept) == is_control.sum():
        raise DataError("no perturbed cell has a measured target", "scGPT flags genes among those of adata")
    context, batch = (cells.obs[key].cat.codes.to_numpy() for key in ("context", "batch"))
    source = kept.copy()
    for i, row in enumerate(kept):
        if is_control[row]:
            continue
        near = is_control & (context == context[row])
        for choice in (near & (batch == batch[row]), near, is_control):
            if choice.any():
                source[i] = draw.choice(np.flatnonzero(choice))
                break
    return kept, source


def flags_of(names, genes) -> Bool[np.ndarray, "perturbation gene"]:
    """Which genes each perturbation, e.g. "CEBPA+KLF1", is of."""
    return np.array([genes.isin(str(name).split("+")) for name in names]).reshape(len(names), len(genes))


def batch_of(token: np.ndarray, shown: np.ndarray, flag: np.ndarray, index: np.ndarray, target=None) -> PerturbedBatch:
    gene = torch.from_numpy(np.broadcast_to(token, shown.shape).astype(np.int64))
    return PerturbedBatch(
        gene=gene,
        padding=torch.zeros_like(gene, dtype=torch.bool),
        index=torch.from_numpy(np.asarray(index)),
        value=torch.from_numpy(shown.astype(np.float32)),
        target=target,
        flag=torch.from_numpy(flag.copy()),
    )
