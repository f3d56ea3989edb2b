"""Weighted nearest neighbors as Seurat 4.3 finds them, with an exact search (make_weighted_neighbors_fixture.R)."""

from pathlib import Path

import numpy as np
import pytest

from scduet.metrics.core.weighted_neighbors import weighted_neighbors

FIXTURE = Path(__file__).parent / "fixtures" / "weighted_neighbors.npz"


@pytest.mark.parametrize(
    ("tag", "views", "n_neighbors", "n_candidates"), [("two", "ab", 8, 40), ("three", "abc", 10, 30)]
)
def test_neighbors_and_weights_are_those_of_seurat(tag, views, n_neighbors, n_candidates):
    with np.load(FIXTURE) as theirs:
        embeddings = [theirs[name].astype(float).round(3) for name in views]
        found = weighted_neighbors(embeddings, n_neighbors, n_candidates)
        np.testing.assert_allclose(found.weights, theirs[f"{tag}_weights"], rtol=1e-9)
        np.testing.assert_array_equal(found.neighbors.index, theirs[f"{tag}_index"])
        np.testing.assert_allclose(found.neighbors.distance, theirs[f"{tag}_distance"], atol=1e-7)
