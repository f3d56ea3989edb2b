"""Make fixtures/velocity.npz: what scVelo 0.3.4 computes from counts with known kinetics.

scVelo 0.3.4 needs numpy < 2.4 and pandas < 3; it is not a dependency: make an environment of its own.
    pip install "scvelo==0.3.4" "numpy<2.4" "pandas<3"
    python make_velocity_fixture.py
"""

from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
import scvelo as scv

N_CELLS, N_GENES = 150, 40
FITTED = ("alpha", "beta", "gamma", "t_", "scaling", "likelihood")


def counts():
    rng = np.random.default_rng(0)
    t = rng.uniform(0, 14, (N_CELLS, 1)) - rng.uniform(0, 8, N_GENES)  # since each gene was switched on
    beta, gamma, alpha = rng.uniform(0.3, 1, N_GENES), rng.uniform(0.2, 0.6, N_GENES), rng.uniform(5, 20, N_GENES)
    last = rng.uniform(2, 6, N_GENES)
    u, s = curve(np.clip(t, 0, last), 0, 0, alpha, beta, gamma)
    u, s = curve(np.clip(t - last, 0, None), u, s, 0 * alpha, beta, gamma)
    return rng.poisson(s + 1).astype(np.uint8), rng.poisson(u).astype(np.uint8)


def curve(t, u0, s0, alpha, beta, gamma):
    """u and s a time t after u0 and s0, under constant rates."""
    eu, es = np.exp(-beta * t), np.exp(-gamma * t)
    u = u0 * eu + alpha / beta * (1 - eu)
    return u, s0 * es + alpha / gamma * (1 - es) + (alpha - beta * u0) / (gamma - beta) * (es - eu)


def main():
    scv.settings.verbosity = 0
    spliced, unspliced = counts()
    cells = ad.AnnData(spliced.astype(np.float32))
    cells.layers["spliced"], cells.layers["unspliced"] = cells.X.copy(), unspliced.astype(np.float32)
    scv.pp.filter_and_normalize(cells, min_shared_counts=1000)
    made = {"spliced": spliced, "unspliced": unspliced, "kept": cells.var_names.to_numpy().astype(int)}
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=5)
    sc.pp.neighbors(cells, n_neighbors=12)
    scv.pp.moments(cells, n_pcs=None, n_neighbors=None)
    made["index"] = cells.obsp["distances"].indices.reshape(N_CELLS, -1).astype(np.uint8)
    made["linked"] = np.packbits(cells.obsp["connectivities"].toarray() > 0)
    made["Ms"], made["Mu"] = (cells.layers[key].astype(np.float32)[::10] for key in ("Ms", "Mu"))
    place = cells.obsm["X_pca"][:, :2].astype(np.float32)
    made["place"] = cells.obsm["X_pca"] = place
    for mode in ("deterministic", "stochastic"):
        scv.tl.velocity(cells, mode=mode)
        scv.tl.velocity_graph(cells, n_jobs=1, show_progress_bar=False)
        scv.tl.velocity_embedding(cells, basis="pca", autoscale=False)
        steps = scv.utils.get_transition_matrix(cells, use_negative_cosines=True)
        graph = cells.uns["velocity_graph"] + cells.uns["velocity_graph_neg"]
        found = {
            "gamma": cells.var["velocity_gamma"], "r2": cells.var["velocity_r2"], "genes": cells.var["velocity_genes"],
            "velocity": cells.layers["velocity"][::10], "graph": graph.toarray()[::10],
            "steps": steps.toarray()[::10], "arrows": cells.obsm["velocity_pca"],
        }  # fmt: skip
        kinds = {"genes": bool}
        made |= {f"{mode}_{name}": np.asarray(v, kinds.get(name, np.float32)) for name, v in found.items()}
    scv.tl.recover_dynamics(cells, n_jobs=1, show_progress_bar=False)
    scv.tl.velocity(cells, mode="dynamical")
    scv.tl.velocity_graph(cells, n_jobs=1, show_progress_bar=False)
    scv.tl.latent_time(cells)
    made |= {f"dynamical_{name}": cells.var[f"fit_{name}"].to_numpy() for name in FITTED}
    made["dynamical_genes"] = cells.var["velocity_genes"].to_numpy(bool)
    layers = {"velocity": "velocity", "time": "fit_t"}
    made |= {f"dynamical_{name}": cells.layers[key][::3].astype(np.float32) for name, key in layers.items()}
    made["dynamical_latent_time"] = cells.obs["latent_time"].to_numpy(np.float32)
    np.savez_compressed(Path(__file__).parent / "fixtures" / "velocity.npz", **made)


if __name__ == "__main__":
    main()
