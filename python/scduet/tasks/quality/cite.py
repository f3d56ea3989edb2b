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
from scduet.models.papers import PAPERS

if TYPE_CHECKING:
    import pandas as pd

SOFTWARE = (
    f"The scduet developers. scduet: deep learning for single-cell genomics, in R and in Python. Version {__version__}"
)


def cite(model: str | TrainedModel | None = None, scores: pd.DataFrame | None = None) -> str:
    """References of scduet, of a model, and of the metrics in a table of scores, one a line, for `print`.

    model: a trained model, or the name of one.
    scores: what `score` returned.

    Raises OptionError for an unknown model, and for scores without the column of a metric.
    """
    lines = [SOFTWARE]
    if model is not None:
        lines += _of_model(model if isinstance(model, str) else model.name)
    if scores is not None:
        lines += _of_metrics(scores)
    return "\n".join(lines)


def _of_model(name: str) -> list[str]:
    if name not in PAPERS:
        path_of(name)
    return [f"{name}: {paper}" for paper in PAPERS[name]]


def _of_metrics(scores: pd.DataFrame) -> list[str]:
    columns = getattr(scores, "columns", ())
    names = set(scores["metric"] if "metric" in columns else columns)
    found = [name for name in METRICS if name in names]
    if not found:
        raise OptionError("scores has no column of a metric", "pass the table that score() returned")
    sources = {name: source_of(name) for name in found}
    return [f"{METRICS[name].label}: {source}" for name, source in sources.items() if source]


def source_of(metric: str) -> str:
    """The source that the docstring of a metric in METRICS names; "" if it names none."""
    function = getattr(metrics, METRICS[metric].function.rpartition(".")[2])
    text = " ".join(inspect.getdoc(function).split("\n\nRaises")[0].split())
    found = re.search(r"Sources?: (.+?)\.(?= [A-Z]|$)", text)
    return found[1] if found else ""
