"""Model folders of scvi-tools in all their layouts; those of the program itself are in tests/parity."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_counts
from named import named

import scduet as sd
from scduet import scvi
from scduet.errors import FormatError, ScduetWarning

OPTIONS = dict(batch_key="batch", labels_key="cell_type", n_latent=4, n_hidden=16, max_epochs=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A scANVI and the content of its model.pt."""
    folder = tmp_path_factory.mktemp("scanvi") / "m"
    model = sd.fit(make_counts(), "scanvi", unlabeled_category="B", categorical_covariate_keys=("site",), **OPTIONS)
    model.export_scvi_tools(folder)
    return model, torch.load(folder / "model.pt", weights_only=False)


def saved(content, folder, name="model.pt"):
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / name)
    return folder


def changed(content, **attributes):
    return {**content, "attr_dict": {**content["attr_dict"], **attributes}}


def test_a_folder_with_a_prefix_and_a_bare_file_are_read(exported, tmp_path):
    model, content = exported
    saved(content, tmp_path / "m", "my_model.pt")
    for path in (tmp_path / "m", tmp_path / "m" / "my_model.pt"):
        assert np.array_equal(sd.load(path).embed(make_counts()), model.embed())
    saved(content, tmp_path / "m", "other_model.pt")
    with pytest.raises(FormatError, match=named(tmp_path / "m", 2, "model.pt")):
        sd.load(tmp_path / "m")


def test_what_is_read_is_saved_in_our_own_format(exported, tmp_path):
    model, content = exported
    loaded = sd.load(saved(content, tmp_path / "m"))
    loaded.save(tmp_path / "ours")
    again = sd.load(tmp_path / "ours")
    assert np.array_equal(again.embed(make_counts()), model.embed())
    assert sd.predict(again, make_counts()).columns.tolist() == ["NK", "T"]


def test_arguments_are_found_however_they_were_nested(exported, tmp_path):
    """Flat in the oldest files, with arguments that are of no matter."""
    model, content = exported
    init = content["attr_dict"]["init_params_"]
    flat = {**init["non_kwargs"], **init["kwargs"]["model_kwargs"], "use_cuda": True, "unlabeled_category": "B"}
    loaded = sd.load(saved(changed(content, init_params_=flat), tmp_path / "m"))
    assert loaded.config == model.config


def test_no_setup_method_name_is_needed(exported, tmp_path):
    """Files of 0.15 and 0.16, and the lung atlas, have none; nor a store of pyro's parameters."""
    _, content = exported
    registry = {k: v for k, v in content["attr_dict"]["registry_"].items() if k != "setup_method_name"}
    weights = {k: v for k, v in content["model_state_dict"].items() if k != "pyro_param_store"}
    old = {**changed(content, registry_=registry), "model_state_dict": weights}
    assert sd.load(saved(old, tmp_path / "m")).name == "scanvi"


def test_the_three_files_of_before_0_15(tmp_path):
    """Built from the layout, for want of a real one."""
    counts = make_counts()
    model = sd.fit(counts, "scvi", categorical_covariate_keys=("site",), continuous_covariate_keys=("age",), **OPTIONS)
    model.export_scvi_tools(tmp_path / "new")
    content = torch.load(tmp_path / "new" / "model.pt", weights_only=False)
    weights = {k: v for k, v in content["model_state_dict"].items() if k != "pyro_param_store"}
    saved(weights, tmp_path / "old", "model_params.pt")
    setup = {
        "scvi_version": "0.9.0",
        "data_registry": {
            "X": {"attr_name": "X", "attr_key": "None"},
            "batch_indices": {"attr_name": "obs", "attr_key": "_scvi_batch"},
            "labels": {"attr_name": "obs", "attr_key": "_scvi_labels"},
            "cat_covs": {"attr_name": "obsm", "attr_key": "_scvi_extra_categoricals"},
        },
        "categorical_mappings": {
            "_scvi_batch": {"original_key": "batch", "mapping": np.array(["b0", "b1"], object)},
            "_scvi_labels": {"original_key": "cell_type", "mapping": np.array(["B", "NK", "T"], object)},
        },
        "extra_categoricals": {"mappings": {"site": np.array(["x", "y", "z"], object)}, "keys": ["site"]},
        "extra_continuous_keys": np.array(["age"], object),
        "summary_stats": {"n_batch": 2, "n_cells": 200, "n_vars": 60, "n_labels": 3},
    }
    init = {"kwargs": {"model_kwargs": {}}, "non_kwargs": content["attr_dict"]["init_params_"]["non_kwargs"]}
    attributes = {"scvi_setup_dict_": setup, "init_params_": init, "is_trained_": True}
    (tmp_path / "old" / "attr.pkl").write_bytes(pickle.dumps(attributes, protocol=4))
    (tmp_path / "old" / "var_names.csv").write_text("\n".join(model.genes) + "\n")
    loaded = sd.load(tmp_path / "old")
    assert np.array_equal(loaded.embed(counts), model.embed())
    assert loaded.schema.levels == model.schema.levels
    scvi.model.SCVI.convert_legacy_save(tmp_path / "old", tmp_path / "converted")
    assert np.array_equal(sd.load(tmp_path / "converted").embed(counts), model.embed())
    known = scvi.model.SCVI.load_registry(tmp_path / "converted")
    assert (known["model_name"], known["setup_args"]["batch_key"]) == ("SCVI", "batch")
    model.save(tmp_path / "ours")
    assert scvi.model.SCVI.load_registry(tmp_path / "ours")["setup_args"]["batch_key"] == "batch"
    with pytest.raises(FormatError, match=named(tmp_path / "converted", "overwrite=True")):
        scvi.model.SCVI.convert_legacy_save(tmp_path / "old", tmp_path / "converted")
    (tmp_path / "old" / "attr.pkl").unlink()
    with pytest.raises(FormatError, match=named(tmp_path / "old" / "attr.pkl")):
        sd.load(tmp_path / "old")


@pytest.mark.filterwarnings("ignore:batch_key=")
def test_a_model_laid_out_like_that_of_the_census(tmp_path):
    """A bare model.pt with very many batches and Ensembl ids; queries are of a batch of their own."""
    reference = make_counts(600, 50)
    reference.var_names = [f"ENSG{i:011}" for i in range(50)]
    reference.obs["batch"] = np.arange(600) // 2
    model = sd.fit(reference, "scvi", batch_key="batch", n_layers=2, gene_likelihood="nb", max_epochs=1, n_latent=4)
    model.export_scvi_tools(tmp_path)
    model = sd.load(tmp_path / "model.pt")
    assert len(model.schema.levels["batch"]) == 300
    query = make_counts(40, 50, seed=3)
    query.obs["batch"] = "unassigned"
    with pytest.raises(ValueError, match=named(50, "100%", "'ENSG00000000000'", "var_names", "Ensembl")):
        sd.map_query(query, model, train=False)
    query.var_names = reference.var_names[::-1]
    with pytest.warns(ScduetWarning, match=named(3, 50, "6%", "'ENSG00000000047'")):
        mapped = sd.map_query(query[:, 3:].copy(), model, train=False)
    assert mapped.embed().shape == (40, 4)
    assert mapped.schema.levels["batch"][-1] == "unassigned"
    assert np.array_equal(mapped.embed(reference), model.embed(reference))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (dict(registry_={"model_name": "AmortizedLDA"}), ["AmortizedLDA", "'SCVI'"]),
        (
            dict(init_params_={"kwargs": {"model_kwargs": {"var_activation": "softplus"}}}),
            ["'var_activation'", "'softplus'"],
        ),
        (dict(init_params_={"gene_likelihood": "gamma"}), ["'gene_likelihood'", "'gamma'"]),
        (dict(init_params_={"n_hidden": 16, "n_latent": 7}), ["decoder.px_decoder.fc_layers.Layer 0.0.weight"]),
    ],
)
def test_models_that_cannot_be_read_say_why(exported, tmp_path, change, names):
    _, content = exported
    with pytest.raises(FormatError, match=named(*names)):
        sd.load(saved(changed(content, **change), tmp_path / "m"))


def test_broken_files_say_so(exported, tmp_path):
    _, content = exported
    several = saved({**content, "var_names": {"rna": np.array(["a"])}}, tmp_path / "several")
    with pytest.raises(FormatError, match=named(several / "model.pt", "'rna'")):
        sd.load(several)
    weights = dict(content["model_state_dict"], y_prior=torch.tensor([[0.9, 0.1]]))
    with pytest.raises(FormatError, match=named("y_prior")):
        sd.load(saved({**content, "model_state_dict": weights}, tmp_path / "prior"))
    with pytest.raises(FormatError, match=named(tmp_path / "else", "model_state_dict", "var_names", "attr_dict")):
        sd.load(saved({"state": 1}, tmp_path / "else"))
    whole = (saved(content, tmp_path / "cut") / "model.pt").read_bytes()
    (tmp_path / "cut" / "model.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=named("'model.pt'")):
        sd.load(tmp_path / "cut")
    with pytest.raises(FormatError, match=named(tmp_path / "nothing")):
        sd.load(tmp_path / "nothing")


def test_code_in_a_model_file_does_not_run(exported, tmp_path):
    class Trap:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",)

    _, content = exported
    with pytest.raises(FormatError, match=named("'model.pt'", "builtins.exec")):
        sd.load(saved(changed(content, run_id_=Trap()), tmp_path / "m"))
    assert not (tmp_path / "sprung").exists()


def test_what_scvi_tools_lacks_is_not_exported(exported, tmp_path):
    model, content = exported
    linear = sd.fit(make_counts(), "ldvae", categorical_covariate_keys=("site",), n_latent=4, max_epochs=1)
    with pytest.raises(FormatError, match=named("'ldvae'", "'site'")):
        linear.export_scvi_tools(tmp_path / "m")
    model.export_scvi_tools(tmp_path / "m")
    with pytest.raises(FormatError, match=named(tmp_path / "m" / "model.pt", "overwrite=True")):
        model.export_scvi_tools(tmp_path / "m")
    model.export_scvi_tools(tmp_path / "m", overwrite=True)
    history = content["attr_dict"]["history_"]
    assert isinstance(history["loss_train"], pd.DataFrame)
    assert sd.load(tmp_path / "m").history["loss_train"].iloc[0] == model.history["loss_train"].iloc[0]
