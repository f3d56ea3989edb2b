"""Velocities of cells with known kinetics, and what is refused."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from named import named
from scipy.stats import spearmanr

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.tasks.velocity.draws import shuffled
from scduet.tasks.velocity.dynamical import fit_gene
from scduet.tasks.velocity.judgement import verdict_of, verdict_of_all
from scduet.tasks.velocity.latent_time import shared_time
from scduet.tasks.velocity.moments import averaging, connected, mean_over
from scduet.tasks.velocity.steady_state import steady_state, stochastic

N_CELLS, N_GENES = 400, 60
TYPES = ("early", "middle", "late", "last")
ORDER = list(pairwise(TYPES))


def simulated(seed=0, depth=8.0):
    """Cells along a time from 0 to 14; each gene is switched on, and later off. Truth: obs["time"], layer "rate"."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.uniform(0, 14, N_CELLS))
    t = time[:, None] - rng.uniform(0, 10, N_GENES)
    gamma, last = rng.uniform(0.2, 0.6, N_GENES), rng.uniform(3, 6, N_GENES)
    alpha = depth * rng.uniform(0.5, 2, N_GENES)
    u, s = curve(np.clip(t, 0, last), 0, 0, alpha, gamma)
    u, s = curve(np.clip(t - last, 0, None), u, s, 0 * alpha, gamma)
    cells = AnnData(sp.csr_matrix(rng.poisson(s + 0.5), dtype=np.float32))
    cells.layers["spliced"] = cells.X.copy()
    cells.layers["unspliced"] = sp.csr_matrix(rng.poisson(u + 0.1), dtype=np.float32)
    cells.layers["rate"] = u - gamma * s
    cells.obs["time"], cells.obs["type"] = time, pd.cut(time, 4, labels=list(TYPES)).astype(str)
    cells.obs_names, cells.var_names = [f"c{i}" for i in range(N_CELLS)], [f"g{i}" for i in range(N_GENES)]
    return cells


def curve(t, u0, s0, alpha, gamma, beta=1.0):
    eu, es = np.exp(-beta * t), np.exp(-gamma * t)
    u = u0 * eu + alpha / beta * (1 - eu)
    return u, s0 * es + alpha / gamma * (1 - es) + (alpha - beta * u0) / (gamma - beta) * (es - eu)


@pytest.fixture
def cells():
    return simulated()


@pytest.mark.parametrize("model", ["steady_state", "stochastic", "dynamical"])
def test_direction_of_simulated_cells_is_found(cells, model):
    quiet = {"callback": lambda event: None}
    found = sd.velocity(cells, model, labels_key="type", transitions=ORDER, **quiet)
    genes = cells.var["velocity_genes"].to_numpy()
    assert found.scores["genes"] == genes.sum() > 0.6 * N_GENES
    assert found.scores["direction"] > 0.25
    assert found.scores["permutation"] > 3
    true, ours = cells.layers["rate"][:, genes], cells.layers["velocity"][:, genes]
    clear = np.abs(true) > 0.25 * np.abs(true).max(0)
    # the steady-state model takes genes for steady that are on their way
    least = {"steady_state": 0.7, "stochastic": 0.85, "dynamical": 0.75}[model]
    assert (np.sign(true) == np.sign(ours))[clear].mean() > least
    assert np.isnan(cells.layers["velocity"][:, ~genes]).all()
    assert set(found.permutation.columns) == set(TYPES)
    assert found.scores["confidence"] == pytest.approx(cells.obs["velocity_confidence"].mean())


def test_rates_are_recovered_where_a_steady_state_is_seen():
    rng = np.random.default_rng(0)
    gamma, level = rng.uniform(0.2, 0.8, 30), rng.uniform(0, 1, (500, 1)) ** 2
    s = level * rng.uniform(20, 60, 30)
    s, u = (sp.csr_matrix(rng.poisson(x), dtype=np.float32) for x in (s, gamma * s))
    near = np.argsort(np.abs(level - level.T), 1)[:, 1:15]
    average = averaging(connected(near))
    ms, mu = mean_over(average, s), mean_over(average, u)
    for fit in (steady_state(ms, mu), stochastic(s, u, average, ms, mu)):
        assert fit.genes.all()
        np.testing.assert_allclose(fit.gamma, gamma, rtol=0.2)


@pytest.fixture(scope="module")
def cycles():
    """Moments of genes that are switched on and off once, their curves, and the times of the cells."""
    rng = np.random.default_rng(0)
    time, beta = np.sort(rng.uniform(0, 20, N_CELLS))[:, None], rng.uniform(0.5, 1.5, 12)
    gamma, alpha, last = beta * rng.uniform(0.3, 0.9, 12), rng.uniform(20, 60, 12), rng.uniform(6, 12, 12)
    u, s = curve(np.clip(time, 0, last), 0, 0, alpha, gamma, beta)
    u, s = curve(np.clip(time - last, 0, None), u, s, 0 * alpha, gamma, beta)
    average = averaging(connected(np.argsort(np.abs(time - time.T), 1)[:, 1:15]))
    ms, mu = (mean_over(average, sp.csr_matrix(rng.poisson(x), dtype=np.float32)) for x in (s, u))
    fits = [fit_gene(mu[:, gene], ms[:, gene], average) for gene in range(12)]
    return SimpleNamespace(time=time[:, 0], ratio=gamma / beta, rate=beta * u - gamma * s, average=average, fits=fits)


def test_rates_times_and_direction_of_cycles_are_recovered(cycles):
    ratio = np.array([fit.curve.gamma * fit.curve.scaling / fit.curve.beta for fit in cycles.fits])
    assert np.median(np.abs(ratio / cycles.ratio - 1)) < 0.1
    velocity = np.stack([fit.velocity for fit in cycles.fits], 1)
    clear = np.abs(cycles.rate) > 0.25 * np.abs(cycles.rate).max(0)
    assert (np.sign(velocity) == np.sign(cycles.rate))[clear].mean() > 0.9
    assert np.median([spearmanr(fit.time, cycles.time).statistic for fit in cycles.fits]) > 0.9


def test_the_time_of_a_cell_runs_along_the_transitions(cycles):
    along = np.sign(cycles.time - cycles.time[:, None])
    graph = sp.csr_matrix(along * (cycles.average > 0).toarray())
    times = np.stack([fit.time for fit in cycles.fits], 1)
    assert spearmanr(shared_time(times, graph, cycles.average), cycles.time).statistic > 0.9
    turned = np.where(cycles.time < 15, cycles.time + 5, cycles.time - 15)  # a clock that starts in the middle
    found = shared_time(np.tile(turned[:, None], (1, 5)), graph, cycles.average)
    assert spearmanr(found, cycles.time).statistic > 0.9


def test_a_gene_that_hardly_any_cell_has_gets_no_curve():
    few = np.r_[np.ones(2), np.zeros(98)]
    assert fit_gene(few, few, sp.identity(100, format="csr")) is None


def test_the_order_of_cells_does_not_matter(cells):
    order = np.random.default_rng(0).permutation(N_CELLS)
    other = cells[order].copy()
    for data in (cells, other):
        sd.velocity(data, labels_key="type", basis="X_pca")
    np.testing.assert_allclose(other.layers["velocity"], cells.layers["velocity"][order], rtol=1e-3, atol=1e-3)
    cosines = np.abs(other.obs["velocity_confidence"] - cells.obs["velocity_confidence"].iloc[order])
    assert cosines.max() < 1e-3


def test_shuffled_cells_are_told_from_real_ones(cells):
    draw, layer = np.random.default_rng(0), cells.layers["unspliced"].toarray()
    for name in TYPES:
        rows = cells.obs["type"] == name
        layer[rows] = draw.permuted(layer[rows], axis=0)
    cells.layers["unspliced"] = sp.csr_matrix(layer)
    found = sd.velocity(cells, labels_key="type")
    assert found.scores["permutation"] < 0.8 * sd.velocity(simulated(), labels_key="type").scores["permutation"]


def test_a_real_data_set_supports_its_direction_and_shuffled_not(real_data):
    """Mouse pancreas; cells shuffled within types keep what differs between types, and so most of the arrows."""
    cells = real_data("velocity_pancreas_3696_2000g.h5ad")[::2].copy()
    order = ["Ductal", "Ngn3 low EP", "Ngn3 high EP", "Pre-endocrine", "Beta"]
    given = {"spliced": "X", "labels_key": "cell_type", "transitions": [*pairwise(order)]}
    found = sd.velocity(cells, **given)
    assert found.scores["direction"] > 0.1
    assert f"{found.scores['direction']:.2f}" in found.verdict
    labels, layer = cells.obs["cell_type"].astype(str).to_numpy(), cells.layers["unspliced"].toarray()
    cells.layers["unspliced"] = sp.csr_matrix(shuffled(layer, labels, np.random.default_rng(0)))
    other = sd.velocity(cells, **given)
    assert other.scores["permutation"] < 3 < found.scores["permutation"]
    assert f"{other.scores['permutation']:.1f}" in other.verdict


def test_the_verdict_names_what_speaks_against_a_direction():
    good = pd.Series({"genes": 300.0, "unspliced": 0.2, "confidence": 0.8, "permutation": 6.0, "direction": 0.2})
    for name, value, told in (
        ("unspliced", 0.013, "1.3%"), ("genes", 7.0, "7"), ("permutation", 1.2, "1.2"), ("direction", -0.25, "-0.25"),
    ):  # fmt: skip
        assert told in verdict_of(pd.Series({**good, name: value}))
    assert "0.20" in verdict_of(good)
    near = pd.Series({**good, "permutation": 2.4})
    assert "2.4" in verdict_of(near.rename("stochastic"))
    assert "2.4" not in verdict_of(near.rename("dynamical"))


def test_the_sentence_on_several_models_names_those_without_support_and_those_that_disagree():
    good = {"genes": 300.0, "unspliced": 0.2, "confidence": 0.8, "permutation": 6.0, "direction": 0.2}
    table = pd.DataFrame({"steady_state": good, "dynamical": {**good, "permutation": 1.2}, "velovi": good}).T
    for name, agreement in zip(table.index, ([1, 0.9, 0.11], [0.9, 1, 0.8], [0.11, 0.8, 1]), strict=True):
        table[f"agreement_{name}"] = agreement
    told = verdict_of_all(table)
    for fact in ("1.2", "dynamical", "steady_state and velovi", "0.11"):
        assert fact in told
    assert "0.9" not in told
    assert "1.3%" in verdict_of_all(table.assign(unspliced=0.013))


def test_arrows_on_another_embedding_point_along_time(cells):
    sd.velocity(cells)
    cells.obsm["X_line"] = np.stack([cells.obs["time"], 0 * cells.obs["time"]], 1)
    arrows = sd.velocity_embedding(cells, "X_line")
    assert np.array_equal(arrows, cells.obsm["velocity_line"])
    assert (arrows[:, 0] > 0).mean() > 0.8
    assert not arrows[:, 1].any()


def test_models_are_compared(cells):
    sd.velocity(cells)  # an earlier velocity is not in the way
    before = cells.copy()
    table = sd.compare_velocity(cells, ["steady_state", "stochastic"], labels_key="type", transitions=ORDER)
    agreement = table[["agreement_steady_state", "agreement_stochastic"]].to_numpy()
    np.testing.assert_allclose(np.diag(agreement), 1, atol=1e-6)
    assert agreement[0, 1] == agreement[1, 0] > 0.8
    assert "steady_state, stochastic" in table.attrs["verdict"]
    assert list(cells.layers) == list(before.layers)
    assert list(cells.obs) == list(before.obs)


def test_counts_in_other_places_and_dense_give_the_same(cells):
    sd.velocity(cells)
    other = cells[:, :].copy()
    other.obsm["nascent"] = pd.DataFrame(cells.layers["unspliced"].toarray(), cells.obs_names, cells.var_names)
    for key in ("spliced", "unspliced", "velocity", "Ms", "Mu"):
        del other.layers[key]
    other.uns.clear()
    sd.velocity(other, spliced="X", unspliced="obsm/nascent")
    np.testing.assert_allclose(other.layers["velocity"], cells.layers["velocity"], rtol=1e-5, atol=1e-5)


def logged(cells):
    cells.layers["spliced"] = cells.layers["spliced"].log1p()


def smoothed(cells):
    cells.layers["unspliced"] = sp.csr_matrix(cells.layers["unspliced"].toarray() + 0.3)


def with_nan(cells):
    layer = cells.layers["unspliced"].copy()
    layer.data[3] = np.nan
    cells.layers["unspliced"] = layer


def without(key):
    return lambda cells: cells.layers.pop(key)


def nothing_unspliced(cells):
    cells.layers["unspliced"] = sp.csr_matrix(cells.shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (without("unspliced"), ("'unspliced'", "layers", "'spliced'")),
        (without("spliced"), ("'spliced'", "layers")),
        (logged, ("layers['spliced']", "c0")),
        (smoothed, ("layers['unspliced']", "c0")),
        (with_nan, ("layers['unspliced']", "NaN")),
        (nothing_unspliced, (20,)),
    ],
)
def test_what_are_no_counts_is_refused(cells, spoil, names):
    spoil(cells)
    before = list(cells.obsm)
    with pytest.raises(DataError, match=named(*names)):
        sd.velocity(cells)
    assert list(cells.obsm) == before


def test_few_cells_are_refused(cells):
    with pytest.raises(DataError, match=named(50, 100)):
        sd.velocity(cells[:50].copy())


def test_swapped_layers_are_told(cells):
    with pytest.warns(ScduetWarning, match=named("swapped")):
        sd.velocity(cells, spliced="unspliced", unspliced="spliced")


@pytest.mark.parametrize(
    ("given", "error", "names"),
    [
        ({"model": "dynamic"}, OptionError, ("'dynamic'", "steady_state", "velovi")),
        ({"model": "dynamical", "max_epochs": 3}, OptionError, ("'max_epochs'", "'dynamical'")),
        ({"transitions": [("a", "b")]}, OptionError, ("transitions", "labels_key")),
        ({"transitions": [("early", "b")], "labels_key": "type"}, DataError, ("'b'",)),
        ({"transitions": 5}, OptionError, ("'transitions'", 5)),
        ({"labels_key": "kind"}, DataError, ("'kind'", "obs")),
        ({"basis": "X_tsne"}, DataError, ("'X_tsne'", "obsm")),
        ({"n_neighbors": 0}, OptionError, ("'n_neighbors'", 0)),
        ({"n_pcs": 0.5}, OptionError, ("'n_pcs'", 0.5)),
        ({"max_epochs": 3}, OptionError, ("'max_epochs'", "'steady_state'")),
        ({"model": "velovi", "n_latnt": 3}, OptionError, ("'n_latnt'", "'n_latent'")),
        ({"unspliced": "spliced"}, OptionError, ("spliced", "unspliced")),
        ({"unspliced": 3}, OptionError, ("'unspliced'", 3)),
        ({"genes": ["g1", "gx"]}, DataError, ("'gx'",)),
        ({"key_added": "spliced"}, OptionError, ("'spliced'", "key_added")),
        ({"seed": -1}, OptionError, ("'seed'", -1)),
    ],
)
def test_wrong_options_are_named(cells, given, error, names):
    with pytest.raises(error, match=named(*names)):
        sd.velocity(cells, **given)
    assert "velocity" not in cells.layers


def test_a_later_model_leaves_no_times_of_an_earlier_one(cells):
    sd.velocity(cells, "dynamical", genes=[f"g{i}" for i in range(25)], callback=lambda event: None)
    assert {"latent_time"} <= set(cells.obs)
    sd.velocity(cells)
    assert "latent_time" not in cells.obs
    assert not {"Ms_fit", "Mu_fit"} & set(cells.layers)


@pytest.fixture(scope="module")
def by_velovi():
    cells = simulated()
    options = {"max_epochs": 60, "kl_warmup_epochs": 40, "n_hidden": 32, "early_stopping": False}
    found = sd.velocity(
        cells, "velovi", labels_key="type", transitions=ORDER, n_samples=10, callback=lambda e: None, **options
    )
    return cells, found


def test_velovi_finds_the_direction(by_velovi):
    cells, found = by_velovi
    assert found.scores["direction"] > 0.1
    assert found.scores["permutation"] > 3
    assert cells.obs["latent_time"].between(0, 20).all()
    assert (cells.obs["velocity_uncertainty"] > 0).all()


def test_a_trained_velovi_gives_the_same_again(by_velovi, tmp_path):
    _, found = by_velovi
    found.model.save(tmp_path / "model")
    again = sd.velocity(simulated(), sd.load(tmp_path / "model"), labels_key="type", transitions=ORDER, n_samples=10)
    assert again.scores.to_dict() == pytest.approx(found.scores.to_dict(), rel=1e-3, abs=1e-3)


def test_parts_work_on_prepared_cells(by_velovi):
    _, found = by_velovi
    prepared = sd.velocity_moments(simulated(), scale=True)
    assert list(prepared.var_names) == found.model.genes
    for key in ("Ms", "Mu"):
        np.testing.assert_allclose(prepared.layers[key].min(0), 0, atol=1e-6)
        np.testing.assert_allclose(prepared.layers[key].max(0), 1, atol=1e-6)
    for kind in ("intrinsic", "extrinsic"):
        uncertainty = sd.velocity_uncertainty(found.model, prepared, n_samples=5, kind=kind)
        assert list(uncertainty.index) == list(prepared.obs_names)
        assert uncertainty["cosine_mean"].between(-1, 1).all()
        assert (uncertainty[["cosine_variance", "angle_variance", "cosine_width"]] > 0).all(axis=None)
    with pytest.raises(OptionError, match=named("'kind'", "'outer'")):
        sd.velocity_uncertainty(found.model, prepared, kind="outer")
    with pytest.raises(DataError, match=named("X_pca")):
        sd.velocity_uncertainty(found.model, kind="extrinsic")
    scores = sd.permutation_scores(found.model, prepared, "type", n_samples=3)
    assert list(scores.index) == found.model.genes
    assert scores.max(axis=1).median() > 3
    with pytest.raises(OptionError, match=named("'scvi'", "'velovi'")):
        sd.velocity_uncertainty("scvi")
