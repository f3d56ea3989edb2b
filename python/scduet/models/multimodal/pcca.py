"""PCCA: probabilistic canonical correlation with factors of each modality alone (Bach and Jordan 2005).

    y_m = offset_m(batch) + L_m s + B_m z_m + e_m,    e_m ~ N(0, diag(noise_m)),    s, z_m ~ N(0, I)

y: log(1 + 1e4 x / total) of genes and of peaks, log(1 + x) of proteins. The shared factors s, whose posterior mean is
the embedding, tie the modalities together; z_m is what a modality tells of a cell alone. Posteriors, also of cells that
lack a modality, and the prediction of one modality from another are exact. The parameters maximize the likelihood, by
EM with running moments (Cappé and Moulines 2009): a minibatch is an E-step and an M-step; no gradient is descended.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from scduet.contract import CellBatch, Expects, Input, Loss, Player, Reference, SparseRows, Step
from scduet.errors import OptionError
from scduet.models.multimodal import mmvae
from scduet.models.multimodal.mmvae import MMVAE, SCALE
from scduet.models.multimodal.mmvae_measured import MODALITIES, check_tied, measure
from scduet.nn.distributions import Distribution, LogNormal
from scduet.nn.factors import Factors, Layout, Moments, RunningMoments, maximized
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

FORGETTING = 0.6  # of the share that a minibatch has of the moments: (1 + minibatches so far)^-0.6
START = 0.1  # deviation of the loadings at the start, in deviations of a feature


@dataclass(frozen=True)
class Fields(mmvae.Fields):
    pass


@dataclass(frozen=True)
class Config:
    n_latent: int = 10
    """Factors that all modalities share: the embedding."""
    n_private: int = 5
    """Further factors of each modality."""

    def __post_init__(self) -> None:
        check_network(self)


class PCCA(nn.Module):
    Config, Fields = Config, Fields
    players = (Player(lr=0.0),)  # EM alone changes the parameters; the gradient is for whoever asks
    expects: Expects = "counts"
    inputs: dict[str, Input] = MMVAE.inputs
    modalities: tuple[str, ...] = MODALITIES
    recipes = {"auto": {"max_epochs": 50, "batch_size": 512, "weight_decay": 0.0}}
    measure = staticmethod(measure)

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        _refuse_covariates(reference)
        self.reference, self.config = reference, config
        self.modalities = tuple(name for name in MODALITIES if name == "rna" or name in reference.n_extra)
        check_tied("pcca", reference, self.modalities)
        self.layout = Layout(config.n_latent, config.n_private, len(self.modalities), reference.n_batches)
        sizes = [reference.n_genes, *(reference.n_extra[name] for name in self.modalities[1:])]
        own = [torch.randn(size, self.layout.n_own) * START for size in sizes]
        for coefficient in own:
            coefficient[:, : self.layout.n_fixed] = 0
        self.coefficient = nn.ParameterList(own)
        self.log_noise = nn.ParameterList(torch.zeros(size) for size in sizes)
        means = reference.arrays.get("mean_log_total")
        self.register_buffer("mean_log_total", torch.zeros(2) if means is None else torch.tensor(means))
        self.running = RunningMoments(self.layout, sizes)
        self._seen: list[Moments] = []

    @property
    def factors(self) -> Factors:
        """The parameters."""
        return Factors(self.layout, tuple(self.coefficient), tuple(log.exp() for log in self.log_noise))

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        y, known = self._signals(cells)
        factors = self.factors
        loss = -factors.log_likelihood(y, known, cells.batch).mean()
        if self.training:
            with torch.no_grad():
                self._seen.append(self._moments(factors, y, known, cells.batch, step))
        return Loss(loss, {"reconstruction": loss}, len(cells))

    def after_step(self, step: Step) -> None:
        """The M-step."""
        share = (1 + step.number) ** -FORGETTING
        for moments in self._seen:
            self.running.keep(self.running.toward(moments, share))
        self._seen.clear()
        found = maximized(self.layout, self.running.moments)
        for i, (coefficient, noise) in enumerate(zip(found.coefficient, found.noise, strict=True)):
            if self.running.moments.count[i] > 0:  # else no cell so far had the modality
                self.coefficient[i].copy_(coefficient)
                self.log_noise[i].copy_(noise.log())

    def embed(self, cells: CellBatch, modality: str | None = None) -> State:
        """Mean of the shared factors by all that was measured, or by one modality; NaN where that was not."""
        y, known = self._signals(cells)
        if modality is None:
            return self.factors.posterior(y, known, cells.batch).mean[:, : self.config.n_latent]
        return self.factors.shared_by(self.modalities.index(modality), y, known, cells.batch)

    def posterior(self, cells: CellBatch) -> tuple[Float[Tensor, "cell factor"], Float[Tensor, "cell factor"]]:
        """Mean and variance of all factors, the shared ones first, then those of each modality."""
        found = self.factors.posterior(*self._signals(cells), cells.batch)
        return found.mean, found.variance

    def transform_latent(self, z: Float[Tensor, "cell factor"]) -> Float[Tensor, "cell factor"]:
        return z

    def log_library(self, cells: CellBatch) -> CellValue:
        """Logarithm of the total of the genes; the mean of cells where RNA was not measured."""
        return self._log_total(cells.x, 0)

    def decode(
        self,
        z: Float[Tensor, "cell factor"],
        cells: CellBatch,
        batch: CellCode | None = None,
        log_library: CellValue | None = None,
    ) -> dict[str, Distribution]:
        """Distributions of all modalities, measured or not, of cells with the factors z, as if measured in `batch`."""
        factors, found = self.factors, {}
        for i, name in enumerate(self.modalities):
            mean = factors.expected(i, z, cells.batch if batch is None else batch)
            unit = mean.new_ones(len(mean), 1)
            if name != "protein":
                library = log_library if name == "rna" else self._log_total(cells.extra[name], 1)
                unit = SCALE / (self.log_library(cells) if library is None else library).exp()
            found[name] = LogNormal(mean, factors.noise[i].sqrt(), unit)
        return found

    def normalized_expression(
        self,
        z: Float[Tensor, "cell factor"],
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell feature"]:
        """Expected share of each gene or peak, or expected count of each protein, as if measured in `batch`."""
        name = modality or "rna"
        found = self.decode(z, cells, batch)[name].mean
        found = found if name == "protein" else found / found.sum(1, keepdim=True).clamp(min=1e-8)
        return found if out is None else out.copy_(found)

    def _moments(self, factors: Factors, y: list[Tensor], known: Tensor, batch: Tensor, step: Step) -> Moments:
        """Of a minibatch. The first also says where features are and how they vary, to start the E-step from."""
        if step.number == 0:
            factors = _around(factors, y, known)
        return Moments.of(self.layout, factors.posterior(y, known, batch), y, known, batch).per_cell()

    def _signals(self, cells: CellBatch) -> tuple[list[Tensor], Bool[Tensor, "cell modality"]]:
        """Logarithms of what was measured, and in which cells. A missing protein, beside others, counts as 0."""
        found, known = [], []
        for name in self.modalities:
            x = cells.x if name == "rna" else cells.extra[name]
            if isinstance(x, SparseRows):
                total = x.sum()
                found.append(x.dense((x.data * (SCALE / total.clamp(min=1))[x.row]).log1p()))
            else:
                x = x.nan_to_num(0.0)
                total = x.sum(1)
                found.append(x.log1p())
            known.append(total > 0)
        return found, torch.stack(known, 1)

    def _log_total(self, x: SparseRows, column: int) -> CellValue:
        total = x.sum()
        mean: Any = self.mean_log_total
        return total.clamp(min=1).log().where(total > 0, mean[column])[:, None]


def _around(factors: Factors, y: list[Tensor], known: Tensor) -> Factors:
    """The factors with the offsets and deviations of these cells."""
    coefficient, noise = [], []
    for i, (values, given) in enumerate(zip(y, factors.coefficient, strict=True)):
        there = values[known[:, i]]
        there = there if len(there) > 1 else values
        spread = there.var(0, correction=0).clamp(min=1e-4)
        scaled = given * spread.sqrt()[:, None]
        scaled[:, 0] = there.mean(0)
        coefficient.append(scaled)
        noise.append(spread)
    return Factors(factors.layout, tuple(coefficient), tuple(noise))


def _refuse_covariates(reference: Reference) -> None:
    if reference.n_categories or reference.n_continuous or reference.size_factor:
        raise OptionError("'pcca' corrects for the batch alone", "leave other covariates and size factors out")
