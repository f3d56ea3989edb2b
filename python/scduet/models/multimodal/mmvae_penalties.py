"""What draws the experts of a cell together in multimodal autoencoders, and what labels tell of its state."""

from __future__ import annotations

from scduet._torch import torch

import math
from collections.abc import Callable, Mapping
from itertools import combinations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Reference
from scduet.errors import OptionError
from scduet.models.multimodal.experts import Part, Posterior, pair_penalty
from scduet.models.multimodal.mmvae_members import Member
from scduet.nn.adversary import Adversary
from scduet.shapes import CellCode, State

WEIGHTS = {"none": 0.0, "jeffreys": 1.0, "cosine": 20.0, "contrastive": 20.0, "adversary": 1.0}
TEMPERATURE = 0.07  # where the contrast starts (Radford et al. 2021)
COLDEST = math.log(0.01)
LABEL_WEIGHT, BATCH_WEIGHT = 2 / 7, 0.5 / 7  # of supervised units, for each feature, as in JAE beside its mean square
Experts = Mapping[str, Posterior]
Parts = Mapping[str, Part]


class Penalties(nn.Module):
    """Weighted terms beside the bound; `told`: what the adversary is to learn from, a minibatch each."""

    def __init__(
        self,
        reference: Reference,
        member: Member,
        n_latent: int,
        n_features: int,
        n_modalities: int,
        weight: float | None,
    ):
        super().__init__()
        self.kind, self.supervised, self.n_features = member.align, member.supervised, n_features
        self.weight = WEIGHTS[self.kind] if weight is None else weight
        self.n_labels, self.n_batches = reference.n_labels, reference.n_batches
        self.told: list[tuple[Tensor, Tensor]] = []
        if self.kind == "contrastive":
            self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))
        if self.kind == "adversary":
            self.adversary = Adversary(n_latent, n_modalities)
            self.classifier = nn.Linear(n_latent, self.n_labels) if self.n_labels > 1 else None
        if self.supervised:
            self._check_units(n_latent)

    def forward(
        self, experts: Experts, parts: Parts, cells: CellBatch, mean: State, draw: Callable
    ) -> dict[str, tuple[float, Float[Tensor, ""]]]:
        """Name -> weight and value, a mean over cells. mean: of the state by all that was measured; draw: a state."""
        found: dict[str, tuple[float, Tensor]] = {}
        if self.kind == "contrastive":
            found["penalty"] = self.weight, self.contrast(experts, parts, cells.batch).mean()
        elif self.kind != "none":
            found["penalty"] = self.weight, align_penalty(self.kind, experts, parts).mean()
        if self.kind == "adversary":
            found |= self._deceived(experts, parts, cells, draw)
        if self.supervised:
            found["label"] = LABEL_WEIGHT * self.n_features, _cross_entropy(mean[:, : self.n_labels], cells.label)
            if self.n_batches > 1:
                units = mean[:, self.n_labels :][:, : self.n_batches]
                found["batch"] = BATCH_WEIGHT * self.n_features, -units.log_softmax(1).mean()
        return found

    def contrast(self, experts: Experts, parts: Parts, batch: CellCode) -> Float[Tensor, " cell"]:
        """InfoNCE: of a cell with two modalities, how hard its other half is to tell among those of its batch."""
        temperature = self.log_temperature.clamp(min=COLDEST).exp()

        def between(a: Posterior, b: Posterior, both: Bool[Tensor, " cell"]) -> Tensor:
            likeness = F.normalize(a[0], dim=1) @ F.normalize(b[0], dim=1).T / temperature
            rival = both & (batch == batch[:, None])
            rival = rival | torch.eye(len(batch), dtype=torch.bool, device=batch.device)  # no row without any
            ways = (way.masked_fill(~rival, -torch.inf) for way in (likeness, likeness.T))
            return -sum(way.log_softmax(1).diagonal() for way in ways) / 2  # pyright: ignore[reportReturnType]

        return _over_pairs(experts, parts, between)

    def _deceived(self, experts: Experts, parts: Parts, cells: CellBatch, draw: Callable) -> dict:
        """Hide from the adversary of which modality a state was made; what states tell of the labels."""
        rows = {name: part.known.nonzero()[:, 0] for name, part in parts.items()}
        z = torch.cat([draw(*(value[rows[name]] for value in experts[name])) for name in parts])
        level = torch.cat([torch.full_like(rows[name], i) for i, name in enumerate(parts)])
        if self.training:
            self.told.append((z.detach(), level))
        found = {"deception": (self.weight, self.adversary.deception(z, level))}
        if self.classifier is not None and cells.label is not None:
            label = torch.cat([cells.label[rows[name]] for name in parts])
            found["label"] = self.weight, _cross_entropy(self.classifier(z), label)
        return found

    def _check_units(self, n_latent: int) -> None:
        if self.n_labels < 2:
            raise OptionError("supervised dimensions need labels of two cell types or more", "pass labels_key=")
        needed = self.n_labels + (self.n_batches if self.n_batches > 1 else 0)
        if n_latent < needed:
            what = f"n_latent={n_latent}: {self.n_labels} labels and {self.n_batches} batches have a dimension each"
            raise OptionError(what, f"pass n_latent={needed} or more")


def align_penalty(kind: str, experts: Experts, parts: Parts) -> Float[Tensor, " cell"]:
    """How far the experts of a cell are apart, summed over the pairs of modalities that it has.

    jeffreys: KL divergence, both ways. cosine: 1 less the cosine of the means. adversary: its anchors, the distance of
    the means in each dimension (Yang et al. 2021).
    """
    if kind == "jeffreys":
        return pair_penalty("Jeffreys", experts, parts, False)
    if kind == "cosine":
        return _over_pairs(experts, parts, lambda a, b, both: 1 - F.cosine_similarity(a[0], b[0], dim=1))
    return _over_pairs(experts, parts, lambda a, b, both: (a[0] - b[0]).abs().sum(1))


def _over_pairs(experts: Experts, parts: Parts, between: Callable) -> Float[Tensor, " cell"]:
    found = []
    for (a, first), (b, second) in combinations(experts.items(), 2):
        both = parts[a].known & parts[b].known
        found.append(between(first, second, both).where(both, 0.0))
    return torch.stack(found).sum(0)


def _cross_entropy(logits: Float[Tensor, "cell label"], label: CellCode | None) -> Float[Tensor, ""]:
    """A mean over the cells with a label; 0 without any."""
    if label is None or not bool((label >= 0).any()):
        return logits.sum() * 0
    return F.cross_entropy(logits, label, ignore_index=-1)
