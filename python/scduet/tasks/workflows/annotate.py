"""Names the cells of a query by a labeled reference, and says how far that can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.utils import make_index_unique
from jaxtyping import Float, Int

from scduet.api import fit, is_transformer
from scduet.capabilities import Classifier, TrainedModel, Votes
from scduet.data import checks, inputs, locate
from scduet.data.labels import labels_of
from scduet.data.levels import coded, text
from scduet.data.main_matrix import with_layer
from scduet.data.schema import Fields
from scduet.errors import DataError, OptionError, some
from scduet.events import Listener
from scduet.metrics.transfer import accuracy, expected_calibration_error, macro_f1
from scduet.models import find
from scduet.options import build, check_arguments, options_of, refuse_unknown, seed_of
from scduet.tasks.quality.simple_classifiers import KNN, LOGISTIC, SVM, simple_classifiers
from scduet.tasks.workflows.map_query import map_query

HELD_OUT = 0.1  # share of the labeled reference cells whose labels the model is not shown
USES = {"model": None, "best": None, "knn": KNN, "logistic_regression": LOGISTIC, "linear_svm": SVM}
USES |= {name: name for name in (KNN, LOGISTIC, SVM)}
DECIDES = ["macro_f1", "accuracy"]  # what "best" means; the second where the first ties
FINE_TUNING = dict(max_epochs=20, n_samples_per_label=100)  # of scvi-tools' tutorials, after training scVI


def annotate(
    query,
    reference,
    labels_key: str | None = None,
    model: str | Path | TrainedModel = "scanvi",
    *,
    batch_key: str | None = None,
    use: str = "model",
    unknown: float | None = None,
    key_added: str = "predicted",
    seed: int = 0,
    callback: Listener | None = None,
    **options,
) -> pd.DataFrame:
    """Predict the cell types of `query` from those of `reference`, and return the table that says how well that works.

    query: AnnData or MuData with raw counts; gains obs[key_added] (categorical), obs[key_added + "_score"] (probability
        of that type, 0 to 1), obsm[key_added + "_probability"] (cell x type; "-" for "/", which no file may hold in a
        name), and uns[key_added]: the method that gave the labels, and its accuracy and macro_f1.
    reference: the same with obs[labels_key]; or a trained scANVI onto which the query is mapped, or a
        transformer that `finetune` taught.
    model: "scanvi", or another classifier of the models by name, e.g. "siggcn"; or a transformer (or its folder or
        "hf://" address) that is fine-tuned on the reference.
    batch_key: column of obs of both; None takes reference and query for two batches. Transformers do not use it.
    use: whose labels the query gets: "model"; "knn", "logistic_regression" or "linear_svm", the baselines of the table;
        or "best", the row with the highest macro_f1 (mean over types; where that ties, accuracy, then the model).
        Logistic regression is often as good as the model: look at the table. Given a trained model, which has no
        labeled cells to teach the others, only "model".
    unknown: cells whose entropy is above this share (0 to 1) of the largest possible are called "unknown"; None for no
        such call.
    options: as for `fit`, of the scVI that is trained first on both data sets (Xu et al. 2021), e.g. layer, max_epochs;
        with a transformer as for `finetune`, e.g. tuning, max_length.

    Returns one row a method (the model, 15 nearest neighbors on PCA, logistic regression, a linear SVM; with scgcn also
    a vote over its edges) with accuracy, macro_f1, calibration_error and n_cells, all on the tenth of the labeled
    reference cells whose labels no method was shown. The probabilities of the linear SVM are not calibrated.
    attrs["used"] is the method that gave the labels. Given a trained model, the one row is the accuracy on the cells
    held out while it was trained.

    Raises DataError where no gene is shared, no reference cell is labeled, or all have the same label; OptionError for
    a method that is not there.
    """
    checks.check_cells(query)
    seed = seed_of(seed)
    labeled = reference if hasattr(reference, "obs_names") else None
    _check_use(use, trained=labeled is None)
    check_arguments(**({} if unknown is None else {"unknown": unknown}))
    if labeled is None:
        found, table = _by_model(query, reference, callback, options)
    elif not isinstance(model, str) or is_transformer(model):
        found, table = _by_transformer(query, reference, labels_key, model, seed, callback, options)
    else:
        known = [o.name for o in options_of(str(model))]
        refuse_unknown(options, known, f"annotate by {model!r}")
        found, table = _by_reference(query, reference, labels_key, str(model), batch_key, seed, callback, options)
    method = _chosen(table, use)
    share = found[method]().set_axis(query.obs_names)
    if labeled is not None and labels_key is not None:  # names become the user's values again
        own = coded(locate.column(labeled, labels_key), labels_key).own  # pyright: ignore[reportAttributeAccessIssue]
        share.columns = pd.Index([own[name] for name in share.columns])
    _write(query, share, unknown, key_added)
    query.uns[key_added] = {"method": method, **{k: float(v) for k, v in table.loc[method].items() if k in DECIDES}}
    table.attrs["used"] = method
    return table


def _check_use(use: str, trained: bool) -> None:
    if use not in USES:
        raise OptionError(f"use={use!r}", f"it takes {some([*USES][:5], 5)}")
    if trained and use != "model":
        raise OptionError(
            f"use={use!r} needs the labeled cells", "pass these as reference, not a model trained on them"
        )


def _chosen(table: pd.DataFrame, use: str) -> str:
    """The row whose labels are wanted; the model's is the first."""
    if use == "best":
        return str(table.sort_values(DECIDES, ascending=False, kind="stable").index[0])
    return USES[use] or str(table.index[0])


def predict(model: TrainedModel, adata: AnnData | None = None) -> pd.DataFrame:
    """Probability of each cell type (cell x type) by a model that classifies; None: the cells trained on."""
    return model.predict(adata)


def entropy(probability: Float[np.ndarray, "cell label"]) -> Float[np.ndarray, " cell"]:
    """Entropy as a share of the largest possible: 0 is certain, 1 knows nothing."""
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-12, 1)
    return -(p * np.log(p)).sum(1) / np.log(max(p.shape[1], 2))


Labels = Callable[[], pd.DataFrame]  # gives the probabilities of the query's cells


@dataclass(frozen=True)
class _Truth:
    """The labels of the reference, and the cells whose labels are kept from every method."""

    labels: np.ndarray  # name of the type, None where there is none
    shown: Int[np.ndarray, " shown"]
    held_out: Int[np.ndarray, " held_out"]


def _by_model(
    query: AnnData, model: TrainedModel, callback: Listener | None, options: dict
) -> tuple[dict[str, Labels], pd.DataFrame]:
    """By a model that knows the types. Its accuracy is that at the end of training, on the cells held out from it."""
    if not hasattr(model, "needs_mapping"):
        raise DataError(f"the reference is a {type(model).__name__}", "pass labeled cells as AnnData, or a model")
    if model.needs_mapping:
        refuse_unknown(options, (), "annotate with a trained model")
        if not isinstance(model.module, Classifier):
            hint = "pass a scANVI, or the labeled reference itself"
            raise OptionError(f"model {model.name!r} is not a classifier", hint)
        share = map_query(query, model, callback=callback).predict()  # pyright: ignore[reportArgumentType]
    else:
        share = model.predict(query, **options)
    seen = model.history.get("accuracy_validation", pd.Series(dtype=float)).dropna()
    row = {"accuracy": seen.iloc[-1] if len(seen) else np.nan}
    return {model.name: lambda: share}, pd.DataFrame(row, index=pd.Index([model.name], name="method"))


def _by_transformer(
    query: AnnData, reference: AnnData, labels_key, model, seed: int, callback, options: dict
) -> tuple[dict[str, Labels], pd.DataFrame]:
    from scduet.tasks.foundation.finetune import finetune

    unlabeled = options.get("unlabeled_category", "Unknown")
    truth = _split(labels_of(reference, labels_key, unlabeled)[0], seed)
    for_baselines = {name: options[name] for name in ("layer",) if name in options}
    both = _joined(query, reference, truth, None, unlabeled, for_baselines)
    trained = finetune(reference[truth.shown], model, labels_key, seed=seed, callback=callback, **options)
    found = {trained.name: (trained.predict(reference[truth.held_out]), lambda: trained.predict(query))}
    return _beside_baselines(found, both, truth)


def _by_reference(
    query: AnnData, reference: AnnData, labels_key, model: str, batch_key, seed: int, callback, options: dict
) -> tuple[dict[str, Labels], pd.DataFrame]:
    unlabeled = options.pop("unlabeled_category", "Unknown")
    truth = _split(labels_of(reference, labels_key, unlabeled)[0], seed)
    both = _joined(query, reference, truth, batch_key, unlabeled, options)
    where = dict(batch_key="batch", callback=callback, seed=seed)
    if model == "scanvi":
        base = fit(both, "scvi", **where, **options)
        labels = dict(labels_key="label", unlabeled_category=unlabeled)
        trained = fit(both, "scanvi", start=base, callback=callback, seed=seed, **labels, **FINE_TUNING)  # type: ignore[arg-type]
    else:
        options |= _join_inputs(both, reference, query, model, options)
        trained = fit(both, model, labels_key="label", unlabeled_category=unlabeled, **where, **options)
    shares, n = {model: predict(trained)}, reference.n_obs
    if isinstance(trained.module, Votes):
        votes = trained.map(trained.module.vote).cpu().numpy()
        shares["vote over its edges"] = pd.DataFrame(votes, columns=shares[model].columns)
    found = {name: (share.iloc[truth.held_out], partial(share.tail, len(share) - n)) for name, share in shares.items()}
    return _beside_baselines(found, both, truth)


def _beside_baselines(
    found: dict[str, tuple[pd.DataFrame, Labels]], both: AnnData, truth: _Truth
) -> tuple[dict[str, Labels], pd.DataFrame]:
    """Labels of the query by a model and by simple classifiers, and how well all of them do on held-out cells.

    found: of the model, its probabilities of the held-out cells, and what gives those of the query.
    """
    n, rows = len(truth.labels), np.arange(len(truth.labels), both.n_obs)
    for name, method in simple_classifiers(both.X, n, truth.shown, truth.labels).items():
        found[name] = method.predict(truth.held_out), partial(method.predict, rows)
    table = _table(truth, {name: held_out for name, (held_out, _) in found.items()})
    return {name: of_query for name, (_, of_query) in found.items()}, table


def _split(labels: np.ndarray, seed: int) -> _Truth:
    """Hold out a tenth of the cells of each type; a type of fewer than five cells keeps them all."""
    draw, held_out = np.random.default_rng(seed), []
    for kind in sorted({label for label in labels if label is not None}):
        cells = draw.permutation(np.flatnonzero(labels == kind))
        held_out.append(cells[: max(1, round(HELD_OUT * len(cells))) if len(cells) >= 5 else 0])
    out = np.sort(np.concatenate(held_out))
    if not len(out):
        raise DataError("no type has 5 labeled cells, of which to hold one out", "is this the column of cell types?")
    labeled = np.flatnonzero(labels != np.array(None))
    return _Truth(labels, np.setdiff1d(labeled, out), out)


def _joined(query: AnnData, reference: AnnData, truth: _Truth, batch_key, unlabeled: str, options: dict) -> AnnData:
    """Reference and query as one data set of their shared genes, with obs "batch" and "label"."""
    fields = build(Fields, {**options, "genes": options.pop("genes", None), "layer": options.pop("layer", None)})
    given = reference, query
    (query, _), (reference, layer) = (with_layer(part, fields.layer) for part in (query, reference))
    for part in (query, reference):
        checks.check_names(part.var_names, "gene")
    genes = _shared_genes(query, reference, fields.genes)
    named = (*fields.categorical_covariate_keys, *fields.continuous_covariate_keys, fields.size_factor_key)
    columns = [key for key in named if key is not None]
    tables = [pd.DataFrame({key: locate.column(part, key) for key in columns}, part.obs_names) for part in given]
    parts = [locate.locate_main(part[:, genes], layer).values for part in (reference, query)]
    obs = pd.concat(tables, ignore_index=True)
    obs.index = [f"reference {name}" for name in reference.obs_names] + [f"query {name}" for name in query.obs_names]
    if batch_key is None:
        obs["batch"] = np.repeat(["reference", "query"], [reference.n_obs, query.n_obs])
    else:
        obs["batch"] = np.concatenate([_batches(part, batch_key) for part in given])
    label = np.full(len(obs), unlabeled, dtype=object)
    label[truth.shown] = truth.labels[truth.shown]
    obs["label"] = label
    return AnnData(sp.vstack([sp.csr_matrix(part) for part in parts], format="csr"), obs, pd.DataFrame(index=genes))


def _join_inputs(both: AnnData, reference: AnnData, query: AnnData, model: str, options: dict) -> dict:
    """Put the further inputs of `model` into `both`, the cells of reference and query; returns where they are."""
    cls, places = find(model), {}
    fields = build(getattr(cls, "Fields", Fields), options)
    for name, given in getattr(cls, "inputs", {}).items():
        place = None if name == "x" else getattr(fields, given.option)
        if place is None or not isinstance(locate.resolve(reference, place, given), str):
            continue
        if given.axis == "cell":
            matrix, names = inputs.joined([reference, query], fields, given)
            both.obsm[name], both.uns[f"{name}_names"] = matrix, names.to_numpy(str)
            places[given.option] = f"obsm/{name}"
        elif given.axis == "feature":
            found = locate.locate(reference, locate.resolve(reference, place, given))
            table = found.numbers.toarray() if sp.issparse(found.numbers) else found.numbers
            places[given.option] = pd.DataFrame(table, found.rows, found.columns)
        elif given.axis != "table":
            raise OptionError(f"annotate cannot join {given.option} of two data sets", "join them first, and use fit")
    return places


def _batches(adata: AnnData, key: str) -> np.ndarray:
    if not isinstance(key, str) or not locate.has_column(adata, key):
        raise DataError(f"no column {key!r} in obs of reference and query", "leave batch_key out, or add the column")
    return coded(locate.column(adata, key), key, required=True).texts


def _shared_genes(query: AnnData, reference: AnnData, wanted) -> pd.Index:
    """Genes that both have: of those asked for, else of the reference's highly variable ones, else all."""
    if wanted is None and "highly_variable" in reference.var:
        wanted = "highly_variable"
    if isinstance(wanted, str):
        wanted = reference.var_names[checks.flags(reference.var, wanted)]
    names = reference.var_names if wanted is None else pd.Index(wanted)
    shared = names[names.isin(query.var_names) & names.isin(reference.var_names)]
    if len(shared) == 0:
        raise DataError("query and reference share no gene", "are names symbols in one and Ensembl ids in the other?")
    return shared


def _table(truth: _Truth, found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    right = truth.labels[truth.held_out].astype(str)
    rows = {}
    for method, share in found.items():
        called, confidence = share.columns.to_numpy()[share.to_numpy().argmax(1)], share.to_numpy().max(1)
        rows[method] = {
            "accuracy": accuracy(right, called),
            "macro_f1": macro_f1(right, called),
            "calibration_error": expected_calibration_error(right, called, np.clip(confidence, 0, 1)),
            "n_cells": len(right),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method").astype({"n_cells": int})


def _write(query: AnnData, found: pd.DataFrame, unknown: float | None, key: str) -> None:
    share = found.to_numpy()
    names = found.columns
    called = names.to_numpy()[share.argmax(1)]
    if unknown is not None:  # a word among them makes all of them text
        names = pd.Index([*map(text, names), "unknown"])
        called = np.where(entropy(share) > unknown, "unknown", names.to_numpy()[share.argmax(1)])
    query.obs[key] = pd.Categorical(called, categories=names.unique())
    query.obs[f"{key}_score"] = share.max(1)
    told = pd.Index([text(name).replace("/", "-") for name in found.columns])  # .h5ad takes "/" for a folder
    query.obsm[f"{key}_probability"] = found.set_axis(make_index_unique(told), axis=1)
