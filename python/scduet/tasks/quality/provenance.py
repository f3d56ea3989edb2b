"""Which model made an embedding, noted beside it: uns["scduet_embeddings"]["X_scANVI"] = {"model": "scanvi", ...}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scduet.io.cells import EMBEDDINGS
from scduet.models import MODELS, find


def made_by(model) -> dict[str, str]:
    """The note for an embedding of `model`, a `Model`: its name, and the columns of batches and labels it was given."""
    fields = model.schema.fields
    known = {"model": model.name, "batch_key": fields.batch_key, "labels_key": fields.labels_key}
    return {name: value for name, value in known.items() if value is not None}


def note(adata, key: str, made: Mapping[str, str]) -> None:
    """Keep in uns what is known of obsm[key]."""
    adata.uns[EMBEDDINGS] = {**adata.uns.get(EMBEDDINGS, {}), key: dict(made)}


def learned_labels(adata, key: str) -> str | None:
    """The column of labels that obsm[key] was trained to tell apart, as scANVI is; None where that is not known."""
    made: Mapping[str, Any] = getattr(adata, "uns", {}).get(EMBEDDINGS, {}).get(key, {})
    classifies = made.get("model") in MODELS and hasattr(find(made["model"]), "classify")
    return made.get("labels_key") if classifies else None
