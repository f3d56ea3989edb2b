"""The network of a model under the names that it has in scvi-tools."""

from __future__ import annotations

from scduet._torch import torch

from typing import Any

from scduet.capabilities import Encodes, part_with
from scduet.checkpoints.scvi_export import weights_by_their_names
from scduet.scvi.registry import unavailable

SIZES = {"n_input": "n_genes", "n_batch": "n_batches", "n_labels": "n_labels"}  # theirs: of our reference
PARTS = {"z_encoder": "encoder", "l_encoder": "library_encoder"}  # theirs: ours
STATE = ("px_r", "library_log_means", "library_log_vars")
INSTEAD = {
    "inference": "use model.get_latent_representation(return_dist=True)",
    "generative": "use model.get_likelihood_parameters()",
    "loss": "use model.get_elbo() and get_reconstruction_error()",
    "sample": "use model.posterior_predictive_sample()",
    "marginal_ll": "use model.get_marginal_ll()",
    "get_loadings": "use model.get_loadings()",
    **dict.fromkeys(
        ("get_embedding", "init_embedding", "remove_embedding", "embeddings_dict"),
        "use model.get_batch_representation()",
    ),
}


class Module:
    """A network of ours; `state_dict` and the attributes below have scvi-tools' names and shapes."""

    def __init__(self, module: torch.nn.Module, name: str):
        self.__dict__.update(_module=module, _name=name)

    def state_dict(self) -> dict[str, Any]:
        """Weights by the names of scvi-tools, each a copy in the shape that it has there."""
        return weights_by_their_names(self._name, self._module)

    def __getattr__(self, name: str) -> Any:
        if name in INSTEAD and not hasattr(self._module, name):
            return unavailable(f"module.{name}", INSTEAD[name])
        if name in STATE:
            found = self.state_dict()
            if name in found:
                return found[name]
        holder: Any = part_with(self._module, Encodes) or self._module
        if name in PARTS and hasattr(holder, PARTS[name]):
            return getattr(holder, PARTS[name])
        if name in SIZES:
            return getattr(holder.reference, SIZES[name])
        for where in (self._module, holder, self._module.config):
            if hasattr(where, name):
                return getattr(where, name)
        raise AttributeError(f"the module has no {name!r} here: its weights are in state_dict()")

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)

    def __call__(self, *args, **kwargs):
        return self._module(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._module)
