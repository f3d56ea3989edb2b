"""gimVI gives the losses and results of scvi-tools' with the same weights, and its files go both ways."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from named import named
from parity.test_scvi_tools_files import near, pretended

import scduet as sd
from scduet import scvi as ours
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import DataError, OptionError

OPTIONS = [
    {},
    {
        "generative_distributions": ["nb", "zinb"],
        "model_library_size": [False, True],
        "dispersion": "gene",
        "n_layers_decoder_individual": 1,
        "n_layers_decoder_shared": 1,
        "dim_hidden_decoder_shared": 32,
    },
    {
        "generative_distributions": ["poisson", "nb"],
        "model_library_size": [True, True],
        "dispersion": "gene-cell",
        "n_layers_encoder_individual": 2,
        "n_layers_encoder_shared": 2,
        "n_layers_decoder_individual": 2,
        "log_variational": False,
        "n_latent": 4,
    },
]


def data():
    """Single cells of two batches, and spatial ones of one of these and of another, with genes in another order."""
    draw, made = np.random.default_rng(0), []
    for n, genes, names in ((60, range(50), ("b0", "b1")), (40, range(39, 9, -1), ("b0", "slide"))):
        adata = AnnData(draw.negative_binomial(2, 0.6, (2 * n, 50)).astype(np.float32))
        adata.obs["batch"] = pd.Categorical(np.repeat(names, n))
        made.append(adata[:, list(genes)].copy())
    return made


def model_of(scvi, adatas, keys=("batch", "batch"), **options):
    for adata, key in zip(adatas, keys, strict=True):
        scvi.external.GIMVI.setup_anndata(adata, batch_key=key)
    torch.manual_seed(0)
    return pretended(scvi.external.GIMVI(*adatas, **options))


@pytest.mark.parametrize("options", OPTIONS, ids=("default", "layers", "learned"))
def test_results_and_files(scvi_tools, tmp_path, options):
    theirs = model_of(scvi_tools, data(), **options)
    theirs.save(tmp_path / "theirs")
    mine = ours.external.GIMVI.load(tmp_path / "theirs", *data())
    for name, given in [
        ("get_latent_representation", {}),
        ("get_imputed_values", {}),
        ("get_imputed_values", {"normalized": False}),
        ("get_imputed_values", {"normalized": False, "decode_mode": 0}),
        ("get_imputed_values", {"decode_mode": 1}),
    ]:
        found, expected = getattr(mine, name)(**given), getattr(theirs, name)(**given)
        assert len(found) == len(expected) == 2
        for values, wanted in zip(found, expected, strict=True):
            near(values, wanted)
    mine.export_scvi_tools(tmp_path / "ours")
    panel = [gene for gene in data()[0].var_names if gene in set(data()[1].var_names)]
    cells, spatial = data()
    again = scvi_tools.external.GIMVI.load(tmp_path / "ours", cells, spatial[:, panel].copy())
    for found, wanted in zip(again.get_imputed_values(), theirs.get_imputed_values(), strict=True):
        near(found, wanted)
    mine.save(tmp_path / "again", save_anndata=True)
    read = ours.external.GIMVI.load(tmp_path / "again")
    for found, wanted in zip(read.get_imputed_values(), mine.get_imputed_values(), strict=True):
        assert np.array_equal(found, wanted)


def test_files_of_before_015(scvi_tools, tmp_path):
    """Four files, with a set-up dictionary for each data set."""
    theirs = model_of(scvi_tools, data())
    setups = []
    for adata in theirs.adatas:
        column = {"original_key": "batch", "mapping": np.array(sorted(set(adata.obs["batch"])), object)}
        places = {
            "X": {"attr_name": "X", "attr_key": None},
            "batch_indices": {"attr_name": "obs", "attr_key": "_scvi_batch"},
        }
        setups.append({"data_registry": places, "categorical_mappings": {"_scvi_batch": column}})
    torch.save(theirs.module.state_dict(), tmp_path / "model_params.pt")
    init = {"non_kwargs": {"n_latent": 10}, "kwargs": {"model_kwargs": {}}}
    (tmp_path / "attr.pkl").write_bytes(pickle.dumps({"scvi_setup_dicts_": setups, "init_params_": init}))
    for name, adata in zip(("seq", "spatial"), theirs.adatas, strict=True):
        (tmp_path / f"var_names_{name}.csv").write_text("\n".join(adata.var_names))
    mine = ours.external.GIMVI.load(tmp_path, *data())
    for found, wanted in zip(mine.get_imputed_values(), theirs.get_imputed_values(), strict=True):
        near(found, wanted)


@pytest.mark.parametrize("options", OPTIONS, ids=("default", "layers", "learned"))
def test_losses(scvi_tools, tmp_path, options):
    """Of all cells as one minibatch, with the same draws."""
    theirs = model_of(scvi_tools, data(), **options)
    theirs.save(tmp_path / "theirs")
    mine = ours.external.GIMVI.load(tmp_path / "theirs", *data())._model
    loaders = [next(iter(theirs._make_data_loader(adata, batch_size=200))) for adata in theirs.adatas]
    torch.manual_seed(3)
    total, terms = 0.0, {"rec": [], "kl": []}
    with torch.no_grad():
        for mode, tensors in enumerate(loaders):
            given = {"inference_kwargs": {"mode": mode}, "generative_kwargs": {"mode": mode}}
            *_, out = theirs.module(tensors, **given, loss_kwargs={"mode": mode, "kl_weight": 0.3})
            total += out.loss / 200
            terms["rec"].append(out.reconstruction_loss["reconstruction_loss"])
            terms["kl"].append(out.kl_local["kl_local"])
        cells = next(iter(minibatches(mine.cells, sequential(200), 200)))
        torch.manual_seed(3)
        found = mine.module(cells, Step(kl_weight=0.3))
        near(found.total, total)
        torch.manual_seed(3)
        each = mine.module.cell_terms(cells)
    near(each["reconstruction"], torch.cat(terms["rec"]))
    near(each["kl"], torch.cat(terms["kl"]))


def test_the_classifier_and_its_fooling(scvi_tools):
    """Equal to their losses of the adversary, whose files do not hold it."""
    from scvi.external.gimvi._task import GIMVITrainingPlan

    theirs = model_of(scvi_tools, data())
    plan = GIMVITrainingPlan(theirs.module, adversarial_classifier=True, scale_adversarial_loss=5).eval()
    mine = sd.models.find("gimvi")
    adversary = model_of(ours, data(), n_latent=10)._model.module.eval().adversary
    assert mine.players[1].name == "adversary"
    linear = [m for m in plan.adversarial_classifier.modules() if isinstance(m, torch.nn.Linear)]
    norms = [m for m in plan.adversarial_classifier.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    for found, wanted in zip([*adversary.body.linear, adversary.logits], linear, strict=True):
        found.load_state_dict(wanted.state_dict())
    for found, wanted in zip(adversary.body.norm, norms, strict=True):
        found.load_state_dict(wanted.state_dict())
    z, level = torch.randn(30, 10), torch.arange(30) % 2
    near(adversary.recognition(z, level).detach(), plan.loss_adversarial_classifier(z, level[:, None], True).detach())
    near(adversary.deception(z, level).detach(), plan.loss_adversarial_classifier(z, level[:, None], False).detach())


def test_the_data_stay_as_they_are_and_both_are_analyzed():
    cells, spatial = data()
    before = [adata.obs["batch"].copy() for adata in (cells, spatial)]
    model = model_of(ours, (cells, spatial), ("batch", None))
    codes = [adata.obs["_scvi_batch"].copy() for adata in (cells, spatial)]
    model.train(1, enable_progress_bar=False)
    for adata, column, code in zip((cells, spatial), before, codes, strict=True):
        assert adata.obs["batch"].equals(column)
        assert adata.obs["_scvi_batch"].equals(code)
    assert {"elbo_train", "reconstruction_loss_train", "kl_local_train"} <= set(model.history)
    each = [term.numpy() for term in (model.get_elbo(return_mean=False), model.get_elbo(batch_size=7))]
    assert each[0].shape == (200,)
    assert np.isfinite(each[1])
    shares = model.get_normalized_expression()
    near(shares.sum(1), np.ones(200), rtol=1e-4)
    assert len(model.differential_expression(idx1=np.arange(60), idx2=np.arange(60, 120))) == 50
    model.train(1, kappa=0, enable_progress_bar=False)
    assert model._model.module.players == ("model",)
    swapped = model.get_latent_representation([adata[::-1].copy() for adata in (cells, spatial)])
    for found, wanted in zip(swapped, model.get_latent_representation(), strict=True):
        near(found[::-1], wanted)


def test_bad_input(tmp_path):
    cells, spatial = data()
    for adata in (cells, spatial):
        ours.external.GIMVI.setup_anndata(adata, batch_key="batch")
    few = cells[:, 15:].copy()
    with pytest.raises(DataError, match=named("adata_spatial", "'14'")):
        ours.external.GIMVI(few, spatial)
    with pytest.raises(OptionError, match=named("adata_seq", "adata_spatial")):
        ours.external.GIMVI(cells, cells)
    with pytest.raises(OptionError, match=named("gene_likelihood")):
        ours.external.GIMVI(cells, spatial, generative_distributions=["normal", "nb"])
    model = ours.external.GIMVI(cells, spatial)
    with pytest.raises(DataError, match=named("adatas")):
        model.get_imputed_values([cells])
    with pytest.raises(OptionError, match=named("decode_mode")):
        model.get_imputed_values(decode_mode=2)
    model.save(tmp_path / "saved")
    other = spatial.copy()
    other.obs = other.obs.drop(columns="batch")
    with pytest.raises(DataError, match=named("'batch'")):
        ours.external.GIMVI.load(tmp_path / "saved", cells, other)
    with pytest.raises(DataError, match=named("adatas")):
        ours.external.GIMVI.load(tmp_path / "saved").get_imputed_values()
