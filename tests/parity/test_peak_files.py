"""PeakVI and PoissonVI trained by scvi-tools are read here and give its numbers, and the other way round."""

from pathlib import Path

import numpy as np
import pytest
import torch
from parity.test_scvi_tools_files import BATCH, cells, near, pretended, seed_ours

import scduet as sd
from scduet.errors import DataError
from scduet.tasks.posterior.likelihoods import terms_of_cells

CASES = [
    ("PEAKVI", {}),
    ("PEAKVI", {"encode_covariates": True, "n_layers_encoder": 1, "latent_distribution": "ln"}),
    ("PEAKVI", {"model_depth": False, "use_batch_norm": "both", "use_layer_norm": "none", "n_hidden": 20}),
    ("PEAKVI", {"region_factors": False, "deeply_inject_covariates": True, "n_latent": 4, "n_layers_decoder": 3}),
    ("POISSONVI", {}),
    ("POISSONVI", {"n_layers": 1, "n_hidden": 20, "n_latent": 4}),
]


def class_of(scvi, kind):
    return getattr(scvi.external if kind == "POISSONVI" else scvi.model, kind)


def fragments():
    """Counts in which 1 is more frequent than 2, and some are more."""
    adata = cells()
    adata.X.data = np.minimum(np.ceil(adata.X.data / 3), 3).astype(np.float32)
    return adata


def theirs(scvi, kind, options, covariates):
    adata, extra = fragments(), {}
    if covariates:
        extra = {"categorical_covariate_keys": ["site"], "continuous_covariate_keys": ["age"]}
    class_of(scvi, kind).setup_anndata(adata, batch_key="batch", labels_key="cell_type", **extra)
    torch.manual_seed(0)
    return pretended(class_of(scvi, kind)(adata, **options)), adata


def compare(kind, model, mine, adata):
    """Every number that both give, with the same draws."""
    mean, variance = model.get_latent_representation(adata, return_dist=True, batch_size=BATCH)
    parts = [mine.map(lambda batch, i=i: encoder(mine).posterior(batch)[i], adata) for i in (0, 1)]
    near(parts[0], mean)
    near(parts[1], variance)
    options = {"region_list": ["gene1", "gene3", "gene7"]}
    for regions in (False, True) if getattr(mine.config, "region_factors", True) else (False,):
        torch.manual_seed(5)
        reference = model.get_normalized_accessibility(adata, batch_size=BATCH, normalize_regions=regions, **options)
        seed_ours(5)
        same = {"batch_size": BATCH, "seed": None, "normalize_regions": regions, "use_z_mean": kind == "PEAKVI"}
        if kind == "POISSONVI" or mine.config.latent_distribution == "normal":
            near(sd.normalized_accessibility(mine, adata, **options, **same), reference)
    if kind == "POISSONVI" or mine.config.region_factors:
        near(sd.region_factors(mine), model.get_region_factors())
    if kind == "PEAKVI" and mine.config.model_depth:
        near(sd.cell_factors(mine, adata), model.get_library_size_factors(adata, batch_size=BATCH))
    torch.manual_seed(6)
    reference = model.get_reconstruction_error(adata, batch_size=BATCH, return_mean=False)["reconstruction_loss"]
    seed_ours(6)
    near(terms_of_cells(mine, adata, batch_size=BATCH, seed=None)["reconstruction"], reference)


def encoder(model):
    return getattr(model.module, "vae", model.module)


@pytest.mark.parametrize("covariates", [False, True])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_their_models_give_their_numbers_here(scvi_tools, tmp_path, kind, options, covariates):
    model, adata = theirs(scvi_tools, kind, options, covariates)
    model.save(str(tmp_path / "m"))
    mine = sd.load(tmp_path / "m")
    assert mine.name == kind.lower()
    compare(kind, model, mine, adata)


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_our_models_give_our_numbers_there(scvi_tools, tmp_path, kind, options):
    setup = {"batch_key": "batch", "categorical_covariate_keys": ("site",), "continuous_covariate_keys": ("age",)}
    mine = sd.fit(fragments(), kind.lower(), max_epochs=1, callback=lambda event: None, **setup, **options)
    mine.export_scvi_tools(tmp_path / "m")
    adata = fragments()
    model = class_of(scvi_tools, kind).load(str(tmp_path / "m"), adata=adata, accelerator="cpu")
    model.module.eval()
    compare(kind, model, mine, adata)
    assert sd.load(tmp_path / "m").config == mine.config


def test_a_peakvi_of_before_0_15_is_recognized(scvi_tools, tmp_path):
    """Weights, attributes and names in three files, and no name of the class: built from one of today."""
    import pickle

    model, adata = theirs(scvi_tools, "PEAKVI", {}, False)
    mapping = {"original_key": "batch", "mapping": np.array(["b0", "b1"], object)}
    labels = {"original_key": "cell_type", "mapping": np.unique(adata.obs["cell_type"]).astype(object)}
    setup = {
        "data_registry": {
            "X": {"attr_name": "X", "attr_key": None},
            "batch_indices": {"attr_name": "obs", "attr_key": "_scvi_batch"},
            "labels": {"attr_name": "obs", "attr_key": "_scvi_labels"},
        },
        "categorical_mappings": {"_scvi_batch": mapping, "_scvi_labels": labels},
    }
    init = {"n_hidden": None, "n_latent": None, "n_layers_encoder": 2, "n_layers_decoder": 2, "model_depth": True}
    attributes = {"scvi_setup_dict_": setup, "init_params_": {"non_kwargs": init, "kwargs": {"model_kwargs": {}}}}
    folder = Path(tmp_path / "old")
    folder.mkdir()
    torch.save(model.module.state_dict(), folder / "model_params.pt")
    (folder / "attr.pkl").write_bytes(pickle.dumps(attributes, protocol=4))
    (folder / "var_names.csv").write_text("\n".join(adata.var_names))
    compare("PEAKVI", model, sd.load(folder), adata)


def test_the_effect_of_scvi_tools_is_that_of_its_version(scvi_tools, tmp_path):
    """Since 1.3 the log2 fold change: ours by that name agrees up to the noise of draws, and the sign of the effect."""
    model, adata = theirs(scvi_tools, "PEAKVI", {"n_hidden": 20, "n_latent": 4}, False)
    with torch.no_grad():
        for weight in model.module.z_decoder.parameters():
            weight.mul_(3)  # so that groups differ
    model.save(str(tmp_path / "m"))
    mine = sd.load(tmp_path / "m")
    np.random.seed(0)
    arguments = dict(groupby="cell_type", group1="B", group2="T", delta=0.25)
    reference = model.differential_accessibility(**arguments)
    found = sd.differential_accessibility(mine, adata, **arguments, effect="log2fc", verbose=False)
    both = found.loc[reference.index]
    assert np.abs(both["prob_da"] - reference["prob_da"]).max() < 0.06
    assert np.abs(both["est_prob1"] - reference["est_prob1"]).max() < 0.03
    assert np.allclose(both["emp_prob2"], reference["emp_prob2"])
    assert np.allclose(both["emp_effect"], -reference["emp_effect"])


def test_a_query_with_other_peaks_is_told(scvi_tools, tmp_path):
    model, adata = theirs(scvi_tools, "PEAKVI", {}, False)
    model.save(str(tmp_path / "m"))
    with pytest.raises(DataError, match="gene5"):
        sd.load(tmp_path / "m").embed(adata[:, [i for i in range(60) if i != 5]].copy())
