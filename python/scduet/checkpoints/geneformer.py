"""Reads the official folders of Geneformer, V1 and V2, and their dictionaries of genes."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from scduet.checkpoints.rename import fill, rename
from scduet.checkpoints.transformer_folder import Parts, read_json
from scduet.errors import FormatError, some
from scduet.io.safe_pickle import read_pickle
from scduet.io.torch_archive import read_torch
from scduet.transformers.encoder.trunk import TrunkConfig
from scduet.transformers.families.geneformer import Config, Geneformer
from scduet.transformers.tokenizers.vocabulary import Vocabulary

LICENCE = "Apache-2.0"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
DICTIONARY_FOLDERS = (".", "dictionaries", "geneformer", "..", "../geneformer", "../geneformer/gene_dictionaries_30m",
                      "geneformer/gene_dictionaries_30m", "../gene_dictionaries_30m")  # fmt: skip
NAMES: dict[str, str | None] = {
    r"(?:bert\.)?embeddings\.word_embeddings\.weight": "gene.weight",
    r"(?:bert\.)?embeddings\.position_embeddings\.weight": "position.weight",
    r"(?:bert\.)?embeddings\.token_type_embeddings\.weight": "kind.weight",
    r"(?:bert\.)?embeddings\.LayerNorm\.(.+)": r"norm.\1",
    r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.self\.query\.(.+)": r"trunk.blocks.\1.qkv.\2#0",
    r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.self\.key\.(.+)": r"trunk.blocks.\1.qkv.\2#1",
    r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.self\.value\.(.+)": r"trunk.blocks.\1.qkv.\2#2",
    r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.output\.dense\.(.+)": r"trunk.blocks.\1.project.\2",
    r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(.+)": r"trunk.blocks.\1.norm_1.\2",
    r"(?:bert\.)?encoder\.layer\.(\d+)\.intermediate\.dense\.(.+)": r"trunk.blocks.\1.expand.\2",
    r"(?:bert\.)?encoder\.layer\.(\d+)\.output\.dense\.(.+)": r"trunk.blocks.\1.contract.\2",
    r"(?:bert\.)?encoder\.layer\.(\d+)\.output\.LayerNorm\.(.+)": r"trunk.blocks.\1.norm_2.\2",
    r"(?:bert\.)?embeddings\.position_ids": None,
    r"(?:bert\.)?pooler\..+": None,
    r"cls\.predictions\..+": None,
    r"classifier\..+": None,
}


def recognize(folder: Path) -> bool:
    """Does this folder look like one of Geneformer?"""
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("model_type") == "bert"  # what else is missing, reading tells


def read(folder: str | Path, dictionaries: str | Path | None = None) -> Parts:
    """The model in `folder`. `dictionaries`: folder of its token, median and name dictionaries (JSON or pickle); None
    looks in the places where the official repository has them, for those that belong to the model.

    Raises FormatError when something is missing, or does not belong together.
    """
    folder = Path(folder)
    config = _config(read_json(folder / "config.json"), folder.name)
    vocabulary = read_vocabulary(_places(folder, dictionaries), config.n_tokens)
    with torch.device("meta"):
        module = Geneformer(config, vocabulary)
    weights, aside = rename(_weights(folder), NAMES, folder.name)
    fill(module, weights, folder.name)
    return Parts("geneformer", module, LICENCE, str(folder), aside)


def read_vocabulary(folders: list[Path], n_tokens: int) -> Vocabulary:
    """The dictionaries in the first of `folders` with one token for each of the `n_tokens` rows of the checkpoint."""
    seen = []
    for path in _dictionaries(folders, "token_dictionary"):
        tokens = {str(gene): int(token) for gene, token in _dictionary(path).items()}
        if len(tokens) == n_tokens:
            return _vocabulary(path, tokens, folders)
        seen.append(f"{path.name} with {len(tokens):,}")
    found = f"found {some(seen)}" if seen else f"looked in {some(map(str, folders))}"
    remedy = "pass dictionaries= with the folder of the dictionaries that this checkpoint was trained with"
    raise FormatError(f"no token dictionary with {n_tokens:,} entries, as the checkpoint has; {found}", remedy)


def _vocabulary(path: Path, tokens: dict[str, int], folders: list[Path]) -> Vocabulary:
    """The dictionaries that lie beside a token dictionary (the same ending of the name, else the same folder)."""
    ending = path.stem.removeprefix("token_dictionary")
    beside = [path.parent, *folders]
    special = {name: token for name, token in tokens.items() if name.startswith("<")}
    genes = {name: token for name, token in tokens.items() if not name.startswith("<")}
    medians = _companion(beside, "gene_median_dictionary", ending)
    if medians is None:
        raise FormatError(f"no gene_median_dictionary{ending} beside {path}", "download it from the same place")
    missing = [gene for gene in genes if gene not in medians]
    if missing or "<pad>" not in special or sorted(tokens.values()) != list(range(len(tokens))):
        raise FormatError(f"{path.name} and its medians do not belong together: {len(missing)} genes without a median",
                          "take both from the same release")  # fmt: skip
    names = _companion(beside, "gene_name_id_dict", ending) or {}
    mapping = _companion(beside, "ensembl_mapping_dict", ending) or {}
    alias = {str(name): str(gene) for other in (names, mapping) for name, gene in other.items()}
    median = {gene: float(medians[gene]) for gene in genes}
    return Vocabulary(
        genes, "ensembl", special, median, {name: gene for name, gene in alias.items() if name not in genes}
    )


def _config(config: dict[str, Any], source: str) -> Config:
    expected = {"hidden_act": "relu", "position_embedding_type": "absolute", "model_type": "bert"}
    odd = {key: config[key] for key, value in expected.items() if config.get(key, value) != value}
    if odd:
        raise FormatError(f"{source} is a BERT, but not Geneformer's: it has {odd}", f"Geneformer has {expected}")
    try:
        trunk = TrunkConfig(
            width=config["hidden_size"],
            n_layers=config["num_hidden_layers"],
            n_heads=config["num_attention_heads"],
            feedforward=config["intermediate_size"],
            dropout=config.get("hidden_dropout_prob", 0.02),
            norm_eps=config.get("layer_norm_eps", 1e-12),
        )
        return Config(config["vocab_size"], config["max_position_embeddings"], trunk)
    except KeyError as error:
        raise FormatError(f"config.json of {source} does not say {error}", "download it again") from None


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    if (folder / "model.safetensors").is_file():
        return load_file(folder / "model.safetensors")
    if (folder / "pytorch_model.bin").is_file():
        return read_torch(folder / "pytorch_model.bin")
    raise FormatError(f"{folder} has no weights", f"one of {some(WEIGHTS)} must be there")


def _places(folder: Path, dictionaries: str | Path | None) -> list[Path]:
    return [Path(dictionaries)] if dictionaries is not None else [folder / place for place in DICTIONARY_FOLDERS]


def _dictionaries(folders: list[Path], kind: str, ending: str = "") -> Iterator[Path]:
    for folder in folders:
        for suffix in (".json", ".pkl"):
            yield from sorted(folder.glob(f"{kind}{ending}*{suffix}"))


def _companion(folders: list[Path], kind: str, ending: str) -> dict[Any, Any] | None:
    return next((_dictionary(path) for path in _dictionaries(folders, kind, ending)), None)


def _dictionary(path: Path) -> dict[Any, Any]:
    content = read_json(path) if path.suffix == ".json" else read_pickle(path)
    if not isinstance(content, dict):
        raise FormatError(f"{path.name!r} holds a {type(content).__name__}, not a dictionary", "download it again")
    return content
