"""totalVI finds the foreground that was simulated, and proteins that were not measured play no part in its loss."""

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from named import named

import scduet as sd
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.data.sources import gathered
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.events import silent
from scduet.metrics import ilisi, knn_overlap
from scduet.models.multimodal.totalvi import TotalVI
from scduet.tasks.quality.baselines import unintegrated_pca
from scduet.train.config import TrainConfig, resolved

CITE = Path(__file__).parents[3].parent / "shared" / "data" / "cite_pbmc5k_10k_400.h5ad"
QUICK = {"protein_key": "protein", "batch_key": "batch", "n_hidden": 32, "n_latent": 6}


def simulated(n=600, n_proteins=12):
    """Three types in two batches; each protein is in the foreground of some types. `layers` tell where it was."""
    draw = np.random.default_rng(0)
    kind, batch = draw.integers(0, 3, n), draw.integers(0, 2, n)
    genes = draw.poisson(draw.gamma(0.6, 2, (3, 40))[kind] * draw.gamma(5, 0.2, (n, 1)) + 0.05)
    present = draw.random((3, n_proteins)) < 0.5
    present[:, 0] = [True, False, False]
    background = draw.lognormal(np.linspace(1, 2.5, n_proteins), 0.3, (n, n_proteins))
    mean = background * np.where(present[kind], 12, 1)
    proteins = draw.poisson(draw.gamma(8, mean / 8)).astype(np.float32)
    obs = pd.DataFrame({"batch": [f"b{i}" for i in batch], "kind": kind}, [f"c{i}" for i in range(n)])
    adata = anndata.AnnData(genes.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))
    adata.obsm["protein"] = pd.DataFrame(proteins, obs.index, [f"p{i}" for i in range(n_proteins)])
    adata.obsm["present"] = present[kind]
    return adata


def hidden(adata, batch="b1", columns=("p0", "p1", "p2"), value=np.nan):
    """A copy in which a batch lacks some proteins."""
    adata = adata.copy()
    adata.obsm["protein"].loc[adata.obs["batch"] == batch, list(columns)] = value
    return adata


@pytest.fixture(scope="module")
def adata():
    return simulated()


@pytest.fixture(scope="module")
def model(adata):
    return sd.fit(hidden(adata), "totalvi", max_epochs=60, batch_size=64, **QUICK)


def one_batch(model, adata=None):
    cells = model.encode(adata)
    return next(iter(minibatches(cells, sequential(len(cells)), len(cells))))


def loss(model, cells, **step):
    torch.manual_seed(3)
    return model.module(cells, Step(**step))


def test_the_foreground_is_found(adata, model):
    probability = sd.protein_foreground(model, adata, n_samples=5)
    assert list(probability.columns) == list(adata.obsm["protein"].columns)
    present = adata.obsm["present"]
    found = probability.to_numpy()[present].mean(), probability.to_numpy()[~present].mean()
    assert found[0] > 0.9
    assert found[1] < 0.35
    kept = sd.protein_foreground(model, adata, protein_list=["p3"], n_samples=3, return_mean=False)
    assert kept.shape == (3, 600, 1)


def test_proteins_that_were_not_measured_are_imputed_from_the_other_batch(adata, model):
    there = sd.normalized_expression(
        model, hidden(adata), modality="protein", transform_batch="b0", n_samples=5, include_protein_background=True
    )
    lacking, truth = (adata.obs["batch"] == "b1").to_numpy(), adata.obsm["protein"]
    for name in ("p0", "p1"):  # p2 is background in all types
        r = np.corrcoef(np.log1p(there[name][lacking]), np.log1p(truth[name][lacking]))[0, 1]
        assert r > 0.6, name


def test_what_was_not_measured_has_no_part_in_the_loss(adata, model):
    cells = one_batch(model, hidden(adata))
    terms = model.module.eval().cell_terms(cells)
    rows = (cells.batch == 1).nonzero()[:, 0]
    model.module.zero_grad()
    loss(model, cells).total.backward()
    proteins = model.module.proteins
    assert (proteins.prior_mean.grad[1, :3] == 0).all()
    assert (proteins.prior_mean.grad[1, 3:] != 0).all()
    own_prior = (1 + proteins.log_efficiency[1, :3]) * len(rows) / len(cells)
    assert torch.allclose(proteins.log_efficiency.grad[1, :3], own_prior, atol=1e-5)
    model.module.zero_grad()
    assert all(term.isfinite().all() for term in terms.values())


def test_a_batch_without_counts_counts_as_not_measured(adata):
    """As in scvi-tools, but said; unless the zeros are to be counts."""
    zero, nan = hidden(adata, value=0), hidden(adata)
    with pytest.warns(ScduetWarning, match=named("override_missing_proteins")):
        marked = sd.fit(zero, "totalvi", max_epochs=1, **QUICK)
    same = sd.fit(nan, "totalvi", max_epochs=1, **QUICK)
    assert marked.embed() == pytest.approx(same.embed(), abs=1e-6)
    with pytest.warns(ScduetWarning):
        counted = sd.fit(zero, "totalvi", max_epochs=1, override_missing_proteins=True, **QUICK)
    assert (counted.module.adversary, marked.module.adversary is None) == (None, False)
    cells = one_batch(counted)
    assert counted.module.proteins.counts(cells)[1].all()
    assert not marked.module.proteins.counts(one_batch(marked))[1].all()


def test_the_second_player_tells_batches_until_the_kl_terms_arrive(adata):
    fitted = sd.fit(hidden(adata), "totalvi", max_epochs=4, kl_warmup_epochs=2, **QUICK)
    history = fitted.history
    assert {"deception_train", "adversary_loss_train", "recognition_train"} <= set(history)
    assert (history["adversary_loss_train"].iloc[2:] == 0).all()
    assert history["adversary_loss_train"].iloc[0] == pytest.approx(history["recognition_train"].iloc[0])
    assert "deception_validation" not in history
    assert fitted.module._states == []
    assert sd.fit(adata, "totalvi", max_epochs=1, **QUICK).module.adversary is None
    one = {name: value for name, value in QUICK.items() if name != "batch_key"}
    assert sd.fit(adata, "totalvi", max_epochs=1, adversarial_classifier=True, **one).module.adversary is None


def test_the_loss_of_earlier_versions(adata):
    """The proteins' likelihood was not under the weight of the KL terms; there was no efficiency."""
    old = sd.fit(hidden(adata), "totalvi", max_epochs=1, protein_efficiency=False, pro_recons_weight=0.5, **QUICK)
    found = loss(old, one_batch(old), kl_weight=0.25)
    t = found.terms
    expected = t["reconstruction"] + 0.5 * t["reconstruction_protein"] + 0.25 * (t["kl"] + t["kl_background"])
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not hasattr(old.module.proteins, "log_efficiency")


def test_panels_decide_what_was_measured(adata):
    adata = adata.copy()
    adata.obs["kit"] = np.where(np.arange(600) % 3 == 0, "small", "large")
    adata.obsm["protein"].loc[adata.obs["kit"] == "small", ["p0", "p1"]] = 0
    with pytest.warns(ScduetWarning):
        fitted = sd.fit(adata, "totalvi", max_epochs=1, panel_key="kit", **QUICK)
    assert fitted.schema.features["panel"] == ("large", "small")
    measured = fitted.module.proteins.counts(one_batch(fitted))[1].numpy()
    assert (measured[:, 0] == (adata.obs["kit"] == "large")).all()
    assert measured[:, 2:].all()
    other = adata[:100].copy()
    other.obs["kit"] = "third"
    assert fitted.embed(other).shape == (100, 6)
    prior = fitted.module.proteins._prior(one_batch(fitted, other))[0]
    assert torch.allclose(prior[0], fitted.module.proteins.prior_mean.mean(0), atol=1e-6)


def test_a_query_without_proteins_is_mapped(adata, model):
    query = adata[:200].copy()
    query.obs["batch"] = "new"
    del query.obsm["protein"]
    before = model.embed(hidden(adata))
    with pytest.warns(ScduetWarning, match=named("protein_key")):
        mapped = sd.map_query(query, model, max_epochs=3)
    assert np.array_equal(mapped.embed(hidden(adata)), before)
    assert mapped.schema.levels["batch"] == ("b0", "b1", "new")
    denoised = sd.normalized_expression(
        mapped, modality="protein", transform_batch="b0", n_samples=5, include_protein_background=True
    )
    truth = adata.obsm["protein"].iloc[:200]
    for name in ("p0", "p1"):
        assert np.corrcoef(np.log1p(denoised[name]), np.log1p(truth[name]))[0, 1] > 0.6, name


def test_the_likelihood_integrates_over_the_background(adata):
    """Importance weights make the mean over draws that of the prior, here by a sum over a grid."""
    fitted = sd.fit(adata, "totalvi", max_epochs=3, **QUICK)
    module, few = fitted.module.eval(), hidden(adata[:4], "b0", [f"p{i}" for i in range(1, 12)])
    few = hidden(few, "b1", [f"p{i}" for i in range(1, 12)])  # of one protein: the weights of many are far apart
    cells = one_batch(fitted, few)
    module.proteins.prior_log_sd.data.zero_()
    module.proteins.background.spread.bias.data += 2  # draws that reach all of what is likely
    with torch.inference_mode():
        z, proteins = module.posterior(cells)[0], module.proteins
        state, codes = module._state(z, cells)
        counts, (mean, sd_) = proteins.counts(cells)[0], proteins._prior(cells)
        draws = [proteins.log_likelihood(proteins(state, codes), cells) for _ in range(4000)]
        found = torch.stack(draws).logsumexp(0) - np.log(len(draws))
        p, total = proteins(state, codes), []
        for log_b in torch.linspace(-6, 10, 3201):
            ratio, b = p.foreground / p.background, log_b.exp()
            at = replace(p, background=b.expand_as(mean), foreground=b * ratio)
            density = -0.5 * ((log_b - mean) / sd_) ** 2 - sd_.log() - 0.5 * np.log(2 * np.pi)
            total.append(proteins.mixture(at, cells, cells.batch).log_prob(counts) + density)
        exact = torch.stack(total).logsumexp(0)[:, 0] + np.log(16 / 3200)
    np.testing.assert_allclose(found, exact, atol=0.1)
    assert np.isfinite(sd.marginal_log_likelihood(fitted, adata[:4].copy(), n_samples=10)).all()


def test_denoised_proteins(adata, model):
    proteins = {"modality": "protein", "transform_batch": "b0"}
    plain, whole, scaled, drawn = (
        sd.normalized_expression(model, adata, **proteins, **options)
        for options in (
            {},
            {"include_protein_background": True},
            {"scale_protein": True},
            {"include_protein_background": True, "sample_protein_mixing": True},
        )
    )
    assert (whole >= plain).to_numpy().all()
    np.testing.assert_allclose(scaled.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(scaled, plain.div(plain.sum(1), axis=0), rtol=1e-5)
    assert ((drawn / whole) > 0).to_numpy().all()
    with pytest.raises(OptionError, match=named("'include_background'")):
        sd.normalized_expression(model, adata, modality="protein", include_background=True)
    with pytest.raises(DataError, match=named("'CD4'")):
        sd.protein_foreground(model, adata, protein_list=["CD4"])
    with pytest.raises(OptionError, match=named("'scvi'")):
        sd.protein_foreground(sd.fit(adata, "scvi", max_epochs=1), adata)


def test_counts_are_sampled_of_both_modalities(adata, model):
    for modality, observed in (("rna", adata.X), ("protein", adata.obsm["protein"].to_numpy())):
        drawn = sd.posterior_predictive_sample(model, adata, modality=modality).toarray()
        batch = (adata.obs["batch"] == "b0").to_numpy()
        assert np.corrcoef(np.log1p(drawn[batch]).mean(0), np.log1p(observed[batch]).mean(0))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda a: a.obsm.update(protein=np.log1p(a.obsm["protein"])), ("obsm['protein']", "protein_key")),
        (lambda a: a.obsm.update(protein=-a.obsm["protein"]), ("obsm['protein']",)),
        (lambda a: a.obsm.pop("protein"), ("protein",)),
    ],
)
def test_what_are_no_counts_of_proteins_is_refused(adata, change, names):
    wrong = adata.copy()
    change(wrong)
    with pytest.raises((DataError, OptionError), match=named(*names)):
        sd.fit(wrong, "totalvi", max_epochs=1, **QUICK)


def test_a_protein_may_have_the_name_of_a_gene(adata, model):
    alike = hidden(adata)
    alike.var_names = ["p5", *adata.var_names[1:]]
    fitted = sd.fit(alike, "totalvi", max_epochs=1, batch_size=64, **QUICK)
    fitted.module.load_state_dict(model.module.state_dict())
    assert fitted.embed() == pytest.approx(model.embed(), abs=1e-6)
    for modality, name in ((None, "g0"), ("protein", "p5")):
        there = sd.normalized_expression(model, modality=modality, gene_list=[name])
        here = sd.normalized_expression(fitted, modality=modality, gene_list=["p5"])
        np.testing.assert_allclose(here, there, rtol=1e-5)
    table = sd.feature_correlation(fitted, n_samples=1, modality=["rna", "protein"])
    assert table.index.is_unique
    assert {"p5", "p5_protein"} < set(table)


def test_the_recipe_of_scvi_tools():
    chosen = resolved(TrainConfig(recipe="scvi-tools"), 10_000, TotalVI.recipes)
    assert (chosen.lr, chosen.batch_size, chosen.max_epochs, chosen.kl_warmup_steps) == (4e-3, 256, 400, 7500)
    assert (chosen.early_stopping, chosen.early_stopping_patience) == (True, 45)
    assert (chosen.reduce_lr_on_plateau, chosen.lr_factor, chosen.lr_patience) == (True, 0.6, 30)
    assert (chosen.lr_schedule, chosen.validate_every) == ("constant", 1)
    assert resolved(TrainConfig(), 10_000, TotalVI.recipes).reduce_lr_on_plateau is False
    given = resolved(TrainConfig(recipe="scvi-tools", lr_schedule="cosine", reduce_lr_on_plateau=False), 99)
    assert (given.lr_schedule, given.reduce_lr_on_plateau) == ("cosine", False)


def test_few_cells_warm_up_for_as_many_minibatches_as_more_of_them():
    def warmup(n_cells, **given):
        return resolved(TrainConfig(**given), n_cells, TotalVI.recipes).kl_warmup_epochs

    assert (warmup(10_000), warmup(2500), warmup(400)) == (20, 20, 125)
    assert (warmup(100), warmup(400, max_epochs=40), warmup(400, max_epochs=1)) == (150, 30, 1)
    assert warmup(400, kl_warmup_epochs=7) == 7
    assert resolved(TrainConfig(kl_warmup_steps=9), 400, TotalVI.recipes).kl_warmup_epochs == 0


def test_batches_of_a_few_hundred_real_cells_mix():
    """200 + 200 PBMCs of two experiments: better than by PCA, and no protein is lost for it."""
    if not CITE.is_file():
        pytest.skip(f"no {CITE.name}: see CONTRIBUTING.md")
    adata = anndata.read_h5ad(CITE)
    adata.obsm["protein"] = adata.obsm["protein_counts"].astype(np.float32)
    sd.integrate(adata, "totalvi", protein_key="protein", batch_key="batch", n_top_genes=2000, callback=silent)
    batch, pcs = adata.obs["batch"].to_numpy(), unintegrated_pca(adata[:, adata.var["highly_variable"]])
    z, ratios = adata.obsm["X_totalVI"], np.log1p(adata.obsm["protein"].to_numpy(float))
    ratios -= ratios.mean(1, keepdims=True)

    def kept(x):
        return np.mean([knn_overlap(x[batch == b], ratios[batch == b], 20) for b in np.unique(batch)])

    assert ilisi(z, batch) > ilisi(pcs, batch)
    assert kept(z) > kept(pcs) - 0.05


def test_a_category_is_a_column_for_each_level(adata):
    cells = sd.fit(adata, "totalvi", max_epochs=1, panel_key="batch", **QUICK).cells
    assert np.array_equal(gathered(cells.extra["panel"])[:, 1], adata.obs["batch"] == "b1")
    assert replace(cells).extra["panel"].n_genes == 2
