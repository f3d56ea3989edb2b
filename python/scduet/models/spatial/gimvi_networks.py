"""Parts of gimVI: what is measured in both data sets, and the decoder that they share."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import Reference, SparseRows
from scduet.data.sources import Cells
from scduet.errors import DataError
from scduet.models.multimodal.experts import Posterior
from scduet.models.rna.scvi import library_moments
from scduet.nn.layers import MLP, GaussianEncoder
from scduet.shapes import CellCode, CellValue, State

DATA_SETS = ("rna", "spatial")  # also the order in which scvi-tools numbers them
LIBRARY_HIDDEN = 128  # width of the network for the library size, as in scvi-tools
PIECE = 4096  # cells summed together


def measure(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """The panel (gene,), the code of each data set's batches (data set, batch), and moments of the library by code.

    The panel is the genes that the spatial data have counts of. Raises DataError where there are no cells of one of
    the data sets.
    """
    spatial, panel = cells.extra["spatial"], np.zeros(reference.n_genes)
    for start in range(0, len(cells), PIECE):
        rows = spatial.rows(np.arange(start, min(start + PIECE, len(cells))))
        panel += np.bincount(rows.indices, rows.data, reference.n_genes)
    code = np.full((len(DATA_SETS), reference.n_batches), -1)
    moments: list[dict[str, np.ndarray]] = []
    for i, (name, total) in enumerate(zip(DATA_SETS, (cells.total, spatial.totals()), strict=True)):
        batches = np.unique(cells.batch[total > 0])
        if not len(batches):
            raise DataError(f"no cell has counts of {name!r}", "gimvi learns from single cells and spatial data")
        code[i, batches] = code.max() + 1 + np.arange(len(batches))
        found = library_moments(replace(cells, total=total), reference)
        moments.append({key: value.values[batches] for key, value in found.items()})
    library = {key: np.concatenate([part[key] for part in moments]) for key in moments[0]}
    return {"panel": (panel > 0).astype(np.float32), "batch_code": code.astype(np.float32), **library}


class Encoder(nn.Module):
    """q(z | counts): layers of each data set, then those that both share; and q(log l | counts) of those that learn it.

    sizes: number of genes of each data set.
    """

    def __init__(self, sizes: Mapping[str, int], config: Any, learn_library: Collection[str]):
        super().__init__()
        self.log_variational, dropout = config.log_variational, config.dropout_rate_encoder
        width, n_layers = config.dim_hidden_encoder, config.n_layers_encoder_individual
        own = {name: MLP(n, width, n_layers, dropout=dropout, sparse=True) for name, n in sizes.items()}
        shared = MLP(width, width, config.n_layers_encoder_shared, dropout=dropout)
        self.own_layers, self.shared = nn.ModuleDict(own), GaussianEncoder(shared, width, config.n_latent, floor=0.0)
        body = {name: MLP(sizes[name], LIBRARY_HIDDEN, 1, dropout=dropout, sparse=True) for name in learn_library}
        library = {name: GaussianEncoder(layers, LIBRARY_HIDDEN, 1) for name, layers in body.items()}
        self.library = nn.ModuleDict(library)

    def forward(self, name: str, x: SparseRows) -> Posterior:
        """Mean and variance of z."""
        return self.shared(self.own_layers[name](self._shown(x)))

    def library_size(self, name: str, x: SparseRows) -> tuple[CellValue, CellValue | None]:
        """Mean and variance of log l; the variance is None where l is the total."""
        return self.library[name](self._shown(x)) if name in self.library else (x.sum().log()[:, None], None)

    def _shown(self, x: SparseRows) -> SparseRows:
        return replace(x, data=x.data.log1p()) if self.log_variational else x


class Decoder(nn.Module):
    """Shares, dropout and dispersion of all genes, from a state and the code of a batch.

    likelihoods: of the data sets; what none of them has is not made.
    """

    def __init__(self, n_genes: int, n_codes: int, config: Any, likelihoods: Collection[str]):
        super().__init__()
        width, dropout, self.dispersion = config.n_latent, config.dropout_rate_decoder, config.dispersion
        first, last = config.dim_hidden_decoder_individual, config.dim_hidden_decoder_shared
        if config.n_layers_decoder_individual:
            out = first if config.n_layers_decoder_shared else last
            self.own_layers = MLP(width, out, config.n_layers_decoder_individual, (n_codes,), dropout=dropout)
            width = out
        if config.n_layers_decoder_shared:
            self.shared_layers = MLP(width, last, config.n_layers_decoder_shared, dropout=dropout)
            width = last
        self.share = nn.Linear(width, n_genes)
        if "zinb" in likelihoods:
            self.dropout_logits = nn.Linear(width, n_genes)
        if set(likelihoods) == {"poisson"}:
            return
        if self.dispersion == "gene-cell":
            self.log_dispersion_of_cell = nn.Linear(width, n_genes)
        else:
            rows = (n_codes,) if self.dispersion == "gene-batch" else ()
            self.log_dispersion = nn.Parameter(torch.randn(*rows, n_genes))

    def hidden(self, z: State, code: CellCode) -> Float[Tensor, "cell hidden"]:
        """What the heads read: the state itself where there are no hidden layers."""
        if hasattr(self, "own_layers"):
            z = self.own_layers(z, [code])
        return self.shared_layers(z) if hasattr(self, "shared_layers") else z

    def log_dispersion_in(
        self, hidden: Float[Tensor, "cell hidden"], code: CellCode, genes: slice | Int[Tensor, " some"]
    ) -> Float[Tensor, "*#cell some"]:
        """log r of some of the genes."""
        if self.dispersion == "gene-cell":
            layer = self.log_dispersion_of_cell
            return F.linear(hidden, layer.weight[genes], layer.bias[genes])
        table = self.log_dispersion[..., genes]
        return table if self.dispersion == "gene" else F.embedding(code, table)
