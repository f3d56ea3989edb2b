"""MMVAE: autoencoders of genes, proteins and peaks, by preset (Minoura et al. 2021, Cell Reports Methods 1:100071).

    z          state of the cell: normal, Laplace, softmax of a normal, a direction, or a plain vector
    genes:     x ~ NB(total * softmax(genes(z, batch, ...)), r), or Poisson, which given the total is the multinomial
    peaks:     likewise, Poisson by default
    proteins:  y ~ NB(exp(proteins(z, batch, ...)), q)

Each modality m has an expert q_m(z | x_m), an encoder of its own; or one expert reads all. A *view* is a distribution
of z by some of the modalities, made of their experts: their product with the prior, or the moments of their mixture.
Training minimizes, as a mean over the views that a cell has and over cells,

    - sum over targets m of log p(x_m | z) + kl_weight * KL(view || prior),    and align_weight * penalty

The targets of a view are its own modalities, or all that were measured in the cell; the penalty draws the experts of a
cell together. Presets are published members: mvae (Wu and Goodman 2018), scmm (Minoura et al. 2021), mopoe (Sutter,
Daunhawer and Vogt 2021), cobolt (Gong, Zhou and Purdom 2021), clue (Tu et al. 2022), translation (Yang et al. 2021),
jae (Liu et al. 2021), contrastive (as CLIP, Radford et al. 2021), and average, which is near MultiVI. A modality counts
as measured in a cell with any count of it; what was not measured costs nothing.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, replace
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Player, Reference, SparseRows, Step
from scduet.data import schema
from scduet.errors import OptionError
from scduet.models.multimodal import mmvae_parts
from scduet.models.multimodal.experts import Mixture, Part, Posterior
from scduet.models.multimodal.mmvae_measured import MODALITIES, check_tied, measure
from scduet.models.multimodal.mmvae_members import member_of, views_of
from scduet.models.multimodal.mmvae_parts import JointEncoder, Latent, Networks, product
from scduet.models.multimodal.mmvae_penalties import Penalties
from scduet.models.multimodal.multivi_networks import decoder_input, encoder_input
from scduet.nn.distributions import Distribution
from scduet.nn.layers import Codes
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

ADVERSARY = "adversary"
SCALE = 1e4  # total that counts are brought to before the encoders take their logarithms


@dataclass(frozen=True)
class Fields(schema.Fields):
    peaks_key: str | None = None
    """Where the counts of peaks are: a key of obsm, a modality of a MuData, or the feature_types of peaks in X."""
    protein_key: str | None = None
    """Where the protein counts are: a key of obsm, or a modality of a MuData; NaN where a protein was not measured."""


@dataclass(frozen=True)
class Config(mmvae_parts.Sizes):
    preset: (
        Literal["average", "mvae", "mopoe", "scmm", "cobolt", "clue", "contrastive", "translation", "jae"] | None
    ) = None
    """A published member of the family, whose options it sets; None for "average", or what is chosen below."""
    experts: Literal["each", "joint"] | None = None
    """An encoder for each modality (default), or one of all side by side, which takes what is missing for zero."""
    views: Literal["single", "single+all", "subsets", "all"] | None = None
    """Subsets of the modalities whose posteriors are trained; default "all": what was measured, together."""
    fusion: Literal["product", "mean"] | None = None
    """How experts make a view: their product with the prior, or the moments of their mixture (default)."""
    targets: Literal["measured", "own"] | None = None
    """What a view has to explain: all that was measured in the cell (default), or what it was made of."""
    latent_distribution: Literal["normal", "laplace", "ln", "sphere", "point"] | None = None
    """Of the state: normal (default), Laplace, softmax of a normal, normal scaled to length 1, or none."""
    decoder: Literal["mlp", "linear"] | None = None
    """Decoders with hidden layers (default), or linear in the state."""
    align: Literal["none", "jeffreys", "cosine", "contrastive", "adversary"] | None = None
    """What draws the experts of a cell together; default "jeffreys", "none" with a joint expert or points."""
    align_weight: float | None = None
    """Weight of that; None for 1, and for 20 of a cosine or contrast, which are small numbers."""
    subspaces: bool | None = None
    """Give each modality's decoder dimensions of its own, which every expert predicts; default no."""
    supervised: bool | None = None
    """Read the first dimensions as logits of the labels, and keep the batch out of the next ones; default no."""
    gene_likelihood: Literal["nb", "poisson"] | None = None
    """Distribution of the counts of genes; default "nb"."""
    peak_likelihood: Literal["poisson", "nb"] | None = None
    """Distribution of the counts of peaks; default "poisson"."""
    n_latent: int = 20
    """Dimensions of the latent space."""

    def __post_init__(self) -> None:
        check_network(self)
        member_of(self)
        if self.align_weight is not None and self.align_weight < 0:
            raise OptionError(f"align_weight={self.align_weight!r}", "it is 0 or more")


class MMVAE(nn.Module):
    Config, Fields = Config, Fields
    players: tuple[str | Player, ...] = ("model",)
    expects: Expects = "counts"
    inputs = {
        "x": Input("layer", sparse=True, may_miss=True),
        "protein": Input("protein_key", may_miss=True, required=False),
        "peaks": Input("peaks_key", sparse=True, may_miss=True, required=False),
    }
    modalities: tuple[str, ...] = MODALITIES
    recipes = {"auto": {"lr": 3e-3, "adam_eps": 1e-8}}
    measure = staticmethod(measure)

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config, self.member = reference, config, member_of(config)
        self.modalities = tuple(name for name in MODALITIES if name == "rna" or name in reference.n_extra)
        check_tied("mmvae", reference, self.modalities, self.member.align)
        self.latent = Latent(self.member.latent_distribution, config.n_latent)
        self.views = views_of(self.modalities, self.member.views)
        make = Networks(reference, config, self.member, self.modalities)
        self.encoders: Any = make.encoders()
        self.decoders: Any = make.decoders()
        self.mixture = Mixture(len(self.modalities), None, False, False)
        n_features = sum(make.n_features(name) for name in self.modalities)
        sizes = config.n_latent, n_features, len(self.modalities)
        self.penalties = Penalties(reference, self.member, *sizes, config.align_weight)
        for name in ("mean_log_total", "protein_counted"):
            values = reference.arrays.get(name)
            self.register_buffer(name, None if values is None else torch.tensor(values))
        adversarial = self.member.align == "adversary"
        self.players = ("model", Player(ADVERSARY)) if adversarial else ("model",)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        if step.player == ADVERSARY:
            told = self.penalties.adversary.recognition(*self.penalties.told.pop(0))
            return Loss(told, {"recognition": told}, len(cells))
        parts = self.parts(cells)
        experts = self.experts(parts)
        terms = {name: values.mean() for name, values in self._views(parts, experts, cells).items()}
        total = sum((step.kl_weight if name == "kl" else 1) * value for name, value in terms.items())
        mean, _ = self._view(self.modalities, experts, parts, cells)
        for name, (weight, value) in self.penalties(experts, parts, cells, mean, self._drawn).items():
            terms[name] = value
            total = total + weight * value
        return Loss(total, terms, len(cells))  # pyright: ignore[reportArgumentType]

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """The weights of the model, or of its adversary."""
        return [
            p for name, p in self.named_parameters() if name.startswith("penalties.adversary.") == (player == ADVERSARY)
        ]

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, at a draw of its state by all that was measured."""
        parts = self.parts(cells)
        mean, variance = self._view(self.modalities, self.experts(parts), parts, cells)
        z = self._drawn(mean, variance)
        found = {_term(name): -self.likelihood_of(name, z, parts[name], cells) for name in self.modalities}
        return {**found, "kl": self.latent.kl(mean, variance)}

    def embed(self, cells: CellBatch, modality: str | None = None) -> State:
        """State of each cell by all that was measured, or by one modality; NaN where that was not."""
        if modality is None:
            return self.latent.mean(*self.posterior(cells))
        parts = self.parts(cells)
        nowhere = torch.zeros_like(parts[modality].known)
        alone = {name: part if name == modality else replace(part, known=nowhere) for name, part in parts.items()}
        found = self.latent.mean(*self._view((modality,), self.experts(alone), parts, cells))
        return found.where(parts[modality].known[:, None], torch.nan)

    def posterior(self, cells: CellBatch) -> Posterior:
        """Mean and variance of q(z | cell), before the transformation; the prior's for a cell without any count."""
        parts = self.parts(cells)
        return self._view(self.modalities, self.experts(parts), parts, cells)

    def transform_latent(self, z: State) -> State:
        return self.latent.transform(z)

    def log_library(self, cells: CellBatch) -> CellValue:
        """Logarithm of the total of the genes, or of the size factor; the mean of cells where RNA was not measured."""
        if self.reference.size_factor:
            return cells.covariates.size_factor.log()[:, None]  # type: ignore[union-attr]
        return self._log_total(cells.x, 0)

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        """Distributions of all modalities, measured or not, of cells in the states z, as if measured in `batch`."""
        log_library = self.log_library(cells) if log_library is None else log_library
        found = {"rna": self.decoders["rna"].distribution(*self._state("rna", z, cells, batch), log_library)}
        if "protein" in self.modalities:
            found["protein"] = self.decoders["protein"].distribution(*self._state("protein", z, cells, batch))
        if "peaks" in self.modalities:
            library = self._log_total(cells.extra["peaks"], 1)
            found["peaks"] = self.decoders["peaks"].distribution(*self._state("peaks", z, cells, batch), library)
        return found

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell feature"]:
        """Expected share of each gene or peak, or expected count of each protein, as if measured in `batch`."""
        name = modality or "rna"
        decoder, state = self.decoders[name], self._state(name, z, cells, batch)
        found = decoder.distribution(*state).mean if name == "protein" else decoder.share(*state)
        return found if out is None else out.copy_(found)

    def _drawn(self, mean: Tensor, variance: Tensor) -> State:
        return self.transform_latent(self.latent.draw(mean, variance))

    def _views(self, parts: dict[str, Part], experts: dict[str, Posterior], cells: CellBatch) -> dict[str, Tensor]:
        """Terms of each cell, each a mean over the views that it has."""
        known = {name: part.known for name, part in parts.items()}
        zero = cells.batch.new_zeros(len(cells), dtype=torch.float32)
        terms, n_views = {**{_term(name): zero for name in parts}, "kl": zero}, zero
        for view in self.views:
            seen = self._seen(view, known)
            mean, variance = self._view(view, experts, parts, cells)
            z = self._drawn(mean, variance)
            targets = view if self.member.targets == "own" else self.modalities
            for name in targets:
                terms[_term(name)] = terms[_term(name)] - seen * self.likelihood_of(name, z, parts[name], cells)
            terms["kl"], n_views = terms["kl"] + seen * self.latent.kl(mean, variance), n_views + seen
        return {name: values / n_views.clamp(min=1) for name, values in terms.items()}

    def _seen(self, view: tuple[str, ...], known: dict[str, Bool[Tensor, " cell"]]) -> Bool[Tensor, " cell"]:
        """Cells that have the view: of that of all modalities those with two or more; with any, if it is the only."""
        there = torch.stack([known[name] for name in view]).sum(0)
        if self.member.views == "all" or (self.member.views == "single+all" and len(view) > 1):
            return there > (0 if self.member.views == "all" else 1)
        return there == len(view)

    def _view(
        self, view: tuple[str, ...], experts: dict[str, Posterior], parts: dict[str, Part], cells: CellBatch
    ) -> Posterior:
        if self.member.experts == "joint":
            return experts["joint"]
        chosen = {name: experts[name] for name in view}
        if self.member.fusion == "product":
            return product(chosen, {name: parts[name].known for name in view}, self.latent.prior_variance)
        mean, variance = self.mixture(chosen, parts, cells)
        return mean, torch.zeros_like(variance) if self.latent.kind == "point" else variance

    def parts(self, cells: CellBatch) -> dict[str, Part]:
        """The cells in which each modality was measured: those with any count of it."""
        matrices = {"rna": cells.x, **{name: cells.extra[name] for name in self.modalities[1:]}}
        dense = {name: m.nan_to_num(0.0) if isinstance(m, Tensor) else m for name, m in matrices.items()}
        return {name: Part.of(cells, matrix) for name, matrix in dense.items()}

    def experts(self, parts: dict[str, Part]) -> dict[str, Posterior]:
        """Mean and variance by each modality, 0 and 1 where it was not measured; or one of all, "joint"."""
        if isinstance(self.encoders, JointEncoder):
            return {"joint": self.encoders(parts, self._encoded)}
        found = {}
        for name, part in parts.items():
            mean, variance = self.encoders[name](*self._encoded(part))
            found[name] = part.spread(mean), part.spread(variance) + ~part.known[:, None]
        return found

    def _encoded(self, part: Part) -> tuple:
        """Logarithms of the counts of a cell, those of genes and peaks brought to one total."""
        x = part.cells.x
        if isinstance(x, SparseRows):
            scale = SCALE / x.sum().clamp(min=1)
            x = replace(x, data=(x.data * scale[x.row]).log1p())
        else:
            x = x.log1p()
        return encoder_input(part.cells, x, self.config.encode_covariates)

    def likelihood_of(self, name: str, z: Tensor, part: Part, cells: CellBatch) -> Float[Tensor, " cell"]:
        """log p(what was measured of a modality | z); 0 where it was not."""
        state, x = self._state(name, part.take(z), part.cells), part.cells.x
        if name == "protein":
            there = self._there(cells)
            there = there if part.rows is None else there[part.rows]
            return part.spread(self.decoders[name].log_likelihood(x, there, *state))
        if name == "rna" and self.reference.size_factor:
            library = self.log_library(part.cells)
        else:
            library = x.sum().clamp(min=1).log()[:, None]
        return part.spread(self.decoders[name].log_likelihood(x, *state, library))

    def _there(self, cells: CellBatch) -> Bool[Tensor, "cell protein"]:
        """Which proteins count in each cell: not those that are NaN, or without a count in the whole batch."""
        return ~cells.extra["protein"].isnan() & (F.embedding(cells.batch, self.protein_counted) > 0)  # pyright: ignore[reportArgumentType]

    def _log_total(self, x: SparseRows, column: int) -> CellValue:
        """Logarithm of the counts of each cell; the mean of those trained on where there is none."""
        total = x.sum()
        return total.clamp(min=1).log().where(total > 0, self.mean_log_total[column])[:, None]  # pyright: ignore[reportIndexIssue, reportArgumentType]

    def _state(
        self, name: str, z: Tensor, cells: CellBatch, batch: CellCode | None = None
    ) -> tuple[Float[Tensor, "cell state"], Codes]:
        """What the decoder of a modality reads: its dimensions of the state, and the covariates."""
        if self.member.subspaces:
            z = z.tensor_split(len(self.modalities), 1)[self.modalities.index(name)]
        return decoder_input(z, cells, batch)


def _term(modality: str) -> str:
    return "reconstruction" if modality == "rna" else f"reconstruction_{modality}"
