"""Tables that print as they are read: scores with metrics as rows, recommendations as sentences. Else DataFrames."""

from __future__ import annotations

import html
from typing import Any

import pandas as pd

from scduet.metrics import METRICS

_MEANS = {"bio": "Mean of bio", "batch": "Mean of batch", "total": "Total"}


class ScoreTable(pd.DataFrame):
    """What `score` returns. Whatever is made of it is a plain DataFrame."""

    @property
    def _constructor(self):
        return pd.DataFrame

    def __repr__(self) -> str:
        return "\n".join([self._for_reading().to_string(), *notes(self)])

    def _repr_html_(self) -> str:
        told = "".join(f"<p>{html.escape(note)}</p>" for note in notes(self))
        return self._for_reading().to_html() + told

    def _for_reading(self) -> pd.DataFrame:
        """Metrics as rows, embeddings as columns, three digits."""
        return pd.DataFrame({name: [_number(value) for value in row] for name, row in self.T.items()}, self.columns)


class Recommendations(pd.DataFrame):
    """What `recommend` returns. Whatever is made of it is a plain DataFrame."""

    @property
    def _constructor(self):
        return pd.DataFrame

    def __repr__(self) -> str:
        return "\n".join(_sentences(row) for row in self.itertuples())

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            return self.to_html(index=False)


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


def _number(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _sentences(row: Any) -> str:
    needed = "yes" if row.deep_model else "not needed"
    lines = [f"deep model: {needed}; {row.reason}", f"data: {row.data}", f"source: {row.source}"]
    return "\n    ".join([f"{row.task}: {row.method}", *lines])
