"""Weights of scvi-tools' VAE, and of the models that extend it, under our names, and back.

Their names are the same from version 0.15 to 1.5. What we hold as `scvi.` they inherit, so that it has no prefix there.

They keep one matrix per linear layer, with columns `[x | levels of covariate 0 | levels of covariate 1 | ...]`; we keep
the columns of x as `weight` and those of each covariate, transposed, as `covariate.<i>` (none where it has one level).
They also allocate weights that an option switches off; those are dropped on the way in and filled on the way out.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from torch import Tensor, nn

from scduet.errors import FormatError, some
from scduet.nn.random import own_random_numbers

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
OURS_ALONE = ("adversary.", "proteins.protein_detected")  # they keep these elsewhere, or not at all


class Names(NamedTuple):
    """Their names of our stacks of layers, of linear layers, and of what is transposed; what they may not use."""

    stacks: Mapping[str, str] = MLPS
    linear: Mapping[str, str] = LINEAR
    turned: Mapping[str, str] = TURNED
    may_be_unused: tuple[str, ...] = MAY_BE_UNUSED
    same: Mapping[str, str] = {}  # single weights that are neither


VAE = Names()
TOTALVI = Names(
    stacks={
        "encoder.body": "encoder.encoder",
        "library_encoder.body": "encoder.l_gene_encoder",
        "genes.body": "decoder.px_decoder",
        "proteins.background.body": "decoder.py_back_decoder",
        "proteins.foreground.body": "decoder.py_fore_decoder",
        "proteins.mixing.body": "decoder.sigmoid_decoder",
    },
    linear={
        "encoder.mean": "encoder.z_mean_encoder",
        "encoder.log_variance": "encoder.z_var_encoder",
        "library_encoder.mean": "encoder.l_gene_mean_encoder",
        "library_encoder.log_variance": "encoder.l_gene_var_encoder",
        "genes.share": "decoder.px_scale_decoder.fc_layers.Layer 0.0",
        "proteins.background.mean": "decoder.py_back_mean_log_alpha.fc_layers.Layer 0.0",
        "proteins.background.spread": "decoder.py_back_mean_log_beta.fc_layers.Layer 0.0",
        "proteins.foreground.gain": "decoder.py_fore_scale_decoder.fc_layers.Layer 0.0",
        "proteins.mixing.logits": "decoder.py_background_decoder.fc_layers.Layer 0.0",
        "proteins.mixing.dropout_logits": "decoder.px_dropout_decoder_gene.fc_layers.Layer 0.0",
    },
    turned={
        "log_dispersion": "px_r",
        "proteins.log_dispersion": "py_r",
        "proteins.prior_mean": "background_pro_alpha",
        "proteins.prior_log_sd": "background_pro_log_beta",
        "proteins.log_efficiency": "log_per_batch_efficiency",
        "library_log_mean": "library_log_means",
        "library_log_variance": "library_log_vars",
    },
    may_be_unused=("encoder.l_gene_", "decoder.px_dropout_decoder_gene.", "pyro_param_store"),
)


MULTIVI = Names(
    stacks={
        "rna.encoder.body": "z_encoder_expression.encoder",
        "library.body": "l_encoder_expression.px_decoder",
        "rna.decoder": "z_decoder_expression.px_decoder",
        "peaks_encoder.body": "z_encoder_accessibility.encoder",
        "depth.body": "l_encoder_accessibility.px_decoder",
        "peaks.body": "z_decoder_accessibility.px_decoder",
        "protein_encoder.body": "z_encoder_protein.encoder",
        "proteins.background.body": "z_decoder_pro.py_back_decoder",
        "proteins.foreground.body": "z_decoder_pro.py_fore_decoder",
        "proteins.mixing.body": "z_decoder_pro.sigmoid_decoder",
    },
    linear={
        "rna.encoder.mean": "z_encoder_expression.mean_encoder",
        "rna.encoder.log_variance": "z_encoder_expression.var_encoder",
        "library.logit": "l_encoder_expression.output.0",
        "rna.share": "z_decoder_expression.px_scale_decoder.0",
        "rna.dropout_logits": "z_decoder_expression.px_dropout_decoder",
        "peaks_encoder.mean": "z_encoder_accessibility.mean_encoder",
        "peaks_encoder.log_variance": "z_encoder_accessibility.var_encoder",
        "depth.logit": "l_encoder_accessibility.output.0",
        "peaks.logit": "z_decoder_accessibility.output.0",
        "protein_encoder.mean": "z_encoder_protein.mean_encoder",
        "protein_encoder.log_variance": "z_encoder_protein.var_encoder",
        "proteins.background.mean": "z_decoder_pro.py_back_mean_log_alpha.fc_layers.Layer 0.0",
        "proteins.background.spread": "z_decoder_pro.py_back_mean_log_beta.fc_layers.Layer 0.0",
        "proteins.foreground.gain": "z_decoder_pro.py_fore_scale_decoder.fc_layers.Layer 0.0",
        "proteins.mixing.logits": "z_decoder_pro.py_background_decoder.fc_layers.Layer 0.0",
    },
    turned={
        "rna.log_dispersion": "px_r",
        "peaks.region_logit": "region_factors",
        "proteins.log_dispersion": "py_r",
        "proteins.prior_mean": "background_pro_alpha",
        "proteins.prior_log_sd": "background_pro_log_beta",
    },
    may_be_unused=(
        *("z_decoder_expression.px_r_decoder.", "z_decoder_expression.px_dropout_decoder.", "px_r"),
        *("z_encoder_protein.", "z_decoder_pro.", "background_pro_", "py_r", "pyro_param_store"),
    ),
    same={"mixture.log_weight": "mod_weights"},
)

VELOVI = Names(
    stacks={
        "encoder.body": "z_encoder.encoder",
        "time.body": "decoder.rho_first_decoder",
        "states.body": "decoder.pi_first_decoder",
    },
    linear={
        "encoder.mean": "z_encoder.mean_encoder",
        "encoder.log_variance": "z_encoder.var_encoder",
        "time.rho": "decoder.px_rho_decoder.0",
        "time.tau": "decoder.px_tau_decoder.0",
        "states.logits": "decoder.px_pi_decoder",
    },
    turned={},
    may_be_unused=(
        *("decoder.px_rho_decoder.", "decoder.px_tau_decoder.", "decoder.linear_scaling_"),
        *("alpha_1_unconstr", "lambda_alpha_unconstr", "pyro_param_store"),
    ),
    same={
        **{name: f"{name}_unconstr" for name in ("switch_time", "alpha", "alpha_1", "lambda_alpha", "scale")},
        **{name: f"{name}_mean_unconstr" for name in ("gamma", "beta")},
        **{name: name for name in ("switch_spliced", "switch_unspliced")},
        "time.log_slope": "decoder.linear_scaling_tau",
        "time.intercept": "decoder.linear_scaling_tau_intercept",
    },
)

PER_PROTEIN = (  # weights of MultiVI with a row for each protein
    *("py_r", "background_pro_", "z_decoder_pro.py_back_mean_", "z_decoder_pro.py_fore_scale_"),
    "z_decoder_pro.py_background_",
)


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
    own = {id(VAE): _unused, id(TOTALVI): _unused_by_totalvi, id(MULTIVI): _unused_by_multivi}
    unused = (own | {id(VELOVI): _unused_by_velovi}).get(id(names))
    return theirs if unused is None else unused(theirs, module) | theirs


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


def _unused(theirs: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
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


def _unused_by_totalvi(theirs: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The library's encoder, like one layer of that of the states, and dropout of genes, like their shares."""
    encoder, share = "encoder.encoder.fc_layers.Layer 0.", "decoder.px_scale_decoder."
    copied = {encoder: "encoder.l_gene_encoder.fc_layers.Layer 0.", share: "decoder.px_dropout_decoder_gene."}
    unused = {
        name.replace(used, other): torch.zeros_like(value)
        for used, other in copied.items()
        for name, value in theirs.items()
        if name.startswith(used)
    }
    for part in ("mean", "var"):
        head = theirs[f"encoder.z_{part}_encoder.weight"]
        unused |= {f"encoder.l_gene_{part}_encoder.weight": torch.zeros(1, head.shape[1])}
        unused |= {f"encoder.l_gene_{part}_encoder.bias": torch.zeros(1)}
    return unused


def _unused_by_multivi(theirs: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Heads of genes, and where there are no proteins their networks: those of one protein, without its outputs."""
    share, reference = theirs["z_decoder_expression.px_scale_decoder.0.weight"], cast(Any, module).reference
    unused = {f"z_decoder_expression.px_{name}_decoder.weight": torch.zeros_like(share) for name in ("r", "dropout")}
    unused |= {f"z_decoder_expression.px_{name}_decoder.bias": share.new_zeros(len(share)) for name in ("r", "dropout")}
    unused["px_r"] = share.new_zeros(len(share))
    if "protein" in reference.n_extra:
        return unused
    one = {"protein_detected": np.ones((reference.n_batches, 1), np.float32)}
    one |= {f"protein_background_{name}": np.ones(reference.n_batches, np.float32) for name in ("mean", "sd")}
    like = replace(reference, n_extra={**reference.n_extra, "protein": 1}, arrays={**reference.arrays, **one})
    with own_random_numbers():
        twin = to_scvi_tools(type(module)(like, cast(Any, module).config), MULTIVI)
    for name in twin.keys() - theirs.keys() - unused.keys():
        unused[name] = torch.zeros_like(twin[name][:0] if name.startswith(PER_PROTEIN) else twin[name])
    return unused


def _unused_by_velovi(theirs: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """What options switch off: a changing rate, a linear decoder, or the heads that it stands for."""
    genes, hidden = cast(Any, module).reference.n_genes, cast(Any, module).config.n_hidden
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("alpha_1_unconstr", "lambda_alpha_unconstr"), (genes,))
    shapes |= dict.fromkeys(("decoder.linear_scaling_tau", "decoder.linear_scaling_tau_intercept"), (genes,))
    for part in ("rho", "tau"):
        shapes |= {
            f"decoder.px_{part}_decoder.0.weight": (genes, hidden),
            f"decoder.px_{part}_decoder.0.bias": (genes,),
        }
    return {name: torch.zeros(shape) for name, shape in shapes.items() if name not in theirs}
