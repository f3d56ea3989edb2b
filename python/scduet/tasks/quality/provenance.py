"""Which model made an embedding, noted beside it: uns["scduet_embeddings"]["X_scANVI"] = {"model": "scanvi", ...}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scduet.capabilities import TrainedModel
from scduet.io.cells import EMBEDDINGS
from scduet.models import MODELS, TRANSFORMERS, find


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
    classifies = name in TRANSFORMERS or (name in MODELS and hasattr(find(name), "classify"))
    return made.get("labels_key") if classifies else None


def _noted(adata) -> Mapping[str, Any]:
    """All notes; none where others keep something else at this place."""
    notes = getattr(adata, "uns", {}).get(EMBEDDINGS, {})
    return notes if isinstance(notes, Mapping) else {}
