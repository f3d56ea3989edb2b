"""Every public member of scvi-tools 1.4 and 1.5 is there, or says what to use instead.

members.json was read off their sources by make_members.py.
"""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from named import named

from scduet import scvi
from scduet.errors import OptionError

VERSIONS = json.loads(Path(__file__).with_name("members.json").read_text())
MODELS = ("SCVI", "SCANVI", "LinearSCVI", "AUTOZI", "TOTALVI", "PEAKVI", "POISSONVI", "MULTIVI")
EXTERNAL = ("POISSONVI", "RNAStereoscope", "SpatialStereoscope", "GIMVI")
SPOTS = ("CondSCVI", "DestVI", "RNAStereoscope", "SpatialStereoscope")
ALL = (*MODELS, *SPOTS, "GIMVI")
INSTEAD = {  # members that name an alternative
    *("register_manager", "update_setup_method_args", "get_importance_weights", "get_ranked_features"),
    *("shap_predict", "shap_adata_predict", "prepare_query_mudata"),
}
FEWER = {"TOTALVI": {"prepare_query_mudata"}, "MULTIVI": {"prepare_query_mudata"}}  # than those, by model
MORE = {"POISSONVI": {"differential_expression"}, "MULTIVI": {"setup_anndata"}}
MORE |= {"CondSCVI": {"confusion_coarse_celltypes"}, "DestVI": {"__init__"}, "SpatialStereoscope": {"__init__"}}


def class_of(name):
    return getattr(scvi.external if name in EXTERNAL else scvi.model, name)


def instead(name):
    return INSTEAD - FEWER.get(name, set()) | MORE.get(name, set())


@pytest.fixture(scope="module")
def models():
    scvi.settings.seed = 0
    adata = scvi.data.synthetic_iid(batch_size=40, n_genes=12)
    made = {}
    for name in MODELS:
        cls, given = class_of(name), {"batch_key": "batch", "labels_key": "labels"}
        if name == "TOTALVI":
            given = {"batch_key": "batch", "protein_expression_obsm_key": "protein_expression"}
        if name == "POISSONVI":
            adata.layers["fragments"], given["layer"] = np.ceil(adata.X / 12), "fragments"
        if name == "MULTIVI":
            adata = scvi.data.synthetic_iid(batch_size=40, n_genes=12, n_regions=12, n_proteins=0, return_mudata=True)
            cls.setup_mudata(adata, modalities={"rna_layer": "rna", "atac_layer": "accessibility"})
        else:
            cls.setup_anndata(adata, **given, **({"unlabeled_category": "label_0"} if name == "SCANVI" else {}))
        made[name] = cls(adata, n_latent=3, n_hidden=8)
        made[name].train(1, enable_progress_bar=False)
    adata = scvi.data.synthetic_iid(batch_size=40, n_genes=12)
    for reference, spots in (SPOTS[:2], SPOTS[2:]):
        class_of(reference).setup_anndata(adata, labels_key="labels")
        made[reference] = class_of(reference)(adata)
        class_of(spots).setup_anndata(adata)
        made[spots] = class_of(spots).from_rna_model(adata, made[reference])
        for name in (reference, spots):
            made[name].train(1, enable_progress_bar=False)
    both = adata, adata[:, :8].copy()
    for one in both:
        scvi.external.GIMVI.setup_anndata(one, batch_key="batch")
    made["GIMVI"] = scvi.external.GIMVI(*both, n_latent=3)
    made["GIMVI"].train(1, enable_progress_bar=False)
    yield made
    scvi.settings.seed = None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_every_member_is_there_or_names_another(models, version, name):
    model = models[name]
    for member, told in VERSIONS[version][name].items():
        if member in ("run_id", "run_name"):
            with pytest.raises(AttributeError, match=named("runs")):
                getattr(model, member)
        elif member in instead(name):
            with pytest.raises(OptionError, match=named(member)) as raised:
                getattr(model, member)(model.adata)
            assert raised.value.hint
        elif told == "property":
            getattr(model, member)
        else:
            assert callable(getattr(model, member)), member


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_every_argument_is_taken_in_the_same_order_or_refused_by_name(version, name):
    for member, told in VERSIONS[version][name].items():
        if told == "property" or member in instead(name):
            continue
        known = inspect.signature(getattr(class_of(name), member)).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            assert set(told) <= set(known), (member, set(told) - set(known))
        shared = [argument for argument in told if argument in known]
        assert shared == [argument for argument in known if argument in shared], member


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("module", ["data", "utils"])
def test_every_function_of_data_and_utils_is_there_or_names_another(version, module):
    ours = getattr(scvi, module)
    for name in VERSIONS[version][module]:
        if name not in ours.__all__:
            with pytest.raises(OptionError, match=named(name)) as raised:
                getattr(ours, name)("anything")
            assert raised.value.hint
        else:
            assert callable(getattr(ours, name))
    with pytest.raises(AttributeError, match=named("'no_such'")):
        ours.no_such  # noqa: B018


@pytest.mark.parametrize("name", ["criticism", "hub", "train", "module"])
def test_modules_that_are_not_here_name_another(name):
    with pytest.raises(AttributeError, match=named(repr(name))):
        getattr(scvi, name)


@pytest.mark.parametrize(
    ("module", "name"),
    [("model", "AmortizedLDA"), ("external", "CYTOVI"), ("external", "CellAssign")],
)
def test_models_that_are_not_here_say_so(module, name):
    with pytest.raises(AttributeError, match=named(module, repr(name))):
        getattr(getattr(scvi, module), name)


@pytest.mark.parametrize(
    ("method", "argument"),
    [
        ("get_elbo", "dataloader"),
        ("get_normalized_expression", "data_loader_kwargs"),
        ("differential_expression", "dataloader"),
        ("differential_abundance", "adata_sub"),
    ],
)
def test_arguments_without_counterpart_are_refused_by_name(models, method, argument):
    more = {"dir_path": "nowhere"} if method == "load" else {}
    with pytest.raises(OptionError, match=named(method, argument)):
        getattr(models["SCVI"], method)(**{argument: object()}, **more)


def test_a_misspelt_argument_is_refused(models):
    with pytest.raises(OptionError, match=named("'indizes'")):
        models["SCVI"].get_latent_representation(indizes=[1])
    with pytest.raises(OptionError, match=named("'batch_kee'")):
        scvi.model.SCVI.setup_anndata(models["SCVI"].adata, batch_kee="batch")
    with pytest.raises(OptionError, match=named("ig_interpretability")):
        models["SCANVI"].predict(ig_interpretability=True)


def test_the_helpers_do_what_they_do_there():
    nested = scvi.utils.attrdict({"a": {"b": 1}})
    assert nested.a.b == nested["a"]["b"] == 1
    assert nested == {"a": {"b": 1}}
    with pytest.raises(AttributeError, match=named("'c'")):
        nested.c  # noqa: B018
    assert list(scvi.utils.track([1, 2], disable=True)) == [1, 2]
    assert scvi.utils.is_package_installed("numpy")
    assert not scvi.utils.is_package_installed("no_such_package")
    with pytest.raises(ModuleNotFoundError, match=named("no_such_package")):
        scvi.utils.dependencies("no_such_package")(lambda: 1)()
    assert scvi.utils.dependencies("numpy")(lambda: 1)() == 1
    assert scvi.REGISTRY_KEYS.X_KEY == "X"
    assert scvi.REGISTRY_KEYS.CAT_COVS_KEY == "extra_categorical_covs"
