"""Leiden clusters of graspologic-native (MIT) beside those of igraph (GPL): NMI, ARI and CPU time on unintegrated PCA.

python benchmarks/leiden.py ../shared/data/kang_ifnb_2800.h5ad:cell_type ...; five seeds each.
"""

import random
import sys
import time

import anndata as ad
import igraph
import numpy as np
from scipy.sparse import triu

from scduet.metrics.core.neighbors import nearest_neighbors
from scduet.metrics.integration import clustering
from scduet.metrics.integration.graph import umap_weights
from scduet.tasks.quality.baselines import unintegrated_pca

SEEDS = range(5)


def of_igraph(neighbors, seed: int) -> list[np.ndarray]:
    """What `clustering.leiden_clusters` does, by igraph's defaults."""
    links = triu(umap_weights(neighbors.first(15)), k=1, format="coo")
    graph = igraph.Graph(n=neighbors.n_cells, edges=np.column_stack([links.row, links.col]))
    found = []
    for resolution in clustering.RESOLUTIONS:
        igraph.set_random_number_generator(random.Random(seed))
        run = graph.community_leiden("modularity", weights=links.data, resolution=resolution, n_iterations=2)
        found.append(np.array(run.membership))
    return found


def main(*given: str) -> None:
    for path, _, key in (text.partition(":") for text in given):
        adata = ad.read_h5ad(path)
        adata = adata[adata.obs[key].notna()].copy()
        labels = np.unique(adata.obs[key].astype(str), return_inverse=True)[1]
        neighbors = nearest_neighbors(unintegrated_pca(adata, None).astype(np.float32), 15)
        print(f"{path}: {adata.n_obs} cells")
        for name, clusters in (("igraph", of_igraph), ("graspologic-native", clustering.leiden_clusters)):
            began = time.process_time()
            grids = [clusters(neighbors, seed) for seed in SEEDS]
            seconds = (time.process_time() - began) / len(SEEDS)
            best = [clustering.best_clusters(labels, grid) for grid in grids]
            nmi = [round(clustering.nmi(labels, found), 3) for found in best]
            ari = [round(clustering.ari(labels, found), 3) for found in best]
            print(f"  {name:20s} CPU s {seconds:5.2f}  NMI {nmi}  ARI {ari}")


if __name__ == "__main__":
    main(*sys.argv[1:])
