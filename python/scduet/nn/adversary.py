"""A classifier that learns to tell a category of cells from their states, which a model learns to prevent."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.nn.layers import MLP

N_HIDDEN, N_LAYERS, DROPOUT = 32, 2, 0.1  # as in scvi-tools


class Adversary(nn.Module):
    """Both losses are means over cells. Its states are taken as they are: detach those it is trained on."""

    def __init__(self, n_latent: int, n_levels: int, n_layers: int = N_LAYERS):
        super().__init__()
        self.body = MLP(n_latent, N_HIDDEN, n_layers, dropout=DROPOUT)
        self.logits = nn.Linear(N_HIDDEN, n_levels)

    def recognition(self, z: Float[Tensor, "cell latent"], level: Int[Tensor, " cell"]) -> Float[Tensor, ""]:
        """Cross entropy of what it tells and the truth: its own loss."""
        return F.cross_entropy(self.logits(self.body(z)), level)

    def deception(self, z: Float[Tensor, "cell latent"], level: Int[Tensor, " cell"]) -> Float[Tensor, ""]:
        """Cross entropy of what it tells and "any other level, all alike": what the model adds to its loss."""
        log_p = self.logits(self.body(z)).log_softmax(-1)
        others = log_p.sum(1) - log_p.gather(1, level[:, None])[:, 0]
        return -others.mean() / (log_p.shape[1] - 1)
