"""The networks of predict_perturbation on counts with a planted response, in a type that was not treated."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import named

import scduet as sd
from scduet.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:X holds counts:scduet.errors.ScduetWarning")
N, GENES = 80, 60
SILENT = {"callback": lambda event: None}
OPTIONS = {
    "scgen": {"n_hidden": 64, "n_latent": 10, "max_epochs": 60, "batch_size": 32, "lr": 3e-3, "dropout_rate": 0.0},
    "trvae": {"n_hidden": 64, "n_latent": 5, "n_layers": 1, "max_epochs": 100, "batch_size": 32},
    "cvae": {"n_hidden": 32, "max_epochs": 60, "batch_size": 32},
}


@pytest.fixture(scope="module")
def treated():
    """Four types alike but for some genes, each with control cells; treatment raises ten genes fourfold in three.

    Returns the cells, and the true change of log-normalized means of the fourth.
    """
    draw = np.random.default_rng(0)
    base = draw.gamma(2, 1, GENES)
    response = np.where(np.arange(GENES) < 10, 4.0, 1.0)
    groups = [(t, k) for t in range(4) for k in range(2)]
    profiles = np.array([base * np.exp(0.5 * draw.normal(size=GENES)) for _ in range(4)])
    x = np.vstack([draw.poisson(3 * profiles[t] * response**k, (N, GENES)) for t, k in groups])
    obs = pd.DataFrame({"type": np.repeat([f"t{t}" for t, _ in groups], N)}, index=[f"c{i}" for i in range(len(x))])
    obs["state"] = np.repeat([["ctrl", "stim"][k] for _, k in groups], N)
    logged = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    truth = logged[-N:].mean(0) - logged[-2 * N : -N].mean(0)
    return anndata.AnnData(sp.csr_matrix(x[:-N].astype(np.float32)), obs=obs[:-N]), truth


@pytest.mark.parametrize("model", OPTIONS)
def test_the_planted_response_is_predicted_where_it_was_not_seen(treated, model):
    adata, truth = treated
    asked = {"perturbation_key": "state", "control": "ctrl", "context_key": "type", "contexts": ["t3"]}
    how = {"evaluate": None, "cells": "cells", **SILENT, **OPTIONS[model]}
    found = sd.predict_perturbation(adata, model=model, targets=["stim"], **asked, **how)
    change = found.change.to_numpy()[0]
    assert np.corrcoef(change, truth)[0, 1] > 0.7
    assert np.linalg.norm(change - truth) < 0.9 * np.linalg.norm(truth)  # "no change" is at 1
    assert found.cells.n_obs == N  # a prediction for each control cell


@pytest.mark.parametrize("model", ["trvae", "cvae"])
def test_models_of_counts_say_that_they_need_counts(treated, model):
    adata, _ = treated
    logged = adata.copy()
    logged.X = logged.X.log1p()
    asked = {"perturbation_key": "state", "control": "ctrl", "context_key": "type", "contexts": ["t3"]}
    with pytest.raises(DataError, match=named("layer=", "'scgen'")):
        sd.predict_perturbation(logged, model=model, targets=["stim"], evaluate=None, **asked, **SILENT)
