"""mmvae: exact products of experts, cells that lack modalities, a simulated truth found, and options refused."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

import scduet as sd
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import DataError, OptionError
from scduet.events import silent
from scduet.metrics import foscttm
from scduet.models.multimodal.mmvae import Config
from scduet.models.multimodal.mmvae_members import PRESETS, member_of
from scduet.models.multimodal.mmvae_parts import Latent, product

pytestmark = pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
SIZES, N_PAIRED, N_ALONE = (80, 120), 100, 500


def simulated(n, seed):
    """Five types in four shared dimensions, two more for each modality; counts of genes and peaks, and true shares."""
    draw, world = np.random.default_rng(seed), np.random.default_rng(99)
    centers = world.normal(size=(5, 4)) * 1.5
    kind = draw.integers(5, size=n)
    shared, x, truth = centers[kind] + 0.6 * draw.normal(size=(n, 4)), [], []
    for n_features, depth in zip(SIZES, (1500, 1200), strict=True):
        weights = world.normal(size=(6, n_features)) * 0.45
        own = np.hstack([shared, 0.7 * draw.normal(size=(n, 2))])
        share = np.exp(own @ weights + world.normal(size=n_features))
        share /= share.sum(1, keepdims=True)
        rate = share * depth * draw.lognormal(0, 0.3, size=(n, 1))
        x.append(draw.poisson(draw.gamma(5, rate / 5)).astype(np.float32))
        truth.append(share)
    return x, truth, kind


def as_anndata(x, kind):
    obs = pd.DataFrame({"kind": [f"t{i}" for i in kind]}, [f"c{i}" for i in range(len(kind))])
    adata = anndata.AnnData(sp.csr_matrix(x[0]), obs)
    adata.obsm["peaks"] = sp.csr_matrix(x[1])
    return adata


@pytest.fixture(scope="module")
def mosaic():
    """Cells with both modalities, and five times as many with each alone."""
    x, _, kind = simulated(N_PAIRED + 2 * N_ALONE, 1)
    x[1][N_PAIRED : N_PAIRED + N_ALONE] = 0
    x[0][N_PAIRED + N_ALONE :] = 0
    return as_anndata(x, kind)


@pytest.fixture(scope="module")
def test_cells():
    x, truth, kind = simulated(300, 2)
    return as_anndata(x, kind), truth


def trained(adata, preset, **options):
    given = {"max_epochs": 60, "lr": 5e-3, "n_latent": 10, "n_hidden": 64, "dropout_rate": 0.0, "callback": silent}
    return sd.fit(adata, "mmvae", preset=preset, peaks_key="peaks", **{**given, **options})


def by_ridge(mosaic, test):
    """Shares of peaks predicted from genes by ridge on principal components, from the cells with both."""
    logged = [np.log1p(1e4 * x / x.sum(1, keepdims=True)) for x in (part(mosaic)[:N_PAIRED] for part in (genes, peaks))]
    every = genes(mosaic)[genes(mosaic).sum(1) > 0]
    pca = PCA(10, random_state=0).fit(np.log1p(1e4 * every / every.sum(1, keepdims=True)))
    new = np.log1p(1e4 * genes(test) / genes(test).sum(1, keepdims=True))
    found = Ridge(10.0).fit(pca.transform(logged[0]), logged[1]).predict(pca.transform(new))
    return np.expm1(np.clip(found, 1e-3, None))


def genes(adata):
    return adata.X.toarray()


def peaks(adata):
    return adata.obsm["peaks"].toarray()


def correlation(found, truth):
    """Of log shares over cells, a mean over features."""
    a, b = (np.log(x / x.sum(1, keepdims=True) + 1e-9) for x in (found, truth))
    return np.mean([np.corrcoef(a[:, j], b[:, j])[0, 1] for j in range(a.shape[1])])


@pytest.mark.parametrize("preset", ["mopoe", "scmm", "average"])
def test_a_simulated_truth_is_found(mosaic, test_cells, preset):
    test, truth = test_cells
    model = trained(mosaic, preset)
    embedded = [model.embed(test, modality=name) for name in ("rna", "peaks")]
    assert foscttm(*embedded) < 0.1
    shuffled = np.random.default_rng(0).permutation(len(test))
    assert foscttm(embedded[0], embedded[1][shuffled]) == pytest.approx(0.5, abs=0.05)
    alone = test.copy()
    alone.obsm["peaks"] = alone.obsm["peaks"] * 0
    found = sd.normalized_expression(model, alone, modality="peaks", n_samples=5).to_numpy()
    assert correlation(found, truth[1]) > correlation(by_ridge(mosaic, test), truth[1])


def test_pairs_that_are_shuffled_match_nothing(test_cells):
    """Labels of cells exchanged before training: nothing that is learned can match the others."""
    x, _, kind = simulated(300, 1)
    x[1] = x[1][np.random.default_rng(0).permutation(300)]
    model = trained(as_anndata(x, kind), "contrastive", max_epochs=10)
    found = foscttm(*(model.embed(test_cells[0], modality=name) for name in ("rna", "peaks")))
    assert found == pytest.approx(0.5, abs=0.1)


def test_the_product_is_the_posterior_of_a_linear_gaussian_model():
    """x_m = W_m z + noise: each expert is the likelihood of z alone; with both, with either, and with none."""
    draw, n_latent = np.random.default_rng(0), 3
    weights = [np.diag(draw.normal(size=n_latent)) for _ in range(2)]  # diagonal, so that experts are
    noise, x = [0.5, 2.0], [draw.normal(size=(5, n_latent)) for _ in range(2)]
    experts = {}
    for name, w, s, value in zip("ab", weights, noise, x, strict=True):
        d = np.diag(w)
        pair = value / d, np.broadcast_to(s / d**2, value.shape)
        experts[name] = tuple(torch.tensor(np.array(part), dtype=torch.float64) for part in pair)
    for there in ((0, 1), (0,), (1,), ()):
        known = {name: torch.full((5,), i in there) for i, name in enumerate("ab")}
        mean, variance = product(experts, known, 1.0)
        big = np.vstack([weights[i] for i in there]) if there else np.zeros((0, n_latent))
        covariance = big @ big.T + np.diag(np.repeat([noise[i] for i in there], n_latent))
        gain = big.T @ np.linalg.inv(covariance) if there else np.zeros((n_latent, 0))
        data = np.hstack([x[i] for i in there]) if there else np.zeros((5, 0))
        np.testing.assert_allclose(mean.numpy(), data @ gain.T, atol=1e-10)
        expected = np.diag(np.eye(n_latent) - gain @ big)
        np.testing.assert_allclose(variance.numpy(), np.broadcast_to(expected, (5, n_latent)), atol=1e-10)


@pytest.mark.parametrize("kind", ["normal", "laplace", "ln"])
def test_divergence_from_the_prior_is_that_of_draws(kind):
    latent = Latent(kind, 4)
    mean, variance = torch.tensor([[0.5, -1.0, 0.0, 0.2]]), torch.tensor([[0.3, 0.8, 1.0, 0.1]])
    prior = torch.full((1, 4), latent.prior_variance)
    family = torch.distributions.Laplace if kind == "laplace" else torch.distributions.Normal
    width = (lambda v: (v / 2).sqrt()) if kind == "laplace" else torch.sqrt
    q, p = family(mean, width(variance)), family(torch.zeros(1, 4), width(prior))
    z = latent.draw(mean.expand(200_000, 4), variance.expand(200_000, 4))
    estimate = (q.log_prob(z) - p.log_prob(z)).sum(1).mean()
    assert latent.kl(mean, variance).item() == pytest.approx(estimate.item(), rel=0.02)
    torch.testing.assert_close(z.var(0), variance[0], rtol=0.03, atol=0)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("jae", "translation")])
def test_what_was_not_measured_costs_nothing(mosaic, preset):
    """A cell with genes alone has no term of peaks, and weights of peaks no gradient of it."""
    model = trained(mosaic, preset, max_epochs=1)
    rows = np.arange(N_PAIRED, N_PAIRED + 20)
    cells = next(iter(minibatches(model.encode(), rows, 20)))
    terms = model.module.cell_terms(cells)
    assert (terms["reconstruction_peaks"] == 0).all()
    assert (terms["reconstruction"] > 0).all()
    model.module.zero_grad()
    model.module(cells, Step()).total.backward()
    for part in ("encoders.peaks", "decoders.peaks"):
        grads = [p.grad for name, p in model.module.named_parameters() if name.startswith(part)]
        assert grads
        assert not any(grad is not None and bool(grad.any()) for grad in grads)
    model.module.zero_grad()


def test_a_cell_with_one_modality_has_its_expert(mosaic):
    model = trained(mosaic, "average", max_epochs=1)
    both, genes_alone, peaks_alone = np.split(np.arange(len(mosaic)), [N_PAIRED, N_PAIRED + N_ALONE])
    whole, by_genes, by_peaks = model.embed(), model.embed(modality="rna"), model.embed(modality="peaks")
    np.testing.assert_allclose(whole[genes_alone], by_genes[genes_alone], atol=1e-5)
    np.testing.assert_allclose(whole[peaks_alone], by_peaks[peaks_alone], atol=1e-5)
    np.testing.assert_allclose(whole[both], (by_genes[both] + by_peaks[both]) / 2, atol=1e-5)
    assert np.isnan(by_peaks[genes_alone]).all()


def test_proteins_missing_in_a_batch_are_predicted_there():
    """NaN, or zeros in the whole batch: not measured; a query of RNA alone has a known truth."""
    draw = np.random.default_rng(0)
    kind, batch = draw.integers(0, 3, 300), draw.integers(0, 2, 300)
    x = draw.poisson(draw.gamma(0.6, 4, (3, 40))[kind]).astype(np.float32) + (np.arange(40) == 0)
    level = np.array([[40, 5, 5], [5, 40, 5], [5, 5, 40], [60, 60, 5]]).T
    proteins = draw.poisson(level[kind]).astype(np.float32)
    obs = pd.DataFrame({"batch": [f"b{i}" for i in batch]}, [f"c{i}" for i in range(300)])
    adata = anndata.AnnData(sp.csr_matrix(x.astype(np.float32)), obs)
    found = []
    for missing in (np.nan, 0):
        adata.obsm["protein"] = pd.DataFrame(proteins, obs.index, [f"p{i}" for i in range(4)])
        adata.obsm["protein"].loc[batch == 1] = missing
        options = {"batch_key": "batch", "protein_key": "protein", "max_epochs": 30, "lr": 0.01, "n_hidden": 32}
        model = sd.fit(adata, "mmvae", n_latent=4, callback=silent, **options)
        query = adata[batch == 1].copy()
        table = sd.predict_modality(model, query, n_samples=10)
        assert {"mmvae", "knn", "ridge", "mean"} <= set(table.index)
        predicted = query.obsm["predicted_protein"].to_numpy()
        r = [np.corrcoef(predicted[:, j], np.log1p(proteins[batch == 1, j]))[0, 1] for j in range(4)]
        assert np.mean(r) > 0.7
        assert np.isnan(model.embed(modality="protein")[batch == 1]).all()
        found.append(predicted)
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def test_three_modalities_have_the_views_of_the_preset(counts):
    from contract.conftest import add_inputs

    adata = add_inputs(counts)
    for preset, n_views in {"mopoe": 7, "mvae": 4, "scmm": 3, "average": 1, "jae": 1, "clue": 4}.items():
        options = {"protein_key": "some", "peaks_key": "peaks", "labels_key": "cell_type", "max_epochs": 1}
        model = sd.fit(adata, "mmvae", preset=preset, callback=silent, n_hidden=8, n_latent=6, **options)
        assert len(model.module.views) == n_views
        assert set(model.module.modalities) == {"rna", "protein", "peaks"}


def test_supervised_dimensions_are_the_labels(test_cells):
    adata = test_cells[0]
    model = trained(adata, "jae", labels_key="kind", max_epochs=20)
    told = np.array(model.schema.levels["kind"])[model.embed()[:, :5].argmax(1)]
    assert (told == adata.obs["kind"]).mean() > 0.9


def unpaired(mosaic, **columns):
    alone = mosaic[N_PAIRED:].copy()
    for name, values in columns.items():
        alone.obs[name] = values
    return alone


def test_what_nothing_ties_together_is_refused(mosaic):
    alone = unpaired(mosaic, half=np.repeat(["a", "b"], N_ALONE))
    for preset in ("average", "translation"):
        with pytest.raises(DataError, match=named("'rna'", "'peaks'", "labels_key=")):
            trained(alone, preset)
    with pytest.raises(DataError, match=named("'rna'", "'peaks'", "batch_key=")):
        trained(alone, "translation", labels_key="kind", batch_key="half")
    assert trained(alone, "translation", labels_key="kind", max_epochs=1).module.penalties.classifier is not None
    with pytest.raises(OptionError, match=named("protein_key=", "peaks_key=")):
        sd.fit(mosaic[:N_PAIRED].copy(), "mmvae", max_epochs=1)
    nothing = mosaic[N_PAIRED : N_PAIRED + N_ALONE].copy()
    with pytest.raises(DataError, match=named("'peaks'")):
        trained(nothing, "average")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"preset": "scmm", "latent_distribution": "normal"}, ["'scmm'", "latent_distribution", "'normal'"]),
        ({"preset": "mvae", "targets": "measured"}, ["'mvae'", "targets"]),
        ({"preset": "cobolt", "gene_likelihood": "nb"}, ["'cobolt'", "gene_likelihood"]),
        ({"fusion": "product", "latent_distribution": "laplace"}, ["'laplace'", "fusion"]),
        ({"latent_distribution": "point", "align": "jeffreys"}, ["jeffreys", "point"]),
        ({"experts": "joint", "views": "single"}, ["views", "joint"]),
        ({"align_weight": -1.0}, ["align_weight"]),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, names):
    with pytest.raises(OptionError, match=named(*names)):
        Config(**options)


def test_a_preset_is_its_options(mosaic):
    """Given one by one, they make the same model."""
    fixed = PRESETS["mopoe"]
    assert member_of(Config(preset="mopoe")) == member_of(Config(**fixed))
    first, again = trained(mosaic, "mopoe", max_epochs=1), trained(mosaic, None, max_epochs=1, **fixed)
    np.testing.assert_allclose(first.embed(), again.embed(), atol=1e-5)


def test_supervised_dimensions_need_labels_and_room(test_cells):
    with pytest.raises(OptionError, match=named("labels_key=")):
        trained(test_cells[0], "jae", max_epochs=1)
    with pytest.raises(OptionError, match=named("n_latent=3", "5")):
        trained(test_cells[0], "jae", labels_key="kind", n_latent=3, max_epochs=1)


def test_the_embedding_does_not_depend_on_the_minibatch(mosaic):
    model = trained(mosaic, "average", max_epochs=1)
    cells = next(iter(minibatches(model.encode(), sequential(len(mosaic)), len(mosaic))))
    whole = model.module.eval().posterior(cells)[0].detach().numpy()
    np.testing.assert_allclose(model.embed(batch_size=50), whole, atol=1e-5)
