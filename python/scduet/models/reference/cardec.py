"""CarDEC: an autoencoder of variable genes, pulled to clusters, from which all genes are decoded (Lakkis et al. 2021).

    x      = log(1 + counts / total * median total), each gene scaled to mean 0 and standard deviation 1 in its batch
    z      = tanh(Linear(128 ReLU units of x of variable genes)), 32 dimensions, the embedding
    v      = the same of the other genes
    x      ~ decoders(z) for variable genes, decoder([z, v]) for the others
    q_k    ∝ 1 / (1 + |z - c_k|²)                the membership in cluster k, whose center is c_k (Student's t)
    counts ~ NB(size * exp(m), r)                m and r: heads of 128 ReLU units of [z, v], which get no gradient here
    loss   = (2 - w) / 2 * (mean square of both reconstructions) + kl_weight * w * KL(p || q) - log NB / genes

p ∝ q² / f, f the share of each cluster, sharpens q (deep embedded clustering, DEC). The warm-up of kl_weight takes the
place of the pre-training: meanwhile each center follows the mean state of a cluster of k-means on principal components.

Source: Genome Research 31:1753; constants of its program 1.0.3. There pre-training, clustering and the models of counts
follow one another, centers start from Louvain on the states, and f is of all cells once an epoch; here all is learned
together, f is a running mean, and one model of counts has all genes.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Measured, Reference, Step
from scduet.data.moments import moments, normalized_dispersion, relative
from scduet.data.sources import Cells
from scduet.errors import OptionError
from scduet.models.reference.count_heads import CountHeads
from scduet.nn.distributions import Distribution
from scduet.nn.layers import to_dense
from scduet.options import check_network

N_HIDDEN, N_LATENT, N_COMPONENTS = 128, 32, 30
MOST_CELLS = 20_000  # that k-means starts from
RATE = 0.1  # of running means


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


def moments_by_batch(cells: Cells, reference: Reference) -> dict[str, np.ndarray | Measured]:
    """Median total; of each gene its dispersion, and the mean and deviation of its logs in each batch."""
    median = np.median(cells.total)
    size = np.maximum(cells.total, 1) / median
    mean, deviation = moments(cells, size, group=cells.batch, n_groups=reference.n_batches)
    deviation[deviation == 0] = 1
    spread = normalized_dispersion(*(values[0] for values in moments(cells, size, of=lambda x: x)))
    found = {"median": np.array([median], np.float32), "dispersion": spread.astype(np.float32)}
    by_batch = {"batch_mean": mean, "batch_deviation": deviation}
    return found | {name: Measured(values.astype(np.float32), "batch") for name, values in by_batch.items()}


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
        for name in ("batch_mean", "batch_deviation"):
            self.register_buffer(name, torch.from_numpy(reference.arrays[name]), persistent=False)
        order = np.argsort(-reference.arrays["dispersion"], kind="stable")
        n = min(config.n_variable_genes, n_genes)
        self.variable, self.other = np.sort(order[:n]), np.sort(order[n:])
        self.encoder, self.decoder = _mlp(n, N_LATENT).append(nn.Tanh()), _mlp(N_LATENT, n)
        n_state = N_LATENT * (2 if n < n_genes else 1)
        if n < n_genes:
            self.other_encoder = _mlp(n_genes - n, N_LATENT).append(nn.Tanh())
            self.other_decoder = _mlp(n_state, n_genes - n)
        self.counts = CountHeads(n_state, N_HIDDEN, n_genes, float(reference.arrays["median"][0]))
        self.shift = nn.Parameter(torch.zeros(k, N_LATENT))  # of the centers, from where they start
        n_pcs = min(N_COMPONENTS, n, reference.n_cells)
        for name, shape in {"start": (k, N_LATENT), "axes": (n, n_pcs), "seeds": (k, n_pcs)}.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("frequency", torch.full((k,), 1 / k))

    def begin(self, cells: Cells) -> None:
        """k-means on principal components of the variable genes."""
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA

        arrays = self.reference.arrays
        rows = np.unique(np.linspace(0, len(cells) - 1, min(len(cells), MOST_CELLS)).astype(int))
        x = relative(cells, rows, np.maximum(cells.total, 1) / arrays["median"][0]).log1p()[:, self.variable].toarray()
        mean, deviation = (arrays[f"batch_{name}"][:, self.variable] for name in ("mean", "deviation"))
        x = (x - mean[cells.batch[rows]]) / deviation[cells.batch[rows]]
        axes = PCA(self.axes.shape[1], random_state=0).fit(x).components_.T  # type: ignore[union-attr]
        seeds = KMeans(len(self.shift), n_init=10, random_state=0).fit(x @ axes).cluster_centers_
        self.axes.copy_(torch.from_numpy(axes))  # type: ignore[operator]
        self.seeds.copy_(torch.from_numpy(seeds))  # type: ignore[operator]

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        x, weight = self._scaled(cells), self.config.clustering_weight
        z = self.encoder(x[:, self.variable])
        if self.training and (step.kl_weight < 1 or step.number == 0):
            self._follow(z.detach(), x[:, self.variable], RATE if step.number else 1.0)
        squares = F.mse_loss(self.decoder(z), x[:, self.variable])
        terms, state = {"reconstruction": squares}, self._state(z, x)
        if len(self.other):
            terms["reconstruction_other"] = F.mse_loss(self.other_decoder(state), x[:, self.other])
            squares = squares + terms["reconstruction_other"]
        q = self._membership(z)
        p = self._sharpened(q.detach())
        terms["clustering"] = (p * (p / q).log()).sum(1).mean()
        log_nb = self.counts.log_likelihood(state.detach(), cells.x, self.log_library(cells))
        terms["counts"] = -log_nb.mean() / self.reference.n_genes
        total = (2 - weight) / 2 * squares + step.kl_weight * weight * terms["clustering"] + terms["counts"]
        return Loss(total, terms, len(cells))

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell latent"]:
        """The state z."""
        return self.encoder(self._scaled(cells)[:, self.variable])

    def memberships(self, cells: CellBatch) -> Float[Tensor, "cell cluster"]:
        """The membership q in each cluster."""
        return self._membership(self.embed(cells))

    def log_library(self, cells: CellBatch) -> Float[Tensor, "cell 1"]:
        """log of the total of the cell."""
        return cells.x.sum().clamp(min=1).log()[:, None]

    def decode(
        self,
        z: Float[Tensor, "cell latent"],
        cells: CellBatch,
        batch: Int[Tensor, " cell"] | None = None,
        log_library: Float[Tensor, "cell 1"] | None = None,
    ) -> dict[str, Distribution]:
        """Distribution of the counts; the state of the other genes is that of the cells, and `batch` plays no part."""
        library = self.log_library(cells) if log_library is None else log_library
        return {"rna": self.counts(self._state(z, self._scaled(cells)), library)}

    def normalized_expression(
        self,
        z: Float[Tensor, "cell latent"],
        cells: CellBatch,
        batch: Int[Tensor, " cell"] | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell gene"]:
        """Expected count of each gene by unit of library; the genes of a cell need not sum to 1."""
        found = self.decode(z, cells)["rna"].scale  # type: ignore[attr-defined]
        return found if out is None else out.copy_(found)

    def _scaled(self, cells: CellBatch) -> Float[Tensor, "cell gene"]:
        size = cells.x.sum().clamp(min=1) / self.counts.median
        logs = to_dense(cells.x, (cells.x.data / size[cells.x.row]).log1p())
        return (logs - self.batch_mean[cells.batch]) / self.batch_deviation[cells.batch]  # type: ignore[index]

    def _state(self, z: Float[Tensor, "cell latent"], x: Float[Tensor, "cell gene"]) -> Float[Tensor, "cell state"]:
        """z, and the state of the other genes."""
        return torch.cat([z, self.other_encoder(x[:, self.other])], 1) if len(self.other) else z

    @torch.no_grad()
    def _follow(self, z: Float[Tensor, "cell latent"], x: Float[Tensor, "cell variable"], rate: float) -> None:
        """Move the start of each center to the mean state of the cells that k-means put there."""
        nearest = torch.cdist(x @ self.axes, self.seeds).argmin(1)  # type: ignore[operator, arg-type]
        member = F.one_hot(nearest, len(self.shift)).to(z.dtype)
        there = member.sum(0) > 0
        means = (member.T @ z)[there] / member.sum(0)[there, None]
        self.start[there] = self.start[there].lerp(means, rate)  # type: ignore[index, operator]

    def _membership(self, z: Float[Tensor, "cell latent"]) -> Float[Tensor, "cell cluster"]:
        alike = 1 / (1 + torch.cdist(z, self.start + self.shift).square())  # type: ignore[operator]
        return alike / alike.sum(1, keepdim=True)

    @torch.no_grad()
    def _sharpened(self, q: Float[Tensor, "cell cluster"]) -> Float[Tensor, "cell cluster"]:
        """The target p, after the shares of the clusters were brought up to date."""
        if self.training:
            self.frequency.lerp_(q.mean(0), RATE)  # type: ignore[operator]
        p = q.square() / self.frequency
        return p / p.sum(1, keepdim=True)


def _mlp(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, N_HIDDEN), nn.ReLU(), nn.Linear(N_HIDDEN, n_out))
