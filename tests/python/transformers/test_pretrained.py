"""From a folder to a scored embedding, and what the check of a download finds."""

import warnings

import numpy as np
import pytest
import torch
from named import assert_named, named

import scduet as sd
from scduet.checkpoints import pretrained
from scduet.cli import main
from scduet.data.simulate import simulate
from scduet.errors import FormatError
from scduet.tasks.workflows.doctor import Finding, examine
from scduet.tasks.workflows.embed_pretrained import HVG_PCA, embed_pretrained, hvg_pca
from scduet.transformer_model import Transformer
from scduet.transformers.encoder.trunk import TrunkConfig
from scduet.transformers.families import geneformer as gf
from scduet.transformers.families import scfoundation as sf
from scduet.transformers.families import scgpt as sg
from scduet.transformers.tokenizers.vocabulary import Vocabulary


@pytest.mark.parametrize("family", ["geneformer", "scgpt", "scfoundation"])
def test_the_family_of_a_folder_is_found(family, write, tmp_path, adata):
    folder = write[family](tmp_path)
    assert pretrained.recognize(folder)
    model = pretrained.read(folder)
    assert model.name == family
    assert model.embed(adata).shape[0] == adata.n_obs


def test_a_folder_of_none_is_refused(tmp_path):
    assert not pretrained.recognize(tmp_path)
    with pytest.raises(FormatError, match=named(tmp_path, "'geneformer'", "'scgpt'", "'scfoundation'")):
        pretrained.read(tmp_path)
    assert pretrained.recognize("hf://owner/name@1")


def test_the_public_calls_know_them(write, tmp_path, adata):
    folder = write["geneformer"](tmp_path)
    model = sd.load(folder)
    assert np.array_equal(model.embed(adata), pretrained.read(folder).embed(adata))
    findings = {finding.what: finding for finding in examine(folder) if finding.what.startswith("model:")}
    assert findings["model: readable, whole, belongs together"].ok
    assert not findings["model: size is a published one"].ok


def test_options_of_the_family_are_passed_on(write, tmp_path):
    model = pretrained.read(write["scfoundation"](tmp_path), part="rde")
    assert model.name == "scfoundation"
    with pytest.raises(TypeError):
        pretrained.read(tmp_path, dictionaries="x")


def test_a_download_is_checked(write, tmp_path):
    """A small random model: whole and consistent, but of no published size."""
    checks = {check.what: check for check in pretrained.verify(write["geneformer"](tmp_path))}
    assert checks["readable, whole, belongs together"].passed
    assert not checks["size is a published one"].passed
    assert checks["weights trunk.blocks.qkv"].passed
    weights = torch.load(tmp_path / "pytorch_model.bin")
    for part in ("query", "key", "value"):
        weights[f"bert.encoder.layer.1.attention.self.{part}.weight"].zero_()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    checks = {check.what: check for check in pretrained.verify(tmp_path)}
    assert not checks["weights trunk.blocks.qkv"].passed
    assert checks["weights trunk.blocks.contract"].passed
    (tmp_path / "pytorch_model.bin").write_bytes(b"cut off")
    (only,) = pretrained.verify(tmp_path)
    assert not only.passed


CONFIGURATIONS = {  # of config.json and args.json of the publishers: heads, inner width, positions
    ("geneformer", 6, 256, 25_426): (4, 512, 2_048),
    ("geneformer", 12, 512, 25_426): (8, 1_024, 2_048),
    ("geneformer", 12, 512, 20_275): (8, 1_024, 4_096),
    ("geneformer", 20, 896, 20_275): (14, 1_792, 4_096),
    ("geneformer", 12, 768, 20_275): (12, 3_072, 4_096),
    ("geneformer", 18, 1152, 20_275): (18, 4_608, 4_096),
    ("scgpt", 12, 512, 60_697): (8, 512, None),
    ("scgpt", 12, 512, 36_574): (8, 512, None),
    ("scfoundation", 12, 768, 19_264): (12, 3_072, None),
}


@pytest.mark.parametrize("size", pretrained.PUBLISHED)
def test_the_published_numbers_are_those_of_the_published_configurations(size):
    family, n_layers, width, n_tokens = size
    n_heads, inner, length = CONFIGURATIONS[size]
    trunk = TrunkConfig(width, n_layers, n_heads, inner, 0.1, final_norm=family == "scfoundation")
    special = {"<pad>": 0, "<cls>": 1}
    genes = {f"g{i}": i for i in range(n_tokens - (0 if family == "scfoundation" else 2))}
    vocabulary = Vocabulary(genes, "symbol", {} if family == "scfoundation" else special)
    with torch.device("meta"):
        module = {
            "geneformer": lambda: gf.Geneformer(gf.Config(n_tokens, length, trunk), vocabulary),
            "scgpt": lambda: sg.ScGPT(sg.Config(n_tokens, trunk), vocabulary),
            "scfoundation": lambda: sf.ScFoundation(sf.Config(n_tokens, trunk=trunk), vocabulary),
        }[family]()
    checks = list(pretrained._check_size(Transformer(family, module, "")))
    assert [check.what for check in checks if check.passed] == ["size is a published one", "number of weights"]


def test_a_whole_download_of_a_published_size_passes_and_the_command_says_so(write, tmp_path, monkeypatch, capsys):
    """The small model, were it the published one; then with other dictionaries, then of another width inside."""
    monkeypatch.setattr(
        "scduet.tasks.workflows.doctor._matrix_product", lambda: Finding("speed of torch", "not timed here")
    )
    size, folder = ("geneformer", 2, 16, 94), write["geneformer"](tmp_path)
    count = sum(weight.numel() for weight in sd.load(folder).module.state_dict().values()) / 1e6
    monkeypatch.setattr(pretrained, "PUBLISHED", {size: ("Toy-V2", count)})
    assert all(check.passed for check in pretrained.verify(folder))
    assert main(["doctor", "--model", str(folder), "--folder", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert_named(told, 2, 16, 94, "Toy-V2")
    monkeypatch.setattr(pretrained, "PUBLISHED", {(*size[:3], 92): ("Toy-V1", count)})
    assert main(["doctor", "--model", str(folder), "--folder", str(tmp_path)]) == 1
    assert_named(capsys.readouterr().out, "Toy-V1", 92)
    monkeypatch.setattr(pretrained, "PUBLISHED", {size: ("Toy-V2", 1.1 * count)})
    assert [check.what for check in pretrained.verify(folder) if not check.passed] == ["number of weights"]


def test_of_a_transformer_trained_here_no_published_size_is_asked(model, tmp_path):
    model.save(tmp_path / "own")
    checks = pretrained.verify(tmp_path / "own")
    assert checks[0].passed
    assert not any("published" in check.what for check in checks)
    assert any(check.what.startswith("weights trunk") for check in checks)


def test_two_blocks_with_the_same_weights_are_noticed(write, tmp_path):
    write["scgpt"](tmp_path)
    weights = torch.load(tmp_path / "best_model.pt")
    layer = "transformer_encoder.layers."
    weights[f"{layer}1.linear1.weight"] = weights[f"{layer}0.linear1.weight"]
    torch.save(weights, tmp_path / "best_model.pt")
    failed = [check.what for check in pretrained.verify(tmp_path) if not check.passed]
    assert "weights trunk.blocks.expand" in failed


@pytest.mark.filterwarnings("ignore:.*pooling='mean'")  # untrained weights see little of the genes
def test_the_embedding_is_written_and_scored_beside_pca(write, tmp_path):
    model = pretrained.read(write["scgpt"](tmp_path))
    cells = simulate(n_cells=120, n_genes=90, n_batches=2, n_types=3, seed=0)
    cells.var_names = list(model.vocabulary.token)[:90]
    before = cells.X.copy()
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels, batch = [next(c for c in cells.obs if c.startswith(start)) for start in ("cell_type", "batch")]
        table = embed_pretrained(
            cells, model, labels_key=labels, batch_key=batch, accelerator="cpu", callback=told.append
        )
    assert cells.obsm[model.key].shape[0] == 120
    assert {model.key, HVG_PCA} <= set(table.index if model.key in table.index else table.iloc[:, 0])
    assert told[0].message.split().count("90") == 2, "of 90 genes all are known"
    assert told[-1].done == told[-1].total == 120
    assert (before != cells.X).sum() == 0
    np.testing.assert_allclose(cells.obsm[model.key], model.embed(cells), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*pooling='mean'")  # untrained weights see little of the genes
def test_scvi_is_scored_beside_it_if_asked(write, tmp_path):
    model = pretrained.read(write["geneformer"](tmp_path))
    cells = simulate(n_cells=120, n_genes=90, n_batches=2, n_types=3, seed=0)
    cells.var_names = list(model.vocabulary.token)[:90]
    told = []
    table = embed_pretrained(
        cells, model, labels_key="cell_type", batch_key="batch", with_scvi=True, accelerator="cpu", callback=told.append
    )
    assert {model.key, HVG_PCA, "X_scVI"} <= set(table.index)
    assert cells.obsm["X_scVI"].shape == (120, 10)
    assert table.loc["X_scVI", "bio"] != table.loc[model.key, "bio"]


def test_without_labels_nothing_is_scored(model, adata):
    assert embed_pretrained(adata, model, key_added="X_mine", accelerator="cpu") is None
    assert list(adata.obsm) == ["X_mine"]


def test_pca_is_of_the_log_normalized_counts(adata):
    """The distances between cells are those of the centered log-normalized variable genes."""
    shares = adata.X.toarray() / adata.X.toarray().sum(1, keepdims=True)
    logged = np.log1p(shares * 1e4)
    centered = logged - logged.mean(0)
    pca = hvg_pca(adata)  # 90 genes: all are variable, 39 components hold everything
    np.testing.assert_allclose(
        pca @ pca.T, centered @ centered.T, rtol=1e-3, atol=1e-2 * np.abs(centered @ centered.T).max()
    )
