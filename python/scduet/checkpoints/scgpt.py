"""Reads the official folders of scGPT: best_model.pt, args.json, vocab.json."""

from __future__ import annotations

from scduet._torch import torch

import warnings
from pathlib import Path
from typing import Any

from scduet.checkpoints.rename import fill, rename
from scduet.checkpoints.transformer_folder import Parts, read_json
from scduet.errors import FormatError, ScduetWarning, some
from scduet.io.torch_archive import read_torch
from scduet.transformers.encoder.trunk import TrunkConfig
from scduet.transformers.families.scgpt import Config, ScGPT
from scduet.transformers.tokenizers.vocabulary import Vocabulary

LICENCE = "MIT"
WEIGHTS = "best_model.pt"
SPECIAL = ("<pad>", "<cls>", "<eoc>")
_LAYER = r"(?:module\.)?transformer_encoder\.layers\.(\d+)\."
_FUSED = r"self_attn\.(?:_impl\.)?(?:Wqkv\.|in_proj_)"  # flash-attn's name, and PyTorch's
NAMES: dict[str, str | None] = {
    r"(?:module\.)?encoder\.embedding\.weight": "gene.weight",
    r"(?:module\.)?encoder\.enc_norm\.(.+)": r"gene_norm.\1",
    r"(?:module\.)?value_encoder\.linear([12])\.(.+)": r"value_\1.\2",
    r"(?:module\.)?value_encoder\.norm\.(.+)": r"value_norm.\1",
    r"(?:module\.)?bn\.(.+)": r"batch_norm.\1",
    _LAYER + _FUSED + r"(weight|bias)": r"trunk.blocks.\1.qkv.\2",
    _LAYER + r"self_attn\.(?:_impl\.)?out_proj\.(.+)": r"trunk.blocks.\1.project.\2",
    _LAYER + r"linear1\.(.+)": r"trunk.blocks.\1.expand.\2",
    _LAYER + r"linear2\.(.+)": r"trunk.blocks.\1.contract.\2",
    _LAYER + r"norm([12])\.(.+)": r"trunk.blocks.\1.norm_\2.\3",
    **{rf"(?:module\.)?{head}\..+": None for head in (
        "flag_encoder", "decoder", "mvc_decoder", "cls_decoder", "dsbn", "batch_encoder", "mod_encoder",
        "grad_reverse_discriminator", "pert_encoder", "sim")},
}  # fmt: skip
_DEFAULTS = {"input_emb_style": "continuous", "pre_norm": False, "input_style": "binned"}


def recognize(folder: Path) -> bool:
    """Does this folder look like one of scGPT?"""
    return (folder / WEIGHTS).is_file()  # what else is missing, reading tells


def read(folder: str | Path) -> Parts:
    """The model in `folder`. Raises FormatError when something is missing, or does not belong together."""
    folder = Path(folder)
    args, names = read_json(folder / "args.json"), read_json(folder / "vocab.json")
    weights, aside = rename(read_torch(folder / WEIGHTS), NAMES, folder.name)
    vocabulary = vocabulary_of(names, args.get("pad_token", "<pad>"))
    n_rows = len(weights.get("gene.weight", ()))
    if len(vocabulary) != n_rows:
        message = f"vocab.json has {len(vocabulary):,} tokens, the weights of {folder.name} have {n_rows:,}"
        raise FormatError(message, "take both from the same release")
    with torch.device("meta"):
        module = ScGPT(_config(args, n_rows, "batch_norm.weight" in weights, folder.name), vocabulary)
    fill(module, weights, folder.name)
    _warn_of_domains(aside, folder.name)
    return Parts("scgpt", module, LICENCE, str(folder), aside)


def _config(args: dict[str, Any], n_tokens: int, batch_norm: bool, source: str) -> Config:
    odd = {key: args[key] for key, value in _DEFAULTS.items() if (args.get(key) or value) != value}
    if odd:
        raise FormatError(
            f"{source} is a variant of scGPT that is not read: {odd}", f"the released ones have {_DEFAULTS}"
        )
    try:
        trunk = TrunkConfig(
            width=args["embsize"],
            n_layers=args["nlayers"],
            n_heads=args.get("nheads") or args["nhead"],
            feedforward=args["d_hid"],
            dropout=args.get("dropout", 0.2),
            norm_eps=1e-5,
        )
    except KeyError as error:
        raise FormatError(f"args.json of {source} does not say {error}", "download it again") from None
    return Config(n_tokens, trunk, args.get("n_bins") or 51, float(args.get("pad_value", -2)), batch_norm)


def vocabulary_of(names: dict[str, int], pad: str) -> Vocabulary:
    """The genes and special tokens; those of the special ones that are missing follow, as in the official code."""
    if not isinstance(names, dict) or sorted(names.values()) != list(range(len(names))):
        raise FormatError("vocab.json does not number its tokens from 0 on", "download it again")
    names = dict(names)
    for token in SPECIAL:
        names.setdefault(token, len(names))
    special = {token: number for token, number in names.items() if token in SPECIAL or token == pad}
    special["<pad>"] = names[pad]
    return Vocabulary({name: n for name, n in names.items() if name not in special}, "symbol", special)


def _warn_of_domains(aside: dict[str, torch.Tensor], source: str) -> None:
    found = [name for name in aside if name.removeprefix("module.").startswith("dsbn.")]
    if found:
        message = f"{source} was fine-tuned with a norm for each batch ({some(found, 1)}), which embedding leaves out"
        warnings.warn(message, ScduetWarning, stacklevel=3)
