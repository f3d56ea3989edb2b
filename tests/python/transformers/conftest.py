"""Small models with random weights, saved in the official layouts, and cells that fit them."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from scduet.checkpoints import geneformer, pretrained, scfoundation, scgpt

N_GENES, WIDTH, LAYERS = 90, 16, 2
ENSEMBL = [f"ENSG{i:011d}" for i in range(N_GENES)]
SYMBOLS = [f"GENE{i}" for i in range(N_GENES)]


def _weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def _linear(name: str, out: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}


def _norm(name: str, width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def geneformer_weights(n_tokens: int, length: int) -> dict[str, torch.Tensor]:
    shapes = {
        "bert.embeddings.word_embeddings.weight": (n_tokens, WIDTH),
        "bert.embeddings.position_embeddings.weight": (length, WIDTH),
        "bert.embeddings.token_type_embeddings.weight": (2, WIDTH),
        **_norm("bert.embeddings.LayerNorm"),
        **_linear("cls.predictions.transform.dense", WIDTH, WIDTH),
    }
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _linear(f"{layer}.attention.{part}", WIDTH, WIDTH)
        shapes |= _norm(f"{layer}.attention.output.LayerNorm") | _norm(f"{layer}.output.LayerNorm")
        shapes |= _linear(f"{layer}.intermediate.dense", 24, WIDTH) | _linear(f"{layer}.output.dense", WIDTH, 24)
    return _weights(shapes)


def write_geneformer(folder: Path, version: int = 2) -> Path:
    special = ["<pad>", "<mask>"] + (["<cls>", "<eos>"] if version == 2 else [])
    tokens = {name: i for i, name in enumerate([*special, *ENSEMBL])}
    medians = dict(zip(ENSEMBL, np.linspace(0.5, 3, N_GENES).tolist(), strict=True))
    config = {
        "model_type": "bert",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "hidden_act": "relu",
        "max_position_embeddings": 48,
        "vocab_size": len(tokens),
        "layer_norm_eps": 1e-12,
    }
    files = {
        "config": config,
        "token_dictionary_x": tokens,
        "gene_median_dictionary_x": medians,
        "gene_name_id_dict_x": dict(zip(SYMBOLS, ENSEMBL, strict=True)),
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    torch.save(geneformer_weights(len(tokens), 48), folder / "pytorch_model.bin")
    return folder


def write_scgpt(folder: Path, naming: str = "self_attn.Wqkv.", prefix: str = "") -> Path:
    vocab = {name: i for i, name in enumerate([*SYMBOLS, "<pad>", "<cls>", "<eoc>"])}
    args = {
        "embsize": WIDTH,
        "nheads": 2,
        "d_hid": 24,
        "nlayers": LAYERS,
        "dropout": 0.2,
        "pad_token": "<pad>",
        "pad_value": -2,
        "n_bins": 51,
    }
    shapes = {
        "encoder.embedding.weight": (len(vocab), WIDTH),
        **_norm("encoder.enc_norm"),
        "flag_encoder.weight": (2, WIDTH),
        **_linear("value_encoder.linear1", WIDTH, 1),
        **_linear("value_encoder.linear2", WIDTH, WIDTH),
        **_norm("value_encoder.norm"),
        **_linear("decoder.fc.0", WIDTH, WIDTH),
    }
    out = "self_attn._impl.out_proj" if "_impl" in naming else "self_attn.out_proj"
    for i in range(LAYERS):
        layer = f"transformer_encoder.layers.{i}"
        shapes |= {f"{layer}.{naming}weight": (3 * WIDTH, WIDTH), f"{layer}.{naming}bias": (3 * WIDTH,)}
        shapes |= _linear(f"{layer}.{out}", WIDTH, WIDTH)
        shapes |= _linear(f"{layer}.linear1", 24, WIDTH) | _linear(f"{layer}.linear2", WIDTH, 24)
        shapes |= _norm(f"{layer}.norm1") | _norm(f"{layer}.norm2")
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "args.json").write_text(json.dumps(args))
    torch.save({prefix + name: weight for name, weight in _weights(shapes).items()}, folder / "best_model.pt")
    return folder


def write_scfoundation(folder: Path) -> Path:
    encoder = {
        "hidden_dim": WIDTH,
        "depth": LAYERS,
        "heads": 2,
        "dim_head": 8,
        "module_type": "transformer",
        "norm_first": False,
    }
    decoder = {"hidden_dim": 12, "depth": 1, "heads": 2, "dim_head": 6, "module_type": "performer"}
    shapes = {
        **_linear("token_emb.mlp", 10, 1),
        **_linear("token_emb.mlp2", 10, 10),
        "token_emb.emb.weight": (10, WIDTH),
        "token_emb.emb_mask.weight": (1, WIDTH),
        "token_emb.emb_pad.weight": (1, WIDTH),
        "pos_emb.weight": (N_GENES + 3, WIDTH),
        **_norm("encoder.norm"),
        **_linear("decoder_embed", 12, WIDTH),
        **_norm("decoder.norm", 12),
        **_norm("norm", 12),
        **_linear("to_final", 1, 12),
    }
    for i in range(LAYERS):
        layer = f"encoder.transformer_encoder.{i}"
        shapes |= {
            f"{layer}.self_attn.in_proj_weight": (3 * WIDTH, WIDTH),
            f"{layer}.self_attn.in_proj_bias": (3 * WIDTH,),
        }
        shapes |= (
            _linear(f"{layer}.self_attn.out_proj", WIDTH, WIDTH) | _norm(f"{layer}.norm1") | _norm(f"{layer}.norm2")
        )
        shapes |= _linear(f"{layer}.linear1", 24, WIDTH) | _linear(f"{layer}.linear2", WIDTH, 24)
    block = "decoder.performer.net.layers.0"
    for part in ("q", "k", "v", "out"):
        shapes |= _linear(f"{block}.0.fn.to_{part}", 12, 12)
    shapes |= {f"{block}.0.fn.fast_attention.projection_matrix": (10, 6), **_norm(f"{block}.0.norm", 12)}
    shapes |= (
        _norm(f"{block}.1.norm", 12) | _linear(f"{block}.1.fn.fn.w1", 48, 12) | _linear(f"{block}.1.fn.fn.w2", 12, 48)
    )
    state = {f"model.{name}": weight for name, weight in _weights(shapes).items()}
    config = {"encoder": encoder, "decoder": decoder, "bin_num": 10, "bin_alpha": 1.0}
    part = {"config": {"model": "mae_autobin", "model_config": {"mae_autobin": config}}, "state_dict": state}
    torch.save({"cell": part, "gene": part, "rde": part}, folder / "models.ckpt")
    lines = "\n".join(f"{gene}\t{i}" for i, gene in enumerate(SYMBOLS))
    (folder / scfoundation.GENES).write_text(f"gene_name\tindex\n{lines}\n")
    return folder


WRITERS = {"geneformer": write_geneformer, "scgpt": write_scgpt, "scfoundation": write_scfoundation}
READERS = {"geneformer": geneformer, "scgpt": scgpt, "scfoundation": scfoundation}


@pytest.fixture(scope="session")
def write():
    """Writers of official folders, by family."""
    return WRITERS


@pytest.fixture(scope="session")
def readers():
    """Modules that read official folders, by family."""
    return READERS


@pytest.fixture(scope="session", params=["geneformer", "scgpt", "scfoundation"])
def model(request, tmp_path_factory):
    """Each family's small model."""
    return pretrained.read(WRITERS[request.param](tmp_path_factory.mktemp(request.param)))


@pytest.fixture
def adata():
    """Cells with very different numbers of genes; symbols as names, Ensembl ids in a column."""
    rng = np.random.default_rng(0)
    depth = rng.choice([0.05, 0.3, 1, 4], (40, 1))
    counts = rng.poisson(rng.gamma(0.5, 2, (40, N_GENES)) * depth).astype(np.float32)
    counts[:, 3] += 1
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(40)])
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame({"gene_id": ENSEMBL}, index=SYMBOLS))
