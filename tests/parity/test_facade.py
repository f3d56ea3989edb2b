"""The façade has the methods, arguments and defaults of scvi-tools, but for those listed here with the reason.

That every member of 1.4 and 1.5 is there: tests/python/scvi/test_members.py.
"""

import inspect
import re

import pytest

from scduet import scvi as ours

INSIDE = "of its registry of managers, which has no counterpart: the schema is part of the model"
NOT_HERE = re.compile("^Not here: ")  # how a method says what to use instead
ARGUMENTS = {  # that are taken and have no effect, or are refused, and why
    **dict.fromkeys(("dataloader", "data_loader_kwargs", "datamodule"), "cells come as adata"),
    **dict.fromkeys(("backup_url", "allowed_classes_names_list", "save_kwargs", "legacy_mudata_format"), "of files"),
    **dict.fromkeys(("registry", "transfer_batch"), INSIDE),
    **dict.fromkeys(("accelerator", "device", "devices", "silent"), "of devices and progress bars"),
    **dict.fromkeys(("unfrozen", "freeze_dropout", "freeze_expression", "freeze_decoder_first_layer"), "all is frozen"),
    **dict.fromkeys(("freeze_batchnorm_encoder", "freeze_batchnorm_decoder", "freeze_classifier"), "all is frozen"),
    **dict.fromkeys(("use_latent_qzm_key", "use_latent_qzv_key"), "minify asks the encoder itself"),
    **dict.fromkeys(("ig_interpretability", "ig_args"), "of captum"),
    "adversarial_classifier": "of SCANVI: refused, if asked for",
    **dict.fromkeys(("idx_layer", "size_factor_key"), "of MULTIVI: refused, if asked for"),
    "use_minified": "cells that are minified say so themselves",
    **dict.fromkeys(("validation_size", "shuffle_set_split", "batch_size", "datasplitter_kwargs"), "in **kwargs"),
    **dict.fromkeys(("plan_config", "plan_kwargs", "trainer_config"), "in **kwargs"),
}
DEFAULTS = {  # that differ, and why
    ("train", "batch_size"): "None is settings.batch_size, which is theirs",
    ("load_query_data", "adata"): "a query needs cells",
    ("load_query_data", "reference_model"): "and a model",
    **dict.fromkeys(
        [("get_protein_background_mean", name) for name in ("adata", "indices", "batch_size")], "None is all there"
    ),
    ("__init__", "adata"): "the same for the four models; without cells it is refused",
}


def signature(function):
    known = inspect.signature(function).parameters.values()
    named = {p.name: p.default for p in known if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    return named, any(p.kind is p.VAR_KEYWORD for p in known)


EXTERNAL = ["POISSONVI", "RNAStereoscope", "SpatialStereoscope"]
MODELS = ["SCVI", "SCANVI", "LinearSCVI", "AUTOZI", "TOTALVI", "PEAKVI", "MULTIVI", "CondSCVI", "DestVI"]


@pytest.mark.parametrize("name", MODELS + EXTERNAL)
def test_methods_arguments_and_defaults_are_those_of_scvi_tools(scvi_tools, name):
    theirs, mine = (getattr(s.external if name in EXTERNAL else s.model, name) for s in (scvi_tools, ours))
    public = {method for method in dir(theirs) if not method.startswith("_")}
    assert public - set(dir(mine)) == set()
    for method in ["__init__", *sorted(public)]:
        if not callable(getattr(theirs, method)) or NOT_HERE.search(getattr(mine, method).__doc__ or ""):
            continue
        (wanted, _), (found, takes_more) = signature(getattr(theirs, method)), signature(getattr(mine, method))
        assert takes_more or wanted.keys() <= found.keys(), method
        assert wanted.keys() - found.keys() <= ARGUMENTS.keys(), method
        shared = [argument for argument in wanted if argument in found]
        assert shared == [argument for argument in found if argument in wanted], f"{method}: another order"
        other = {a: found[a] for a in shared if found[a] != wanted[a] and (method, a) not in DEFAULTS}
        assert other == {}, method
