"""Folders of scArches' EXPIMAP (model_params.pt, attr.pkl, var_names.csv), read without running anything in them.

The names of the gene sets are not among these files; where an adata.h5ad is beside them, they are its uns["terms"].
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from scduet.checkpoints.scvi_files import THREE_FILES
from scduet.checkpoints.scvi_tools import Foreign
from scduet.contract import Reference
from scduet.data.schema import Schema
from scduet.errors import FormatError, some
from scduet.io.safe_pickle import read_pickle
from scduet.io.torch_archive import read_torch
from scduet.models.rna.expimap import Config, ExpiMap, Fields
from scduet.nn.random import own_random_numbers

MARK = b"hidden_layer_sizes_"  # an attribute of its models that those of scvi-tools do not have
MUST_BE = {  # attributes with which the model is one of ours
    "recon_loss_": ("nb",),
    "decoder_last_layer_": (None, "softmax"),
    "use_bn_": (False,),
    "use_ln_": (True,),
    "use_l_encoder_": (False,),
    "n_ext_m_": (0,),
}


def recognize(path: Path) -> bool:
    """Is this a folder of EXPIMAP? Looks at the names of attributes alone."""
    return all((path / name).is_file() for name in THREE_FILES) and MARK in (path / "attr.pkl").read_bytes()


def read(path: Path) -> Foreign:
    """The model in a folder. Raises FormatError for damaged files, and for options that expiMap does not have here."""
    given, weights = read_pickle(path / "attr.pkl"), read_torch(path / "model_params.pt")
    if not isinstance(given, dict) or not isinstance(weights, dict) or "mask_" not in given:
        raise FormatError(f"{path} is no EXPIMAP of scArches", "save it again with model.save()")
    widths = given.get("hidden_layer_sizes_", [])
    wrong = [f"{name}={given[name]!r}" for name, known in MUST_BE.items() if given.get(name, known[0]) not in known]
    wrong += [f"hidden_layer_sizes_={widths!r}"] if len(set(widths)) != 1 else []
    if wrong:
        raise FormatError(f"{path} has options that expiMap lacks here: {some(wrong)}", "train 'expimap' anew")
    mask = np.array(given["mask_"], np.float32).T  # (gene, term)
    schema = _schema(path, given, mask)
    reference = Reference(
        n_genes=len(mask),
        n_batches=max(len(given["conditions_"]), 1),
        n_extra={"gene_sets": mask.shape[1]},
        arrays={"gene_sets": mask, "gene_log_share": np.zeros(len(mask), np.float32)},
    )
    config = Config(
        n_hidden=widths[0],
        n_layers=len(widths),
        dropout_rate=given["dr_rate_"],
        min_genes=1,
        loadings="free",
        mask="soft" if given.get("soft_mask_") else "hard",
        n_free=given.get("n_ext_", 0),
        hsic=1.0 if given.get("use_hsic_") else 0.0,
        dispersion="gene-batch" if reference.n_batches > 1 else "gene",
    )
    with own_random_numbers():
        module = ExpiMap(reference, config)
    try:
        module.load_state_dict(_renamed(weights, config, module.kept))
    except (KeyError, RuntimeError) as error:
        raise FormatError(f"the weights in {path} do not fit: {error}", "save the model again") from error
    return Foreign("expimap", module.eval(), schema, reference, config, [])


def _schema(path: Path, given: Mapping[str, Any], mask: np.ndarray) -> Schema:
    genes = tuple((path / "var_names.csv").read_text(encoding="utf-8").split("\n"))
    genes = tuple(gene.rstrip("\r") for gene in genes if gene)
    if len(genes) != len(mask):
        raise FormatError(f"{path} names {len(genes)} genes, its sets are of {len(mask)}", "save the model again")
    levels = tuple(str(level) for level in given["conditions_"])
    key = given["condition_key_"] if len(levels) > 1 else None
    known = {} if key is None else {key: levels}
    features = {"gene_sets": _terms(path, mask.shape[1])}
    return Schema(Fields(batch_key=key), genes, known, "counts", dict(ExpiMap.inputs), features)


def _terms(path: Path, n: int) -> tuple[str, ...]:
    """Names of the gene sets, or term_1 and so on."""
    if (path / "adata.h5ad").is_file():
        import h5py

        with h5py.File(path / "adata.h5ad") as file:
            found = file.get("uns/terms")
            names = [] if found is None else [str(name) for name in found.asstr()[:]]
        if len(names) == n and len(set(names)) == n:
            return tuple(names)
    return tuple(f"term_{i + 1}" for i in range(n))


def _renamed(weights: Mapping[str, Tensor], config: Config, kept: np.ndarray) -> dict[str, Tensor]:
    """Their weights by our names. The effects of a single condition are a part of biases here."""
    of, own = weights.__getitem__, {}
    body, first = "scvi.encoder.body.linear", "encoder.FC.L0"
    own[f"{body}.0.weight"], own[f"{body}.0.bias"] = of(f"{first}.expr_L.weight"), of(f"{first}.expr_L.bias")
    for i in range(1, config.n_layers):
        own |= {f"{body}.{i}.{kind}": of(f"encoder.FC.L{i}.{kind}") for kind in ("weight", "bias")}
    shown, shift, theta = of(f"{first}.cond_L.weight"), of("decoder.L0.cond_L.weight"), of("theta")
    if theta.shape[1] > 1:
        own[f"{body}.0.covariate.0"], own["scvi.share.covariates.covariate.0"] = shown.t(), shift.t()
        own["scvi.share.covariates.weight"] = shift.new_zeros(len(shift), 0)  # of no continuous covariates
        own["scvi.share.intercept"], own["scvi.log_dispersion"] = shift.new_zeros(len(shift)), theta.t()
    else:
        own[f"{body}.0.bias"] = own[f"{body}.0.bias"] + shown[:, 0]
        own["scvi.share.intercept"], own["scvi.log_dispersion"] = shift[:, 0], theta[:, 0]
    rows = torch.as_tensor(kept)
    for head, theirs in (("mean", "mean"), ("log_variance", "var")):
        for kind in ("weight", "bias"):
            parts = [of(f"encoder.{'mean' if head == 'mean' else 'log_var'}_encoder.{kind}")[rows]]
            parts += [of(f"encoder.expand_{theirs}_encoder.{kind}")] if config.n_free else []
            own[f"scvi.encoder.{head}.{kind}"] = torch.cat(parts)
    loadings = [of("decoder.L0.expr_L.weight").t()[rows]]
    loadings += [of("decoder.L0.ext_L.weight").t()] if config.n_free else []
    own["scvi.share.weight"] = torch.cat(loadings)
    return {name: value.detach().clone().contiguous() for name, value in own.items()}
