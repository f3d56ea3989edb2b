"""scGPT here and as `scgpt` 0.2.4 runs it: binning, encoder, `embed_data`."""

import importlib.util
import json
import warnings
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from scduet.checkpoints import pretrained
from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.nn.kernels.tokens import quantile_bins
from scduet.transformers.encoder.trunk import Packing
from scduet.transformers.tokenizers.binned_value import BinTokenizer

GENES = [f"G{i}" for i in range(300)]
ARGS = {
    "embsize": 32,
    "nheads": 4,
    "d_hid": 48,
    "nlayers": 3,
    "n_layers_cls": 3,
    "dropout": 0.2,
    "pad_token": "<pad>",
    "pad_value": -2,
}


@pytest.fixture(scope="module")
def scgpt():
    """The package, imported as the benchmarks do."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "scgpt_reference.py"
    spec = importlib.util.spec_from_file_location("scgpt_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.import_scgpt()
    except ImportError:
        pytest.skip("scgpt 0.2.4 is not installed: pip install --no-deps scgpt==0.2.4")


@pytest.fixture(scope="module")
def reference(scgpt, tmp_path_factory):
    """The reference with random weights, and its folder in the official layout (flash-attn's names)."""
    folder = tmp_path_factory.mktemp("scgpt")
    (folder / "args.json").write_text(json.dumps(ARGS))
    numbered = {name: i for i, name in enumerate([*GENES, "<pad>", "<cls>", "<eoc>"])}
    (folder / "vocab.json").write_text(json.dumps(numbered))
    torch.manual_seed(0)
    vocab = scgpt.tokenizer.GeneVocab.from_file(folder / "vocab.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = scgpt.model.TransformerModel(
            len(vocab), 32, 4, 48, 3, nlayers_cls=3, n_cls=1, vocab=vocab, dropout=0.2, pad_token="<pad>", pad_value=-2,
            do_mvc=True, use_fast_transformer=False,
        ).eval()  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    state = {name.replace("self_attn.in_proj_", "self_attn.Wqkv."): w for name, w in model.state_dict().items()}
    torch.save(state | {"flag_encoder.weight": torch.randn(2, 32)}, folder / "best_model.pt")
    return model, folder


@pytest.fixture(scope="module")
def adata():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.4, 3, (50, len(GENES)))).astype(np.float32)
    counts[:, 0] += 1
    return ad.AnnData(
        sp.csr_matrix(counts), obs=pd.DataFrame(index=[f"c{i}" for i in range(50)]), var=pd.DataFrame(index=GENES)
    )


def test_bins_are_equal_to_the_bit_given_the_same_draws(scgpt):
    rng = np.random.default_rng(1)
    rows = [(rng.poisson(rng.gamma(1, 2), int(rng.integers(1, 900))) + 1).astype(np.float32) for _ in range(150)]
    rows += [np.log1p(row / 3).astype(np.float32) for row in rows[:50]]  # normalized values
    rows += [np.full(7, 3, np.float32), np.array([5], np.float32), rng.random(400).astype(np.float32) + 0.1]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    np.random.seed(0)
    official = np.concatenate([scgpt.preprocess.binning(row, 51) for row in rows])
    np.random.seed(0)
    draws = np.concatenate([np.random.rand(len(row)) for row in rows])
    edges = np.linspace(0, 1, 50)
    ours = [quantile_bins(row, draws[a:b], edges) for row, (a, b) in zip(rows, pairwise(indptr), strict=True)]
    np.testing.assert_array_equal(np.concatenate(ours), official)


def test_states_are_equal(reference):
    model, folder = reference
    assert pretrained.recognize(folder)
    ours = pretrained.read(folder).module
    rng = np.random.default_rng(0)
    lengths = np.array([40, 37, 5, 1, 40])
    padding = torch.arange(40)[None] >= torch.from_numpy(lengths)[:, None]
    gene = torch.from_numpy(rng.integers(0, 300, (5, 40))).masked_fill(padding, 300)
    value = torch.from_numpy(rng.integers(-1, 600, (5, 40))).float().masked_fill(padding, -2)
    with torch.no_grad():
        official = model._encode(gene, value, padding)
        batch = TokenBatch(gene=gene, padding=padding, index=torch.arange(5), value=value)
        torch.testing.assert_close(ours.states(batch), official[~padding], atol=1e-5, rtol=1e-5)
        first = ours(batch, Packing.of(padding), first_only=True)
        torch.testing.assert_close(first, official[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*pooling='mean'")  # untrained weights see little of the genes
def test_embed_data_is_equal(scgpt, reference, adata, monkeypatch):
    """With the middle of all draws, and no cell too long, the official function must give our numbers."""
    _, folder = reference
    monkeypatch.setattr(np.random, "rand", lambda *shape: np.full(shape, 0.5))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: [])  # no worker processes: they would draw for themselves
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        official = scgpt.tasks.embed_data(adata.copy(), folder, gene_col="index", device="cpu", batch_size=16)
    ours = pretrained.read(folder).embed(adata, ties="midpoint")
    np.testing.assert_allclose(ours, official.obsm["X_scGPT"], atol=1e-5)


def test_random_bins_have_the_official_distribution(scgpt):
    """Each value's bins, over many draws: as often each as in the official code."""
    row = (np.random.default_rng(0).poisson(0.5, 400) + 1).astype(np.float32)
    np.random.seed(0)
    official = np.stack([scgpt.preprocess.binning(row, 51) for _ in range(300)])
    genes = np.arange(400)
    drawn = []
    for cell in range(300):
        rows = Rows(row, genes, np.array([0, 400]), 400, np.array([0]), np.zeros(1, int))
        tokenizer = BinTokenizer(genes, np.array([cell], np.uint64) * np.uint64(7919), cls=400, pad=401)
        tokens = tokenizer.tokens(rows)
        drawn.append(tokens.value[1:][row[tokens.gene[1:]] == 1])
    ones = row == 1
    ours = np.bincount(np.concatenate(drawn).astype(int), minlength=51)[:51]
    theirs = np.bincount(official[:, ones].ravel().astype(int), minlength=51)[:51]
    np.testing.assert_allclose(ours / ours.sum(), theirs / theirs.sum(), atol=0.004)


def test_gene_embeddings_are_equal(reference):
    model, folder = reference
    with torch.no_grad():
        official = model.encoder(torch.arange(300)).numpy()
    np.testing.assert_allclose(pretrained.read(folder).embed_genes().loc[GENES].to_numpy(), official, atol=1e-6)
