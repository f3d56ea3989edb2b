"""Models trained by scvi-tools are read here and give its numbers, and models exported from here are read there."""

import random

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import DATA, make_counts

import scduet as sd
from scduet.capabilities import LearnsLibrary, part_with
from scduet.tasks.posterior.likelihoods import terms_of_cells

GRID = {
    "gene_likelihood": ("zinb", "nb", "poisson"),
    "dispersion": ("gene", "gene-batch", "gene-cell", "gene-label"),
    "n_layers": (1, 2),
    "encode_covariates": (True, False),
    "deeply_inject_covariates": (True, False),
    "use_batch_norm": ("both", "none", "encoder"),
    "use_layer_norm": ("none", "both"),
    "use_observed_lib_size": (True, False),
    "latent_distribution": ("normal", "ln"),
}
BATCH = 200  # all cells at once, so that both draw the same numbers: they also draw what they do not use


def cells():
    adata = make_counts()
    adata.obs = adata.obs.astype({"batch": str, "cell_type": str, "site": str})
    return adata


def options(seed, *without):
    draw = random.Random(seed)
    return {k: draw.choice(v) if seed else v[0] for k, v in GRID.items() if k not in without} | {
        "n_hidden": 24,
        "n_latent": 5,
    }


def pretended(model):
    """Weights and statistics that are not the initial ones, without the cost of training."""
    torch.manual_seed(1)
    for name, value in model.module.state_dict().items():
        if "running_mean" in name:
            value.normal_(0, 0.3)
        elif "running_var" in name:
            value.uniform_(0.5, 1.5)
    model.is_trained_ = True
    model.module.eval()
    return model


def near(value, reference, rtol=1e-5):
    reference = np.asarray(reference)
    np.testing.assert_allclose(np.asarray(value), reference, rtol=rtol, atol=rtol * np.abs(reference).max())


def seed_ours(seed):
    """Their data loader takes one number from torch's stream before the model does."""
    torch.manual_seed(seed)
    torch.empty((), dtype=torch.int64).random_()


def theirs(scvi, kind, adata, seed=0):
    with_covariates = seed % 2 == 0 and kind in ("SCVI", "SCANVI")
    setup = dict(batch_key="batch", labels_key="cell_type")
    if with_covariates:
        setup |= dict(categorical_covariate_keys=["site"], continuous_covariate_keys=["age"])
    model = getattr(scvi.model, kind)
    if kind == "SCANVI":
        setup["unlabeled_category"] = "B"
    model.setup_anndata(adata, **setup)
    torch.manual_seed(seed)
    narrow = {
        "SCVI": options(seed),
        "SCANVI": options(seed, "dispersion") | {"linear_classifier": seed % 2 == 1},
        "LinearSCVI": {"n_latent": 5, "gene_likelihood": ("nb", "zinb", "poisson")[seed % 3]},
        "AUTOZI": {"n_latent": 5, "zero_inflation": ("gene", "gene-batch")[seed % 2]},
    }
    return pretended(model(adata, **narrow[kind]))


CASES = [*(("SCVI", seed) for seed in range(5)), *(("SCANVI", seed) for seed in range(3))]
CASES += [("LinearSCVI", 0), ("LinearSCVI", 1), ("AUTOZI", 0), ("AUTOZI", 1)]


def compare(model, mine, adata):
    """Every number that both give, with the same draws."""
    latent, variance = model.get_latent_representation(adata, return_dist=True, batch_size=BATCH)
    states = list(sd_states(mine, adata))
    near(torch.cat([s.mean for s in states]), latent)
    near(torch.cat([s.variance for s in states]), variance)
    same = dict(batch_size=BATCH, seed=None)
    for arguments in ({}, {"library_size": "latent"}, {"transform_batch": "b1", "gene_list": ["gene1", "gene3"]}):
        if "library_size" in arguments and part_with(mine.module, LearnsLibrary).learns_library:
            continue  # a draw of the library size there, its posterior mean here
        torch.manual_seed(5)
        reference = model.get_normalized_expression(adata, batch_size=BATCH, **arguments)
        seed_ours(5)
        found = sd.normalized_expression(mine, adata, **arguments, **same)
        near(found, reference)
    # of cells the dispersion reaches a million here: there their float32 lgamma errs by 0.3, ours by 0.004
    rtol = 2e-3 if getattr(mine.config, "dispersion", "gene") == "gene-cell" else 1e-5
    torch.manual_seed(6)
    reference = model.get_elbo(adata, batch_size=BATCH, return_mean=False)
    seed_ours(6)
    found = sd.elbo(mine, adata, return_mean=False, **same)
    near(found, reference, rtol)
    seed_ours(6)
    assert sd.elbo(mine, adata, **same) == pytest.approx(found.mean())
    torch.manual_seed(7)
    reference = model.get_reconstruction_error(adata, batch_size=BATCH, return_mean=False)["reconstruction_loss"]
    seed_ours(7)
    terms = terms_of_cells(mine, adata, **same)
    near(terms["reconstruction"] + terms.get("state", 0), reference, rtol)


def sd_states(model, adata):
    from scduet.tasks.posterior.latent import states

    return states(model, adata, batch_size=BATCH)


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_their_models_give_their_numbers_here(scvi_tools, tmp_path, kind, seed):
    adata = cells()
    model = theirs(scvi_tools, kind, adata, seed)
    model.save(str(tmp_path / "m"), prefix="a_" if seed else None)
    mine = sd.load(tmp_path / "m")
    compare(model, mine, cells())
    if kind == "SCANVI":
        near(sd.predict(mine, cells()), model.predict(adata, soft=True))
        assert list(sd.predict(mine, cells())) == list(model.predict(adata, soft=True).columns)
    if kind == "LinearSCVI":
        near(mine.module.loadings(), model.get_loadings().to_numpy())
    if kind == "AUTOZI":
        found = mine.module.posterior_of_genes().concentration1.detach()
        near(found.t(), model.get_alphas_betas()["alpha_posterior"])


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_our_models_give_our_numbers_there(scvi_tools, tmp_path, kind, seed):
    names = {"SCVI": "scvi", "SCANVI": "scanvi", "LinearSCVI": "ldvae", "AUTOZI": "autozi"}
    setup = dict(batch_key="batch", labels_key="cell_type", max_epochs=1)
    if kind in ("SCVI", "SCANVI") and seed % 2 == 0:
        setup |= dict(categorical_covariate_keys=("site",), continuous_covariate_keys=("age",))
    given = {"SCVI": options(seed), "SCANVI": options(seed, "dispersion") | {"linear_classifier": seed % 2 == 1}}
    unlabeled = {"unlabeled_category": "B"} if kind == "SCANVI" else {}
    mine = sd.fit(cells(), names[kind], **setup, **unlabeled, **given.get(kind, {"n_latent": 5}))
    mine.export_scvi_tools(tmp_path / "m")
    model = getattr(scvi_tools.model, kind).load(str(tmp_path / "m"), adata=cells(), accelerator="cpu")
    model.module.eval()
    compare(model, mine, cells())
    if kind == "SCANVI":
        near(sd.predict(mine), model.predict(soft=True))
    assert sd.load(tmp_path / "m").config == mine.config


LEVELS = {  # columns as users have them
    "unused": pd.Categorical(["x", "y"] * 60, categories=["z", "x", "w", "y"]),
    "int": [3, 5] * 60,
    "int categories": pd.Categorical([3, 5] * 60, categories=[7, 5, 3]),
    "float": [3.0, 5.0] * 60,
    "bool": [True, False] * 60,
}


@pytest.mark.parametrize("role", ["batch_key", "categorical_covariate_keys"])
@pytest.mark.parametrize("kind", LEVELS)
def test_their_models_know_the_levels_as_our_users_have_them(scvi_tools, tmp_path, kind, role):
    if kind != "unused":
        pytest.importorskip("scduet.data.levels")
    adata = anndata.AnnData(np.random.default_rng(0).poisson(2, (120, 20)).astype(np.float32))
    adata.obs["of"] = LEVELS[kind]
    setup = {role: "of" if role == "batch_key" else ("of",)}
    mine = sd.fit(adata, "scvi", max_epochs=1, n_latent=4, **setup)
    mine.export_scvi_tools(tmp_path / "m")
    model = scvi_tools.model.SCVI.load(str(tmp_path / "m"), adata=adata, accelerator="cpu")
    near(mine.embed(), model.get_latent_representation())


def test_their_minified_cells_give_the_same_expression(scvi_tools, tmp_path):
    adata = cells()
    model = theirs(scvi_tools, "SCVI", adata)
    adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = model.get_latent_representation(return_dist=True)
    model.minify_adata()
    model.save(str(tmp_path / "m"), save_anndata=True)
    mine, minified = sd.load(tmp_path / "m"), anndata.read_h5ad(tmp_path / "m" / "adata.h5ad")
    assert minified.X.sum() == 0
    torch.manual_seed(1)
    reference = model.get_normalized_expression(batch_size=BATCH)
    seed_ours(1)
    near(sd.normalized_expression(mine, minified, batch_size=BATCH, seed=None), reference)
    for part in ("qzm", "qzv"):  # keys of before 1.2.2, which theirs no longer reads
        minified.obsm[f"_scvi_latent_{part}"] = minified.obsm.pop(f"scvi_latent_{part}")
    minified.obs["_scvi_observed_lib_size"] = minified.obs.pop("observed_lib_size")
    seed_ours(1)
    near(sd.normalized_expression(mine, minified, batch_size=BATCH, seed=None), reference)


def test_a_published_file_of_version_1_0_3(scvi_tools):
    """Its classifier ends in a softmax, which 1.1 dropped."""
    folder = DATA / "files" / "scvi_checkpoints" / "pre_logits_fix_scanvi"
    if not folder.exists():
        pytest.skip("there is no ../shared/data")
    adata = anndata.read_h5ad(folder / "adata.h5ad")
    mine = sd.load(folder)
    model = scvi_tools.model.SCANVI.load(str(folder), adata=adata.copy(), accelerator="cpu")
    near(sd.predict(mine, adata), model.predict(soft=True))
    near(mine.embed(adata), model.get_latent_representation())
    assert mine.history["loss_train"].iloc[0] == pytest.approx(372.8966979980469)


def test_differential_expression_agrees(scvi_tools, tmp_path):
    """The same quantities, up to the noise of the draws."""
    adata = cells()
    model = theirs(scvi_tools, "SCVI", adata, 1)
    model.save(str(tmp_path / "m"))
    mine = sd.load(tmp_path / "m")
    np.random.seed(0)
    for mode, columns in (("change", ["proba_de", "lfc_mean", "lfc_median", "lfc_std"]), ("vanilla", ["proba_m1"])):
        reference = model.differential_expression(groupby="cell_type", group1="B", group2="T", mode=mode, silent=True)
        found = sd.differential_expression(mine, cells(), "cell_type", "B", "T", mode=mode, verbose=False)
        ours = {"is_de_fdr_0.05", "tested", "raw_lfc"}
        assert set(reference.columns) - {"is_de_fdr_0.05"} == set(found.columns) - ours
        both = found.loc[reference.index]
        for name in columns:
            assert np.abs(both[name] - reference[name]).max() < 0.12 * max(1, np.abs(reference[name]).max()), name
        raw = ["raw_mean1", "raw_mean2", "non_zeros_proportion1", "raw_normalized_mean2"]
        pd.testing.assert_frame_equal(both[raw], reference[raw], rtol=1e-4, atol=1e-6, check_dtype=False)
