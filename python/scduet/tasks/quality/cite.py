"""What to cite: the papers of a model, and the sources of the metrics in a table of scores."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from scduet import metrics
from scduet._version import __version__
from scduet.capabilities import TrainedModel
from scduet.errors import OptionError
from scduet.metrics import METRICS
from scduet.models import path_of
from scduet.models.papers import HARMONY, PAPERS, SCIB

if TYPE_CHECKING:
    import pandas as pd

SOFTWARE = f"scduet: The scduet developers. Deep learning for single-cell genomics. Version {__version__}."


def cite(model: str | TrainedModel | None = None, scores: pd.DataFrame | None = None) -> str:
    """What to cite for an analysis, one reference a line: scduet, the papers of a model, the sources of metrics.

    model: a trained model, or the name of a model or transformer.
    scores: a table that `score` returned.

    Raises OptionError for an unknown model, and for a table without the column of a metric.
    """
    lines = [SOFTWARE]
    if model is not None:
        lines += _of_model(model if isinstance(model, str) else getattr(model, "name", str(model)))
    if scores is not None:
        lines += _of_scores(scores)
    return "\n".join(lines)


def source_of(metric: str) -> str:
    """The source that the docstring of a metric in METRICS names; "" if it names none."""
    function = getattr(metrics, METRICS[metric].function.rpartition(".")[2])
    text = " ".join((inspect.getdoc(function) or "").split("\n\nRaises")[0].split())
    found = re.search(r"Source: (.+?)\.(?= [A-Z]|$)", text)
    source = found[1] if found else ""
    same = re.match(r"as `(\w+)`", source)
    return source_of(same[1]) if same else source


def _of_model(name: str) -> list[str]:
    if name not in PAPERS:
        path_of(name)  # raises, with the nearest name
    return [f"{name}: {paper}" for paper in PAPERS[name]]


def _of_scores(scores: pd.DataFrame) -> list[str]:
    table = scores.reset_index() if hasattr(scores, "reset_index") else scores
    columns = list(getattr(table, "columns", ()))
    found = [name for name in METRICS if name in (set(table["metric"]) if "metric" in columns else columns)]
    if not found:
        raise OptionError("scores has no column of a metric", "pass the table that score() returned")
    lines = [f"scores of integration: {SCIB}"]
    if "embedding" in columns and "X_harmony" in set(table["embedding"]):
        lines.append(f"X_harmony: {HARMONY}")
    sources = {METRICS[name].label: source_of(name) for name in found}
    return [*lines, *(f"{label}: {source}." for label, source in sources.items() if source)]
