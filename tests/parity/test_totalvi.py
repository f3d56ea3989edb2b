"""totalVI gives scvi-tools' numbers: each term, gradients, denoised values, and files read and written both ways."""

import copy
import random
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import DATA
from named import named

import scduet as sd
from scduet.checkpoints.scvi_names import TOTALVI, to_scvi_tools
from scduet.contract import CellBatch, Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import FormatError
from scduet.models.multimodal.protein_background import lower_components
from scduet.nn.adversary import Adversary
from scduet.tasks.posterior.likelihoods import terms_of_cells

N = 180  # all cells in one minibatch, so that both draw the same numbers
GRID = {
    "gene_likelihood": ("nb", "zinb"),
    "latent_distribution": ("normal", "ln"),
    "encode_covariates": (True, False),
    "use_observed_lib_size": (True, False),
    "gene_dispersion": ("gene", "gene-batch"),
    "protein_dispersion": ("protein", "protein-batch"),
    "n_layers_encoder": (2, 1),
    "n_layers_decoder": (1, 2),
    "use_batch_norm": ("both", "none", "encoder"),
    "use_layer_norm": ("none", "both", "decoder"),
    "log_variational": (True, False),
}
SETUP = ("missing", "covariates", "sized", "panel", "mudata")
SEEDS = range(8)
TERMS = {
    "reconstruction": ("reconstruction_loss", "reconst_loss_gene"),
    "reconstruction_protein": ("reconstruction_loss", "reconst_loss_protein"),
    "kl": ("kl_local", "kl_div_z"),
    "kl_library": ("kl_local", "kl_div_l_gene"),
    "kl_background": ("kl_local", "kl_div_back_pro"),
}


def cells(missing=False):
    """RNA and 14 proteins of three batches and two panels; of one batch (and panel) seven proteins are all zero."""
    draw = np.random.default_rng(0)
    batch, kit = draw.integers(0, 3, N), draw.integers(0, 2, N)
    genes = draw.poisson(draw.gamma(1, 1, (N, 1)) * draw.gamma(1, 1, 30) + 0.05).astype(np.float32)
    genes[genes.sum(1) == 0, 0] = 1
    proteins = draw.poisson(draw.gamma(2, 8, (N, 14))).astype(np.float32)
    obs = pd.DataFrame({"batch": [f"b{i}" for i in batch], "kit": [f"k{i}" for i in kit]}, [f"c{i}" for i in range(N)])
    obs["site"], obs["age"], obs["size"] = draw.choice(["x", "y"], N), draw.normal(size=N), draw.uniform(0.5, 2, N)
    if missing:
        proteins[np.ix_(batch == 1, np.arange(7, 14))] = 0
        proteins[np.ix_(kit == 1, np.arange(3))] = 0
    adata = anndata.AnnData(genes, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(30)]))
    adata.obsm["protein"] = pd.DataFrame(proteins, obs.index, [f"p{i}" for i in range(14)])
    return adata


def as_mudata(adata):
    import mudata

    proteins = anndata.AnnData(adata.obsm["protein"].to_numpy(), obs=adata.obs[[]].copy())
    proteins.var_names = list(adata.obsm["protein"].columns)
    return mudata.MuData({"rna": anndata.AnnData(adata.X, obs=adata.obs, var=adata.var), "prot": proteins})


def case(seed):
    draw = random.Random(seed)
    options = {name: draw.choice(values) if seed else values[0] for name, values in GRID.items()}
    return options, {name: bool(seed) and draw.random() < 0.4 for name in SETUP}


def theirs(scvi, seed):
    """A model of scvi-tools, whose weights are not the initial ones, and its data."""
    options, setup = case(seed)
    adata = cells(setup["missing"])
    where = {"batch_key": "batch"} | ({"panel_key": "kit"} if setup["panel"] else {})
    where |= {"size_factor_key": "size"} if setup["sized"] else {}
    if setup["covariates"]:
        where |= {"categorical_covariate_keys": ["site"], "continuous_covariate_keys": ["age"]}
    data = as_mudata(adata) if setup["mudata"] else adata
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if setup["mudata"]:
            modalities = {"rna_layer": "rna", "protein_layer": "prot", **dict.fromkeys(where, "rna")}
            scvi.model.TOTALVI.setup_mudata(data, modalities=modalities, **where)
        else:
            scvi.model.TOTALVI.setup_anndata(data, "protein", **where)
        torch.manual_seed(seed)
        model = scvi.model.TOTALVI(data, n_latent=5, n_hidden=16, empirical_protein_background_prior=False, **options)
    pretend(model.module)
    model.is_trained_ = True
    return model, data


def pretend(module):
    """Weights that are not the initial ones, without the cost of training."""
    torch.manual_seed(1)
    module.eval()
    for name, value in module.state_dict().items():
        if "running_mean" in name or "efficiency" in name or "prior_log_sd" in name or "pro_log_beta" in name:
            value.normal_(0, 0.3)
        elif "running_var" in name:
            value.uniform_(0.5, 1.5)


def near(value, reference, rtol=1e-5):
    value, reference = (np.asarray(torch.as_tensor(np.asarray(x)).detach()) for x in (value, reference))
    np.testing.assert_allclose(value, reference, rtol=rtol, atol=rtol * max(1, np.abs(reference).max()))


def seed_ours(seed):
    """Their data loader takes one number from torch's stream before the model does."""
    torch.manual_seed(seed)
    torch.empty((), dtype=torch.int64).random_()


def batch_of(model, data) -> CellBatch:
    encoded = model.encode(data)
    return next(iter(minibatches(encoded, sequential(len(encoded)), N)))


def compare(model, mine, data, loss=True):
    """Every number that both give, with the same draws."""
    t = next(iter(model._make_data_loader(adata=data, batch_size=N)))
    batch, gradients = batch_of(mine, data), mine.module.config.protein_efficiency and loss
    model.module.eval(), mine.module.eval()
    model.module.zero_grad(), mine.module.zero_grad()
    torch.manual_seed(7)
    inferred, _, found = model.module(t, loss_kwargs={"kl_weight": 0.3})
    torch.manual_seed(7)
    total = mine.module(batch, Step(kl_weight=0.3)).total
    torch.manual_seed(7)
    terms = mine.module.cell_terms(batch)
    near(mine.module.posterior(batch)[0].detach(), inferred["qz"].loc.detach())
    near(mine.module.posterior(batch)[1].detach(), inferred["qz"].scale.detach() ** 2)
    for name, (group, key) in TERMS.items():
        if name in terms:
            near(terms[name].detach(), getattr(found, group)[key].detach())
    if gradients:
        near(total.detach(), found.loss.detach())
        total.backward()
        found.loss.backward()
        compare_gradients(model.module, mine.module)
    for arguments in ({}, {"transform_batch": "b2"}, {"include_protein_background": True, "scale_protein": True}):
        batches = {k: v for k, v in arguments.items() if k == "transform_batch"}
        torch.manual_seed(5)
        rna, protein = model.get_normalized_expression(data, batch_size=N, **arguments)
        seed_ours(5)
        near(sd.normalized_expression(mine, data, batch_size=N, seed=None, **batches), rna)
        seed_ours(5)
        near(sd.normalized_expression(mine, data, batch_size=N, seed=None, modality="protein", **arguments), protein)
    torch.manual_seed(6)
    reference = model.get_protein_foreground_probability(data, batch_size=N, transform_batch="b1")
    seed_ours(6)
    mine_too = sd.protein_foreground(mine, data, batch_size=N, transform_batch="b1", seed=None)
    near(mine_too, reference)
    assert list(mine_too.columns) == list(reference.columns)
    torch.manual_seed(6)
    reference = model.get_elbo(data, batch_size=N, return_mean=False)
    seed_ours(6)
    near(sum(terms_of_cells(mine, data, batch_size=N, seed=None).values()), -np.asarray(reference))


def compare_gradients(theirs, ours):
    slopes = copy.deepcopy(ours)
    with torch.no_grad():
        for p, q in zip(slopes.parameters(), ours.parameters(), strict=True):
            p.copy_(torch.zeros_like(p) if q.grad is None else q.grad)
    found = to_scvi_tools(slopes, TOTALVI)
    for name, weight in theirs.named_parameters():
        if weight.grad is not None and weight.grad.any():
            near(found[name], weight.grad, 2e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_their_models_give_their_numbers_here(scvi_tools, tmp_path, seed):
    model, data = theirs(scvi_tools, seed)
    model.save(str(tmp_path / "m"))
    mine = sd.load(tmp_path / "m")
    assert mine.schema.features["protein"] == tuple(f"p{i}" for i in range(14))
    compare(model, mine, data)


@pytest.mark.parametrize("seed", SEEDS)
def test_our_models_give_our_numbers_there(scvi_tools, tmp_path, seed):
    options, setup = case(seed)
    data = cells(setup["missing"])
    where = {"batch_key": "batch", "protein_key": "protein"} | ({"panel_key": "kit"} if setup["panel"] else {})
    where |= {"size_factor_key": "size"} if setup["sized"] else {}
    if setup["covariates"]:
        where |= {"categorical_covariate_keys": ("site",), "continuous_covariate_keys": ("age",)}
    if setup["mudata"]:
        data, where = as_mudata(data), where | {"protein_key": "mod/prot", "layer": "mod/rna"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = sd.fit(data, "totalvi", max_epochs=1, n_latent=5, n_hidden=16, **options, **where)
        pretend(mine.module)
        mine.export_scvi_tools(tmp_path / "m")
        model = scvi_tools.model.TOTALVI.load(str(tmp_path / "m"), adata=data.copy(), accelerator="cpu")
    compare(model, mine, model.adata)
    again = sd.load(tmp_path / "m").config
    assert {k: v for k, v in vars(again).items() if k != "adversarial_classifier"} == {
        k: v for k, v in vars(mine.config).items() if k != "adversarial_classifier"
    }


def test_a_published_file_of_version_1_1_5(scvi_tools):
    """It cannot be read by 1.4.2, whose encoder and decoder are given its weights here one by one."""
    folder = DATA / "files" / "scvi_checkpoints" / "exp_activation_totalvi"
    if not folder.exists():
        pytest.skip("there is no ../shared/data")
    adata = anndata.read_h5ad(folder / "adata.h5ad")
    mine = sd.load(folder)
    assert (mine.config.encoder_input, mine.config.background_activation) == ("log1p", "exp")
    weights = to_scvi_tools(mine.module, TOTALVI)
    parts = {}
    for name, sizes in {"encoder": (200, 20), "decoder": (20, 100, 100)}.items():
        made = {"encoder": scvi_tools.nn.EncoderTOTALVI, "decoder": scvi_tools.nn.DecoderTOTALVI}[name]
        options = {"n_layers": 2, "distribution": "normal"} if name == "encoder" else {"activation_function_bg": "exp"}
        parts[name] = made(*sizes, n_cat_list=[2], n_hidden=256, **options).eval()
        own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
        parts[name].load_state_dict(own)
    x, y = (torch.tensor(np.asarray(m, np.float32)) for m in (adata.X, adata.obsm["protein_expression"]))
    batch = torch.tensor((adata.obs["batch"] == "batch_1").to_numpy().astype(int))[:, None]
    with torch.no_grad():
        q, *_ = parts["encoder"](torch.cat([x, y], 1).log1p(), batch)
        _, proteins, _ = parts["decoder"](q.loc, x.sum(1, keepdim=True), batch)
        drawn = mine.module.proteins(q.loc, [batch[:, 0]])
    near(mine.embed(adata), q.loc)
    near(drawn.log_sd, proteins["back_beta"])
    near(drawn.log_mean, proteins["back_alpha"])
    near(drawn.logits, proteins["mixing"])
    assert mine.history["loss_validation"].iloc[0] == pytest.approx(1365.656494, rel=1e-6)


def test_what_1_4_does_not_have_is_not_exported(tmp_path):
    mine = sd.fit(cells(), "totalvi", protein_key="protein", max_epochs=1, n_hidden=8, encoder_input="log1p")
    with pytest.raises(FormatError, match=named("encoder_input")):
        mine.export_scvi_tools(tmp_path / "m")


def test_the_prior_of_the_background_is_theirs_up_to_the_draw_of_cells(scvi_tools, real_data):
    adata = real_data("cite_pbmc5k_10k_400.h5ad")[:, :50].copy()
    adata.obsm["protein_counts"] = pd.DataFrame(adata.obsm["protein_counts"], adata.obs_names)
    adata.X[np.asarray(adata.X.sum(1)).ravel() == 0, 0] = 1
    scvi_tools.model.TOTALVI.setup_anndata(adata, "protein_counts", batch_key="batch")
    np.random.seed(0)
    model = scvi_tools.model.TOTALVI(adata)
    reference = model.module.background_pro_alpha[0].detach().numpy()
    mine = sd.fit(adata, "totalvi", protein_key="protein_counts", batch_key="batch", max_epochs=1)
    found = mine.reference.arrays["protein_background_mean"]
    np.testing.assert_allclose(found, reference, atol=0.2)  # 4 standard deviations of a draw
    scale = model.module.background_pro_log_beta[0].exp().detach().numpy()
    np.testing.assert_allclose(mine.reference.arrays["protein_background_sd"], scale, rtol=0.3)


def test_mixtures_are_those_of_scikit_learn():
    from sklearn.mixture import GaussianMixture

    draw = np.random.default_rng(0)
    rows = np.where(draw.random((20, 40)) < 0.6, draw.normal(1, 0.3, (20, 40)), draw.normal(4, 0.8, (20, 40)))
    mean, variance = lower_components(rows)
    for i, row in enumerate(rows):
        fitted = GaussianMixture(2, random_state=0).fit(row[:, None])
        low = fitted.means_.ravel().argmin()
        assert mean[i] == pytest.approx(fitted.means_.ravel()[low], abs=0.02)
        assert variance[i] == pytest.approx(fitted.covariances_.ravel()[low], abs=0.02)
    assert [float(v[0]) for v in lower_components(np.zeros((1, 9)))] == pytest.approx([0, 0.05**2])


def test_the_adversary_is_theirs(scvi_tools):
    theirs = scvi_tools.module.Classifier(n_input=4, n_hidden=32, n_labels=3, n_layers=2, logits=True).eval()
    mine = Adversary(4, 3).eval()
    weights = theirs.state_dict()
    names = {"classifier.0.fc_layers.Layer 0.0": "body.linear.0", "classifier.0.fc_layers.Layer 1.0": "body.linear.1"}
    names |= {"classifier.0.fc_layers.Layer 0.1": "body.norm.0", "classifier.0.fc_layers.Layer 1.1": "body.norm.1"}
    names |= {"classifier.1": "logits"}
    renamed = {f"{names[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in weights.items()}
    mine.load_state_dict(renamed)
    z, batch = torch.randn(9, 4), torch.randint(0, 3, (9,))
    plan = scvi_tools.train.AdversarialTrainingPlan.loss_adversarial_classifier
    stand_in = type("Plan", (), {"n_output_classifier": 3, "adversarial_classifier": theirs})
    near(mine.recognition(z, batch).detach(), plan(stand_in, z, batch[:, None], True).detach())
    near(mine.deception(z, batch).detach(), plan(stand_in, z, batch[:, None], False).detach())
