"""PeakVI: a variational autoencoder of which peaks are open in a cell (Ashuach et al. 2022, Cell Reports Methods).

    z     ~ Normal(0, I)                         state of the cell; with latent_distribution="ln" a softmax of it
    d     = sigmoid(depth network(x))            depth of the cell: how much of what is open is seen, 0 to 1
    f     = sigmoid(region_logit)                factor of a peak: how well it is seen (width, sequence), 0 to 1
    p     = sigmoid(decoder(z, batch, ...))      probability that a peak is open: the accessibility
    x > 0 ~ Bernoulli(p * d * f)

    q(z | x) = Normal(encoder(x))                the counts as they are

Training minimizes -log p(x | z) + kl_weight * BETA * KL(q(z|x) || p(z)), a mean over cells. The loss of scvi-tools is
`batch_size * sum(reconstruction) + sum(KL)`: a beta-VAE whose beta is one over the size of a minibatch, by default
1/128. Here it is that constant whatever the minibatches are; `max_kl_weight=128` gives the bound as published, which on
small data pulls the posterior into the prior. Options and initial weights are those of scvi-tools 1.4.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from scduet.contract import CellBatch, Expects, Loss, Player, Reference, SparseRows, Step
from scduet.errors import OptionError
from scduet.nn.distributions import Bernoulli, Distribution
from scduet.nn.gaussians import softmax_mean
from scduet.nn.heads import head, write_logits
from scduet.nn.layers import MLP, Codes, GaussianEncoder, kl_to_normal, rows_beside, rsample
from scduet.nn.sparse_bernoulli import bernoulli
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

BETA = 1 / 128  # weight of the KL term beside the reconstruction of a cell

# On A549 (sci-CAR, 1,321 cells x 15,577 peaks) "auto" was best after 5 epochs, at a held-out reconstruction of 1344.4,
# "scvi-tools" after 148, at 1344.6. Trained on, both overfit.
RECIPES = {
    "auto": {"lr": 1e-3, "weight_decay": 1e-3, "adam_eps": 1e-8, "early_stopping": True},
    "scvi-tools": {
        "max_epochs": 500,
        "lr": 1e-4,
        "weight_decay": 1e-3,
        "adam_eps": 1e-8,
        "kl_warmup_epochs": 50,
        "validate_every": 1,
        "early_stopping": True,
        "early_stopping_patience": 50,
    },
}


@dataclass(frozen=True)
class Config:
    n_hidden: int | None = None
    """Width of the hidden layers; None for the square root of the number of peaks."""
    n_latent: int | None = None
    """Dimensions of the latent space; None for the square root of n_hidden."""
    n_layers_encoder: int = 2
    """Hidden layers of the encoder and of the network of the depth."""
    n_layers_decoder: int = 2
    """Hidden layers of the decoder."""
    dropout_rate: float = 0.1
    """Share of hidden units that the encoder drops in training."""
    model_depth: bool = True
    """Learn a depth of each cell."""
    region_factors: bool = True
    """Learn a factor of each peak."""
    use_batch_norm: Literal["encoder", "decoder", "none", "both"] = "none"
    """Where batch normalization is used."""
    use_layer_norm: Literal["encoder", "decoder", "none", "both"] = "both"
    """Where layer normalization is used."""
    latent_distribution: Literal["normal", "ln"] = "normal"
    """Prior of the latent space: normal, or logistic-normal."""
    deeply_inject_covariates: bool = False
    """Show categorical covariates to every hidden layer of the decoder, not only to the first."""
    encode_covariates: bool = False
    """Show the batch and the covariates to the encoder too."""

    def __post_init__(self) -> None:
        check_network(self)


def sizes(config: Any, n_peaks: int) -> tuple[int, int]:
    """Width of the hidden layers, and dimensions of the latent space, of a model of so many peaks."""
    n_hidden = config.n_hidden or isqrt(n_peaks)
    return n_hidden, config.n_latent or isqrt(n_hidden)


class PeakDecoder(nn.Module):
    """Probability that each peak is open in cells of given states, and how well each peak is seen."""

    def __init__(self, body: MLP, n_hidden: int, n_peaks: int, region_factors: bool):
        super().__init__()
        self.body = body
        self.logit = nn.Linear(n_hidden, n_peaks)
        self.region_logit = nn.Parameter(torch.zeros(n_peaks)) if region_factors else None

    def log_likelihood(
        self, x: SparseRows, z: Float[Tensor, "cell in"], codes: Codes, depth_logit: CellValue | None
    ) -> Float[Tensor, " cell"]:
        """log p of which peaks are seen to be open, summed over peaks."""
        return bernoulli(x, head(self.logit, self.body(z, codes)), depth_logit, self.region_logit)

    def probability(
        self, z: Float[Tensor, "cell in"], codes: Codes, out: Tensor | None = None
    ) -> Float[Tensor, "cell peak"]:
        """That a peak is open, whether it is seen or not; written to `out`, if no gradient is asked for."""
        hidden = self.body(z, codes)
        if out is None:
            return self.logit(hidden).sigmoid()
        return torch.sigmoid(write_logits(out, self.logit, hidden), out=out)

    def region_factors(self) -> Float[Tensor, " peak"]:
        return torch.ones_like(self.logit.bias) if self.region_logit is None else self.region_logit.sigmoid()


class DepthEncoder(nn.Module):
    """Logit of the depth of each cell. A plain network, without a variance or dropout."""

    def __init__(self, body: MLP, n_hidden: int):
        super().__init__()
        self.body = body
        self.logit = nn.Linear(n_hidden, 1)

    def forward(self, x: SparseRows, codes: Codes = ()) -> CellValue:
        return self.logit(self.body(x, codes))


class PeakVI(nn.Module):
    Config = Config
    players = (Player(optimizer="adamw"),)
    expects: Expects = "counts"
    modalities = ("peaks",)
    accessibility_unit = "probability"
    recipes = RECIPES

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        if reference.size_factor:
            raise OptionError("size_factor_key: 'peakvi' learns the depth of each cell", "leave it out")
        n_peaks, (n_hidden, self.n_latent) = reference.n_genes, sizes(config, reference.n_genes)
        levels = reference.n_batches, *reference.n_categories
        encoded = {"levels": levels if config.encode_covariates else (), "activation": "leaky_relu", "sparse": True}
        shape = n_peaks + reference.n_continuous * config.encode_covariates, n_hidden, config.n_layers_encoder
        body = MLP(*shape, dropout=config.dropout_rate, **self._norms("encoder"), **encoded)
        self.encoder = GaussianEncoder(body, n_hidden, self.n_latent, floor=0.0)
        body = MLP(
            self.n_latent + reference.n_continuous,
            n_hidden,
            config.n_layers_decoder,
            levels,
            inject=config.deeply_inject_covariates,
            activation="leaky_relu",
            **self._norms("decoder"),
        )
        self.peaks = PeakDecoder(body, n_hidden, n_peaks, config.region_factors)
        if config.model_depth:
            body = MLP(*shape, inject=False, batch_norm=False, layer_norm=True, **encoded)
            self.depth = DepthEncoder(body, n_hidden)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        terms = {name: values.mean() for name, values in self.cell_terms(cells).items()}
        return Loss(terms["reconstruction"] + step.kl_weight * BETA * terms["kl"], terms, len(cells))

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, at a draw of its state."""
        mean, variance = self.posterior(cells)
        z, kl = self.transform_latent(rsample(mean, variance)), kl_to_normal(mean, variance)
        return {"reconstruction": -self.log_likelihood(z, cells), "kl": kl}

    def embed(self, cells: CellBatch) -> State:
        """Posterior mean of z. For "ln" the mean over draws, whose noise is fixed and the same for every cell."""
        mean, variance = self.posterior(cells)
        return mean if self.config.latent_distribution == "normal" else softmax_mean(mean, variance)

    def posterior(self, cells: CellBatch) -> tuple[State, State]:
        """Mean and variance of q(z | x), before the softmax of "ln"."""
        return self.encoder(*self._encoder_input(cells))

    def transform_latent(self, z: State) -> State:
        return z.softmax(-1) if self.config.latent_distribution == "ln" else z

    def log_likelihood(
        self, z: State, cells: CellBatch, log_library: CellValue | None = None
    ) -> Float[Tensor, " cell"]:
        """log p(x > 0 | z), summed over peaks. The depth takes the place of a library size."""
        return self.peaks.log_likelihood(cells.x, *self._decoder_input(z, cells, cells.batch), self._depth_logit(cells))

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        """Which peaks are seen to be open in cells in the states z, as if measured in `batch`."""
        seen = self.normalized_expression(z, cells, batch) * self.cell_factors(cells) * self.region_factors()
        return {"peaks": Bernoulli(seen)}

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell peak"]:
        """Probability p that each peak is open, without the depth of the cell and the factor of the peak."""
        return self.peaks.probability(*self._decoder_input(z, cells, cells.batch if batch is None else batch), out)

    def accessibility(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, region_factors: bool = False
    ) -> Float[Tensor, "cell peak"]:
        """The probability that each peak is open, or with `region_factors` that it would be seen at full depth."""
        open_ = self.normalized_expression(z, cells, batch)
        return open_ * self.region_factors() if region_factors else open_

    def cell_factors(self, cells: CellBatch) -> CellValue:
        """The depth d of each cell; 1 where it is not learned."""
        logit = self._depth_logit(cells)
        return torch.ones(len(cells), 1, device=cells.batch.device) if logit is None else logit.sigmoid()

    def region_factors(self) -> Float[Tensor, " peak"]:
        """The factor f of each peak; 1 where it is not learned."""
        return self.peaks.region_factors()

    def _depth_logit(self, cells: CellBatch) -> CellValue | None:
        return self.depth(*self._encoder_input(cells)) if self.config.model_depth else None

    def _norms(self, side: Literal["encoder", "decoder"]) -> dict[str, bool]:
        batch, layer = self.config.use_batch_norm, self.config.use_layer_norm
        return {"batch_norm": batch in (side, "both"), "layer_norm": layer in (side, "both")}

    def _encoder_input(self, cells: CellBatch) -> tuple[SparseRows, Codes]:
        if not self.config.encode_covariates:
            return cells.x, ()
        continuous = cells.covariates.continuous
        return cells.x if continuous is None else rows_beside(cells.x, continuous), _codes(cells, cells.batch)

    def _decoder_input(self, z: State, cells: CellBatch, batch: CellCode) -> tuple[Float[Tensor, "cell in"], Codes]:
        continuous = cells.covariates.continuous
        return z if continuous is None else torch.cat([z, continuous], -1), _codes(cells, batch)


def _codes(cells: CellBatch, batch: CellCode) -> Codes:
    extra = cells.covariates.categorical
    return [batch, *([] if extra is None else extra.unbind(1))]
