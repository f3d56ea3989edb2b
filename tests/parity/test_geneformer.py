"""Geneformer here and as the official code runs it: `transformers`' BertForMaskedLM, and the rank-value tokenizer."""

import json
import pickle
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from scduet.checkpoints import geneformer, pretrained
from scduet.contract import TokenBatch
from scduet.transformers.families.geneformer import Options

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra `parity`)")

CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "hidden_act": "relu",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "initializer_range": 0.15,
}
N_GENES = 150


def _dictionaries(folder: Path, version: int) -> dict[str, int]:
    """Dictionaries as the publisher pickles them: numpy scalars as values."""
    special = ["<pad>", "<mask>"] + (["<cls>", "<eos>"] if version == 2 else [])
    genes = [f"ENSG{i:011d}" for i in range(N_GENES)]
    tokens = {name: np.int16(i) for i, name in enumerate([*special, *genes])}
    medians = dict(zip(genes, np.random.default_rng(1).lognormal(0.5, 0.6, N_GENES), strict=True))
    for name, content in (("token_dictionary", tokens), ("gene_median_dictionary", medians)):
        (folder / f"{name}_test.pkl").write_bytes(pickle.dumps(content, 4))
    return {gene: int(token) for gene, token in tokens.items()}


@pytest.fixture(scope="module", params=[1, 2])
def both(request, tmp_path_factory):
    """The reference, its folder read here, and the token dictionary; V1 as .bin, V2 as safetensors."""
    folder = tmp_path_factory.mktemp(f"geneformer_v{request.param}")
    tokens = _dictionaries(folder, request.param)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(tokens), attn_implementation="eager", **CONFIG)
    reference = transformers.BertForMaskedLM(config).eval()
    reference.save_pretrained(folder)
    if request.param == 1:
        (folder / "model.safetensors").unlink()
        torch.save(reference.state_dict(), folder / "pytorch_model.bin")
    assert geneformer.recognize(folder)
    return reference, pretrained.read(folder), tokens


@pytest.fixture(scope="module")
def adata():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.4, 2, (40, N_GENES))).astype(np.float32)
    counts[:, 0] += 1
    return ad.AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(N_GENES)]))


def _official_tokens(adata, tokens, medians, length) -> list[np.ndarray]:
    """The official tokenizer's lines (h5ad path): normalize, scale by the median, rank, cut."""
    gene = np.array([tokens[name] for name in adata.var_names])
    total = np.asarray(adata.X.sum(1))
    scaled = sp.csr_matrix(adata.X / total * 10_000 / np.array([medians[name] for name in adata.var_names]))
    ranked = [gene[row.indices][np.argsort(-row.data)] for row in scaled]
    if "<cls>" not in tokens:
        return [row[:length] for row in ranked]
    return [np.array([tokens["<cls>"], *row[: length - 2], tokens["<eos>"]]) for row in ranked]


def _padded(rows) -> tuple[torch.Tensor, torch.Tensor]:
    gene = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        gene[i, : len(row)] = torch.as_tensor(row)
    return gene, torch.arange(gene.shape[1]) >= torch.tensor([[len(row)] for row in rows])


def test_tokens_are_equal(both, adata):
    _, model, tokens = both
    match = model.match(adata)
    for ties in ("stable", "reference"):
        tokenizer = model.module.tokenizer(match, None, Options(ties=ties))
        from scduet.data.sources import in_memory
        from scduet.transformers.inference.embedding import windows

        (made,) = windows(tokenizer, in_memory(adata.X))
        official = _official_tokens(adata, tokens, model.vocabulary.median, 64)
        np.testing.assert_array_equal(made.lengths, [len(row) for row in official])
        assert np.mean(made.gene == np.concatenate(official)) >= 0.9999


def test_all_hidden_states_are_equal(both, adata):
    reference, model, tokens = both
    gene, padding = _padded(_official_tokens(adata, tokens, model.vocabulary.median, 64))
    with torch.no_grad():
        states = reference(input_ids=gene, attention_mask=(~padding).long(), output_hidden_states=True).hidden_states
        batch = TokenBatch(gene=gene, padding=padding, index=torch.arange(len(gene)))
        layers = len(model.module.trunk.blocks)
        for depth in range(layers + 1):
            mine = model.module.states(batch, Options(emb_layer=depth - layers))
            torch.testing.assert_close(mine, states[depth][~padding], atol=1e-5, rtol=1e-5)


def test_embeddings_are_equal(both, adata):
    """As the official extractor takes them: last but one layer, `<cls>` or the mean over genes."""
    reference, model, tokens = both
    gene, padding = _padded(_official_tokens(adata, tokens, model.vocabulary.median, 64))
    with torch.no_grad():
        states = reference(input_ids=gene, attention_mask=(~padding).long(), output_hidden_states=True).hidden_states[
            -2
        ]
    special = "<cls>" in tokens
    cells = [state[~pad][slice(1, -1) if special else slice(None)] for state, pad in zip(states, padding, strict=True)]
    mean = torch.stack([cell.mean(0) for cell in cells]).numpy()
    np.testing.assert_allclose(model.embed(adata, pooling="mean"), mean, atol=1e-5)
    if special:
        np.testing.assert_allclose(model.embed(adata), states[:, 0].numpy(), atol=1e-5)


def test_gene_embeddings_are_equal(both, adata):
    """As the official extractor takes them: the mean of a gene's states over the cells that have it."""
    reference, model, tokens = both
    gene, padding = _padded(_official_tokens(adata, tokens, model.vocabulary.median, 64))
    with torch.no_grad():
        states = reference(input_ids=gene, attention_mask=(~padding).long(), output_hidden_states=True).hidden_states[
            -2
        ]
    mine = model.embed_genes(adata)
    for name in mine.index[::10]:
        mean = states[gene == tokens[name]].mean(0).numpy()
        np.testing.assert_allclose(mine.loc[name].to_numpy(), mean, atol=1e-5)
    np.testing.assert_array_equal(
        model.embed_genes().loc[mine.index[0]],
        reference.bert.embeddings.word_embeddings.weight[tokens[mine.index[0]]].detach(),
    )


def test_the_config_of_the_folder_is_the_publishers(both):
    _, model, tokens = both
    assert model.module.config.n_tokens == len(tokens)
    assert json.loads((Path(model.origin) / "config.json").read_text())["model_type"] == "bert"
    assert any(name.startswith("cls.predictions") for name in model.head_weights)
