"""Shifts do not depend on how many cells of each type there are, and predict the response of real cells."""

import numpy as np
import pytest
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError
from scduet.metrics import squared_pearson
from scduet.metrics.integration.genes import variable_genes
from scduet.tasks.quality.baselines import log_normalized

KINDS = np.array(["B", "NK", "T"])
PLACE = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])  # of the types
EFFECT = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]])  # on each type


def cells(n, kinds, treated):
    """Cells in the places of their types, moved by the effect when treated; no noise."""
    kind = np.repeat(kinds, n)
    return PLACE[kind] + treated * EFFECT[kind], KINDS[kind]


def test_pooled_cells_mistake_composition_for_effect_and_types_do_not():
    (start, labels_start), (end, labels_end) = cells([50, 30, 20], [0, 1, 2], 0), cells([5, 15, 80], [0, 1, 2], 1)
    states, labels = np.zeros((4, 2)), dict(labels_start=labels_start, labels_end=labels_end)
    assert np.allclose(sd.shift(states, start, end), end.mean(0) - start.mean(0))
    assert np.allclose(sd.shift(states, start, end, **labels), EFFECT.mean(0))
    weights = {"B": 1, "T": 3}
    assert np.allclose(sd.shift(states, start, end, **labels, weights=weights), (EFFECT[0] + 3 * EFFECT[2]) / 4)


def test_types_without_a_partner_and_cells_without_a_type_take_no_part():
    (start, labels_start), (end, labels_end) = cells([9, 4, 7], [0, 1, 2], 0), cells([3, 5], [0, 1], 1)
    start, labels_start = np.vstack([start, [[99.0, 99.0]]]), np.append(labels_start.astype(object), None)
    moved = sd.shift(np.zeros((1, 2)), start, end, labels_start=labels_start, labels_end=labels_end)
    assert np.allclose(moved, EFFECT[:2].mean(0))


def test_likeness_is_a_gaussian_of_the_distance_to_the_states():
    (start, labels_start), (end, labels_end) = cells([2, 2, 2], [0, 1, 2], 0), cells([2, 2, 2], [0, 1, 2], 1)
    states = np.array([[0.0, 1.0], [0.0, 3.0]])  # their mean lies 2 from B, sqrt(104) from NK, 8 from T
    weight = np.exp(-2 * np.array([4.0, 104.0, 64.0]) / 64)
    found = sd.shift(states, start, end, labels_start=labels_start, labels_end=labels_end, weights="likeness")
    assert np.allclose(found - states, weight @ EFFECT / weight.sum())


def test_what_does_not_fit_is_named():
    (start, labels_start), (end, labels_end) = cells([2, 2], [0, 1], 0), cells([2, 2], [0, 1], 1)
    states, labels = np.zeros((1, 2)), dict(labels_start=labels_start, labels_end=labels_end)
    with pytest.raises(DataError, match="labels_end"):
        sd.shift(states, start, end, labels_start=labels_start)
    with pytest.raises(DataError, match=named("labels_start", 3, 4)):
        sd.shift(states, start, end, labels_start=labels_start[:3], labels_end=labels_end)
    with pytest.raises(DataError, match=named("start", "'x'", "end", "'B'")):
        sd.shift(states, start, end, labels_start=["x"] * 4, labels_end=labels_end)
    for weights in ("size", {"B": -1, "NK": 2}, {"B": 0}):
        with pytest.raises(OptionError, match="weights"):
            sd.shift(states, start, end, **labels, weights=weights)
    with pytest.raises(OptionError, match="'T'"):
        sd.shift(states, start, end, **labels, weights={"T": 1})
    with pytest.raises(OptionError, match=named("'likeness'", "labels_start")):
        sd.shift(states, start, end, weights="likeness")


def test_the_response_of_cd4_t_cells_is_predicted_better_within_types(real_data):
    """Kang et al. 2018, stimulated CD4 T cells held out, on the log-normalized expression of 2,000 genes."""
    types = {"CD4 Naive T": "CD4 T", "CD4 Memory T": "CD4 T", "T activated": "CD4 T", "B Activated": "B"}
    adata = real_data("kang_ifnb_2800.h5ad")
    adata = adata[~adata.obs["cell_type"].isin(["Mk", "pDC", "Eryth"])].copy()
    kind = adata.obs["cell_type"].astype(str).replace(types).to_numpy()
    stimulated = (adata.obs["condition"] == "stim").to_numpy()
    logged = log_normalized(adata.X)
    own = kind == "CD4 T"
    train = ~(own & stimulated)
    x = logged[:, variable_genes(logged[train], 2000)].toarray()
    control, treated, truth = train & ~stimulated, train & stimulated, x[own & stimulated].mean(0)
    labels = dict(labels_start=kind[control], labels_end=kind[treated])
    options = {"pooled": {}, "equal": labels, "likeness": labels | {"weights": "likeness"}}
    found = {
        name: squared_pearson(truth, sd.shift(x[own & ~stimulated], x[control], x[treated], **how).mean(0))
        for name, how in options.items()
    }
    assert found == pytest.approx({"pooled": 0.674, "equal": 0.837, "likeness": 0.917}, abs=0.01)
