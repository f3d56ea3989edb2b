"""Code of scvi-tools' tutorials of proteins and peaks runs with only the import, the data and the epochs changed."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from mudata import MuData
from named import named

from scduet import scvi
from scduet.errors import OptionError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
ARCHES = dict(use_layer_norm="both", use_batch_norm="none", n_layers_decoder=2, n_layers_encoder=2)


@pytest.fixture(autouse=True)
def fixed_seed():
    scvi.settings.seed = 0
    yield
    scvi.settings.seed = None


@pytest.fixture(scope="module")
def cite(real_data):
    """400 PBMCs of two batches, 150 genes and 14 proteins."""
    whole = real_data("cite_pbmc5k_10k_400.h5ad")
    variance = np.log1p(whole.to_df().to_numpy()).var(0)
    adata = whole[:, np.sort(variance.argsort()[::-1][:150])].copy()
    adata.obsm["protein_expression"] = adata.obsm["protein_counts"]
    return adata


def test_totalvi(cite):
    """CITE-seq analysis with totalVI: a MuData, in which a modality with fewer genes is added."""
    protein = sc.AnnData(cite.obsm["protein_expression"].astype(np.float32))
    mdata = MuData({"rna": cite.copy(), "protein": protein})
    mdata.mod["rna"].layers["counts"] = mdata.mod["rna"].X.copy()
    sc.pp.normalize_total(mdata.mod["rna"])
    sc.pp.log1p(mdata.mod["rna"])
    mdata.mod["rna"].var["highly_variable"] = np.arange(150) < 140
    mdata.mod["rna_subset"] = mdata.mod["rna"][:, mdata.mod["rna"].var["highly_variable"]].copy()
    mdata.update()
    scvi.model.TOTALVI.setup_mudata(
        mdata,
        rna_layer="counts",
        protein_layer=None,
        batch_key="batch",
        modalities={"rna_layer": "rna_subset", "protein_layer": "protein", "batch_key": "rna_subset"},
    )
    model = scvi.model.TOTALVI(mdata)
    model.train(max_epochs=40)
    assert model.history["elbo_train"].iloc[-1, 0] < model.history["elbo_train"].iloc[0, 0]
    assert {"elbo_validation", "reconstruction_loss_train", "kl_local_train"} <= set(model.history)
    rna, protein = mdata.mod["rna_subset"], mdata.mod["protein"]
    rna.obsm["X_totalVI"] = model.get_latent_representation()
    rna_denoised, protein_denoised = model.get_normalized_expression(
        n_samples=10, return_mean=True, transform_batch=["pbmc_10k", "pbmc_5k"]
    )
    rna.layers["denoised_rna"], protein.layers["denoised_protein"] = rna_denoised, protein_denoised
    protein.layers["protein_foreground_prob"] = 100 * model.get_protein_foreground_probability(
        n_samples=10, return_mean=True, transform_batch=["pbmc_10k", "pbmc_5k"]
    )
    assert np.allclose(rna_denoised.sum(1), 1, rtol=1e-4)
    counts = protein.to_df()
    agreement = [np.corrcoef(np.log1p(protein_denoised[name]), np.log1p(counts[name]))[0, 1] for name in counts]
    assert np.median(agreement) > 0.6
    b_cells = counts.columns[counts.columns.str.startswith("CD19")][0]
    shown = pd.DataFrame(protein.layers["protein_foreground_prob"], columns=counts.columns)[b_cells].to_numpy()
    many = (counts[b_cells] > 50).to_numpy()
    assert shown[many].mean() > shown[~many].mean() + 30  # percent
    protein.var["clean_names"] = [p.split("_")[0] for p in protein.var_names]
    rna.obs["leiden_totalVI"] = pd.Categorical(np.where(many, "B", "other"))
    mdata.update()
    mdata.pull_obs()
    de_df = model.differential_expression(groupby="rna_subset:leiden_totalVI", delta=0.5, batch_correction=True)
    cell_type_df = de_df.loc[de_df.comparison == "B vs Rest"].sort_values("lfc_median", ascending=False)
    pro_rows = cell_type_df.index.str.contains("_protein")
    assert pro_rows.sum() == 14
    data_rna = cell_type_df.iloc[~pro_rows]
    raw = np.log2((data_rna["raw_normalized_mean1"] + 1) / (data_rna["raw_normalized_mean2"] + 1))
    assert data_rna["lfc_median"].corr(raw, method="spearman") > 0.5
    assert cell_type_df.iloc[pro_rows].index[0] == f"{b_cells}_protein"


def test_proteins_held_out_in_a_batch(cite, tmp_path):
    """Integration of CITE-seq and scRNA-seq data: the proteins of one batch are zero, and imputed."""
    adata = cite.copy()
    batch = adata.obs.batch.to_numpy()
    held_out_proteins = adata.obsm["protein_expression"][batch == "pbmc_5k"].copy()
    adata.obsm["protein_expression"].loc[batch == "pbmc_5k"] = 0
    scvi.model.TOTALVI.setup_anndata(adata, batch_key="batch", protein_expression_obsm_key="protein_expression")
    model = scvi.model.TOTALVI(adata, latent_distribution="normal", n_layers_decoder=2)
    model.train(max_epochs=40, early_stopping=False)
    adata.obsm["X_totalVI"] = model.get_latent_representation()
    _, imputed = model.get_normalized_expression(
        n_samples=10,
        transform_batch="pbmc_10k",
        include_protein_background=True,
        sample_protein_mixing=False,
        return_mean=True,
    )
    there = imputed.loc[adata.obs.batch == "pbmc_5k"]
    assert list(there.columns) == list(held_out_proteins.columns)
    for p in ("CD3_TotalSeqB", "CD127_TotalSeqB"):  # of T cells, as genes tell them
        assert np.corrcoef(np.log1p(there[p]), np.log1p(held_out_proteins[p]))[0, 1] > 0.5
    model.save(tmp_path / "model", save_anndata=True)
    again = scvi.model.TOTALVI.load(tmp_path / "model")
    assert np.array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_reference_mapping_of_proteins(cite, tmp_path):
    """scArches surgery with totalVI: a query without proteins."""
    adata_ref, adata_query = (cite[(cite.obs.batch == name).to_numpy()].copy() for name in ("pbmc_10k", "pbmc_5k"))
    adata_query.obsm["protein_expression"].loc[:] = 0
    half = np.arange(adata_ref.n_obs) % 2 == 0
    adata_ref.obs["run"], adata_query.obs["run"] = np.where(half, "a", "b"), "c"
    scvi.model.TOTALVI.setup_anndata(adata_ref, batch_key="run", protein_expression_obsm_key="protein_expression")
    totalvi_ref = scvi.model.TOTALVI(adata_ref, **ARCHES)
    totalvi_ref.train(max_epochs=20)
    before = totalvi_ref.get_latent_representation()
    totalvi_ref.save(tmp_path / "ref", overwrite=True)
    scvi.model.TOTALVI.prepare_query_anndata(adata_query, tmp_path / "ref")
    totalvi_query = scvi.model.TOTALVI.load_query_data(adata_query, tmp_path / "ref")
    totalvi_query.train(3, plan_kwargs=dict(weight_decay=0.0))
    adata_query.obsm["X_totalvi_scarches"] = totalvi_query.get_latent_representation(adata_query)
    assert np.array_equal(totalvi_query.get_latent_representation(adata_ref), before)
    _, imputed = totalvi_query.get_normalized_expression(adata_query, transform_batch=["a", "b"], n_samples=5)
    assert imputed.shape == (200, 14)
    assert imputed.to_numpy().min() > 0


@pytest.fixture(scope="module")
def peaks(real_data):
    """A549, the 400 peaks that are open in most cells."""
    whole = real_data("multiome_scicar_a549_atac_binary.h5ad")
    share = np.asarray((whole.X > 0).mean(0)).ravel()
    adata = whole[:, np.sort(share.argsort()[::-1][:600])].copy()
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def test_peakvi(peaks, tmp_path):
    """PeakVI: analyzing scATAC-seq data."""
    adata = peaks.copy()
    scvi.model.PEAKVI.setup_anndata(adata)
    model = scvi.model.PEAKVI(adata)
    model.train(max_epochs=5)
    model_dir = tmp_path / "peakvi_pbmc"
    model.save(model_dir, overwrite=True)
    model = scvi.model.PEAKVI.load(model_dir, adata=adata)
    adata.obsm["X_peakvi"] = latent = model.get_latent_representation()
    assert latent.shape == (adata.n_obs, 4)  # the root of the root of 400
    one, other = "dex_0h", "dex_3h"
    given = dict(groupby="condition", group1=one, group2=other, silent=True, n_samples_overall=2000)
    da_res = model.differential_accessibility(**given)
    cells = [np.flatnonzero(adata.obs["condition"] == name) for name in (one, other)]
    open_ = [np.asarray((adata[rows].X > 0).mean(0)).ravel() for rows in cells]
    da_res = da_res.loc[adata.var_names]
    assert np.allclose(da_res["emp_prob1"], open_[0])
    assert np.allclose(da_res["emp_effect"], open_[1] - open_[0])  # the second less the first
    mean = [model.get_normalized_accessibility(indices=rows, use_z_mean=False).mean(0) for rows in cells]
    assert np.allclose(da_res["est_prob1"], mean[0], atol=0.03)
    assert np.allclose(da_res["effect_size"], mean[1] - mean[0], atol=0.03)
    da_filt = da_res.loc[(da_res.emp_effect > 0) & (da_res.effect_size > 0) & (da_res.is_da_fdr)]
    assert set(da_filt.index) <= set(adata.var_names)
    with pytest.raises(OptionError, match=named("two_sided")):
        model.differential_accessibility(two_sided=False, **given)


def test_poissonvi():
    """PoissonVI: analyzing quantitative scATAC-seq fragment counts."""
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1], 150)
    rate = np.where((np.arange(50) < 10) & (kind[:, None] == 1), 1.5, 0.3)
    adata = sc.AnnData(2.0 * rng.poisson(rate).astype(np.float32), obs=pd.DataFrame({"kind": kind.astype(str)}))
    adata.obs_names, adata.obs["batch"] = [f"c{i}" for i in range(300)], np.where(np.arange(300) % 2, "x", "y")
    scvi.data.reads_to_fragments(adata)
    assert adata.layers["fragments"].sum() * 2 == adata.X.sum()
    scvi.external.POISSONVI.setup_anndata(adata, layer="fragments", batch_key="batch")
    model = scvi.external.POISSONVI(adata, n_hidden=16, n_latent=3)
    model.train(max_epochs=60, lr=3e-3)
    accessibility = model.get_normalized_accessibility(normalize_regions=True)
    assert np.allclose(accessibility.sum(1), 1, rtol=1e-4)
    assert np.allclose(model.get_library_size_factors(), adata.layers["fragments"].sum(1).A1)
    found = model.differential_accessibility(groupby="kind", group1="1", group2="0", silent=True, delta=1)
    highest = found.sort_values("lfc_median", ascending=False)
    assert set(highest.index[:10]) == {str(i) for i in range(10)}
    assert (highest["proba_de"][:10] > 0.3).all()
    with pytest.raises(OptionError, match=named("differential_accessibility")):
        model.differential_expression(groupby="kind")
