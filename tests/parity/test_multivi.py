"""MultiVI gives scvi-tools' numbers: each term, gradients, imputed values, and files read and written both ways."""

import random
import warnings

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from named import named
from parity.test_totalvi import near, pretend

import scduet as sd
from scduet.checkpoints.scvi_names import from_scvi_tools, to_scvi_tools
from scduet.checkpoints.scvi_tables import MULTIVI
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import FormatError, ScduetWarning
from scduet.models.multimodal.multivi import Config

N = 120  # all cells in one minibatch, so that both draw the same numbers
SIZES = {"rna": 30, "atac": 90, "protein": 8}
GRID = {
    "modality_weights": ("equal", "universal", "cell"),
    "modality_penalty": ("Jeffreys", "MMD", "None"),
    "gene_likelihood": ("zinb", "nb", "poisson"),
    "latent_distribution": ("normal", "ln"),
    "deeply_inject_covariates": (False, True),
    "encode_covariates": (False, True),
    "region_factors": (True, False),
    "protein_dispersion": ("protein", "protein-batch"),
    "n_layers_encoder": (2, 1),
    "n_layers_decoder": (2, 1),
    "use_batch_norm": ("none", "both", "encoder", "decoder"),
    "use_layer_norm": ("both", "none", "encoder", "decoder"),
    "n_hidden": (None, 12),
    "n_latent": (None, 4),
}
SEEDS = range(10)
TERMS = {
    "reconstruction": ("reconstruction_loss", "reconstruction_loss_expression"),
    "reconstruction_peaks": ("reconstruction_loss", "reconstruction_loss_accessibility"),
    "reconstruction_protein": ("reconstruction_loss", "reconstruction_loss_protein"),
    "kl": ("kl_local", "kl_divergence_z"),
    "penalty": ("kl_local", "kl_divergence_paired"),
}
QUIET = {"callback": lambda event: None}


def case(seed):
    """Options, whether there are proteins, whether there are covariates; the first two have all defaults."""
    draw = random.Random(seed)
    options = {name: draw.choice(values) if seed > 1 else values[0] for name, values in GRID.items()}
    return options, seed % 2 == 1, seed > 1 and draw.random() < 0.5


def counts(proteins):
    """Of each modality a third of the cells has none: rows of zeros. A half of the cells has all."""
    draw = np.random.default_rng(0)
    made = {}
    for place, (name, n) in enumerate(SIZES.items()):
        if name == "protein" and not proteins:
            continue
        x = draw.poisson(draw.gamma(1, 1, (N, n))).astype(np.float32)
        x[50 + 20 * place : 70 + 20 * place] = 0
        part = anndata.AnnData(sp.csr_matrix(x))
        part.obs_names, part.var_names = [f"c{i}" for i in range(N)], [f"{name}{i}" for i in range(n)]
        made[name] = part
    return made


def mosaic(proteins):
    import mudata

    draw, mdata = np.random.default_rng(1), mudata.MuData(counts(proteins))
    mdata.obs["batch"], mdata.obs["kit"] = draw.choice(["a", "b"], N), draw.choice(["x", "y", "z"], N)
    mdata.obs["age"] = draw.normal(size=N).astype(np.float32)
    return mdata


def theirs(scvi, seed):
    """A model of scvi-tools, whose weights are not the initial ones, and its data."""
    options, proteins, covariates = case(seed)
    mdata = mosaic(proteins)
    keys = {"categorical_covariate_keys": ["kit"], "continuous_covariate_keys": ["age"]} if covariates else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = {f"{name}_layer": name for name in mdata.mod}
        scvi.model.MULTIVI.setup_mudata(mdata, batch_key="batch", modalities=layers, **keys)
        torch.manual_seed(seed)
        model = scvi.model.MULTIVI(mdata, **options)
    disturb(model.module)
    model.is_trained_ = True
    return model, mdata


def disturb(module):
    """Weights whose initial values are all alike are not the initial ones, without the cost of training."""
    pretend(module)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name in ("mod_weights", "region_factors", "mixture.log_weight", "peaks.region_logit"):
                value.normal_(0, 0.5)


def compare(model, mine, data):
    """Every number that both give, with the same draws."""
    t = next(iter(model._make_data_loader(adata=data, batch_size=N)))
    batch = next(iter(minibatches(mine.encode(data), sequential(N), N)))
    model.module.eval(), mine.module.eval()
    model.module.zero_grad(), mine.module.zero_grad()
    torch.manual_seed(7)
    inferred, decoded, found = model.module(t, loss_kwargs={"kl_weight": 0.3})
    torch.manual_seed(7)
    loss = mine.module(batch, Step(kl_weight=0.3))
    torch.manual_seed(7)
    terms = mine.module._terms(batch)[0]
    mean, variance = mine.module.posterior(batch)
    near(mean.detach(), inferred["qz_m"].detach())
    near(variance.detach(), inferred["qz_v"].detach())
    for name, values in terms.items():
        group, key = TERMS[name]
        near(values.detach(), getattr(found, group)[key].detach())
    z = inferred["z"].detach()
    near(mine.module.normalized_expression(z, batch).detach(), decoded["px_scale"].detach())
    near(mine.module.normalized_expression(z, batch, modality="peaks").detach(), decoded["p"].detach())
    if "protein" in mine.module.modalities:
        near(mine.module.foreground_probability(z, batch).detach(), (-decoded["py_"]["mixing"]).sigmoid().detach())
    near(loss.total.detach(), found.loss.detach())
    loss.total.backward()
    found.loss.backward()
    compare_gradients(model.module, mine.module)
    there = None if mine.config.modality_weights == "cell" else data  # else they refuse any cells that are passed
    factors = model.get_library_size_factors(there, batch_size=N)
    near(sd.cell_factors(mine, data), factors["accessibility"])
    near(mine.map(mine.module.log_library, data).ravel(), factors["expression"])
    if mine.config.region_factors:
        near(sd.region_factors(mine), model.get_region_factors())
    if mine.config.latent_distribution == "normal":  # of the other they take a draw
        compare_analyses(model, mine, data, there)


def compare_analyses(model, mine, data, there):
    near(mine.embed(data), model.get_latent_representation(there, batch_size=N))
    for (name, part), other in zip(data.mod.items(), ("expression", "accessibility", "protein"), strict=False):
        found = mine.embed(data, modality={"atac": "peaks"}.get(name, name))
        measured = np.asarray(part.X.sum(1)).ravel() > 0
        assert np.array_equal(~np.isnan(found).any(1), measured)
        reference = model.get_latent_representation(there, modality=other, batch_size=N)
        near(found[measured], reference[measured])
    same = {"batch_size": N, "transform_batch": "b"}
    for normalized in (False, True) if mine.config.region_factors else (False,):
        reference = model.get_normalized_accessibility(there, normalize_regions=normalized, **same)
        near(sd.normalized_accessibility(mine, data, normalize_regions=normalized, **same), reference)
    decoded = mine.map(lambda c: mine.module.normalized_expression(mine.module.embed(c), c, c.batch * 0 + 1), data)
    if not mine.config.encode_covariates:  # for genes, they then show the other batch to the encoder too
        near(decoded, model.get_normalized_expression(there, **same))


def compare_gradients(theirs, ours):
    slopes = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in theirs.named_parameters()}
    expected = from_scvi_tools(theirs.state_dict() | slopes, ours, MULTIVI)
    for name, parameter in ours.named_parameters():
        if not name.startswith("adversary."):
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            near(found, expected[name], 2e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_their_models_give_their_numbers_here(scvi_tools, tmp_path, seed):
    model, data = theirs(scvi_tools, seed)
    model.save(str(tmp_path / "m"))
    mine = sd.load(tmp_path / "m")
    assert mine.schema.features["peaks"] == tuple(f"atac{i}" for i in range(SIZES["atac"]))
    compare(model, mine, data)
    exported, before = to_scvi_tools(mine.module, MULTIVI), model.module.state_dict()
    assert {name: weight.shape for name, weight in exported.items()} == {
        name: weight.shape for name, weight in before.items() if name != "pyro_param_store"
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_our_models_give_our_numbers_there(scvi_tools, tmp_path, seed):
    options, proteins, covariates = case(seed)
    data = mosaic(proteins)
    where = {"batch_key": "batch", "peaks_key": "atac"} | ({"protein_key": "protein"} if proteins else {})
    if covariates:
        where |= {"categorical_covariate_keys": ("kit",), "continuous_covariate_keys": ("age",)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = sd.fit(data, "multivi", max_epochs=1, as_in_scvi_tools=True, **options, **where, **QUIET)
        disturb(mine.module)
        mine.export_scvi_tools(tmp_path / "m")
        model = scvi_tools.model.MULTIVI.load(str(tmp_path / "m"), adata=data, accelerator="cpu")
    compare(model, mine, model.adata)
    again = sd.load(tmp_path / "m").config
    assert {**vars(again), "adversarial_mixing": True} == vars(mine.config)


def test_a_file_from_one_anndata_is_read(scvi_tools, tmp_path):
    """As versions up to 1.3 wrote it, with genes and then peaks in X: built from a file of today."""
    model, data = theirs(scvi_tools, 1)
    model.save(str(tmp_path / "m"))
    content = torch.load(tmp_path / "m" / "model.pt", weights_only=False)
    content["var_names"] = np.concatenate([content["var_names"][name] for name in ("rna", "atac")])
    known = content["attr_dict"]["registry_"]
    known |= {"scvi_version": "0.20.3", "setup_method_name": "setup_anndata", "setup_args": {"batch_key": "batch"}}
    fields = known["field_registries"]
    fields["X"]["data_registry"] = {"attr_name": "X", "attr_key": None}
    fields["proteins"]["data_registry"] = {"attr_name": "obsm", "attr_key": "prot"}
    del fields["atac"]
    torch.save(content, tmp_path / "m" / "model.pt")
    whole = anndata.concat([data.mod[name] for name in ("rna", "atac")], axis="var")
    whole.obs = data.obs
    whole.obsm["prot"] = data.mod["protein"].to_df()
    near(sd.load(tmp_path / "m").embed(whole), model.get_latent_representation(batch_size=N))
    known["scvi_version"] = "0.17.4"
    torch.save(content, tmp_path / "m" / "model.pt")
    with pytest.raises(FormatError, match=named("MULTIVI", "0.18")):
        sd.load(tmp_path / "m")


def test_what_differs_there_is_told(tmp_path):
    where = {"peaks_key": "atac", "batch_key": "batch", "max_epochs": 1, **QUIET}
    with pytest.warns(ScduetWarning, match=named("as_in_scvi_tools")):
        sd.fit(mosaic(False), "multivi", **where).export_scvi_tools(tmp_path / "m")
    with pytest.raises(FormatError, match=named("as_in_scvi_tools")):
        sd.fit(mosaic(True), "multivi", protein_key="protein", **where).export_scvi_tools(tmp_path / "p")
    with pytest.raises(FormatError, match=named("'gene-batch'")):
        sd.fit(mosaic(False), "multivi", dispersion="gene-batch", **where).export_scvi_tools(tmp_path / "n")


def test_the_default_options_are_those_of_scvi_tools(scvi_tools):
    import inspect

    given = {name: p.default for name, p in inspect.signature(scvi_tools.model.MULTIVI.__init__).parameters.items()}
    own = ("adversarial_mixing", "override_missing_proteins", "as_in_scvi_tools")
    assert {name: value for name, value in vars(Config()).items() if name not in own} == {
        name: value for name, value in given.items() if name in vars(Config())
    }
    assert inspect.signature(scvi_tools.model.MULTIVI.train).parameters["adversarial_mixing"].default is True
