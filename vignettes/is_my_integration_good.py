# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Is my integration good?
#
# You have cells of several batches and an embedding that promises to have removed the batches and kept the biology. One
# call tells how far it did, always beside what costs nothing: the unintegrated PCA, and Harmony. Here: 2,000 PBMC of
# three 10x kits (V2, V3, 5'), with cell types by the authors of the data. Give your own file and columns as arguments:
#
#     python vignettes/is_my_integration_good.py my.h5ad batch cell_type
#
# A method that is shown the labels is flattered by metrics that use them. So scANVI sees the labels of a random half of
# the cells only, and every embedding is scored on the other half.

# %%
import sys
from pathlib import Path

import anndata
import numpy as np
import scanpy as sc

import scduet as sd

given = sys.argv[1:] if Path(sys.argv[0]).suffix == ".py" and len(sys.argv) == 4 else []
data, batch, labels = given or ["../shared/data/pbmc_3tech_savercat.h5ad", "batch", "cell_type"]
if not Path(data).exists():
    sys.exit(f"{data} is not here; give a file and its columns: FILE BATCH LABELS")
adata = anndata.read_h5ad(data)

logged = adata.copy()
sc.pp.normalize_total(logged, target_sum=1e4)
sc.pp.log1p(logged)
sc.pp.highly_variable_genes(logged, n_top_genes=2000, batch_key=batch)
adata.var["highly_variable"] = logged.var["highly_variable"]

# %% [markdown]
# ## Three embeddings and two baselines
#
# scVI sees counts and batches. scANVI also sees labels, of half of the cells.

# %%
hidden = np.random.default_rng(0).permutation(adata.n_obs) < adata.n_obs // 2
adata.obs["seen"] = adata.obs[labels].astype(str).where(~hidden, "Unknown")
sd.integrate(adata, "scvi", batch_key=batch, key_added="X_scVI", seed=0)
sd.integrate(
    adata, "scanvi", batch_key=batch, labels_key="seen", unlabeled_category="Unknown", key_added="X_scANVI", seed=0
)
table = sd.score(adata[hidden], ["X_scVI", "X_scANVI"], batch_key=batch, labels_key=labels)
print(table.T.to_string(float_format="%.3f"))
for metric, reason in table.attrs["reasons"]["X_pca"].items():
    print(f"{metric}: no value, {reason}")

# %%
out = Path("demo")
out.mkdir(exist_ok=True)
sd.pl.save_figure(sd.pl.scores(table, starred=["X_scANVI"]), out / "scores.png")
sd.pl.save_figure(sd.pl.tradeoff(table), out / "tradeoff.png")

# %% [markdown]
# ## How to read the columns
#
# All are scaled so that higher is better; the ranges are not equally used, which is why ranks and differences to
# the PCA say more than the values.
#
# Biology kept:
#
# * `isolated_labels`: are the types that few batches have still apart? Better than the PCA is good. No value where
#   every type is in every batch, as here.
# * `nmi_kmeans`, `ari_kmeans`: do clusters found without labels match the types? Near 1 is good. There are as many
#   clusters as types, so one large type that falls in two costs a lot.
# * `silhouette_label`: are the types apart? 0.5 is complete overlap, 0.55 to 0.75 is what good methods reach. It
#   rewards round clusters, not trajectories.
# * `clisi`: is a neighbourhood of one type? Nearly always 1, so it says little.
#
# Batches mixed:
#
# * `bras`: do the cells of a type overlap with those of all other batches? Above 0.9 is good, 0.3 to 0.7 is
#   unmixed. It takes the cosine, which depends on the origin of the embedding; `bras_euclidean` does not.
# * `silhouette_batch` (on request): the same with the nearest batch only. The unintegrated PCA often has 0.75 to 0.85,
#   and batches that mix in pairs look perfect.
# * `ilisi`: how many batches are in a neighbourhood? It cannot reach 1 where types are missing in batches; then read
#   `cilisi`.
# * `kbet`: are neighbourhoods composed as the whole type is? Strict: tiny shifts are rejected.
# * `graph_connectivity`: is each type one piece? Near 1 is a low bar.
# * `pcr_comparison`: how much of the batch variance is gone? 0 for the PCA by definition. It takes true differences in
#   composition for batch effects.
# * `batch_entropy`: entropy of the batches nearby, as iLISI; not part of the means.
#
# Means: `bio`, `batch`, and `total` = 0.6 bio + 0.4 batch. The weights are a convention of scIB: look at both parts.
#
# A high batch score alone is no success: an embedding of noise mixes batches perfectly. A high bio score alone is none
# either: the PCA often has it. And labels themselves may carry the batch. If the deep model does not beat Harmony
# on your data, use Harmony.
