"""The networks of MultiVI: of each modality an encoder, what it needs beside the state, and a decoder."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from math import isqrt
from types import SimpleNamespace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from scduet.contract import CellBatch, Reference
from scduet.models.multimodal.peakvi import DepthEncoder, PeakDecoder
from scduet.models.multimodal.proteins import Branch, ProteinDecoder
from scduet.models.rna import scvi
from scduet.nn.layers import MLP, Codes, GaussianEncoder, rows_beside
from scduet.shapes import CellCode, State

LARGEST_HIDDEN = 128  # width of the hidden layers, unless it is given
PROTEIN_DROPOUT = 0.1  # of the proteins' decoder, whatever the option


@dataclass(frozen=True)
class Networks:
    """Makes them for data of these sizes. All but the decoders of genes and proteins have LeakyReLU."""

    reference: Reference
    config: Any

    @property
    def n_hidden(self) -> int:
        return self.config.n_hidden or min(LARGEST_HIDDEN, isqrt(self.reference.n_extra["peaks"]))

    @property
    def n_latent(self) -> int:
        return self.config.n_latent or isqrt(self.n_hidden)

    def encoder(self, n_features: int, sparse: bool) -> GaussianEncoder:
        """Of peaks or proteins. It shows covariates to every layer, unlike that of genes."""
        body = self._encoder_body(n_features, True, self.config.dropout_rate, sparse)
        return GaussianEncoder(body, self.n_hidden, self.n_latent, floor=0.0)

    def factor(self, n_features: int) -> DepthEncoder:
        """What a cell's depth, or the logarithm of its library size, is made of."""
        body = self._encoder_body(n_features, self.config.deeply_inject_covariates, 0.0, sparse=True)
        return DepthEncoder(body, self.n_hidden)

    def rna(self) -> scvi.SCVI:
        """A scVI of raw counts, whose library size is given to it."""
        c, r = self.config, self.reference
        options = scvi.Config(
            n_hidden=self.n_hidden,
            n_latent=self.n_latent,
            n_layers=c.n_layers_encoder,
            dropout_rate=c.dropout_rate,
            dispersion=c.dispersion,
            gene_likelihood=c.gene_likelihood,
            log_variational=False,
            encode_covariates=c.encode_covariates,
            deeply_inject_covariates=c.deeply_inject_covariates,
            use_batch_norm=c.use_batch_norm,
            use_layer_norm=c.use_layer_norm,
        )
        decoder = self._decoder_body(c.deeply_inject_covariates, "relu")
        parts = {"decoder": decoder, "head": lambda: nn.Linear(self.n_hidden, r.n_genes)}
        made = scvi.SCVI(r, options, **parts, activation="leaky_relu", sparse=True)
        made.encoder.floor = 0.0
        return made

    def peaks(self) -> PeakDecoder:
        body = self._decoder_body(self.config.deeply_inject_covariates, "leaky_relu")
        return PeakDecoder(body, self.n_hidden, self.reference.n_extra["peaks"], self.config.region_factors)

    def proteins(self) -> ProteinDecoder:
        """That of totalVI, without an efficiency of the batch."""
        c, n_state = self.config, self.n_latent + self.reference.n_continuous
        options = SimpleNamespace(
            protein_dispersion=c.protein_dispersion,
            override_missing_proteins=c.override_missing_proteins or c.as_in_scvi_tools,
            empirical_protein_background_prior=None,
            background_activation="exp" if c.as_in_scvi_tools else "softplus",  # as in totalVI
            protein_efficiency=False,
        )

        def branch(**heads: int) -> Branch:
            body = self._decoder_body(True, "relu", PROTEIN_DROPOUT)
            return Branch(body, self.n_hidden, n_state, self._levels, **heads)

        return ProteinDecoder(self.reference, options, branch)

    @property
    def _levels(self) -> tuple[int, ...]:
        return self.reference.n_batches, *self.reference.n_categories

    def _encoder_body(self, n_features: int, inject: bool, dropout: float, sparse: bool) -> MLP:
        n_in = n_features + self.reference.n_continuous * self.config.encode_covariates
        levels = self._levels if self.config.encode_covariates else ()
        options = {"inject": inject, "dropout": dropout, "sparse": sparse, **self._norms("encoder")}
        return MLP(n_in, self.n_hidden, self.config.n_layers_encoder, levels, activation="leaky_relu", **options)

    def _decoder_body(self, inject: bool, activation: Literal["relu", "leaky_relu"], dropout: float = 0.0) -> MLP:
        n_in, n_layers = self.n_latent + self.reference.n_continuous, self.config.n_layers_decoder
        options = {"inject": inject, "dropout": dropout, **self._norms("decoder")}
        return MLP(n_in, self.n_hidden, n_layers, self._levels, activation=activation, **options)

    def _norms(self, side: Literal["encoder", "decoder"]) -> dict[str, bool]:
        batch, layer = self.config.use_batch_norm, self.config.use_layer_norm
        return {"batch_norm": batch in (side, "both"), "layer_norm": layer in (side, "both")}


def encoder_input(cells: CellBatch, x: Any, with_covariates: bool) -> tuple[Any, Codes]:
    """Counts of one modality, on request beside the covariates."""
    if not with_covariates:
        return x, ()
    more = cells.covariates.continuous
    if more is not None:
        x = torch.cat([x, more], -1) if isinstance(x, Tensor) else rows_beside(x, more)
    return x, codes_of(cells, cells.batch)


def decoder_input(z: State, cells: CellBatch, batch: CellCode | None = None) -> tuple[Float[Tensor, "cell in"], Codes]:
    """The state beside the continuous covariates, and the categorical ones, as if measured in `batch`."""
    continuous = cells.covariates.continuous
    state = z if continuous is None else torch.cat([z, continuous], -1)
    return state, codes_of(cells, cells.batch if batch is None else batch)


def codes_of(cells: CellBatch, batch: CellCode) -> Codes:
    extra = cells.covariates.categorical
    return [batch, *([] if extra is None else extra.unbind(1))]
