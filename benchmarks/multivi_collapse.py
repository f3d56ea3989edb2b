"""Why the latent space of MultiVI collapses on cells that hardly differ: the mosaic of `multiome.py`, training varied.

    python benchmarks/multivi_collapse.py RNA.h5ad ATAC.h5ad [--label condition] [--seeds 0] [--peaks 3000]

A third of the cells keeps RNA and the most frequent peaks, a third RNA alone, a third peaks alone. For each setting the
KL divergence of the last epoch, the lowest loss of held-out cells (with the setting's KL weight), iLISI of the thirds,
and among cells with RNA the accuracy of 15 neighbors (leave-one-out) for the label.
"""

import argparse

import anndata
import mudata
import numpy as np
from multiome import accuracy

import scduet as sd
from scduet.events import silent
from scduet.metrics import ilisi

TO_THE_END = {"early_stopping": False, "max_epochs": 100}
SETTINGS = {
    "default": {},
    "to the end": TO_THE_END,
    "long warm-up": {**TO_THE_END, "kl_warmup_epochs": 50},
    "low KL weight": {**TO_THE_END, "max_kl_weight": 0.1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rna")
    parser.add_argument("atac")
    parser.add_argument("--label", default="condition")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--peaks", type=int, default=3000)
    options = parser.parse_args()
    rna, atac = anndata.read_h5ad(options.rna), anndata.read_h5ad(options.atac)
    rna.obs_names = atac.obs_names = [f"cell{i}" for i in range(rna.n_obs)]
    often = np.argsort(-np.asarray(atac.X.sum(0)).ravel(), kind="stable")[: options.peaks]
    atac, label = atac[:, np.sort(often)].copy(), rna.obs[options.label].to_numpy().astype(str)
    for name, setting in SETTINGS.items():
        for seed in options.seeds:
            group = np.random.default_rng(seed).permutation(np.arange(rna.n_obs) % 3)  # both, RNA, peaks
            mixed = mudata.MuData({"rna": rna[group != 2].copy(), "atac": atac[group != 1].copy()})
            model = sd.fit(mixed, "multivi", peaks_key="atac", seed=seed, callback=silent, **setting)
            z, history = model.embed()[mixed.obs_names.get_indexer(rna.obs_names)], model.history
            last, lowest = history.iloc[-1], history["loss_validation"].min()
            told = f"{len(history)} epochs, KL {last['kl_train']:.2f}, held-out loss {lowest:.1f}"
            told += f", adversary {last['recognition_train']:.2f}, iLISI {ilisi(z, group):.3f}"
            right = accuracy(z[group != 2], label[group != 2])
            print(f"{name}, seed {seed}: {told}, accuracy {right:.3f}", flush=True)


if __name__ == "__main__":
    main()
