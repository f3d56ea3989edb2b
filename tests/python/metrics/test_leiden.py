"""Leiden finds planted communities, and is no worse than igraph's."""

import igraph
import numpy as np
import pytest
from scipy import sparse

from scduet.metrics.core.leiden import leiden


def planted(n_groups=6, size=50, inside=0.3, outside=0.01, seed=0):
    """A graph with communities, and the community of each node."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), size)
    linked = rng.random((len(group),) * 2) < np.where(group[:, None] == group, inside, outside)
    upper = sparse.csr_array(np.triu(linked * rng.uniform(0.5, 1, linked.shape), 1))
    return upper + upper.T, group


@pytest.mark.parametrize("seed", range(3))
def test_planted_communities_are_found(seed):
    graph, group = planted(seed=seed)
    found = leiden(graph, 1.0, seed)
    assert len(set(zip(found, group, strict=True))) == 6 == len(set(found))
    np.testing.assert_array_equal(leiden(graph, 1.0, seed), found)


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
def test_modularity_is_that_of_igraph(resolution):
    graph, _ = planted(inside=0.1, outside=0.03)
    links = sparse.triu(graph, format="coo")
    other = igraph.Graph(n=graph.shape[0], edges=np.column_stack([links.row, links.col]))
    theirs = other.community_leiden("modularity", weights=links.data, resolution=resolution, n_iterations=2).membership
    ours = leiden(graph, resolution, 0).tolist()
    quality = [other.modularity(found, weights=links.data, resolution=resolution) for found in (ours, theirs)]
    assert quality[0] == pytest.approx(quality[1], abs=0.02)


def test_nodes_without_links_are_communities_of_their_own():
    links = sparse.csr_array(([1.0, 1.0], ([0, 1], [1, 0])), shape=(4, 4))
    first, second, *others = leiden(links, 1.0, 0)
    assert first == second
    assert len({first, *others}) == 3
    assert len(set(leiden(sparse.csr_array((3, 3)), 1.0, 0))) == 3
