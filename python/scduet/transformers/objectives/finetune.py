"""A transformer with a cell-type classification head, and the choice of weights to fine-tune."""

from __future__ import annotations

import scduet._torch  # noqa: F401

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import Loss, Step, TokenBatch
from scduet.errors import OptionError
from scduet.transformers.encoder.lora import add_low_rank
from scduet.transformers.families.geneformer import Geneformer
from scduet.transformers.families.scfoundation import ScFoundation
from scduet.transformers.families.scgpt import ScGPT

Encoder = Geneformer | ScGPT | ScFoundation
VECTOR: dict[type, Any] = {  # cell embedding in fine-tuning: <cls> of the last layer, or the mean
    Geneformer: Geneformer.Options(emb_layer=0),
    ScGPT: ScGPT.Options(normalize=False),
    ScFoundation: ScFoundation.Options(),
}


@dataclass(frozen=True)
class Tuning:
    """Which weights of the transformer to train."""

    tuning: Literal["lora", "full", "last", "frozen"] = "lora"
    """Weights to train besides the head: low-rank adapters of attention (LoRA), all, the last layers, or none."""
    rank: int = 8
    """LoRA: rank of the adapters."""
    alpha: float = 16.0
    """LoRA: adapters are scaled by alpha / rank."""
    n_last_layers: int = 2
    """Number of layers to train with tuning="last"."""

    def __post_init__(self):
        for name, value in {"rank": self.rank, "alpha": self.alpha, "n_last_layers": self.n_last_layers}.items():
            if value <= 0:
                raise OptionError(f"option {name!r} cannot be {value!r}", "it must be above 0")


@dataclass(frozen=True)
class Config(Tuning):
    head_layers: int = 2
    """Number of layers of the head (scGPT's classifier has 3)."""

    def __post_init__(self):
        super().__post_init__()
        if self.head_layers < 1:
            raise OptionError(f"option 'head_layers' cannot be {self.head_layers}", "it is at least 1")


class Annotator(nn.Module):
    """p(type | cell) = softmax(head(cell embedding)), trained by cross-entropy."""

    Config = Config
    players = ("model",)

    def __init__(self, encoder: Encoder, n_labels: int, config: Config):
        super().__init__()
        self.encoder, self.expects = encoder, encoder.expects
        self.head = classifier(vector_width(encoder), n_labels, config.head_layers)
        choose_trained(encoder, config)

    def forward(self, tokens: TokenBatch, step: Step) -> Loss:
        assert tokens.label is not None
        logits = self.classify(tokens).float()
        loss = F.cross_entropy(logits, tokens.label)
        right = (logits.argmax(-1) == tokens.label).float().mean()
        return Loss(loss, {"cross_entropy": loss, "accuracy": right}, len(tokens))

    def classify(self, tokens: TokenBatch) -> Float[Tensor, "cell label"]:
        """Logits."""
        return self.head(self.embed(tokens))

    def embed(self, tokens: TokenBatch) -> Float[Tensor, "cell width"]:
        return self.encoder.embed(tokens, VECTOR[type(self.encoder)])


def classifier(width: int, n_labels: int, n_layers: int) -> nn.Sequential:
    """n - 1 times Linear, ReLU, LayerNorm, then Linear: scGPT's classifier."""
    hidden = [[nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width)] for _ in range(n_layers - 1)]
    return nn.Sequential(*[layer for layers in hidden for layer in layers], nn.Linear(width, n_labels))


def vector_width(encoder: Encoder) -> int:
    """Dimensions of a cell embedding."""
    return encoder.config.trunk.width * (4 if isinstance(encoder, ScFoundation) else 1)


def choose_trained(encoder: Encoder, tuning: Tuning) -> None:
    """Make only the weights of `encoder` selected by `tuning` trainable."""
    encoder.requires_grad_(tuning.tuning == "full")
    blocks = encoder.trunk.blocks
    if tuning.tuning == "last":
        if tuning.n_last_layers > len(blocks):
            raise OptionError(f"n_last_layers={tuning.n_last_layers}", f"the transformer has {len(blocks)} layers")
        blocks[-tuning.n_last_layers :].requires_grad_(True)
        encoder.trunk.norm.requires_grad_(True)
    if tuning.tuning == "lora":
        add_low_rank(encoder.trunk, tuning.rank, tuning.alpha)


def trained_share(module: nn.Module) -> float:
    """Fraction of trainable weights."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in module.parameters()]
    return sum(n for n, learns in sizes if learns) / sum(n for n, _ in sizes)


def changed_weights(module: nn.Module) -> dict[str, Tensor]:
    """All tensors that training may have changed, to save in addition to the original transformer."""
    fixed = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in fixed}
