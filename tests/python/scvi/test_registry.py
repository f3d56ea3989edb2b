"""Registry, manager, cells, module and other members of the façade, by what they say."""

import numpy as np
import pytest
from named import assert_named, named

from scduet import scvi
from scduet.errors import DataError

KEYS = dict(batch_key="batch", labels_key="labels", categorical_covariate_keys=["kind"],
            continuous_covariate_keys=["age"])  # fmt: skip


@pytest.fixture(autouse=True)
def fixed_seed():
    scvi.settings.seed = 0
    yield
    scvi.settings.seed = None


def some_cells(n_genes=12, **more):
    adata = scvi.data.synthetic_iid(batch_size=30, n_genes=n_genes, **more)
    draw = np.random.default_rng(3)
    adata.obs["kind"], adata.obs["age"] = draw.choice(["a", "b", "c"], adata.n_obs), draw.normal(size=adata.n_obs)
    return adata


@pytest.fixture(scope="module")
def model():
    scvi.settings.seed = 0
    adata = some_cells()
    adata.layers["counts"] = adata.X.copy()
    scvi.model.SCVI.setup_anndata(adata, layer="counts", **KEYS)
    made = scvi.model.SCVI(adata, n_latent=3, n_hidden=8, use_observed_lib_size=False)
    made.train(2, enable_progress_bar=False)
    return made


def test_the_manager_says_where_fields_are_and_what_they_hold(model):
    manager, obs = model.adata_manager, model.adata.obs
    assert manager.data_registry.batch == {"attr_name": "obs", "attr_key": "_scvi_batch"}
    assert manager.data_registry["X"] == {"attr_name": "layers", "attr_key": "counts"}
    assert manager.get_state_registry("batch").categorical_mapping.tolist() == ["batch_0", "batch_1"]
    assert manager.get_state_registry("labels").original_key == "labels"
    assert (manager.get_from_registry("X") == model.adata.layers["counts"]).all()
    assert manager.get_from_registry("batch").ravel().tolist() == obs["batch"].cat.codes.tolist()
    assert manager.get_from_registry("extra_categorical_covs").ravel().tolist() == [*map("abc".index, obs["kind"])]
    assert np.allclose(manager.get_from_registry("extra_continuous_covs").ravel(), obs["age"], atol=1e-6)
    with pytest.raises(KeyError, match=named("'proteins'")):
        manager.get_from_registry("proteins")
    assert model.get_setup_arg("layer") == "counts"
    assert model.get_state_registry("extra_categorical_covs").n_cats_per_key == [3]
    assert (model.get_from_registry(model.adata[:9], "X") == model.adata.layers["counts"][:9]).all()


def test_sizes_are_attributes(model):
    stats = model.summary_stats
    assert (stats.n_vars, stats.n_cells, stats.n_batch, stats["n_labels"]) == (12, 60, 2, 3)
    assert (stats.n_extra_categorical_covs, stats.n_extra_continuous_covs) == (1, 1)


def test_labels_of_a_scanvi_have_the_unlabeled_last():
    adata = some_cells()
    scvi.model.SCANVI.setup_anndata(adata, "labels", "label_1")
    model = scvi.model.SCANVI(adata, n_latent=2, n_hidden=8)
    levels = model.adata_manager.get_state_registry("labels").categorical_mapping
    codes = model.adata_manager.get_from_registry("labels").ravel()
    assert levels.tolist() == ["label_0", "label_2", "label_1"]
    assert levels[codes].tolist() == adata.obs["labels"].astype(str).tolist()


def test_the_setup_is_printed_for_models_and_files(model, capsys, tmp_path):
    model.view_anndata_setup()
    assert_named(capsys.readouterr().out, "SCVI", "'counts'", "batch_0", "label_2")
    model.view_anndata_setup(hide_state_registries=True)
    assert "batch_0" not in capsys.readouterr().out
    model.save(tmp_path / "model")
    scvi.model.SCVI.view_setup_args(tmp_path / "model")
    assert_named(capsys.readouterr().out, "'layer': 'counts'", "'kind'")
    assert scvi.model.SCVI.load_registry(tmp_path / "model")["setup_args"]["batch_key"] == "batch"
    model.export_scvi_tools(tmp_path / "theirs")
    theirs = scvi.model.SCVI.load_registry(tmp_path / "theirs")
    assert theirs["setup_args"]["batch_key"] == "batch"


def test_cells_that_do_not_fit_are_refused_where_they_are_set_or_loaded(model, tmp_path):
    model.save(tmp_path / "model")
    wrong = {"genes": some_cells(n_genes=5), "batch": some_cells()}
    wrong["genes"].layers["counts"] = wrong["genes"].X
    wrong["batch"].layers["counts"] = wrong["batch"].X
    wrong["batch"].obs["batch"] = wrong["batch"].obs["batch"].cat.rename_categories(["batch_7", "batch_8"])
    for adata, name in ((wrong["genes"], "gene_5"), (wrong["batch"], "'batch_7'")):
        with pytest.raises(DataError, match=named(name)):
            scvi.model.SCVI.load(tmp_path / "model", adata=adata)
        with pytest.raises(DataError, match=named(name)):
            model.adata = adata
        with pytest.raises(DataError, match=named(name)):
            model.view_anndata_setup(adata)
    assert model.adata.n_vars == 12


def test_other_cells_can_be_set(model):
    before, others = model.adata, model.adata[5:17].copy()
    latent = model.get_latent_representation()
    model.adata = others
    assert np.allclose(model.get_latent_representation(), latent[5:17], atol=1e-5)
    assert (model.adata is others, len(model._model.cells)) == (True, 12)  # what train() would take
    model.adata = before


def test_cells_without_a_single_count_are_taken():
    adata = some_cells()
    adata.X[3] = 0
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    for options in ({}, {"gene_likelihood": "nb"}, {"gene_likelihood": "poisson"}, {"use_observed_lib_size": False}):
        model = scvi.model.SCVI(adata, n_latent=2, n_hidden=8, **options)
        model.train(1, enable_progress_bar=False, train_size=1.0)
        assert np.isfinite(model.get_latent_representation()).all()
        assert np.isfinite(float(model.get_elbo())), options
        assert model.get_normalized_expression().iloc[3].sum() == pytest.approx(1, rel=1e-5)


def test_lognormal_values_are_taken_with_a_normal_likelihood():
    adata = some_cells()
    adata.X = np.log1p(adata.X / adata.X.sum(1, keepdims=True) * 1e3)
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    with pytest.warns(UserWarning, match=named("adata.X")):
        model = scvi.model.SCVI(adata, n_latent=2, n_hidden=8, gene_likelihood="normal")
    model.train(1, enable_progress_bar=False)
    assert np.isfinite(float(model.get_elbo()))


def test_the_module_answers_to_its_names_there(model):
    module, inside = model.module, model._model.module
    assert (module.n_latent, module.n_input, module.n_batch, module.n_labels) == (3, 12, 2, 3)
    assert (module.gene_likelihood, module.dispersion) == ("zinb", "gene")
    assert module.px_r.tolist() == inside.log_dispersion.ravel().tolist()
    assert module.library_log_means.shape == module.library_log_vars.shape == (1, 2)
    assert module.z_encoder is inside.encoder
    assert module.l_encoder is inside.library_encoder
    weights = module.state_dict()
    assert weights["decoder.px_scale_decoder.0.bias"].equal(inside.state_dict()["share.bias"])
    with pytest.raises(ValueError, match=named("module.inference", "get_latent_representation")):
        module.inference()
    with pytest.raises(AttributeError, match=named("'no_such'")):
        module.no_such  # noqa: B018


def test_batch_representations_are_rows_of_the_table():
    adata = some_cells()
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata, n_latent=2, n_hidden=8, batch_representation="embedding")
    table = model._model.module.batch_embedding.weight.detach().numpy()
    assert (model.get_batch_representation() == table[adata.obs["batch"].cat.codes]).all()
    assert model.get_batch_representation(indices=[0, 59]).shape == (2, 5)
    plain = scvi.model.SCVI(adata, n_latent=2, n_hidden=8)
    with pytest.raises(KeyError, match=named("batch_representation")):
        plain.get_batch_representation()


def test_scanvi_predicts_at_draws_too():
    adata = some_cells()
    scvi.model.SCANVI.setup_anndata(adata, "labels", "Unknown")
    model = scvi.model.SCANVI(adata, n_latent=2, n_hidden=8)
    mean, drawn = (model.predict(soft=True, use_posterior_mean=at_mean) for at_mean in (True, False))
    assert np.allclose(drawn.sum(1), 1, atol=1e-5)
    assert drawn.shape == mean.shape == (60, 3)
    assert not np.allclose(drawn, mean)


def test_importance_weights_in_a_comparison(model):
    given = {"max_cells": 5, "n_mc_samples": 3, "n_mc_samples_per_pass": 1, "truncation": True}
    options = {"idx1": np.arange(60) < 20, "silent": True, "n_samples_overall": 100}
    found = model.differential_expression(weights="importance", importance_weighting_kwargs=given, **options)
    assert list(found) == list(model.differential_expression(**options))
    with pytest.raises(ValueError, match=named("'n_draws'")):
        model.differential_expression(weights="importance", importance_weighting_kwargs={"n_draws": 3}, **options)


def test_scores_of_all_cells_are_tensors_as_there(model):
    assert model.get_elbo().ndim == model.get_marginal_ll(n_mc_samples=2).ndim == 0
    assert model.get_reconstruction_error()["reconstruction_loss"].ndim == 0
    assert model.get_marginal_ll(n_mc_samples=4, n_mc_samples_per_pass=2, return_mean=False).shape == (60,)
