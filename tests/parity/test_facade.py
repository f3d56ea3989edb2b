"""The façade has the methods, arguments and defaults of scvi-tools, but for those listed here with the reason."""

import inspect

import pytest

from scduet import scvi as ours

INSIDE = "of its registry of managers, which has no counterpart: the schema is part of the model"
METHODS = {  # that are left out, and why
    **dict.fromkeys(("adata_manager", "data_registry", "deregister_manager", "get_anndata_manager"), INSIDE),
    **dict.fromkeys(("get_from_registry", "get_setup_arg", "get_state_registry", "register_manager"), INSIDE),
    **dict.fromkeys(("transfer_fields", "update_setup_method_args", "view_registry"), INSIDE),
    **dict.fromkeys(("view_setup_args", "view_setup_method_args"), f"{INSIDE}; load_registry gives the arguments"),
    **dict.fromkeys(("run_id", "run_name"), "of a logger of runs"),
    "get_normalized_function_name": "of autotune",
    "get_batch_representation": "the module's batch_embedding has it",
    "get_importance_weights": "takes distributions of its module; may not end there (issue 2253)",
    **dict.fromkeys(("get_ranked_features", "shap_predict", "shap_adata_predict"), "of captum and shap"),
    "prepare_query_mudata": "the four models are of one modality",
}
OF_AN_INSTANCE = {"train_indices", "validation_indices", "test_indices", "adata"}
ARGUMENTS = {  # that are taken and have no effect, or are refused, and why
    **dict.fromkeys(("dataloader", "data_loader_kwargs", "datamodule"), "cells come as adata"),
    **dict.fromkeys(("backup_url", "allowed_classes_names_list", "save_kwargs", "legacy_mudata_format"), "of files"),
    **dict.fromkeys(("registry", "transfer_batch"), INSIDE),
    **dict.fromkeys(("accelerator", "device", "devices", "silent"), "of devices and progress bars"),
    **dict.fromkeys(("unfrozen", "freeze_dropout", "freeze_expression", "freeze_decoder_first_layer"), "all is frozen"),
    **dict.fromkeys(("freeze_batchnorm_encoder", "freeze_batchnorm_decoder", "freeze_classifier"), "all is frozen"),
    **dict.fromkeys(("use_latent_qzm_key", "use_latent_qzv_key"), "minify asks the encoder itself"),
    **dict.fromkeys(("ig_interpretability", "ig_args"), "of captum"),
    "adversarial_classifier": "refused, if asked for",
    **dict.fromkeys(("validation_size", "shuffle_set_split", "batch_size", "datasplitter_kwargs"), "in **kwargs"),
    **dict.fromkeys(("plan_config", "plan_kwargs", "trainer_config"), "in **kwargs"),
}
DEFAULTS = {  # that differ, and why
    ("train", "batch_size"): "None is settings.batch_size, which is theirs",
    ("load_query_data", "adata"): "a query needs cells",
    ("load_query_data", "reference_model"): "and a model",
    ("__init__", "adata"): "the same for the four models; without cells it is refused",
}


def signature(function):
    known = inspect.signature(function).parameters.values()
    named = {p.name: p.default for p in known if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    return named, any(p.kind is p.VAR_KEYWORD for p in known)


@pytest.mark.parametrize("name", ["SCVI", "SCANVI", "LinearSCVI", "AUTOZI"])
def test_methods_arguments_and_defaults_are_those_of_scvi_tools(scvi_tools, name):
    theirs, mine = getattr(scvi_tools.model, name), getattr(ours.model, name)
    public = {method for method in dir(theirs) if not method.startswith("_")} - OF_AN_INSTANCE
    assert public - set(dir(mine)) <= METHODS.keys()
    for method in ["__init__", *sorted(public & set(dir(mine)))]:
        if not callable(getattr(theirs, method)):
            continue
        (wanted, _), (found, takes_more) = signature(getattr(theirs, method)), signature(getattr(mine, method))
        assert takes_more or wanted.keys() <= found.keys(), method
        assert wanted.keys() - found.keys() <= ARGUMENTS.keys(), method
        shared = [argument for argument in wanted if argument in found]
        assert shared == [argument for argument in found if argument in wanted], f"{method}: another order"
        other = {a: found[a] for a in shared if found[a] != wanted[a] and (method, a) not in DEFAULTS}
        assert other == {}, method


def test_nothing_is_listed_that_is_there(scvi_tools):
    models = [getattr(ours.model, name) for name in ("SCVI", "SCANVI", "LinearSCVI", "AUTOZI")]
    assert [method for method in METHODS if any(method in dir(model) for model in models)] == []
