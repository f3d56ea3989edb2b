"""Predicts what was not measured in cells, such as their proteins, and says how well simple regressions do it."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from scduet.api import Model
from scduet.data import checks
from scduet.data.inputs import not_measured
from scduet.data.sources import Cells, gathered
from scduet.errors import OptionError, some
from scduet.metrics.perturbation import pearson
from scduet.options import check_arguments, seed_of
from scduet.tasks.multimodal.trained_cells import FEWEST, encoded, rows_of_training, trained_cells
from scduet.tasks.posterior.latent import BATCH_SIZE, Modality, as_batch, modality_of, seeded, states
from scduet.tasks.quality.attached import Attached
from scduet.tasks.quality.simple_regressors import REGRESSORS, scores_of

USES = ("model", "knn", "ridge", "kernel_ridge", "best")
N_SAMPLES = 50  # with 25, the noise of the draws costs 0.005 of the correlation

Values = Float[np.ndarray, "cell feature"]


def predict_modality(
    model: Model,
    query,
    modality: str = "protein",
    *,
    reference=None,
    use: str = "model",
    key_added: str | None = None,
    n_samples: int = N_SAMPLES,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict proteins of cells from their RNA, and return the table that says how well that works.

    model: a model with an input that may be missing, e.g. totalVI. It predicts best if cells without proteins (NaN)
        were among those it was trained on, best of all the query itself; else its encoder has never met such cells.
    query: AnnData or MuData with RNA; what is known of the modality is not used. Gains obsm[key_added], a DataFrame
        (cell x feature) of the expected log(1 + counts), obsm[key_added + "_sd"], their standard deviations, and
        uns[key_added]: the method, its pearson and rmse.
    modality: what to predict: one of what the model decodes, neither its main matrix nor peaks.
    reference: the cells that the model was trained on, as they were then; None if it was trained in this session.
    use: whose predictions the query gets: "model"; "knn", "ridge" or "kernel_ridge", the baselines; or "best", the
        row with the highest pearson.
    key_added: None for "predicted_" and the modality.
    n_samples: draws of each cell from the model's predictive distribution, averaged.

    A feature that was not measured in the batch of a cell is predicted as if measured in the batches where it was.
    The standard deviation is that of a new measurement: over draws of the state of a cell and of its counts by the
    model, or by a simple method what it was wrong by in the cells held out, the same in all cells.

    Returns one row a method (the model, 50 nearest neighbors, ridge and kernel ridge on 50 principal components of RNA,
    the mean) with pearson, the mean over features of the correlation with log(1 + counts), rmse, and n_cells: on the
    cells that were held out when the model was trained, shown as RNA alone. attrs["used"] is the method that was used,
    attrs["by_feature"] the correlations of each feature.

    Raises OptionError for a modality that the model does not decode or cannot do without, DataError where too few cells
    with it were held out (train with train_size below 1), or the reference is not what the model was trained on.

    Sources: Gayoso et al. 2021, Nature Methods 18:272; Lance et al. 2022, PMLR 176:162.
    """
    chosen, key = _predictable(model, modality), key_added or f"predicted_{modality}"
    check_arguments(n_samples=n_samples, batch_size=batch_size)
    seed = seed_of(seed)
    if use not in USES:
        raise OptionError(f"use={use!r}", f"it takes {some(USES, 9)}")
    _check_room(query, key)
    known = _reference(model, reference, chosen)
    hidden = _hidden(model, encoded(model, query), chosen)
    rna = gathered(hidden.counts)
    by_model = _ByModel(model, chosen, known, n_samples, batch_size, seed)
    of_known, of_query = scores_of(gathered(known.cells.counts), known.shown, [rna])
    predicted = {model.name: by_model.predict(_hidden(model, known.cells, chosen), known.held_out)[0]}
    fitted = {name: known.regress(function, of_known, seed) for name, function in REGRESSORS.items()}
    predicted |= {name: predict(of_known[known.held_out]) for name, predict in fitted.items()}
    table = _table(known, predicted, chosen.features)
    method = _used(table, use, model.name)
    if method == model.name:
        values, spread = by_model.predict(hidden)
    else:
        values = fitted[method](of_query)
        spread = np.broadcast_to(_residual_deviation(known, predicted[method]), values.shape)
    columns = pd.Index([name.replace("/", "-") for name in chosen.features])  # no file may hold "/" in a name
    for name, found in ((key, values), (f"{key}_sd", spread)):
        query.obsm[name] = pd.DataFrame(np.asarray(found, np.float32), query.obs_names, columns)
    query.uns[key] = {"method": method, **{name: float(table.loc[method, name]) for name in ("pearson", "rmse")}}
    table.attrs["used"] = method
    return table


@dataclass(frozen=True)
class _Known:
    """The cells that the model was trained on, and what was measured in them."""

    cells: Cells
    values: Values  # log(1 + counts), NaN where not measured
    counted: Bool[np.ndarray, "batch feature"]  # was a feature ever counted in a batch?
    shown: np.ndarray  # rows with the modality that the model was trained on
    held_out: np.ndarray  # and that it was not

    def regress(self, function, scores: np.ndarray, seed: int):
        """A regression of each feature on PCA scores, taught the cells that have it, as a function of scores."""
        measured = ~np.isnan(self.values[self.shown])
        panels, panel_of = np.unique(measured, axis=1, return_inverse=True)
        fitted = []
        for panel, there in enumerate(panels.T):  # the features that the same cells have
            columns, cells = np.flatnonzero(panel_of.ravel() == panel), self.shown[there]
            if len(cells):
                fitted.append((columns, function(scores[cells], self.values[np.ix_(cells, columns)], seed)))

        def predict(new: np.ndarray) -> Values:
            found = np.full((len(new), self.values.shape[1]), np.nan)
            for columns, of in fitted:
                found[:, columns] = np.reshape(of(new), (len(new), len(columns)))  # ridge of one has no columns
            return found

        return predict


@dataclass(frozen=True)
class _ByModel:
    """The model's own predictions."""

    model: Model
    modality: Modality
    known: _Known
    n_samples: int
    batch_size: int
    seed: int

    @torch.inference_mode()
    def predict(self, cells: Cells, rows: np.ndarray | None = None) -> tuple[Values, Values]:
        """Mean and standard deviation of log(1 + counts) over draws of the state and of the counts."""
        seen, parts = self.known.counted, []
        with seeded(self.seed):
            for part in states(self.model, cells, rows, self.batch_size):
                own = seen[part.cells.batch.cpu().numpy()]
                codes: list[int | None] = [int(code) for code in np.flatnonzero(seen.any(1))] if not own.all() else []
                drawn = {code: np.zeros((2, *own.shape)) for code in [None, *codes]}
                for _ in range(self.n_samples):
                    z = part.draw()
                    for code, total in drawn.items():
                        values = self._draw(z, part, code)
                        total += np.stack([values, values**2]) / self.n_samples
                parts.append(np.where(own, drawn[None], _mean_where_seen(drawn, seen)) if codes else drawn[None])
        mean, square = np.concatenate(parts, 1)
        return mean, np.sqrt(np.maximum(square - mean**2, 0))

    def _draw(self, z: Tensor, part, code: int | None) -> Values:
        batch = as_batch(part.cells, code)
        return self.modality.of(z, part.cells, batch, part.log_library).sample().log1p().cpu().numpy()


def _mean_where_seen(
    drawn: Mapping[int | None, Float[np.ndarray, "moment cell feature"]], seen: Bool[np.ndarray, "batch feature"]
) -> Float[np.ndarray, "moment cell feature"]:
    """Of each feature the mean over the batches in which it was counted; NaN of one that never was."""
    codes = [code for code in drawn if code is not None]
    total = sum(drawn[code] * seen[code] for code in codes)
    times = seen[codes].sum(0)
    return np.where(times > 0, total / np.maximum(times, 1), np.nan)


def _predictable(model: Model, name: str) -> Modality:
    """The modality. Raises OptionError where the model does not decode it, or has to read it."""
    chosen = modality_of(model, name)
    if chosen.is_main:
        raise OptionError(f"{name!r} is the main matrix, from which {model.name!r} predicts", "name another modality")
    if not model.schema.inputs[name].may_miss:
        raise OptionError(f"{model.name!r} reads {name!r} of every cell, and cannot predict it", "use e.g. totalvi")
    if model.schema.inputs[name].sparse:
        remedy = "normalized_accessibility gives the probability that they are open"
        raise OptionError(f"{name!r} is not predicted as counts", remedy)
    return chosen


def _check_room(query, key: str) -> None:
    checks.check_cells(query)
    if getattr(query, "isbacked", False):
        raise OptionError("predict_modality writes to cells in memory", "read the file first: adata.to_memory()")
    for name in (key, f"{key}_sd"):
        if name in query.obsm and key not in query.uns:
            raise OptionError(f"obsm[{name!r}] is there already", "pass another key_added=")


def _hidden(model: Model, cells: Cells, chosen: Modality) -> Cells:
    """The cells as if the modality had been measured in none of them."""
    shape = len(cells), len(chosen.features)
    source, measured = not_measured(shape, model.schema.inputs[chosen.name])
    extra, known = {**cells.extra, chosen.name: source}, {**cells.measured, chosen.name: measured}
    return replace(cells, extra=extra, measured=known)


def _reference(model: Model, reference, chosen: Modality) -> _Known:
    """The cells trained on. Raises DataError where these are not known, or too few of them serve."""
    cells = trained_cells(model, reference)
    found = gathered(cells.extra[chosen.name])
    values = np.asarray(found.toarray() if hasattr(found, "toarray") else found, np.float64)
    known = cells.measured.get(chosen.name)
    values = np.log1p(values if known is None else np.where(known[:, None], values, np.nan))
    counted = np.zeros((model.reference.n_batches, values.shape[1]), bool)
    np.logical_or.at(counted, cells.batch, np.nan_to_num(values) > 0)
    values[~counted[cells.batch]] = np.nan  # zero in a whole batch: it was not stained for there
    measured = np.flatnonzero(~np.isnan(values).all(1))
    shown, held_out = rows_of_training(model, measured, repr(chosen.name))
    return _Known(cells, values, counted, shown, held_out)


def _table(known: _Known, predicted: Mapping[str, Values], features: list[str]) -> pd.DataFrame:
    truth, rows, by_feature = known.values[known.held_out], {}, {}
    for method, values in predicted.items():
        off = (values - truth)[~np.isnan(truth) & ~np.isnan(values)]
        found = [_correlation(truth[:, j], values[:, j]) for j in range(len(features))]
        rows[method] = {"pearson": _mean(found), "rmse": float(np.sqrt(np.square(off).mean())), "n_cells": len(truth)}
        by_feature[method] = found
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method").astype({"n_cells": int})
    table.attrs["by_feature"] = Attached(by_feature, index=pd.Index(features))
    return table


def _residual_deviation(known: _Known, predicted: Values) -> Float[np.ndarray, " feature"]:
    """Root mean square error of each feature in the cells held out; NaN where none has it."""
    squares = np.ma.masked_invalid(np.square(predicted - known.values[known.held_out]))
    return np.sqrt(squares.mean(0)).filled(np.nan)


def _correlation(truth: np.ndarray, values: np.ndarray) -> float:
    """NaN of a feature that does not vary, or that too few cells have."""
    there = ~np.isnan(truth) & ~np.isnan(values)
    a, b = truth[there], values[there]
    return pearson(a, b) if len(a) >= FEWEST and np.ptp(a) > 0 and np.ptp(b) > 0 else np.nan


def _mean(values: list[float]) -> float:
    known = np.array(values)[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _used(table: pd.DataFrame, use: str, model: str) -> str:
    if use == "best":
        return str(table.sort_values("pearson", ascending=False, kind="stable").index[0])
    return model if use == "model" else use
