"""DPCCA: probabilistic canonical correlation of what encoders make of each modality (Gundersen et al. 2019, UAI).

    y_m = encoder_m(x_m), each dimension divided by its standard deviation
    y_m = offset_m + L_m s + B_m z_m + e_m,    e_m ~ N(0, diag(noise_m)),    s, z_m ~ N(0, I)
    x_m ~ decoder_m(offset_m + L_m s + B_m z_m + e_m)        NB, or Poisson: those of mmvae

The shared factors s, whose posterior mean is the embedding, tie the modalities together; z_m is what a modality tells
of a cell alone. Each minibatch takes one step of EM, through which its loss, - log p(x_m | a draw of y_m), is
differentiated, so that the encoders learn what correlates. Cells are embedded by parameters from running moments.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from scduet.contract import CellBatch, Expects, Input, Loss, Reference, Step
from scduet.models.multimodal import mmvae, mmvae_parts
from scduet.models.multimodal.experts import Part
from scduet.models.multimodal.mmvae import MMVAE
from scduet.models.multimodal.mmvae_measured import MODALITIES, check_tied, measure
from scduet.models.multimodal.mmvae_members import Member
from scduet.models.multimodal.mmvae_parts import Networks, Sizes
from scduet.nn.distributions import Distribution
from scduet.nn.factors import Factors, Layout, Moments, RunningMoments, maximized
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

MOMENTUM = 0.1  # share of a minibatch in the running moments


@dataclass(frozen=True)
class Fields(mmvae.Fields):
    pass


@dataclass(frozen=True)
class Config(mmvae_parts.Sizes):
    n_latent: int = 10
    """Factors that all modalities share: the embedding."""
    n_private: int = 5
    """Further factors of each modality."""
    n_encoded: int = 20
    """Dimensions that an encoder makes of each modality."""
    gene_likelihood: Literal["nb", "poisson"] = "nb"
    """Distribution of the counts of genes."""
    peak_likelihood: Literal["poisson", "nb"] = "poisson"
    """Distribution of the counts of peaks."""

    def __post_init__(self) -> None:
        check_network(self)


class DPCCA(nn.Module):
    Config, Fields = Config, Fields
    players = ("model",)
    expects: Expects = "counts"
    inputs: dict[str, Input] = MMVAE.inputs
    modalities: tuple[str, ...] = MODALITIES
    recipes = MMVAE.recipes
    measure = staticmethod(measure)

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.config = config
        self.modalities = tuple(name for name in MODALITIES if name == "rna" or name in reference.n_extra)
        check_tied("dpcca", reference, self.modalities)
        networks = {field.name: getattr(config, field.name) for field in fields(Sizes)}
        likelihoods = {n: getattr(config, n) for n in ("gene_likelihood", "peak_likelihood")}
        own: dict[str, Any] = {"views": "single", "latent_distribution": "point", "align": "none", "subspaces": True}
        width = config.n_encoded * len(self.modalities)  # of which each decoder reads its own part
        self.networks = MMVAE(reference, mmvae.Config(n_latent=width, **own, **likelihoods, **networks))
        encoded = replace(self.networks.config, n_latent=config.n_encoded)
        self.networks.encoders = Networks(reference, encoded, Member(**own), self.modalities).encoders()
        self.layout = Layout(config.n_latent, config.n_private, len(self.modalities))
        self.running = RunningMoments(self.layout, [config.n_encoded] * len(self.modalities))
        for i in range(len(self.modalities)):
            coefficient = torch.randn(config.n_encoded, self.layout.n_own)
            coefficient[:, 0] = 0
            self.register_buffer(f"coefficient_{i}", coefficient)
            self.register_buffer(f"noise_{i}", torch.ones(config.n_encoded))
            self.register_buffer(f"deviation_{i}", torch.ones(config.n_encoded))

    @property
    def factors(self) -> Factors:
        """The parameters of the linear part."""
        each = (
            [self._buffers[f"{name}_{i}"] for i in range(len(self.modalities))] for name in ("coefficient", "noise")
        )
        return Factors(self.layout, *map(tuple, each))  # pyright: ignore[reportArgumentType]

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        parts = self.networks.parts(cells)
        y, known = self._encoded(parts)
        factors = self._after_em(y, known, step) if self.training else self.factors
        z = factors.posterior(y, known, _no_batch(cells)).mean
        drawn = torch.cat(
            [
                factors.expected(i, z, _no_batch(cells)) + noise.sqrt() * torch.randn_like(y[i])
                for i, noise in enumerate(factors.noise)
            ],
            1,
        )
        terms = {}
        for name in self.modalities:
            term = "reconstruction" if name == "rna" else f"reconstruction_{name}"
            terms[term] = -self.networks.likelihood_of(name, drawn, parts[name], cells).mean()
        return Loss(torch.stack(list(terms.values())).sum(), terms, len(cells))

    def embed(self, cells: CellBatch, modality: str | None = None) -> State:
        """Mean of the shared factors by all that was measured, or by one modality; NaN where that was not."""
        y, known = self._encoded(self.networks.parts(cells))
        if modality is None:
            return self.factors.posterior(y, known, _no_batch(cells)).mean[:, : self.config.n_latent]
        place = self.modalities.index(modality)
        return self.factors.shared_by(place, y, known, _no_batch(cells))

    def posterior(self, cells: CellBatch) -> tuple[Float[Tensor, "cell factor"], Float[Tensor, "cell factor"]]:
        """Mean and variance of all factors, the shared ones first, then those of each modality."""
        found = self.factors.posterior(*self._encoded(self.networks.parts(cells)), _no_batch(cells))
        return found.mean, found.variance

    def transform_latent(self, z: Float[Tensor, "cell factor"]) -> Float[Tensor, "cell factor"]:
        return z

    def log_library(self, cells: CellBatch) -> CellValue:
        """Logarithm of the total of the genes, or of the size factor; the mean of cells where RNA was not measured."""
        return self.networks.log_library(cells)

    def decode(
        self,
        z: Float[Tensor, "cell factor"],
        cells: CellBatch,
        batch: CellCode | None = None,
        log_library: CellValue | None = None,
    ) -> dict[str, Distribution]:
        """Distributions of all modalities, measured or not, of cells with the factors z, as if measured in `batch`."""
        return self.networks.decode(self._decoded(z, cells), cells, batch, log_library)

    def normalized_expression(
        self,
        z: Float[Tensor, "cell factor"],
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell feature"]:
        """Expected share of each gene or peak, or expected count of each protein, as if measured in `batch`."""
        return self.networks.normalized_expression(self._decoded(z, cells), cells, batch, modality, out)

    def _encoded(self, parts: dict[str, Part]) -> tuple[list[Tensor], Bool[Tensor, "cell modality"]]:
        """What the encoders make of each modality, 0 where it was not measured."""
        known = torch.stack([part.known for part in parts.values()], 1)
        found = [mean for mean, _ in self.networks.experts(parts).values()]
        return [values / self._deviation(i, values[known[:, i]]) for i, values in enumerate(found)], known

    def _deviation(self, modality: int, y: Float[Tensor, "part encoded"]) -> Float[Tensor, " encoded"]:
        """What encodings are divided by, so that they cannot outgrow the noise; a running one when not training."""
        running: Tensor = self._buffers[f"deviation_{modality}"]  # pyright: ignore[reportAssignmentType]
        if not self.training or len(y) < 2:
            return running
        found = y.detach().std(0).clamp(min=1e-3)
        running.lerp_(found, MOMENTUM)
        return found

    def _after_em(self, y: list[Tensor], known: Bool[Tensor, "cell modality"], step: Step) -> Factors:
        """The parameters after one step of EM on a minibatch, as a function of y. Updates the running ones."""
        batch = torch.zeros(len(known), dtype=torch.long, device=known.device)
        posterior = self.factors.posterior(y, known, batch)
        moments = Moments.of(self.layout, posterior, y, known, batch).per_cell()
        with torch.no_grad():
            self.running.keep(self.running.toward(moments, MOMENTUM if step.number else 1.0))
            running = maximized(self.layout, self.running.moments)
            for i in range(len(y)):
                if self.running.moments.count[i] > 0:  # else no cell so far had the modality
                    self._buffers[f"coefficient_{i}"].copy_(running.coefficient[i])  # pyright: ignore
                    self._buffers[f"noise_{i}"].copy_(running.noise[i])  # pyright: ignore
        return maximized(self.layout, moments)

    def _decoded(self, z: Float[Tensor, "cell factor"], cells: CellBatch) -> Float[Tensor, "cell encoded"]:
        """What the decoders read of the factors: the encodings that they expect, side by side."""
        expected = [self.factors.expected(i, z, _no_batch(cells)) for i in range(len(self.modalities))]
        return torch.cat(expected, 1)


def _no_batch(cells: CellBatch) -> CellCode:
    """The linear part knows no batches: the decoders do."""
    return torch.zeros_like(cells.batch)
