"""Which cells: every way to say it gives the same cells, and what may mean two things is refused."""

import numpy as np
import pandas as pd
import pytest
from named import named

import scduet as sd
from scduet.data.selection import selected
from scduet.errors import DataError

NAMES = pd.Index([f"cell{i}" for i in range(6)])
OBS = pd.DataFrame({"kind": ["a", "b", "a", None, "b", "b"], "x": range(6)}, index=NAMES)
MASK = np.array([True, False, True, False, False, False])
WAYS = {
    "mask": MASK,
    "list": MASK.tolist(),
    "column": MASK[:, None],
    "Series": pd.Series(MASK, NAMES),
    "Series in another order": pd.Series(MASK, NAMES).iloc[[3, 5, 0, 1, 4, 2]],
    "nullable mask": pd.Series(MASK, NAMES, dtype="boolean"),
    "objects": pd.Series(MASK, NAMES, dtype=object),
    "places": [0, 2],
    "nullable places": pd.array([0, 2], dtype="Int64"),
    "names": ["cell0", "cell2"],
    "Index": NAMES[[0, 2]],
    "categories": pd.Categorical(["cell0", "cell2"]),
    "query": "kind == 'a'",
    "query of names": "index in ['cell0', 'cell2']",
}
REFUSED = {
    "mask of integers": (MASK.astype(int), [0, 1]),
    "mask of bytes": (pd.Series(MASK.astype("u1"), NAMES), [0, 1]),
    "mask of numbers": (MASK.astype(float), ["floating"]),
    "Series of other cells": (pd.Series(MASK), ["'cell0'"]),
    "cells twice": (pd.Series(MASK, NAMES).iloc[[0, 0, 1, 2, 3, 4, 5]], ["'cell0'"]),
    "missing": (pd.array([True, None, *MASK[2:]], dtype="boolean"), ["'cell1'"]),
    "short": (MASK[:3], [3, 6]),
    "unknown name": (["cell0", "cell9"], ["'cell9'"]),
    "no such place": ([0, 6], ["'6'"]),
    "from the end": ([-1], ["'-1'"]),
    "nothing": ([], []),
    "no cell": ("kind == 'z'", []),
    "wrong query": ("ghost == 1", ["'ghost'", "'kind'"]),
    "no query": ("x + 1", ["'x'"]),
    "matrix": (np.ones((6, 2), bool), [6, 2]),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_chooses_the_same_cells(way):
    assert selected(WAYS[way], NAMES, OBS).tolist() == [0, 2]


@pytest.mark.parametrize("way", REFUSED)
def test_what_means_two_things_or_none_is_refused(way):
    wanted, names = REFUSED[way]
    with pytest.raises(DataError, match=named("rows=", *names)):
        selected(wanted, NAMES, OBS)


def test_places_and_names_keep_their_order():
    assert selected(["cell3", "cell0"], NAMES).tolist() == [3, 0]
    assert selected([4, 1, 4], NAMES).tolist() == [4, 1, 4]
    assert selected([0, 1], NAMES[:2]).tolist() == [0, 1]


QUICK = {"max_epochs": 1, "n_hidden": 8, "callback": lambda event: None}


def test_analyses_and_facade_choose_cells_alike(counts):
    from scduet import scvi

    model = sd.fit(counts, batch_key="batch", **QUICK)
    mask = (counts.obs["cell_type"] == counts.obs["cell_type"].iloc[0]).to_numpy()
    name = counts.obs["cell_type"].iloc[0]
    other = pd.Series(mask, counts.obs_names).sample(frac=1, random_state=0)
    right = sd.normalized_expression(model, counts[mask])
    table = sd.differential_expression(model, counts, idx1=mask, n_draws=50, verbose=False)
    ways = (mask, np.flatnonzero(mask), other, counts.obs_names[mask], f"cell_type == {name!r}")
    for rows in ways:
        found = sd.normalized_expression(model, counts, rows=rows)
        assert list(found.index) == list(right.index)
        assert np.allclose(found, right)
        assert sd.posterior_predictive_sample(model, counts, rows=rows).shape == right.shape
        assert sd.differential_expression(model, counts, idx1=rows, n_draws=50, verbose=False).equals(table)
    for call in (
        lambda: sd.normalized_expression(model, counts, rows=mask.astype(int)),
        lambda: sd.posterior_predictive_sample(model, counts, rows=mask.astype(int)),
        lambda: sd.differential_expression(model, counts, idx1=mask.astype(int)),
    ):
        with pytest.raises(DataError, match=named(0, 1)):
            call()
    scvi.model.SCVI.setup_anndata(counts)
    theirs = scvi.model.SCVI(counts, n_hidden=8)
    latent = theirs.get_latent_representation()
    for indices in (mask, other, np.flatnonzero(mask)):
        assert np.array_equal(theirs.get_latent_representation(indices=indices), latent[mask])
