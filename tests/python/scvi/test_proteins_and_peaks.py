"""Set-up, training, files and refusals of TOTALVI, PEAKVI and POISSONVI in the façade."""

import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from named import assert_named, named

from scduet import scvi
from scduet.errors import DataError, OptionError, ScduetWarning

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
PROTEINS = {"protein_expression_obsm_key": "protein_expression"}
MODALITIES = {"rna_layer": "rna", "protein_layer": "protein_expression"}


@pytest.fixture(autouse=True)
def fixed_seed():
    scvi.settings.seed = 0
    yield
    scvi.settings.seed = None


def cite_seq(**more):
    return scvi.data.synthetic_iid(batch_size=20, n_genes=8, n_proteins=4, n_regions=0, **more)


def model_of(data, **options):
    return scvi.model.TOTALVI(data, n_latent=2, n_hidden=8, **options)


def train(model, epochs=1, **options):
    model.train(epochs, enable_progress_bar=False, **options)
    return model


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda a: None, ["0", "1", "2", "3"]),
        (lambda a: {"protein_names_uns_key": "protein_names"}, [f"protein_{i}" for i in range(4)]),
        (lambda a: a.uns.update(protein_expression_names=np.array(list("wxyz"))), list("wxyz")),
        (lambda a: a.obsm.update(protein_expression=as_table(a)), ["A", "B", "C", "D"]),
    ],
)
def test_proteins_are_named_by_columns_uns_or_numbers(change, names):
    adata = cite_seq()
    scvi.model.TOTALVI.setup_anndata(adata, **PROTEINS, **(change(adata) or {}))
    model = model_of(adata)
    _, proteins = model.get_normalized_expression()
    assert list(proteins.columns) == names
    assert list(model.adata_manager.get_state_registry("proteins").column_names) == names


def as_table(adata, columns="ABCD"):
    return pd.DataFrame(adata.obsm["protein_expression"], adata.obs_names, list(columns))


def test_a_query_may_have_its_proteins_in_another_form():
    """An array where the reference had a table: scvi-tools fails; and a table in another order is matched by name."""
    adata = cite_seq()
    array = adata.copy()
    adata.obsm["protein_expression"] = as_table(adata)
    scvi.model.TOTALVI.setup_anndata(adata, **PROTEINS)
    model = model_of(adata)
    latent = model.get_latent_representation()
    assert np.array_equal(model.get_latent_representation(array), latent)
    turned = adata.copy()
    turned.obsm["protein_expression"] = adata.obsm["protein_expression"][list("DCBA")]
    assert np.array_equal(model.get_latent_representation(turned), latent)


def test_what_cannot_be_set_up_is_refused_by_name():
    adata, mdata = cite_seq(), cite_seq(return_mudata=True)
    setup, in_mudata = scvi.model.TOTALVI.setup_anndata, scvi.model.TOTALVI.setup_mudata
    with pytest.raises(TypeError, match=named("protein_expression_obsm_key")):
        setup(adata)
    with pytest.raises(DataError, match=named("'protien'", "protein_expression")):
        setup(adata, "protien")
    with pytest.raises(DataError, match=named("'no_names'")):
        setup(adata, **PROTEINS, protein_names_uns_key="no_names")
    adata.uns["short"] = ["a"]
    with pytest.raises(DataError, match=named("'short'", 4)):
        setup(adata, **PROTEINS, protein_names_uns_key="short")
    with pytest.raises(OptionError, match=named("'rna_layer'", "rna")):
        in_mudata(mdata)
    with pytest.raises(OptionError, match=named("'protein_layer'")):
        in_mudata(mdata, modalities={"rna_layer": "rna"})
    with pytest.raises(OptionError, match=named("'batch'")):
        in_mudata(mdata, modalities={**MODALITIES, "batch": "rna"})
    with pytest.raises(DataError, match=named("'rnaa'", "rna")):
        in_mudata(mdata, modalities={**MODALITIES, "rna_layer": "rnaa"})
    with pytest.raises(DataError, match=named("'batch'", "rna")):
        in_mudata(mdata, batch_key="batch", modalities={**MODALITIES, "batch_key": "rna"})
    mdata.mod["rna"].obs["batch"] = "another"
    with pytest.raises(DataError, match=named("'batch'", "mdata.obs")):
        in_mudata(mdata, batch_key="batch", modalities={**MODALITIES, "batch_key": "rna"})
    in_mudata(mdata, rna_layer="counts", modalities=MODALITIES)
    with pytest.raises(DataError, match=named("'counts'")):
        model_of(mdata)
    adata.obsm["protein_expression"] = adata.obsm["protein_expression"] - 5.0  # as centered log-ratios
    setup(adata, **PROTEINS)
    with pytest.raises(DataError, match=named("negative", "protein_expression")):
        model_of(adata)


def test_a_mudata_is_the_same_as_its_anndata():
    mdata = cite_seq(return_mudata=True)
    adata = mdata.mod["rna"].copy()
    adata.obs = mdata.obs.copy()
    adata.obsm["protein_expression"] = mdata.mod["protein_expression"].to_df()
    scvi.model.TOTALVI.setup_anndata(adata, **PROTEINS, batch_key="batch")
    scvi.model.TOTALVI.setup_mudata(mdata, batch_key="batch", modalities=MODALITIES)
    one, other = (train(model_of(data), 2) for data in (adata, mdata))
    assert np.array_equal(one.get_latent_representation(), other.get_latent_representation())
    assert set(one.posterior_predictive_sample()) == {"rna", "protein"}
    assert set(other.posterior_predictive_sample()) == {"rna", "protein_expression"}
    for rows in ([3, 1], mdata.obs_names[:2]):
        tables = [model.get_normalized_expression(indices=rows)[1] for model in (one, other)]
        assert tables[0].equals(tables[1])


def test_models_of_one_modality_read_it_from_a_mudata():
    mdata = scvi.data.synthetic_iid(batch_size=20, n_genes=8, n_proteins=0, n_regions=9, return_mudata=True)
    scvi.model.SCVI.setup_mudata(mdata, batch_key="batch", modalities={"rna_layer": "rna"})
    genes = scvi.model.SCVI(mdata, n_latent=2, n_hidden=8).get_normalized_expression()
    assert genes.columns.equals(mdata.mod["rna"].var_names)
    scvi.model.PEAKVI.setup_mudata(mdata, batch_key="batch", modalities={"atac_layer": "accessibility"})
    peaks = scvi.model.PEAKVI(mdata).get_normalized_accessibility()
    assert peaks.columns.equals(mdata.mod["accessibility"].var_names)
    scvi.model.SCANVI.setup_mudata(mdata, "labels", "label_2", modalities={"rna_layer": "rna"})
    assert set(scvi.model.SCANVI(mdata, n_latent=2, n_hidden=8).predict()) <= {"label_0", "label_1"}


def test_a_mudata_is_saved_with_the_model_and_a_query_takes_its_genes(tmp_path):
    mdata = cite_seq(return_mudata=True)
    scvi.model.TOTALVI.setup_mudata(mdata, batch_key="batch", modalities=MODALITIES)
    model = train(model_of(mdata))
    model.save(tmp_path / "m", save_anndata=True)
    again = scvi.model.TOTALVI.load(tmp_path / "m")
    assert isinstance(again.adata, MuData)
    assert np.array_equal(again.get_latent_representation(), model.get_latent_representation())
    query = MuData({name: part[:, ::-1].copy() for name, part in mdata.mod.items()})
    query.mod["rna"] = query.mod["rna"][:, 1:].copy()
    query.obs["batch"] = "new"
    query.update()
    names = scvi.model.TOTALVI.prepare_query_mudata(query, model, return_reference_var_names=True)
    assert list(names["rna"]) == list(mdata.mod["rna"].var_names)
    with pytest.warns(ScduetWarning, match=named("'gene_7'")):
        scvi.model.TOTALVI.prepare_query_mudata(query, tmp_path / "m")
    assert query.mod["rna"].var_names.equals(mdata.mod["rna"].var_names)
    mapped = scvi.model.TOTALVI.load_query_data(query, model)
    train(mapped, 1, plan_kwargs={"weight_decay": 0.0})
    assert np.array_equal(mapped.get_latent_representation(mdata), model.get_latent_representation())
    with pytest.raises(OptionError, match=named("adversarial_classifier")):
        train(mapped, 1, adversarial_classifier=True)


@pytest.mark.parametrize(
    ("missing", "wanted", "found"), [(0, None, False), (1, None, True), (1, False, False), (0, True, True)]
)
def test_the_adversary_comes_with_missing_proteins_or_as_asked(missing, wanted, found):
    adata = cite_seq()
    adata.obsm["protein_expression"][:20, :missing] = 0
    scvi.model.TOTALVI.setup_anndata(adata, **PROTEINS, batch_key="batch")
    if missing:
        with pytest.warns(ScduetWarning, match=named("override_missing_proteins")):
            model = model_of(adata)
    else:
        model = model_of(adata)
    train(model, 2, adversarial_classifier=wanted, batch_size=20)
    assert (model._model.module.adversary is not None) == found
    assert ("deception_train" in model._model.history) == found
    assert model._model.config.adversarial_classifier == wanted


def test_training_takes_the_arguments_of_each_class():
    adata = cite_seq()
    scvi.model.TOTALVI.setup_anndata(adata, **PROTEINS, batch_key="batch")
    parts = [np.arange(0, 40, 2), np.arange(1, 40, 2)]
    model = train(model_of(adata), external_indexing=parts, n_epochs_kl_warmup=None)
    training = model._model.training
    assert np.array_equal(model.validation_indices, parts[1])
    assert (training.lr, training.batch_size, training.kl_warmup_steps) == (4e-3, 256, 30)
    assert training.reduce_lr_on_plateau
    assert training.early_stopping
    model = train(model_of(adata), plan_kwargs={"lr": 7e-3}, n_epochs_kl_warmup=9, reduce_lr_on_plateau=False)
    assert (model._model.training.lr, model._model.training.kl_warmup_epochs) == (7e-3, 9)
    with pytest.raises(OptionError, match=named("'learning_rate'")):
        train(model, learning_rate=1)
    with pytest.raises(OptionError, match=named("reconstruction_loss_validation", "elbo_validation")):
        train(model, early_stopping_monitor="reconstruction_loss_validation")
    scvi.model.PEAKVI.setup_anndata(adata, batch_key="batch")
    model = train(scvi.model.PEAKVI(adata), lr=5e-4)
    training = model._model.training
    assert (training.lr, training.weight_decay, training.adam_eps, training.kl_warmup_epochs) == (5e-4, 1e-3, 1e-8, 50)
    assert (training.early_stopping_monitor, training.early_stopping_patience) == ("reconstruction", 50)


def test_the_history_adds_genes_and_proteins_up():
    adata = cite_seq()
    scvi.model.TOTALVI.setup_anndata(adata, **PROTEINS)
    model = train(model_of(adata), 2)
    table, history = model._model.history, model.history
    error = table["reconstruction_train"] + table["reconstruction_protein_train"]
    local = table["kl_train"] + table["kl_background_train"]
    assert np.allclose(history["reconstruction_loss_train"].iloc[:, 0], error)
    assert np.allclose(history["kl_local_train"].iloc[:, 0], local)
    assert np.allclose(history["elbo_train"].iloc[:, 0], error + local)


def test_correlations_leave_the_background_out():
    """A protein that shows nothing but background is never drawn: it has no correlation."""
    adata = cite_seq()
    scvi.model.TOTALVI.setup_anndata(adata, **PROTEINS, protein_names_uns_key="protein_names")
    model = model_of(adata)
    with np.errstate(invalid="ignore", divide="ignore"):
        model._model.module.proteins.mixing.logits.bias.data[0] = 100
        found = model.get_feature_correlation_matrix(n_samples=2, correlation_type="pearson")
    assert found["protein_0"].isna().all()
    assert found.loc["protein_1", "gene_0":"protein_3"].drop("protein_0").notna().all()
    with pytest.raises(OptionError, match=named("log_transform", "spearman")):
        model.get_feature_correlation_matrix(correlation_type="pearson", log_transform=True)


def test_the_setup_of_a_mudata_is_printed(capsys):
    mdata = cite_seq(return_mudata=True)
    scvi.model.TOTALVI.setup_mudata(mdata, batch_key="batch", modalities=MODALITIES)
    model_of(mdata).view_anndata_setup()
    assert_named(capsys.readouterr().out, "TOTALVI.setup_mudata", "mod['rna'].X", "mod['protein_expression'].X")


def test_peaks_that_are_binary_or_reads_are_no_fragments():
    adata = scvi.data.synthetic_iid(batch_size=20, n_genes=8, n_proteins=0, n_regions=0)
    for values, name in ((np.minimum(adata.X, 1), "'peakvi'"), (2 * adata.X, "reads_to_fragments")):
        adata.layers["peaks"] = values
        scvi.external.POISSONVI.setup_anndata(adata, layer="peaks")
        with pytest.raises(DataError, match=named(name)):
            scvi.external.POISSONVI(adata)


def test_multivi_takes_cells_with_and_without_proteins():
    mdata = scvi.data.synthetic_iid(batch_size=20, n_genes=8, n_proteins=4, n_regions=9, return_mudata=True)
    two = {"rna_layer": "rna", "atac_layer": "accessibility"}
    with pytest.raises(OptionError, match=named("'atac_layer'")):
        scvi.model.MULTIVI.setup_mudata(mdata, modalities={"rna_layer": "rna"})
    with pytest.raises(OptionError, match=named("setup_anndata", "setup_mudata")):
        scvi.model.MULTIVI.setup_anndata(mdata)
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key="batch", modalities=two)
    with pytest.raises(OptionError, match=named("n_regions", 8, 9)):
        scvi.model.MULTIVI(mdata, n_genes=8, n_regions=8)
    model = scvi.model.MULTIVI(mdata, n_genes=8, n_regions=9)
    assert model._model.config.as_in_scvi_tools
    assert set(model.get_reconstruction_error()) == {
        "reconstruction_loss_expression",
        "reconstruction_loss_accessibility",
    }
    for wanted in (False, True):
        train(model, 1, adversarial_mixing=wanted)
        assert (model._model.module.adversary is not None) == wanted
    with pytest.raises(OptionError, match=named("'velocity'", "accessibility")):
        model.get_latent_representation(modality="velocity")
    mdata.mod["rna"].X[:5] = 0
    by_genes = model.get_latent_representation(modality="expression")
    assert np.isnan(by_genes[:5]).all()  # not measured
    assert np.isfinite(by_genes[5:]).all()
    assert np.isfinite(model.get_normalized_expression()).all(axis=None)  # imputed


def test_proteins_beside_peaks():
    mdata = scvi.data.synthetic_iid(batch_size=20, n_genes=8, n_proteins=4, n_regions=9, return_mudata=True)
    three = {"rna_layer": "rna", "atac_layer": "accessibility", "protein_layer": "protein_expression"}
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key="batch", modalities=three)
    model = train(scvi.model.MULTIVI(mdata), 2)
    foreground = model.get_protein_foreground_probability(protein_list=["protein_2", "protein_1"])
    assert list(foreground.columns) == ["protein_1", "protein_2"]
    draws = model.get_normalized_expression(n_samples=3, use_z_mean=False)
    assert draws.shape == (3, 40, 8)
    assert np.array_equal(model.get_from_registry(mdata, "atac"), mdata.mod["accessibility"].X)
    table, history = model._model.history, model.history
    error = sum(table[f"reconstruction{name}_train"] for name in ("", "_peaks", "_protein"))
    assert np.allclose(history["reconstruction_loss_train"].iloc[:, 0], error)
