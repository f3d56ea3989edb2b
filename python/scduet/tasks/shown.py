"""What a reader of a table of scores must know beside its numbers."""

from __future__ import annotations

import pandas as pd

from scduet.metrics import METRICS

_MEANS = {"bio": "Mean of bio", "batch": "Mean of batch", "total": "Total"}


def notes(table: pd.DataFrame) -> list[str]:
    """Sentences: why values are missing, one for each reason, then the notes of `score`."""
    reasons = table.attrs.get("reasons", {})
    lacking: dict[str, dict[str, list[str]]] = {}  # reason -> metric -> embeddings
    for embedding, row in reasons.items():
        for metric, why in row.items():
            lacking.setdefault(why, {}).setdefault(metric, []).append(str(embedding))
    missing = []
    for why, metrics in sorted(lacking.items()):
        named = [(_label(metric), tuple(metrics[metric])) for metric in metrics if _label(metric)]
        for where in dict.fromkeys(embeddings for _, embeddings in named):
            labels = [label for label, embeddings in named if embeddings == where]
            place = "here" if len(where) == len(reasons) else f"for {', '.join(where)}"
            missing.append(f"{', '.join(labels)} {'is' if len(labels) == 1 else 'are'} not defined {place}: {why}.")
    return [*missing, *table.attrs.get("notes", [])]


def _label(metric: str) -> str:
    return METRICS[metric].label if metric in METRICS else _MEANS.get(metric, "")
