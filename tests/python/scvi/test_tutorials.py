"""Code of scvi-tools' published tutorials runs with only the import and the data changed."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from named import named

from scduet import scvi
from scduet.errors import DataError, OptionError, ScduetWarning

pytestmark = pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")


@pytest.fixture(autouse=True)
def fixed_seed():
    scvi.settings.seed = 0
    yield
    scvi.settings.seed = None


@pytest.fixture(scope="module")
def lines(real_data):
    """Three cell lines by three technologies, 400 genes."""
    adata = real_data("cellbench_3cl_3tech_890g.h5ad")[:, :400].copy()
    adata.layers["counts"] = adata.X.copy()
    adata.obs["percent"] = np.random.default_rng(0).random(adata.n_obs)
    return adata


def test_quick_start(lines, tmp_path):
    """Introduction to scvi-tools."""
    adata = lines.copy()
    scvi.model.SCVI.setup_anndata(
        adata,
        layer="counts",
        categorical_covariate_keys=["batch"],
        continuous_covariate_keys=["percent"],
    )
    model = scvi.model.SCVI(adata)
    assert "Not Trained" in repr(model)
    model.train(max_epochs=5, accelerator="cpu", enable_progress_bar=False)
    model_dir = str(tmp_path / "scvi_model")
    model.save(model_dir, overwrite=True, save_anndata=True)
    model.save(model_dir, overwrite=True, save_anndata=True)
    model = scvi.model.SCVI.load(model_dir, adata=adata)
    latent = model.get_latent_representation()
    assert latent.shape == (adata.n_obs, 10)
    adata.obsm["X_scVI"] = latent
    of_one_type = (adata.obs.cell_type == adata.obs.cell_type.iloc[0]).to_numpy()
    adata_subset = adata[of_one_type]
    latent_subset = model.get_latent_representation(adata_subset)
    assert np.allclose(latent_subset, latent[of_one_type], atol=1e-5)
    denoised = model.get_normalized_expression(adata_subset, library_size=1e4)
    assert isinstance(denoised, pd.DataFrame)
    assert np.allclose(denoised.sum(1), 1e4, rtol=1e-4)
    one, two = adata.obs.cell_type.unique()[:2]
    de_df = model.differential_expression(groupby="cell_type", group1=one, group2=two, silent=True)
    assert {"proba_m1", "bayes_factor", "scale1", "raw_normalized_mean1", "comparison"} <= set(de_df.columns)
    de_change = model.differential_expression(idx1=adata.obs["cell_type"] == one, idx2=None, mode="change", silent=True)
    assert len(de_change) == adata.n_vars
    assert "is_de_fdr_0.05" in de_change
    assert not {"tested", "raw_lfc"} & {*de_df, *de_change}  # scvi-tools has no such columns, and tests all genes
    assert de_change.attrs["calibration"][0]["n_tested"] == adata.n_vars
    model.view_anndata_setup(adata)
    assert scvi.model.SCVI.load(model_dir).adata.n_obs == adata.n_obs


def test_harmonisation(lines):
    """Atlas-level integration: scVI, then scANVI from it."""
    adata = lines.copy()
    scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="batch")
    model = scvi.model.SCVI(adata, n_layers=2, n_latent=30, gene_likelihood="nb")
    model.train(max_epochs=8, early_stopping=True, train_size=0.8)
    adata.obsm["X_scVI"] = model.get_latent_representation()
    assert {"elbo_train", "elbo_validation", "reconstruction_loss_train", "kl_local_train"} <= set(model.history)
    assert model.history["elbo_train"].columns.tolist() == ["elbo_train"]
    assert len(model.train_indices) + len(model.validation_indices) == adata.n_obs
    scanvi_model = scvi.model.SCANVI.from_scvi_model(
        model, adata=adata, labels_key="cell_type", unlabeled_category="Unknown"
    )
    scanvi_model.train(max_epochs=6, n_samples_per_label=100)
    adata.obsm["X_scANVI"] = scanvi_model.get_latent_representation(adata)
    adata.obs["pred"] = scanvi_model.predict(adata)
    assert (adata.obs["pred"] == adata.obs["cell_type"].astype(str)).mean() > 0.9
    assert (scanvi_model.predict(soft=True).columns == sorted(adata.obs["cell_type"].unique())).all()
    assert "train_classification_loss" in scanvi_model.history


def test_reference_mapping(lines, tmp_path):
    """scArches surgery with scVI and scANVI."""
    first = lines.obs["batch"] == lines.obs["batch"].iloc[0]
    adata_ref, adata_query = lines[~first].copy(), lines[first].copy()[:, :49:-1].copy()
    scvi.model.SCVI.setup_anndata(adata_ref, batch_key="batch", layer="counts")
    arches_params = dict(
        use_layer_norm="both", use_batch_norm="none", encode_covariates=True, dropout_rate=0.2, n_layers=2
    )
    scvi_ref = scvi.model.SCVI(adata_ref, **arches_params)
    scvi_ref.train(max_epochs=8)
    before = scvi_ref.get_latent_representation()
    scvi_ref_path = tmp_path / "scvi_ref"
    scvi_ref.save(scvi_ref_path, overwrite=True)
    scvi.model.SCVI.prepare_query_anndata(adata_query, scvi_ref_path)
    assert list(adata_query.var_names) == list(adata_ref.var_names)
    scvi_query = scvi.model.SCVI.load_query_data(adata_query, scvi_ref_path)
    scvi_query.train(max_epochs=3, plan_kwargs={"weight_decay": 0.0})
    adata_query.obsm["X_scVI"] = scvi_query.get_latent_representation()
    assert np.array_equal(scvi_query.get_latent_representation(adata_ref), before)
    untrained = scvi.model.SCVI.load_query_data(adata_query, scvi_ref)
    untrained.is_trained = True
    assert untrained.get_latent_representation().shape == (adata_query.n_obs, 10)

    adata_ref.obs["labels_scanvi"] = adata_ref.obs["cell_type"].values
    scanvi_ref = scvi.model.SCANVI.from_scvi_model(scvi_ref, unlabeled_category="Unknown", labels_key="labels_scanvi")
    scanvi_ref.train(max_epochs=8, n_samples_per_label=100)
    scanvi_ref.save(tmp_path / "scanvi_ref", overwrite=True)
    scvi.model.SCANVI.prepare_query_anndata(adata_query, tmp_path / "scanvi_ref")
    scanvi_query = scvi.model.SCANVI.load_query_data(adata_query, tmp_path / "scanvi_ref")
    scanvi_query.train(max_epochs=2, plan_kwargs={"weight_decay": 0.0}, check_val_every_n_epoch=10)
    adata_query.obs["predictions_scanvi"] = scanvi_query.predict()
    assert set(adata_query.obs["predictions_scanvi"]) <= set(adata_ref.obs["cell_type"])


def test_seed_labeling(lines):
    """Seed labels for a few cells, the rest unknown."""
    adata = lines.copy()
    kinds = adata.obs["cell_type"].astype(str).to_numpy()
    seed_labels = np.array(adata.n_obs * ["Unknown"], dtype=object)
    for kind in np.unique(kinds):
        seed_labels[np.flatnonzero(kinds == kind)[:50]] = kind
    adata.obs["seed_labels"] = seed_labels
    scvi.model.SCVI.setup_anndata(adata, batch_key=None, labels_key="seed_labels")
    scvi_model = scvi.model.SCVI(adata, n_latent=30, n_layers=2)
    scvi_model.train(8)
    scanvi_model = scvi.model.SCANVI.from_scvi_model(scvi_model, "Unknown")
    scanvi_model.train(10)
    adata.obs["C_scANVI"] = scanvi_model.predict(adata)
    assert (adata.obs["C_scANVI"] == kinds).mean() > 0.9


def test_linear_decoder_and_autozi():
    adata = scvi.data.synthetic_iid(batch_size=60, n_genes=30)
    scvi.model.LinearSCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.LinearSCVI(adata, n_latent=4)
    model.train(max_epochs=1)
    assert model.get_loadings().shape == (30, 4)
    assert list(model.get_loadings().columns) == ["Z_0", "Z_1", "Z_2", "Z_3"]
    scvi.model.AUTOZI.setup_anndata(adata, batch_key="batch", labels_key="labels")
    vae = scvi.model.AUTOZI(adata, n_latent=4, zero_inflation="gene-label")
    vae.train(max_epochs=1, plan_kwargs={"lr": 1e-2})
    outputs = vae.get_alphas_betas()
    assert outputs["alpha_posterior"].shape == (30, 3)
    assert outputs["beta_prior"] == pytest.approx(0.5)


@pytest.fixture(scope="module")
def small():
    scvi.settings.seed = 0
    adata = scvi.data.synthetic_iid(batch_size=80, n_genes=25)
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch", labels_key="labels")
    model = scvi.model.SCVI(adata, n_latent=4, use_observed_lib_size=False)
    model.train(2)
    return model


def test_every_other_getter_has_the_shape_of_scvi_tools(small):
    n = small.adata.n_obs
    mean, variance = small.get_latent_representation(return_dist=True)
    assert mean.shape == variance.shape == (n, 4)
    assert small.get_normalized_expression(n_samples=3, return_mean=False).shape == (3, n, 25)
    assert isinstance(small.get_normalized_expression(return_numpy=True), np.ndarray)
    assert small.get_normalized_expression(n_samples_overall=7).shape == (7, 25)
    assert small.get_normalized_expression(gene_list=["gene_3", "gene_1"]).columns.tolist() == ["gene_1", "gene_3"]
    assert small.posterior_predictive_sample(n_samples=2).shape == (n, 25, 2)
    assert small.get_feature_correlation_matrix(n_samples=2).shape == (25, 25)
    assert {name: v.shape for name, v in small.get_likelihood_parameters(n_samples=2).items()} == {
        "mean": (2, n, 25),
        "dispersions": (2, n, 25),
        "dropout": (2, n, 25),
    }
    assert small.get_latent_library_size().shape == (n, 1)
    assert small.get_elbo() < 0 < small.get_reconstruction_error()["reconstruction_loss"]
    assert small.get_marginal_ll(n_mc_samples=5) < 0
    assert isinstance(small.get_marginal_ll(n_mc_samples=2, return_mean=False), torch.Tensor)
    assert small.get_elbo(return_mean=False).mean() == pytest.approx(small.get_elbo())
    each = small.get_reconstruction_error(return_mean=False)["reconstruction_loss"]
    assert (isinstance(each, torch.Tensor), each.shape) == (True, (n,))
    density = small.get_aggregated_posterior(indices=np.arange(9), dof=None).log_prob(torch.from_numpy(mean))
    normal = scipy.stats.norm(mean[:9], variance[:9] ** 0.5)
    assert np.allclose(density[40], np.log(np.exp(normal.logpdf(mean[40]).sum(1)).mean()), atol=1e-4)
    small.differential_abundance(sample_key="batch")
    assert small.adata.obsm["da_log_probs"].shape == (n, 2)
    assert small.summary_stats["n_vars"] == 25


def test_what_would_be_silently_wrong_there_is_an_error_here(small):
    adata = small.adata
    with pytest.raises(ValueError, match=named("SCVI.setup_anndata")):
        scvi.model.SCVI(scvi.data.synthetic_iid())
    with pytest.raises(OptionError, match=named("'n_laten'", "'n_latent'")):
        scvi.model.SCVI(adata, n_laten=3)
    with pytest.raises(OptionError, match=named("train()", "'learning_rate'", "'lr'")):
        small.train(1, learning_rate=3)
    with pytest.raises(OptionError, match=named("weights='importance'")):
        small.get_normalized_expression(weights="importance")
    broken = adata.copy()
    broken.X[0, 0] = -5
    with pytest.raises(DataError, match=named("negative", 1, "'0'")):
        small.get_latent_representation(broken)
    assert np.allclose(
        small.get_latent_representation(adata[:, ::-1].copy()), small.get_latent_representation(), atol=1e-5
    )
    fractions = adata.copy()
    fractions.X = fractions.X * 0.7
    with pytest.warns(ScduetWarning, match=named("adata.X")):
        scvi.model.SCVI(fractions, n_latent=2)
