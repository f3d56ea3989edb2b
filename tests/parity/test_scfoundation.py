"""scFoundation here and as its official code runs it; the numbers come from make_scfoundation_fixture.py."""

import io
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import assert_named, named

from scduet.checkpoints import pretrained, scfoundation
from scduet.transformers.inference.embedding import windows

FIXTURE = Path(__file__).parent / "fixtures" / "scfoundation.npz"
N_GENES = 60
GENES = [f"G{i}" for i in range(N_GENES)]
MODEL = {
    "mae_autobin": {
        "encoder": {
            "hidden_dim": 16,
            "depth": 2,
            "heads": 2,
            "dim_head": 8,
            "module_type": "transformer",
            "norm_first": False,
        },
        "decoder": {
            "hidden_dim": 12,
            "depth": 2,
            "heads": 2,
            "dim_head": 6,
            "module_type": "performer",
            "norm_first": False,
        },
        "bin_num": 10,
        "bin_alpha": 1.0,
        "pad_token_id": 103,
        "mask_token_id": 102,
    }
}


@pytest.fixture(scope="module")
def official():
    with np.load(FIXTURE) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def folder(official, tmp_path_factory):
    """A folder in the official layout: models.ckpt with three parts, and the list of genes above it."""
    folder = tmp_path_factory.mktemp("scfoundation")
    (folder / "models").mkdir()
    state = {name: torch.from_numpy(array) for name, array in official.items() if name.startswith("model.")}
    part = {
        "config": {"model": "mae_autobin", "model_config": MODEL, "dataset_config": {"rnaseq": {}}},
        "state_dict": state,
    }
    torch.save({"cell": part, "gene": part, "rde": part}, folder / "models" / "models.ckpt")
    lines = "\n".join(f"{gene}\t{i}" for i, gene in enumerate(GENES))
    (folder / scfoundation.GENES).write_text(f"gene_name\tindex\n{lines}\n")
    return folder


@pytest.fixture(scope="module")
def adata(official):
    """The cells of the fixture, with the genes in another order: that must not matter."""
    order = np.random.default_rng(3).permutation(N_GENES)
    counts = sp.csr_matrix(official["counts"][:, order])
    return ad.AnnData(counts, var=pd.DataFrame(index=np.array(GENES)[order]))


@pytest.fixture(scope="module")
def model(folder):
    assert scfoundation.recognize(folder)
    return pretrained.read(folder)


@pytest.mark.parametrize("pooling", ["all", "max"])
@pytest.mark.parametrize("resolution", ["t4", "f2", "a5"])
def test_cell_embeddings_are_equal(model, adata, official, resolution, pooling):
    """All cells in one minibatch here; one by one there, where padding would enter the mean."""
    mine = model.embed(adata, resolution=resolution, pooling=pooling)
    np.testing.assert_allclose(mine, official[f"result.{resolution}_{pooling}"], atol=1e-5)


def _tokens(model, adata):
    tokenizer = model.module.tokenizer(model.match(adata), None, model.module.Options())
    from scduet.data.sources import in_memory

    return next(iter(windows(tokenizer, in_memory(adata.X)))).batch()


def test_gene_embeddings_of_the_decoder_are_equal(folder, adata, official):
    model = pretrained.read(folder, part="gene")
    with torch.no_grad():
        mine = model.module.decode(_tokens(model, adata)).numpy()
    assert mine.shape == (5, N_GENES, 12)
    np.testing.assert_allclose(mine, official["result.t4_genes"], atol=1e-5)


def test_predicted_expression_is_equal(model, adata, official):
    with torch.no_grad():
        mine = model.module.expression(_tokens(model, adata)).numpy()
    np.testing.assert_allclose(mine, official["result.t4_expression"], atol=1e-5)


def test_the_licence_is_printed(folder, capsys):
    scfoundation.read(folder)
    assert_named(capsys.readouterr().err, "scFoundation", "MODEL_LICENSE")


def test_an_unknown_weight_is_named(folder, tmp_path):
    content = torch.load(folder / "models" / "models.ckpt")
    content["cell"]["state_dict"]["model.surprise.weight"] = torch.zeros(1)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (tmp_path / "models.ckpt").write_bytes(buffer.getvalue())
    with pytest.raises(scfoundation.FormatError, match=named("'surprise.weight'")):
        scfoundation.read(tmp_path)
