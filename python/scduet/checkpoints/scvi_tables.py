"""Names of the weights of scvi-tools' totalVI, MultiVI and veloVI, and what these allocate without using it."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch import nn

from scduet.checkpoints.scvi_names import Names, Weights, to_scvi_tools
from scduet.nn.random import own_random_numbers

PER_PROTEIN = (  # weights of MultiVI with a row for each protein
    *("py_r", "background_pro_", "z_decoder_pro.py_back_mean_", "z_decoder_pro.py_fore_scale_"),
    "z_decoder_pro.py_background_",
)


def _unused_by_totalvi(theirs: Weights, module: nn.Module) -> Weights:
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


def _unused_by_multivi(theirs: Weights, module: nn.Module) -> Weights:
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


def _unused_by_velovi(theirs: Weights, module: nn.Module) -> Weights:
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
    unused=_unused_by_totalvi,
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
    unused=_unused_by_multivi,
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
    unused=_unused_by_velovi,
)
