"""trVAE: a conditional autoencoder whose decoder sees like states in all conditions (Lotfollahi et al. 2020).

    z     ~ Normal(0, I)                        state of the cell
    h     = first layer of decoder(z, condition)
    share = softmax(other layers(h))
    x     ~ NB(l * share, r)                    counts; the rest as in scVI

Training minimizes scVI's loss + mmd_weight * MMD²(h of one condition, h of another), a mean over pairs of conditions.
The condition is `batch_key`, and minibatches hold equally many cells of each. A cell is predicted in another condition
by decoding its state there: `normalized_expression(transform_batch=)`.

Source: Lotfollahi, Naghipourfar, Theis and Wolf 2020, Bioinformatics 36:i610. Theirs reads log-normalized values with a
squared error; here scVI's likelihood of counts is kept. Without the term it is scVI, i.e. a conditional VAE.
"""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from dataclasses import asdict, dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.errors import OptionError
from scduet.models.rna import scvi
from scduet.models.rna.scvi import SCVI
from scduet.nn.discrepancy import mmd_between
from scduet.nn.layers import kl_to_normal, rsample
from scduet.options import check_network
from scduet.shapes import State

OWN = ("mmd_weight", "mmd_on")  # options that scVI does not have


@dataclass(frozen=True)
class Config:
    n_hidden: int = 128
    """Width of the hidden layers."""
    n_latent: int = 10
    """Dimensions of the latent space."""
    n_layers: int = 2
    """Hidden layers of the encoder and of the decoder."""
    dropout_rate: float = 0.1
    """Share of hidden units that the encoder drops in training."""
    dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene"
    """What the dispersion of a gene may depend on; "gene-batch" is the condition."""
    gene_likelihood: Literal["nb", "zinb", "poisson"] = "nb"
    """Distribution of the counts."""
    encode_covariates: bool = True
    """Show the condition and the covariates to the encoder too."""
    mmd_weight: float = 1.0
    """Weight of the MMD between conditions; 0 for a scVI."""
    mmd_on: Literal["decoder", "latent"] = "decoder"
    """Where conditions are made alike: the first layer of the decoder, as published, or the latent space."""

    def __post_init__(self) -> None:
        check_network(self)
        if self.mmd_weight < 0:
            raise OptionError(f"mmd_weight={self.mmd_weight!r}", "it cannot be below 0")


class TrVAE(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    measure = staticmethod(scvi.library_moments)
    recipes = {"auto": {"batch_size": 256}}

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        if reference.n_batches < 2:
            raise OptionError("'trvae' needs the condition of the cells", "pass batch_key=, e.g. the treatment")
        self.reference, self.config = reference, config
        given = {name: value for name, value in asdict(config).items() if name not in OWN}
        self.scvi = SCVI(reference, scvi.Config(**given))
        if config.mmd_weight:
            self.strata = "batch"

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        vae, weight = self.scvi, self.config.mmd_weight
        if not weight:
            return vae(cells, step)
        mean, variance = vae.posterior(cells)
        z, kl = rsample(mean, variance), kl_to_normal(mean, variance).mean()
        layers = vae.decoder.layers(vae.joined(z, cells, cells.batch), vae.codes(cells, cells.batch))  # type: ignore[operator]
        error = -vae.log_likelihood(z, cells, vae.log_library(cells), layers[-1]).mean()
        compared = layers[0] if self.config.mmd_on == "decoder" else z
        mmd = mmd_between(compared, cells.batch, self.reference.n_batches)
        terms = {"reconstruction": error, "kl": kl, "mmd": mmd}
        return Loss(error + step.kl_weight * kl + weight * mmd, terms, len(cells))

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        return self.scvi.cell_terms(cells)

    def embed(self, cells: CellBatch) -> State:
        return self.scvi.embed(cells)

    @property
    def vae(self) -> SCVI:
        return self.scvi
