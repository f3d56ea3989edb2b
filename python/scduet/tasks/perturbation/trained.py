"""Models that are trained to predict perturbations, as `predict_perturbation` uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Bool, Float

from scduet.checkpoints import pretrained
from scduet.errors import DataError, OptionError
from scduet.events import Listener
from scduet.tasks.perturbation.baselines import Change
from scduet.tasks.perturbation.cases import Case
from scduet.tasks.perturbation.held_out import Study
from scduet.tasks.perturbation.interface import CONTROL, OF_GENES, PredictsPerturbed, can_flag, trainer
from scduet.tasks.perturbation.pseudobulk import Split
from scduet.tasks.perturbation.screen import Screen
from scduet.transformer_model import Transformer


def cells_of(screen: Screen, chosen: Bool[np.ndarray, " cell"]) -> AnnData:
    """Cells in the layout that `interface.Trains` describes."""
    rows, names = np.flatnonzero(chosen), np.array(screen.names())
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(names[screen.target[rows]]),
            "context": pd.Categorical(np.array(screen.contexts)[screen.context[rows]]),
            "batch": pd.Categorical(np.array(screen.batches)[screen.batch[rows]]),
        },
        index=screen.cells[rows],
    )
    found = AnnData(screen.given[rows], obs, pd.DataFrame(index=screen.genes))
    found.layers["lognormal"] = screen.values[rows]
    found.uns["counts"] = screen.counts
    return found


def train(
    study: Study, name: str, out: Sequence[Case], held: Bool[np.ndarray, " cell"] | None, how: Mapping[str, Any]
) -> PredictsPerturbed:
    """The model `name`, trained without the cells of the cases `out` and without the control cells `held`."""
    own = {option: value for option, value in how.items() if option != "transformer" or name in OF_GENES}
    return trainer(name)(cells_of(study.screen, ~leaking(study, out, held)), **own)


def leaking(
    study: Study, out: Sequence[Case], held: Bool[np.ndarray, " cell"] | None = None
) -> Bool[np.ndarray, " cell"]:
    """The cells that may not be learned from where the cases `out` are predicted."""
    screen, pairs = study.screen, study.pairs
    gone = screen.escaped if held is None else screen.escaped | held
    for case in out:
        if case.task == "gene":
            shared = [i for i, target in enumerate(screen.targets) if set(target) & set(case.target)]
            gone = gone | np.isin(screen.target, shared)
        elif case.pair is not None:
            gone = gone | (pairs.group == case.pair)
    return gone


def shifts(
    model: PredictsPerturbed, study: Study, case: Case, controls: Bool[np.ndarray, " cell"]
) -> Float[np.ndarray, "control gene"]:
    """The change of each of the control cells: the prediction less the reconstruction of the same cell."""
    cells, context = cells_of(study.screen, controls), study.screen.contexts[case.context]
    found = [np.asarray(model.predict_perturbed(cells, context, name)) for name in (case.name, CONTROL)]
    for values in found:
        if values.shape != cells.shape or not np.isfinite(values).all():
            what = f"a prediction of {values.shape} for {cells.shape} cells and genes, or one with NaN"
            raise DataError(what, "predict_perturbed gives log-normalized values of every control cell and gene")
    return found[0] - found[1]


def by_models(study: Study, names: Sequence[str], options: Mapping[str, Any], seed: int, callback: Listener | None):
    """A function of a held-out case and a split that trains each model anew and predicts the case."""

    def predicted(case: Case, split: Split, train_now: bool) -> dict[str, Change]:
        if not train_now:
            return {}
        controls = study.screen.is_control & (study.screen.context == case.context) & ~split.held
        found = {}
        for name in names:
            if not can_flag(name, case.target, study.screen.genes):
                continue
            how = {"seed": seed, "callback": callback, **options}
            model = train(study, name, [case], split.held, how)
            found[name] = shifts(model, study, case, controls).mean(0)
        return found

    return predicted


def check_model(model: Any) -> None:
    """Raise OptionError for a model that cannot predict perturbed cells."""
    if not callable(getattr(model, "predict_perturbed", None)):
        kind = type(model).__name__
        raise OptionError(f"model= cannot be a {kind}", "it is a name, or has predict_perturbed(cells, context, name)")


def scgpt_of(transformer: Any) -> Transformer:
    """The scGPT itself, or that in a folder. Raises OptionError for none, or another transformer."""
    if transformer is None:
        raise OptionError("model='scgpt' needs its weights", "pass transformer=, a scGPT or its folder")
    base = pretrained.given(transformer)
    if base.name != "scgpt":
        raise OptionError(f"transformer= is a {base.name}", "pass a scGPT")
    return base
