"""DestVI: spots as mixtures of cells in the states that a CondSCVI knows (Lopez et al. 2022, Nature Biotechnology).

    v     = softmax(proportions network(x))             share of each type in the RNA of the spot, and of what is new
    s, w  = state network(x)                            states of the cells of each type in the spot, and their weights
    share = sum over types of v * sum over states of w * softmax(decoder(s, type, batch) + b), plus v_new * softmax(e)
    x     ~ NB(l * share, r)                            counts; l is their total

The decoder is that of a CondSCVI, and is not trained; b, the platform effect of each gene, has the prior Normal(0, 1).
Proportions and states may also be free parameters of each spot (`amortization`). Training minimizes, a mean over spots,

    reconst_weight * -log p(x) + kl_weight * (state + sparsity) - beta_reg * log p(b) + augmentation

with state = -log p(s) under the mixture of each type, sparsity = ct_sparsity_weight * entropy(v) + eta_reg * sum of
v_new over the minibatch, and augmentation = weighting_augmentation * KL(true composition || v) of simulated spots. With
`smoothed_layer` the counts smoothed over neighbors are one more copy of each spot in all terms but sparsity, and
weighting_smoothing * KL(v of the smoothed || v of the observed) is added.

Proportions are shares of RNA, not of cells. Options and constants are those of scvi-tools 1.4. Unlike there, either
prior of CondSCVI will do, free proportions are a softmax in all places, with prior_mode="normal" the state of a spot
does not depend on the other spots of its minibatch, and training can be continued.
"""

from __future__ import annotations

from scduet._torch import torch

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Reference, Step
from scduet.data import schema
from scduet.errors import OptionError
from scduet.models.spatial.augmentation import Components, Copies, augmented
from scduet.models.spatial.components import components_of
from scduet.models.spatial.compositions import clamped_log, divergence
from scduet.models.spatial.condscvi import EMBEDDING
from scduet.models.spatial.state_prior import LOG_2PI, Mixture, of_states
from scduet.nn.layers import MLP, GaussianEncoder, kl_to_normal, rsample
from scduet.nn.mixed_shares import Frozen, mixed, negative_binomial
from scduet.options import check_network

SMOOTHED = Input(
    "smoothed_layer", values="nonnegative", may_miss=True, required=False, look_in=("layers",), of_genes=True
)
MINIBATCH = 128  # spots of a step, unless the user says otherwise
STATE_LAYERS = 2  # of the network of states


@dataclass(frozen=True)
class Fields(schema.Fields):
    smoothed_layer: str | None = None
    """Layer of the counts smoothed over neighboring spots, whose proportions those of the spots are drawn to."""


@dataclass(frozen=True)
class Config:
    dropout_amortization: float = 0.03
    """Share of hidden units that the network of states drops in training."""
    augmentation: bool = True
    """Train on simulated spots too."""
    n_samples_augmentation: int = 2
    """Copies of each minibatch to simulate: one as a whole, the others mixed with the observed spots."""
    n_states_per_label: int = 3
    """States of each type in a spot, where a network gives them."""
    eps_v: float = 2e-3
    """Added to each proportion in training."""
    amortization: Literal["both", "latent", "proportion", "none"] = "both"
    """What a network gives: proportions and states, one of them, or none; the rest are free parameters of each spot."""
    prior_mode: Literal["mog", "normal"] = "mog"
    """Prior of the states: the mixture of each type, several states a type; or the same for one state of each type."""
    vamp_prior_p: int = 15
    """Components for each type where CondSCVI was trained with prior="normal"."""
    add_celltypes: int = 1
    """Further types, which the reference does not know."""
    n_latent_amortization: int | None = None
    """Dimensions of a latent space from which the networks read; None to read the counts."""
    ct_sparsity_weight: float = 2.0
    """Weight of the entropy of the proportions."""
    weighting_augmentation: float = 100.0
    """Weight of the error in the composition of simulated spots."""
    weighting_smoothing: float = 100.0
    """Weight of the difference between the proportions of spots and those of their smoothed counts."""
    eta_reg: float = 1.0
    """Weight of the proportions of the further types."""
    beta_reg: float = 1.0
    """Weight of the prior of the platform effects."""
    weighting_kl_latent: float = 1e-3
    """Weight of the KL term of the latent space of n_latent_amortization."""
    reconst_weight: float = 3.0
    """Weight of the reconstruction."""

    def __post_init__(self) -> None:
        check_network(self)
        for name in ("vamp_prior_p", "add_celltypes"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)!r}", "it is a whole number from 1 up")


def recipe(n_spots: int, max_epochs: int | None) -> dict[str, object]:
    """1,000 steps for up to some 300 spots, which more would overfit, rising to 8,000 from 1,000 spots on."""
    steps = max(1000, min(8000, round(8e-3 * n_spots**2)))
    epochs = max_epochs or max(200, min(1000, round(steps / math.ceil(n_spots / MINIBATCH))))
    return {"max_epochs": epochs, "lr": 3e-3, "train_size": 1.0, "kl_warmup_epochs": max(1, min(200, epochs // 5))}


class DestVI(nn.Module):
    Config, Fields = Config, Fields
    inputs = {"smoothed": SMOOTHED}
    players = ("model",)
    expects: Expects = "counts"
    needs = {"single_cell": "condscvi"}
    measure_held = staticmethod(components_of)
    recipes = {
        "auto": recipe,
        "scvi-tools": {"max_epochs": 2000, "lr": 3e-3, "train_size": 1.0, "kl_warmup_epochs": 200},
    }
    component_mean: Float[Tensor, "label component latent"]
    component_variance: Float[Tensor, "label component latent"]
    component_weight: Float[Tensor, "label component"]

    @staticmethod
    def per_cell(config: Config) -> bool:
        return config.amortization != "both"

    def __init__(self, reference: Reference, config: Config, single_cell: Any):
        super().__init__()
        known, sizes = single_cell.module, single_cell.config
        if reference.n_categories or reference.n_continuous or reference.size_factor:
            raise OptionError("'destvi' corrects for batch_key alone", "leave covariates and size factors out")
        self.reference, self.config = reference, config
        self.n_labels, self.n_latent, n_genes = single_cell.reference.n_labels, sizes.n_latent, reference.n_genes
        self.networks = config.amortization in ("both", "proportion"), config.amortization in ("both", "latent")
        self.mixes = config.prior_mode == "mog" and self.networks[1]
        self.n_modes = config.n_states_per_label if self.mixes else 1
        for name in ("component_mean", "component_variance", "component_weight"):
            self.register_buffer(name, torch.tensor(reference.arrays[name]))
        self.decoder = _frozen(known.decoder)
        self.share = _frozen(known.share)
        self.log_dispersion = nn.Parameter(known.log_dispersion.detach().clone())
        self.batch_embedding = nn.Embedding(reference.n_batches, EMBEDDING)
        self.extra_logits = nn.Parameter(torch.zeros(config.add_celltypes, n_genes))
        self.platform = nn.Parameter(torch.zeros(n_genes))
        width, layers = sizes.n_hidden, sizes.n_layers
        if config.n_latent_amortization is not None and any(self.networks):
            dropout = config.dropout_amortization
            body = MLP(
                n_genes, width, layers, (reference.n_batches,), dropout=dropout, batch_norm=False, layer_norm=True
            )
            self.encoder = GaussianEncoder(body, width, config.n_latent_amortization)
        n_in = config.n_latent_amortization or n_genes
        if self.networks[1]:
            self.state_body = MLP(
                n_in, width, STATE_LAYERS, dropout=config.dropout_amortization, batch_norm=False, layer_norm=True
            )
            self.state_head = nn.Linear(width, self.n_labels * self.n_modes * (self.n_latent + self.mixes))
        else:
            self.free_states = nn.Parameter(torch.randn(reference.n_cells, self.n_labels, self.n_latent))
        if self.networks[0]:
            self.proportion_body = MLP(n_in, width, layers, batch_norm=False, layer_norm=True)
            self.proportion_head = nn.Linear(width, self.n_labels + config.add_celltypes)
        else:
            self.free_proportions = nn.Parameter(torch.randn(reference.n_cells, self.n_labels + config.add_celltypes))

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        seen = _seen(cells)
        if not (self.training and self.config.augmentation):
            return self.loss_of(seen, cells, step, None)
        with torch.no_grad():
            decoder, r = self._decoder_of(cells.batch), self.log_dispersion.exp()
            made = augmented(seen, self.config.n_samples_augmentation, self.components, decoder, r, step.generator)
        return self.loss_of(made.x, cells, step, made)

    def loss_of(self, x: Float[Tensor, "copy spot gene"], cells: CellBatch, step: Step, made: Copies | None) -> Loss:
        """The loss of copies of a minibatch; made: how they were simulated, None for the spots as seen alone."""
        c, mixture, n_seen = self.config, self.mixture(x, cells), len(x) if made is None else made.n_seen
        of_spots = mixture.proportions[0]
        reconstruction = -self._log_likelihood(x, cells, mixture).mean()
        prior = of_states(mixture, made, self.components, self.mixes)
        state = (prior + c.weighting_kl_latent * mixture.kl).mean()
        entropy = -(of_spots * clamped_log(of_spots)).sum(-1).mean()
        sparsity = c.ct_sparsity_weight * entropy + c.eta_reg * of_spots[:, self.n_labels :].sum()
        effects = 0.5 * (self.platform.square() + LOG_2PI).sum()
        terms = {"reconstruction": reconstruction, "state": state, "sparsity": sparsity, "platform": effects}
        total = c.reconst_weight * reconstruction + step.kl_weight * (state + sparsity) + c.beta_reg * effects
        if made is not None:
            terms["augmentation"] = divergence(made.composition[n_seen], mixture.proportions[n_seen])
            total = total + c.weighting_augmentation * terms["augmentation"]
        if n_seen > 1:
            terms["smoothing"] = divergence(mixture.proportions[1], of_spots)
            total = total + c.weighting_smoothing * terms["smoothing"]
        return Loss(total, terms, len(cells))

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """The proportions of the types of the reference, which sum to 1."""
        return self.proportions(cells)

    def proportions(self, cells: CellBatch, keep_additional: bool = False) -> Float[Tensor, "cell type"]:
        """Share of each type in the RNA of the spots; keep_additional: of the further types too, which come last."""
        found = self.mixture(cells.x.dense(), cells).proportions
        found = found if keep_additional else found[:, : self.n_labels]
        return found / found.sum(-1, keepdim=True)

    def states(self, cells: CellBatch) -> Float[Tensor, "cell label latent"]:
        """The mean state of the cells of each type in the spots."""
        mixture = self.mixture(cells.x.dense(), cells)
        return (mixture.states * mixture.weights[..., None]).sum(1)

    def type_shares(self, cells: CellBatch, label: int) -> Float[Tensor, "cell gene"]:
        """Expected share of each gene in the cells of a type in the spots; labels from n_labels on: a further type."""
        if label >= self.n_labels:
            return self.extra_logits[label - self.n_labels].softmax(-1).expand(len(cells), -1)
        mixture = self.mixture(cells.x.dense(), cells)
        only = torch.zeros_like(mixture.weights)
        only[..., label] = mixture.weights[..., label]
        return mixed(self._hidden(mixture.states, cells.batch), only, self.platform, self._layer)

    def type_counts(self, cells: CellBatch, label: int) -> Float[Tensor, "cell gene"]:
        """The counts of the spots that a type is expected to have given."""
        x = cells.x.dense()
        mixture = self.mixture(x, cells)
        whole, amount = self._extra(mixture.proportions), self._amount(mixture)
        whole = whole + mixed(self._hidden(mixture.states, cells.batch), amount, self.platform, self._layer)
        return x * mixture.proportions[:, label, None] * self.type_shares(cells, label) / whole

    @property
    def components(self) -> Components:
        return Components(self.component_mean, self.component_variance, self.component_weight)

    def mixture(self, x: Float[Tensor, "*copy spot gene"], cells: CellBatch) -> Mixture:
        """What the networks, or the free parameters, say of the spots."""
        given, kl = x.log1p(), x.new_zeros(x.shape[:-1])
        if hasattr(self, "encoder"):
            given, kl = self._amortized(given, cells)
        if self.networks[0]:
            logits = self.proportion_head(self.proportion_body(given))
        else:
            logits = self.free_proportions[cells.index].expand(*x.shape[:-1], -1)
        return Mixture(logits.softmax(-1), *self._states(given, cells), kl)

    def code_posterior(self, given: Tensor, cells: CellBatch) -> tuple[Tensor, Tensor]:
        """Mean and variance in the latent space of n_latent_amortization, of log(1 + counts) (*copy, spot, gene)."""
        codes = cells.batch.expand(given.shape[:-1]).flatten()
        hidden = self.encoder.body(given.flatten(0, -2), [codes]).view(*given.shape[:-1], -1)
        return self.encoder.mean(hidden), F.softplus(self.encoder.log_variance(hidden)) + self.encoder.floor

    def _amortized(self, given: Tensor, cells: CellBatch) -> tuple[Tensor, Tensor]:
        """A draw in the latent space of n_latent_amortization (in evaluation the mean), and its KL term."""
        mean, variance = self.code_posterior(given, cells)
        return rsample(mean, variance) if self.training else mean, kl_to_normal(mean, variance)

    def _states(self, given: Tensor, cells: CellBatch) -> tuple[Tensor, Tensor]:
        """States, and the weights of those of a type."""
        lead, shape = given.shape[:-1], (self.n_modes, self.n_latent, self.n_labels)  # scvi-tools' order of columns
        if not self.networks[1]:
            states = self.free_states[cells.index][:, None].expand(*lead, 1, -1, -1)
            return states, states.new_ones(states.shape[:-1])
        both = self.state_head(self.state_body(given))
        n = self.n_modes * self.n_latent * self.n_labels
        states = both[..., :n].unflatten(-1, shape).transpose(-1, -2)
        if not self.mixes:
            return states, states.new_ones(states.shape[:-1])
        return states, both[..., n:].unflatten(-1, (self.n_modes, self.n_labels)).softmax(-2)

    def _log_likelihood(self, x: Tensor, cells: CellBatch, mixture: Mixture) -> Float[Tensor, " row"]:
        eps = self.config.eps_v if self.training else 0.0
        rows = x.flatten(0, 1)
        batch = cells.batch.expand(x.shape[:2]).flatten()
        hidden = self._hidden(mixture.states.flatten(0, 1), batch)
        parts = self._amount(mixture, eps).flatten(0, 1), self._extra(mixture.proportions, eps).flatten(0, 1)
        library = rows.sum(1, keepdim=True)
        return negative_binomial(rows, library, hidden, *parts, self.platform, self.log_dispersion, self._layer)

    def _amount(self, mixture: Mixture, eps: float = 0.0) -> Float[Tensor, "*row mode label"]:
        """Share of each state in the RNA of the spot."""
        return (mixture.proportions[..., None, : self.n_labels] + eps) * mixture.weights

    def _extra(self, proportions: Tensor, eps: float = 0.0) -> Float[Tensor, "*row gene"]:
        """What the further types add to the shares of genes."""
        return (proportions[..., self.n_labels :] + eps) @ self.extra_logits.softmax(-1)

    @property
    def _layer(self) -> Frozen:
        table = self.share.covariate
        return Frozen(self.share.weight, self.share.bias + table.get("0", 0.0))

    def _hidden(
        self, states: Float[Tensor, "row mode label latent"], batch: Int[Tensor, " row"]
    ) -> Float[Tensor, "row mode label hidden"]:
        """The decoder's last layer, of one state of every label at a time."""
        vector = self.batch_embedding(batch)[:, None, None].expand(*states.shape[:-1], -1)
        hidden = torch.cat([states, vector], -1)
        for i, linear in enumerate(self.decoder.linear):
            out = F.linear(hidden, linear.weight, linear.bias)
            hidden = self.decoder.units(i, out + linear.covariate["0"] if "0" in linear.covariate else out)
        return hidden

    def _decoder_of(self, batch: Int[Tensor, " spot"]):
        """Shares of genes of single states, for the augmentation."""

        def decode(states: Tensor, spot: Tensor, label: Tensor) -> Tensor:
            hidden = self.decoder(torch.cat([states, self.batch_embedding(batch[spot])], -1), [label])
            return (self.share(hidden, [label]) + self.platform).softmax(-1)

        return decode


def _frozen(part: nn.Module) -> Any:
    return copy.deepcopy(part).requires_grad_(False)


def _seen(cells: CellBatch) -> Float[Tensor, "copy spot gene"]:
    """The spots, and beside them their smoothed counts if the model has these; for those that lack them the spot."""
    x, smoothed = cells.x.dense(), cells.extra.get("smoothed")
    return x[None] if smoothed is None else torch.stack([x, torch.where(smoothed.isnan(), x, smoothed)])
