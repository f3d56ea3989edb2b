"""Reads the official checkpoint of scFoundation: models.ckpt (parts "cell", "gene" and "rde") and the list of genes."""

from __future__ import annotations

from scduet._torch import torch

import csv
import sys
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from scduet.checkpoints.rename import fill, rename
from scduet.checkpoints.transformer_folder import Parts
from scduet.errors import FormatError, OptionError, some
from scduet.io.torch_archive import read_torch
from scduet.transformers.encoder.performer import PerformerConfig
from scduet.transformers.encoder.trunk import TrunkConfig
from scduet.transformers.families.scfoundation import Config, ScFoundation
from scduet.transformers.tokenizers.vocabulary import Vocabulary

LICENCE = "scFoundation model licence: non-commercial research only, not to be passed on, revocable (MODEL_LICENSE)"
GENES = "OS_scRNA_gene_index.19264.tsv"
PARTS = ("cell", "gene", "rde")
_ENCODER = r"encoder\.transformer_encoder\.(\d+)\."
_DECODER = r"decoder\.performer\.net\.layers\.(\d+)\."
NAMES: dict[str, str | None] = {
    r"token_emb\.mlp\.(.+)": r"value_1.\1",
    r"token_emb\.mlp2\.(.+)": r"value_2.\1",
    r"token_emb\.emb\.weight": "bin.weight",
    r"token_emb\.emb_(?:mask|pad)\.weight": None,
    r"pos_emb\.weight": "gene.weight",
    _ENCODER + r"self_attn\.in_proj_(weight|bias)": r"trunk.blocks.\1.qkv.\2",
    _ENCODER + r"self_attn\.out_proj\.(.+)": r"trunk.blocks.\1.project.\2",
    _ENCODER + r"linear1\.(.+)": r"trunk.blocks.\1.expand.\2",
    _ENCODER + r"linear2\.(.+)": r"trunk.blocks.\1.contract.\2",
    _ENCODER + r"norm([12])\.(.+)": r"trunk.blocks.\1.norm_\2.\3",
    r"encoder\.norm\.(.+)": r"trunk.norm.\1",
    r"decoder_embed\.(.+)": r"to_decoder.\1",
    _DECODER + r"0\.norm\.(.+)": r"decoder.blocks.\1.norm_1.\2",
    _DECODER + r"0\.fn\.to_(q|k|v)\.(.+)": r"decoder.blocks.\1.\2.\3",
    _DECODER + r"0\.fn\.to_out\.(.+)": r"decoder.blocks.\1.project.\2",
    _DECODER + r"0\.fn\.fast_attention\.projection_matrix": r"decoder.blocks.\1.directions",
    _DECODER + r"1\.norm\.(.+)": r"decoder.blocks.\1.norm_2.\2",
    _DECODER + r"1\.fn\.fn\.w1\.(.+)": r"decoder.blocks.\1.expand.\2",
    _DECODER + r"1\.fn\.fn\.w2\.(.+)": r"decoder.blocks.\1.contract.\2",
    r"decoder\.norm\.(.+)": r"decoder.norm.\1",
    r"decoder\.performer\.(?:proj_updater\.)?calls_since_last_redraw": None,
    r"norm\.(.+)": r"decoder_norm.\1",
    r"to_final\.(.+)": r"to_expression.\1",
}


def recognize(folder: Path) -> bool:
    """Does this folder (or file) look like scFoundation's?"""
    return _checkpoint(folder) is not None


def read(folder: str | Path, part: Literal["cell", "gene", "rde"] = "cell", genes: str | Path | None = None) -> Parts:
    """The model in `folder`, which holds models.ckpt. `part`: "cell" and "rde" embed cells, "gene" embeds genes.
    `genes`: the official list of genes; None looks beside the checkpoint and in the folder above.

    Prints the licence of the weights, which restricts their use. Raises FormatError when something does not fit.
    """
    if part not in PARTS:
        raise OptionError(f"part cannot be {part!r}", f"it is one of {some(PARTS)}")
    path = _checkpoint(Path(folder))
    if path is None:
        raise FormatError(f"{folder} has no models.ckpt", "download it from the publisher of scFoundation")
    config, weights = _part(path, part)
    renamed, aside = rename(weights, NAMES, f"{path.name} ({part})")
    vocabulary = vocabulary_of(path, genes, config.n_genes)
    with torch.device("meta"):
        module = ScFoundation(config, vocabulary)
    fill(module, renamed, f"{path.name} ({part})")
    print(LICENCE, file=sys.stderr)
    return Parts("scfoundation", module, LICENCE, str(path), aside)


def _checkpoint(folder: Path) -> Path | None:
    if folder.is_file():
        return folder if folder.suffix == ".ckpt" else None
    return next((path for path in (folder / "models.ckpt", folder / "models" / "models.ckpt") if path.is_file()), None)


def _part(path: Path, part: str) -> tuple[Config, dict[str, Tensor]]:
    content = read_torch(path)
    try:
        found = content[part]
        config = found["config"]["model_config"][found["config"]["model"]]
        weights = {name.removeprefix("model."): weight for name, weight in found["state_dict"].items()}
        return _config(config, weights), weights
    except (KeyError, TypeError) as error:
        raise FormatError(
            f"{path.name} has no part {part!r} as scFoundation writes it ({error})", "download it again"
        ) from None


def _config(config: dict[str, Any], weights: dict[str, Tensor]) -> Config:
    encoder, decoder = config["encoder"], config["decoder"]
    expected = {"encoder": ("transformer", False), "decoder": ("performer", None)}
    for name, (kind, norm_first) in expected.items():
        if config[name]["module_type"] != kind or (norm_first is not None and config[name].get("norm_first")):
            raise FormatError(f"the {name} of this checkpoint is no {kind} as scFoundation has it", "is it a variant?")
    first = "decoder.performer.net.layers.0.0.fn.fast_attention.projection_matrix"
    return Config(
        n_genes=len(weights["pos_emb.weight"]) - 3,
        n_soft_bins=config["bin_num"],
        bin_alpha=config["bin_alpha"],
        trunk=TrunkConfig(
            width=encoder["hidden_dim"],
            n_layers=encoder["depth"],
            n_heads=encoder["heads"],
            feedforward=len(weights["encoder.transformer_encoder.0.linear1.weight"]),
            dropout=0.1,
            norm_eps=1e-5,
            final_norm=True,
        ),
        decoder=PerformerConfig(
            width=decoder["hidden_dim"],
            n_layers=decoder["depth"],
            n_heads=decoder["heads"],
            head_width=decoder["dim_head"],
            n_features=len(weights[first]),
        ),
    )


def vocabulary_of(checkpoint: Path, genes: str | Path | None, n_genes: int) -> Vocabulary:
    places = [Path(genes)] if genes is not None else [checkpoint.parent / GENES, checkpoint.parent.parent / GENES]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FormatError(
            f"the list of genes {GENES} is not beside {checkpoint}", "take it from scFoundation's repository"
        )
    with path.open(newline="") as file:
        names = [row["gene_name"] for row in csv.DictReader(file, delimiter="\t")]
    if len(names) != n_genes:
        raise FormatError(
            f"{path.name} lists {len(names):,} genes, the checkpoint has {n_genes:,}", "take the official list"
        )
    return Vocabulary({name: number for number, name in enumerate(names)}, "symbol")
