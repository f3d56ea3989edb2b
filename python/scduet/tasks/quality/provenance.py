"""Which model made an embedding, noted beside it: uns["scduet_embeddings"]["X_scANVI"] = {"model": "scanvi", ...}.

Likewise of layers that were denoised: uns["scduet_denoised"]["denoised"] = "walk".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scduet.capabilities import TrainedModel
from scduet.errors import OptionError
from scduet.io.cells import EMBEDDINGS
from scduet.models import MODELS, OWN, TRANSFORMERS, find

DENOISED = "scduet_denoised"  # of uns: layer that `denoise` wrote -> method


def note_denoised(adata, layer: str, method: str) -> None:
    """Keep in uns which method made layers[layer]."""
    adata.uns[DENOISED] = {**adata.uns.get(DENOISED, {}), layer: method}


def denoised_by(adata, layer: str | None) -> str | None:
    """The method that made this layer, if `denoise` wrote it."""
    return None if layer is None else getattr(adata, "uns", {}).get(DENOISED, {}).get(layer.removeprefix("layers/"))


def refuse_denoised(adata, layer: str | None) -> None:
    """Raise OptionError where `denoise` wrote this layer: tests on it call many genes that do not differ."""
    method = denoised_by(adata, layer)
    if method is not None:
        message = f"layer {layer!r} was denoised by {method!r}: tests on it call many genes that do not differ"
        raise OptionError(message, "train and test on counts, or pass allow_denoised=True")


def made_by(model: TrainedModel) -> dict[str, str]:
    """The note for an embedding of `model`: its name, and the columns of batches and labels it was given."""
    return {"model": model.name, **model.columns}


def note(adata, key: str, made: Mapping[str, str]) -> None:
    """Keep in uns what is known of obsm[key]."""
    adata.uns[EMBEDDINGS] = {**_noted(adata), key: dict(made)}


def learned_labels(adata, key: str) -> str | None:
    """The column of labels that obsm[key] was trained to tell apart, by scANVI or fine-tuning; None if not known."""
    made: Mapping[str, Any] = _noted(adata).get(key, {})
    name = made.get("model")
    classifies = name in TRANSFORMERS or (name in {*MODELS, *OWN} and hasattr(find(name), "classify"))
    return made.get("labels_key") if classifies else None


def _noted(adata) -> Mapping[str, Any]:
    """All notes; none where others keep something else at this place."""
    notes = getattr(adata, "uns", {}).get(EMBEDDINGS, {})
    return notes if isinstance(notes, Mapping) else {}
