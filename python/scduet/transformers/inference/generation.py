"""Generation of expression values by scGPT, from known genes or from a cell embedding."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scduet.contract import TokenBatch
from scduet.errors import FormatError, some
from scduet.transformers.encoder.trunk import Packing
from scduet.transformers.objectives.pretraining import Generative, GenerativeConfig, head_weights

PIECE = 1_024  # genes predicted together; they do not attend to each other, so splitting does not change the result


def generator(name: str, encoder: Any, weights_of_heads: Mapping[str, Tensor]) -> Generative:
    """The encoder of the family `name` with its trained heads.

    Raises FormatError for a model that was not trained to generate, or a checkpoint without the heads.
    """
    if name != "scgpt":
        raise FormatError(f"{name} does not predict values", "use a scGPT model, e.g. from pretrain()")
    module = Generative(encoder, np.zeros(0, np.int64), GenerativeConfig())
    weights = head_weights(module, "scgpt", weights_of_heads)
    needed = [name for name in module.state_dict() if not name.startswith("encoder.")]
    missing = [name for name in needed if name not in weights]
    if missing:
        message = f"the checkpoint has no weights to generate with: {some(missing)} are missing"
        raise FormatError(message, "use a model trained to generate, or train it further with pretrain()")
    module.load_state_dict({name: weights[name] for name in needed}, strict=False)
    return module.eval()


def values_by_genes(
    module: Generative, tokens: TokenBatch, asked: Int[Tensor, " gene"], given: Bool[Tensor, " token"]
) -> Float[Tensor, "cell gene"]:
    """Gene prompt: bins of the genes `asked`, from the values of the expressed genes that are `given`."""
    return _values(module, only(tokens, given), asked, None)


def vectors(module: Generative, tokens: TokenBatch) -> Float[Tensor, "cell width"]:
    """Cell embeddings for a cell prompt: the state of `<cls>`."""
    packing = Packing.of(tokens.padding)
    return module.encoder(tokens, packing, first_only=True).float()


def values_by_cell(
    module: Generative, cell: Float[Tensor, "cell width"], asked: Int[Tensor, " gene"]
) -> Float[Tensor, "cell gene"]:
    """Cell prompt: bins of the genes `asked`, from cell embeddings only."""
    cls, n = module.encoder.vocabulary.special["<cls>"], len(cell)
    gene = torch.full((n, 1), cls, device=cell.device)
    value = torch.full((n, 1), module.encoder.config.cls_value, device=cell.device)
    tokens = TokenBatch(gene, torch.zeros_like(gene, dtype=torch.bool), torch.arange(n, device=cell.device), value)
    return _values(module, tokens, asked, cell)


def only(tokens: TokenBatch, given: Bool[Tensor, " token"]) -> TokenBatch:
    """The cells without the genes that are not `given`; `<cls>` stays."""
    padding = tokens.padding | ~given[tokens.gene]
    padding[:, 0] = tokens.padding[:, 0]
    return replace(tokens, padding=padding)


def _values(module: Generative, tokens: TokenBatch, asked: Tensor, cell: Tensor | None) -> Tensor:
    return torch.cat([_piece(module, tokens, piece, cell) for piece in asked.split(PIECE)], 1)


def _piece(module: Generative, tokens: TokenBatch, asked: Tensor, cell: Tensor | None) -> Tensor:
    """Append the genes to predict to the known genes of each cell, whose states do not depend on them."""
    assert tokens.value is not None
    more = asked.expand(len(tokens), -1)
    none = torch.zeros_like(more, dtype=torch.bool)
    longer = replace(
        tokens,
        gene=torch.cat([tokens.gene, more], 1),
        padding=torch.cat([tokens.padding, none], 1),
        value=torch.cat([tokens.value, none.to(tokens.value.dtype)], 1),
    )
    known = torch.cat([torch.ones_like(tokens.padding), none], 1)
    packing = Packing.of(longer.padding, known)
    states = module.states(longer, packing, cell)[~packing.known]  # pyright: ignore[reportOptionalOperand]
    return module.values(states).view(len(tokens), len(asked))
