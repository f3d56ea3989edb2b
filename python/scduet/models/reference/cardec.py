"""CarDEC: an autoencoder of variable genes, pulled to clusters, from which all genes are decoded (Lakkis et al. 2021).

    x      = log(1 + counts / total * median total), each gene scaled to mean 0 and standard deviation 1 in its batch
    z      = tanh(Linear(128 ReLU units of x of variable genes)), 32 dimensions
    v      = the same of the other genes; the embedding is [z, v]
    x      ~ decoders(z) for variable genes, decoder([z, v]) for the others
    q_k    ∝ 1 / (1 + |z - c_k|²)                the membership in cluster k, whose center is c_k (Student's t)
    counts ~ NB(size * exp(m), r)                m and r: heads of 128 ReLU units of [z, v], which get no gradient here
    loss   = (2 - w) / 2 * (mean square of both reconstructions) + kl_weight * w * KL(p || q) - log NB / genes

p ∝ q² / f, f the share of each cluster, sharpens q (deep embedded clustering, DEC). The warm-up of kl_weight takes the
place of pre-training: meanwhile each center follows the mean state of a cluster of k-means on principal components.

Source: Genome Research 31:1753; constants of its program 1.0.3. There pre-training, clustering and the models of counts
follow one another, centers start from Louvain on the states, and f is of all cells once an epoch; here all is learned
together, f is a running mean, and one model of counts has all genes.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.data.sources import Cells
from scduet.errors import OptionError
from scduet.models.reference.batch_scaling import BatchScaling, kmeans_start, moments_by_batch
from scduet.models.reference.count_heads import CountHeads
from scduet.models.reference.embedded_clusters import EmbeddedClusters
from scduet.nn.distributions import Distribution
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

N_HIDDEN, N_LATENT, N_COMPONENTS = 128, 32, 30


@dataclass(frozen=True)
class Config:
    n_clusters: int = 10
    """Number of clusters."""
    n_variable_genes: int = 2000
    """Genes with the highest dispersion, which give the state of a cell; all other genes are decoded from it too."""
    clustering_weight: float = 1.0
    """Weight of the clusters, 0 to 2; 2 minus this is that of the reconstructions."""

    def __post_init__(self) -> None:
        check_network(self)
        if not 0 <= self.clustering_weight <= 2:
            raise OptionError(f"clustering_weight={self.clustering_weight!r}", "it is from 0 to 2")


def recipe(n_cells: int, max_epochs: int | None) -> dict[str, object]:
    """As published, but ten times the rate and far fewer epochs; clusters count fully in the second half."""
    warmup = {"max_epochs": max_epochs or 60, "kl_warmup_epochs": max((max_epochs or 60) // 2, 1)}
    return {"lr": 1e-3, "batch_size": 64, "weight_decay": 0.0, "adam_eps": 1e-8, **warmup}


class CarDEC(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    measure = staticmethod(moments_by_batch)
    modalities = ("rna",)
    recipes = {"auto": recipe}

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config, n_genes, k = reference, config, reference.n_genes, config.n_clusters
        if k > reference.n_cells:
            raise OptionError(f"n_clusters={k} of {reference.n_cells} cells", "take fewer clusters")
        self.scaled = BatchScaling(reference)
        order = np.argsort(-reference.arrays["dispersion"], kind="stable")
        n = min(config.n_variable_genes, n_genes)
        self.variable, self.other = np.sort(order[:n]), np.sort(order[n:])
        self.encoder, self.decoder = _mlp(n, N_LATENT).append(nn.Tanh()), _mlp(N_LATENT, n)
        n_state = N_LATENT * (2 if n < n_genes else 1)
        if n < n_genes:
            self.other_encoder = _mlp(n_genes - n, N_LATENT).append(nn.Tanh())
            self.other_decoder = _mlp(n_state, n_genes - n)
        self.counts = CountHeads(n_state, N_HIDDEN, n_genes, float(reference.arrays["median"][0]))
        self.clusters = EmbeddedClusters(k, N_LATENT, n, min(N_COMPONENTS, n, reference.n_cells))

    def begin(self, cells: Cells) -> None:
        """k-means on principal components of the variable genes."""
        self.clusters.place(*kmeans_start(cells, self.reference, self.variable, *self.clusters.seeds.shape))  # type: ignore[arg-type]

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        x, weight = self.scaled(cells), self.config.clustering_weight
        variable, state = x[:, self.variable], self._states(x)
        z = state[:, :N_LATENT]
        if self.training and (step.kl_weight < 1 or step.number == 0):
            self.clusters.follow(z.detach(), variable, first=step.number == 0)
        squares = F.mse_loss(self.decoder(z), variable)
        terms = {"reconstruction": squares}
        if len(self.other):
            terms["reconstruction_other"] = F.mse_loss(self.other_decoder(state), x[:, self.other])
            squares = squares + terms["reconstruction_other"]
        terms["clustering"] = self.clusters.error(self.clusters(z))
        log_nb = self.counts.log_likelihood(state.detach(), cells.x, self.log_library(cells))
        terms["counts"] = -log_nb.mean() / self.reference.n_genes
        total = (2 - weight) / 2 * squares + step.kl_weight * weight * terms["clustering"] + terms["counts"]
        return Loss(total, terms, len(cells))

    def embed(self, cells: CellBatch) -> State:
        """The state z of the variable genes, then that of the others, if there are others."""
        return self._states(self.scaled(cells))

    def memberships(self, cells: CellBatch) -> Float[Tensor, "cell cluster"]:
        """The membership q in each cluster."""
        return self.clusters(self.embed(cells)[:, :N_LATENT])

    def log_library(self, cells: CellBatch) -> CellValue:
        """log of the total of the cell."""
        return cells.x.sum().clamp(min=1).log()[:, None]

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        """Distribution of the counts of cells in the states; `batch` plays no part."""
        return {"rna": self.counts(z, self.log_library(cells) if log_library is None else log_library)}

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell gene"]:
        """Expected count of each gene by unit of library; the genes of a cell need not sum to 1."""
        found = self.decode(z, cells)["rna"].scale  # type: ignore[attr-defined]
        return found if out is None else out.copy_(found)

    def _states(self, x: Float[Tensor, "cell gene"]) -> State:
        z = self.encoder(x[:, self.variable])
        return torch.cat([z, self.other_encoder(x[:, self.other])], 1) if len(self.other) else z


def _mlp(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, N_HIDDEN), nn.ReLU(), nn.Linear(N_HIDDEN, n_out))
