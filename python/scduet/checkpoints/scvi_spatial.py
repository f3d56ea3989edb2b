"""Weights of scvi-tools' models of spots and of their references under our names, and back.

Theirs keep the bias of each cell type apart from the last layer of the decoder; ours has it as the table of a covariate.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from scduet.checkpoints.scvi_names import Names, from_scvi_tools, to_scvi_tools

CONDSCVI = Names(
    stacks={"encoder.body": "z_encoder.encoder", "decoder": "decoder", "fine_body": "linear_mapping"},
    linear={
        "encoder.mean": "z_encoder.mean_encoder",
        "encoder.log_variance": "z_encoder.var_encoder",
        "share": "px_decoder",
        "batch_embedding": "_embeddings_dict.batch",
        "fine": "classifier.classifier.0",
    },
    may_be_unused=("pyro_param_store",),
    same={
        "log_dispersion": "px_r",
        "prior_mean": "prior_means",
        "prior_log_sd": "prior_log_std",
        "prior_logits": "prior_logits",
        "label_weight": "ct_weight",
    },
)
DESTVI = Names(
    stacks={
        "encoder.body": "z_encoder.encoder",
        "decoder": "decoder",
        "state_body": "gamma_encoder.0",
        "proportion_body": "V_encoder.0",
    },
    linear={
        "encoder.mean": "z_encoder.mean_encoder",
        "encoder.log_variance": "z_encoder.var_encoder",
        "share": "px_decoder",
        "batch_embedding": "_embeddings_dict.batch",
        "state_head": "gamma_encoder.1",
        "proportion_head": "V_encoder.1",
    },
    turned={"free_proportions": "V", "free_states": "gamma"},
    may_be_unused=("V", "gamma", "pyro_param_store"),  # of the networks, or the free parameters in their stead
    same={
        "log_dispersion": "px_r",
        "platform": "beta",
        "extra_logits": "eta",
        "component_mean": "mean_vprior",
        "component_variance": "var_vprior",
        "component_weight": "mp_vprior",
    },
)
STEREOSCOPE_CELLS = Names(same={"rate": "W", "logit": "px_o"}, may_be_unused=("ct_weight", "pyro_param_store"))
STEREOSCOPE = Names(
    turned={"amount": "V"},
    same={"rate": "W", "logit": "px_o", "noise": "eta", "platform": "beta"},
    may_be_unused=("pyro_param_store",),
)
BIAS, HEAD = "per_ct_bias", "px_decoder"


def read_weights(theirs: Mapping[str, Tensor], module: nn.Module, names: Names) -> dict[str, Tensor]:
    """A state dict for `module`. Raises FormatError where a weight is missing, left over or of another shape."""
    found = dict(theirs)
    if BIAS in found:
        bias = found.pop(BIAS)
        if len(bias) > 1:
            found[f"{HEAD}.weight"] = torch.cat([found[f"{HEAD}.weight"], bias.t()], 1)
        else:  # the bias of the only type is one of the layer
            found[f"{HEAD}.bias"] = found[f"{HEAD}.bias"] + bias[0]
    return from_scvi_tools(found, module, names)


def written_weights(module: Any, names: Names) -> dict[str, Tensor]:
    """The state dict of scvi-tools' module; the weights that it never uses are zero."""
    found, width = to_scvi_tools(module, names), module.share.weight.shape[1]
    weight = found[f"{HEAD}.weight"]
    found[f"{HEAD}.weight"] = weight[:, :width].contiguous()
    bias = weight[:, width:].t().contiguous()
    found[BIAS] = bias if len(bias) else weight.new_zeros(1, len(weight))
    return found
