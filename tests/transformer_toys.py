"""Small transformers with random weights, and cells of three types that are easy to tell."""

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from scduet.transformer_model import Transformer
from scduet.transformers.encoder.trunk import TrunkConfig
from scduet.transformers.families import geneformer, scgpt
from scduet.transformers.tokenizers.vocabulary import Vocabulary

GENES = [f"GENE{i}" for i in range(120)]
TRUNK = TrunkConfig(32, 2, 4, 48, 0.02, 1e-5)


def transformer(family: str, seed: int = 0, cls: bool = True) -> Transformer:
    """A small one with random weights."""
    names = ["<pad>", "<mask>", *(["<cls>", "<eos>"] if cls else [])]
    special = {name: i for i, name in enumerate(names)}
    token = {gene: i + len(special) for i, gene in enumerate(GENES)}
    vocabulary = Vocabulary(token, "symbol", special, dict.fromkeys(GENES, 1.0))
    torch.manual_seed(seed)
    if family == "geneformer":
        module = geneformer.Geneformer(geneformer.Config(len(vocabulary), 64, TRUNK), vocabulary)
    else:
        module = scgpt.ScGPT(scgpt.Config(len(vocabulary), TRUNK), vocabulary)
    return Transformer(family, module.eval(), "BSD-3-Clause")


def make_cells(n: int, seed: int, batches: bool = False) -> ad.AnnData:
    """Three types, each with 30 genes of its own that are high; in batch "b" every second gene is measured less."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    rate = np.full((3, len(GENES)), 0.15)
    for i in range(3):
        rate[i, 30 * i : 30 * i + 30] = 2.0
    batch = rng.integers(0, 2, n) if batches else np.zeros(n, int)
    rate = rate[kind] * np.where(batch[:, None] * (np.arange(len(GENES)) % 2), 0.3, 1.0)
    x = rng.poisson(rate * rng.gamma(10, 0.1, (n, 1))).astype(np.float32)
    x[:, -1] += 1
    obs = pd.DataFrame(
        {"type": np.array(["B", "NK", "T"])[kind], "run": np.array(["a", "b"])[batch]},
        index=[f"cell{i}" for i in range(n)],
    )
    return ad.AnnData(sp.csr_matrix(x), obs=obs, var=pd.DataFrame(index=GENES))
