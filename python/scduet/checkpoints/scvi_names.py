"""Weights of scvi-tools' models under our names, and back; the names of its VAE and of the models that extend it.

Those of models with modules of their own are in `scvi_tables` and `scvi_spatial`.

Their names are the same from version 0.15 to 1.5. What we hold as `scvi.` they inherit, so that it has no prefix there.

They keep one matrix per linear layer, with columns `[x | levels of covariate 0 | levels of covariate 1 | ...]`; we keep
the columns of x as `weight` and those of each covariate, transposed, as `covariate.<i>` (none where it has one level).
They also allocate weights that an option switches off; those are dropped on the way in and filled on the way out.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from scduet.errors import FormatError, some

MLPS = {  # ours: theirs
    "encoder.body": "z_encoder.encoder",
    "library_encoder.body": "l_encoder.encoder",
    "decoder": "decoder.px_decoder",
    "classifier": "classifier.classifier.0",  # scANVI
    "within.body": "encoder_z2_z1.encoder",
    "prior": "decoder_z1_z2.decoder",
    "share": "decoder.factor_regressor",  # LDVAE
    "dropout_logits": "decoder.px_dropout_decoder",
    "peaks.body": "z_decoder.px_decoder",  # PeakVI
    "depth.body": "d_encoder.px_decoder",
}
IN_LAYER = {"linear": "0", "norm": "1"}  # place in their Sequential
LINEAR = {
    "encoder.mean": "z_encoder.mean_encoder",
    "encoder.log_variance": "z_encoder.var_encoder",
    "library_encoder.mean": "l_encoder.mean_encoder",
    "library_encoder.log_variance": "l_encoder.var_encoder",
    "share": "decoder.px_scale_decoder.0",
    "log_dispersion_of_cell": "decoder.px_r_decoder",
    "dropout_logits": "decoder.px_dropout_decoder",
    "batch_embedding": "_embeddings_dict.batch",
    "label": "classifier.classifier.1",  # scANVI; `scvi_tools.py` renames where the classifier is linear
    "within.mean": "encoder_z2_z1.mean_encoder",
    "within.log_variance": "encoder_z2_z1.var_encoder",
    "prior_mean": "decoder_z1_z2.mean_decoder",
    "prior_log_variance": "decoder_z1_z2.var_decoder",
    "peaks.logit": "z_decoder.output.0",  # PeakVI
    "depth.logit": "d_encoder.output.0",
}
TURNED = {  # transposed, or with a leading axis of length 1
    "log_dispersion": "px_r",
    "alpha_logit": "alpha_posterior_logit",  # AutoZI
    "beta_logit": "beta_posterior_logit",
    "alpha_prior_logit": "alpha_prior_logit",
    "beta_prior_logit": "beta_prior_logit",
    "library_log_mean": "library_log_means",
    "library_log_variance": "library_log_vars",
    "peaks.region_logit": "region_factors",  # PeakVI
}
COVARIATE = ".covariate."
MAY_BE_UNUSED = ("l_encoder.", "decoder.px_r_decoder.", "decoder.px_dropout_decoder.", "px_r", "pyro_param_store")
INSIDE = "scvi."
Weights = Mapping[str, Tensor]
OURS_ALONE = ("adversary.", "proteins.protein_detected")  # they keep these elsewhere, or not at all


class Names(NamedTuple):
    """Their names of our stacks of layers, of linear layers, and of what is transposed; what they may not use."""

    stacks: Mapping[str, str] = MLPS
    linear: Mapping[str, str] = LINEAR
    turned: Mapping[str, str] = TURNED
    may_be_unused: tuple[str, ...] = MAY_BE_UNUSED
    same: Mapping[str, str] = {}  # single weights that are neither
    unused: Callable[[Weights, nn.Module], Weights] = lambda theirs, module: {}  # what they allocate beside, as zeros


def _unused(theirs: Weights, module: nn.Module) -> Weights:
    """What scvi-tools allocates beside: the library's encoder, and heads of the decoder; nothing in PeakVI."""
    if not any(name.startswith("decoder.") for name in theirs):
        return {}
    config: Any = getattr(module, "vae", module).config
    reference: Any = module.reference
    hidden, genes = config.n_hidden, reference.n_genes
    rows = {"l_encoder.mean_encoder": 1, "l_encoder.var_encoder": 1}
    rows |= {"decoder.px_r_decoder": genes, "decoder.px_dropout_decoder": genes}
    first = "z_encoder.encoder.fc_layers.Layer 0."  # the library's encoder has one layer like this
    unused = {name.replace("z_", "l_", 1): torch.zeros_like(v) for name, v in theirs.items() if name.startswith(first)}
    for name, n in rows.items():
        unused |= {f"{name}.weight": torch.zeros(n, hidden), f"{name}.bias": torch.zeros(n)}
    levels = {"gene-batch": (reference.n_batches,), "gene-label": (reference.n_labels,)}
    if config.dispersion != "gene-cell":
        unused["px_r"] = torch.zeros(genes, *levels.get(config.dispersion, ()))
    return unused


VAE = Names(unused=_unused)


def from_scvi_tools(theirs: Mapping[str, Tensor], module: nn.Module, names: Names = VAE) -> dict[str, Tensor]:
    """A state dict for `module` with the weights of scvi-tools' module that was built with the same options.

    Raises FormatError where a weight is missing, left over or of another shape.
    """
    ours = module.state_dict()
    expected = {_their_name(name, names): _joined(name, ours, names).shape for name in _owners(ours)}
    faults = {
        "missing": sorted(set(expected) - set(theirs)),
        "left over": sorted(n for n in set(theirs) - set(expected) if not n.startswith(names.may_be_unused)),
        "of another shape": sorted(n for n, shape in expected.items() if n in theirs and theirs[n].shape != shape),
    }
    if any(faults.values()):
        said = "; ".join(f"{fault}: {some(found)}" for fault, found in faults.items() if found)
        raise FormatError(f"these are not the weights of this model ({said})", "give the options of their training")
    kept = {name: value for name, value in ours.items() if name.startswith(OURS_ALONE)}
    pairs = ((name, theirs[_their_name(name, names)]) for name in _owners(ours))
    return kept | {part: value for name, found in pairs for part, value in _split(name, found, ours, names)}


def to_scvi_tools(module: nn.Module, names: Names = VAE) -> dict[str, Tensor]:
    """The state dict of scvi-tools' module with the weights of `module`; the weights that it never uses are zero."""
    ours = module.state_dict()
    theirs = {_their_name(name, names): _joined(name, ours, names) for name in _owners(ours)}
    return {**names.unused(theirs, module), **theirs}


def _owners(ours: Mapping[str, Tensor]) -> list[str]:
    """Our weights without the tables of covariates, which belong to the weight that they stand beside."""
    return [name for name in ours if COVARIATE not in name and not name.startswith(OURS_ALONE)]


def _their_name(name: str, names: Names) -> str:
    name = name.removeprefix(INSIDE)
    single = {**names.turned, **names.same}
    if name in single:
        return single[name]
    owner, _, leaf = name.rpartition(".")
    if owner in names.linear:
        return f"{names.linear[owner]}.{leaf}"
    stack, kind, layer = owner.rsplit(".", 2)
    return f"{names.stacks[stack]}.fc_layers.Layer {layer}.{IN_LAYER[kind]}.{leaf}"


def _tables(name: str, ours: Mapping[str, Tensor]) -> list[str]:
    if not name.endswith(".weight"):
        return []
    return [other for other in ours if other.startswith(name.removesuffix(".weight") + COVARIATE)]


def _joined(name: str, ours: Mapping[str, Tensor], names: Names) -> Tensor:
    """Our weight as theirs."""
    if name.removeprefix(INSIDE) in names.turned:
        return ours[name][None] if "library_log" in name else ours[name].t()
    tables = _tables(name, ours)
    return torch.cat([ours[name], *(ours[table].T for table in tables)], 1) if tables else ours[name]


def _split(name: str, value: Tensor, ours: Mapping[str, Tensor], names: Names) -> list[tuple[str, Tensor]]:
    """Their weight as ours, by name."""
    if name.removeprefix(INSIDE) in names.turned:
        return [(name, (value[0] if "library_log" in name else value.t()).contiguous())]
    tables = _tables(name, ours)
    if not tables:
        return [(name, value)]
    parts = value.split([ours[name].shape[1], *(len(ours[table]) for table in tables)], 1)
    return [
        (name, parts[0].contiguous()),
        *((t, part.T.contiguous()) for t, part in zip(tables, parts[1:], strict=True)),
    ]
