"""Official folders: each naming is read, and whatever does not belong together is refused by name."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from named import named

import scduet as sd
from scduet.checkpoints import pretrained
from scduet.errors import FormatError, ScduetWarning


def _change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _weights(path, change):
    state = torch.load(path)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize("family", ["geneformer", "scgpt", "scfoundation"])
def test_each_folder_is_recognised_by_its_reader_only(family, readers, write, tmp_path):
    write[family](tmp_path)
    assert [name for name, reader in readers.items() if reader.recognize(tmp_path)] == [family]


@pytest.mark.parametrize("naming", ["self_attn.Wqkv.", "self_attn.in_proj_", "self_attn._impl.Wqkv."])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_naming_of_scgpt_gives_the_same_model(naming, prefix, readers, write, tmp_path, adata):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    truth = pretrained.read(write["scgpt"](tmp_path / "a"))
    other = pretrained.read(write["scgpt"](tmp_path / "b", naming, prefix))
    np.testing.assert_array_equal(other.embed(adata), truth.embed(adata))


def test_heads_are_set_aside_not_dropped(readers, write, tmp_path):
    model = readers["scgpt"].read(write["scgpt"](tmp_path))
    assert sorted(model.head_weights) == ["decoder.fc.0.bias", "decoder.fc.0.weight", "flag_encoder.weight"]


def test_the_batch_norm_of_the_oldest_scgpt_is_applied(readers, write, tmp_path, adata):
    write["scgpt"](tmp_path)
    plain = pretrained.read(tmp_path).embed(adata)
    norm = torch.nn.BatchNorm1d(16).state_dict()
    norm["weight"] = torch.linspace(0.2, 3, 16)
    _weights(tmp_path / "best_model.pt", lambda state: state.update({f"bn.{k}": v for k, v in norm.items()}))
    assert np.abs(pretrained.read(tmp_path).embed(adata) - plain).max() > 0.01


def test_a_norm_for_each_batch_is_said_to_be_left_out(readers, write, tmp_path):
    write["scgpt"](tmp_path)
    _weights(tmp_path / "best_model.pt", lambda state: state.update({"dsbn.bns.0.running_mean": torch.zeros(16)}))
    with pytest.warns(ScduetWarning, match=named("'dsbn.bns.0.running_mean'")):
        readers["scgpt"].read(tmp_path)


FILES = {"geneformer": "pytorch_model.bin", "scgpt": "best_model.pt", "scfoundation": "models.ckpt"}
A_WEIGHT = {  # its name in the file, and here
    "geneformer": ("bert.encoder.layer.1.output.dense.bias", "trunk.blocks.1.contract.bias"),
    "scgpt": ("transformer_encoder.layers.1.norm2.bias", "trunk.blocks.1.norm_2.bias"),
    "scfoundation": ("model.encoder.norm.bias", "trunk.norm.bias"),
}


def _state(family, content):
    """The weights in what a checkpoint file holds."""
    return content["cell"]["state_dict"] if family == "scfoundation" else content


@pytest.mark.parametrize("family", FILES)
def test_missing_extra_misshaped_and_broken_weights_are_named(family, readers, write, tmp_path):
    name, here = A_WEIGHT[family]
    faults = {
        (1, here): lambda state: state.pop(name),
        (1, "'surprise'"): lambda state: state.update(surprise=torch.zeros(2)),
        (here, "(3,)", "(16,)"): lambda state: state.update({name: torch.zeros(3)}),
        (here, "NaN"): lambda state: state.update({name: torch.full((16,), float("nan"))}),
    }
    for names, change in faults.items():
        write[family](tmp_path)
        _weights(tmp_path / FILES[family], lambda content, change=change: change(_state(family, content)))
        with pytest.raises(FormatError, match=named(*names)):
            readers[family].read(tmp_path)


class _Harm:
    def __reduce__(self):
        return os.mkdir, (os.environ["HARM"],)


@pytest.mark.parametrize("family", FILES)
def test_malicious_weights_are_refused_and_not_run(family, write, tmp_path, monkeypatch):
    harmed = tmp_path / "harmed"
    monkeypatch.setenv("HARM", str(harmed))
    (tmp_path / "folder").mkdir()
    path = write[family](tmp_path / "folder") / FILES[family]
    _weights(path, lambda content: content.update(harm=_Harm()))
    with pytest.raises(FormatError, match=named(FILES[family], "posix.mkdir")):
        sd.load(path.parent)
    assert not harmed.exists()
    torch.load(path, weights_only=False)
    assert harmed.exists(), "the file would have done harm"


def test_a_part_of_a_fused_weight_that_is_missing_is_noticed(readers, write, tmp_path):
    write["geneformer"](tmp_path)
    _weights(tmp_path / "pytorch_model.bin", lambda state: state.pop("bert.encoder.layer.0.attention.self.key.weight"))
    with pytest.raises(FormatError, match=named("trunk.blocks.0.qkv.weight", "(32, 16)", "(48, 16)")):
        readers["geneformer"].read(tmp_path)


def test_configurations_of_other_models_are_refused(readers, write, tmp_path):
    write["geneformer"](tmp_path)
    _change(tmp_path / "config.json", hidden_act="gelu")
    with pytest.raises(FormatError, match=named("'hidden_act': 'gelu'")):
        readers["geneformer"].read(tmp_path)
    write["scgpt"](tmp_path)
    _change(tmp_path / "args.json", input_emb_style="category")
    with pytest.raises(FormatError, match=named("'input_emb_style': 'category'")):
        readers["scgpt"].read(tmp_path)
    _change(tmp_path / "args.json", input_emb_style="continuous", nlayers=3)
    with pytest.raises(FormatError, match=named(12, "trunk.blocks.2.qkv.weight")):
        readers["scgpt"].read(tmp_path)


def test_a_dictionary_of_another_release_is_refused(readers, write, tmp_path):
    write["geneformer"](tmp_path, version=2)
    other = tmp_path / "other"
    other.mkdir()
    write["geneformer"](other, version=1)
    with pytest.raises(FormatError, match=named(94, "token_dictionary_x.json", 92, "dictionaries=")):
        readers["geneformer"].read(tmp_path, dictionaries=other)
    write["scgpt"](tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(vocab | {"NEW": len(vocab)}))
    with pytest.raises(FormatError, match=named("vocab.json", 94, 93)):
        readers["scgpt"].read(tmp_path)


def test_medians_that_do_not_belong_to_the_tokens_are_refused(readers, write, tmp_path):
    write["geneformer"](tmp_path)
    (tmp_path / "gene_median_dictionary_x.json").write_text(json.dumps({"ENSG00000000001": 1.0}))
    with pytest.raises(FormatError, match=named("token_dictionary_x.json", 89)):
        readers["geneformer"].read(tmp_path)
    (tmp_path / "gene_median_dictionary_x.json").unlink()
    with pytest.raises(FormatError, match=named("gene_median_dictionary_x", "token_dictionary_x.json")):
        readers["geneformer"].read(tmp_path)


def test_dictionaries_are_found_where_the_official_repository_has_them(write, tmp_path, adata):
    folder = tmp_path / "Geneformer-V2"
    folder.mkdir()
    truth = pretrained.read(write["geneformer"](folder)).embed(adata)
    (tmp_path / "geneformer").mkdir()
    for path in folder.glob("*dict*.json"):
        target = tmp_path / "geneformer" / f"{path.stem}.pkl"
        target.write_bytes(pickle.dumps(json.loads(path.read_text()), 4))
        path.unlink()
    np.testing.assert_array_equal(pretrained.read(folder).embed(adata), truth)


def test_a_malicious_dictionary_is_refused(readers, write, tmp_path):
    write["geneformer"](tmp_path)
    (tmp_path / "token_dictionary_x.json").unlink()
    (tmp_path / "token_dictionary_x.pkl").write_bytes(b"cos\nsystem\n(S'touch here'\ntR.")
    with pytest.raises(FormatError, match=named("token_dictionary_x.pkl", "os.system")):
        readers["geneformer"].read(tmp_path)


def test_genes_of_scfoundation_must_be_its_list(readers, write, tmp_path):
    write["scfoundation"](tmp_path)
    genes = tmp_path / readers["scfoundation"].GENES
    genes.write_text("gene_name\tindex\nA\t0\n")
    with pytest.raises(FormatError, match=named(genes.name, 1, 90)):
        readers["scfoundation"].read(tmp_path)
    genes.unlink()
    with pytest.raises(FormatError, match=named(genes.name, "models.ckpt")):
        readers["scfoundation"].read(tmp_path)


def test_files_that_are_missing_or_damaged_are_named(readers, write, tmp_path):
    write["scgpt"](tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(FormatError, match=named(tmp_path / "vocab.json")):
        readers["scgpt"].read(tmp_path)


@pytest.mark.parametrize(
    ("family", "file", "names"),
    [
        ("geneformer", "pytorch_model.bin", ("'model.safetensors'", "'pytorch_model.bin'")),
        ("geneformer", "token_dictionary_x.json", ("dictionary", 94, "dictionaries=")),
        ("scgpt", "vocab.json", ("vocab.json",)),
        ("scgpt", "args.json", ("args.json",)),
        ("scfoundation", "OS_scRNA_gene_index.19264.tsv", ("OS_scRNA_gene_index.19264.tsv", "models.ckpt")),
    ],
)
def test_of_a_download_that_is_not_whole_the_missing_file_is_named(family, file, names, write, tmp_path):
    (write[family](tmp_path) / file).unlink()
    with pytest.raises(FormatError, match=named(*names)):
        sd.load(tmp_path)
