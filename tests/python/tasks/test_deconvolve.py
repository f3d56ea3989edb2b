"""Planted mixtures: proportions, their spread, the platform effect, a type that the reference lacks; and bad input."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import named

import scduet as sd
from scduet.data.checks import check_values
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.tasks.spatial import held_out, solvers

N_TYPES, N_GENES, N_SPOTS = 6, 300, 100
TYPES = [f"type {i}" for i in range(N_TYPES)]
SIZE = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0]) * 3000  # counts of a cell of each type


def counts(rate, rng, names=None, obs=None):
    found = ad.AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)), obs=obs)
    found.var_names = [f"G{i}" for i in range(N_GENES)] if names is None else names
    return found


class Planted:
    """A reference of 30 cells a type, and spots of known cells."""

    def __init__(self, depth=5000, platform=0.0, seed=0):
        rng = np.random.default_rng(seed)
        profile = rng.gamma(0.4, 1, (N_TYPES, N_GENES)) + 0.01
        self.profile = profile / profile.sum(1, keepdims=True)
        kind = np.repeat(np.arange(N_TYPES), 30)
        labels = pd.DataFrame({"type": np.array(TYPES)[kind]}, [f"c{i}" for i in range(len(kind))])
        self.reference = counts(self.profile[kind] * SIZE[kind, None], rng, obs=labels)
        self.cells = rng.dirichlet(np.full(N_TYPES, 0.5), N_SPOTS)
        self.rna = self.cells * SIZE / (self.cells @ SIZE)[:, None]
        rate = self.rna @ self.profile * 2 ** rng.normal(0, platform, N_GENES)
        self.spots = counts(rate / rate.sum(1, keepdims=True) * depth, rng)
        self.spots.obs_names = [f"s{i}" for i in range(N_SPOTS)]


def rmse(found, truth):
    return float(np.sqrt(np.square(np.asarray(found) - truth).mean()))


@pytest.fixture(scope="module")
def planted():
    return Planted()


@pytest.fixture(scope="module")
def found(planted):
    return sd.deconvolve(planted.spots, planted.reference, labels_key="type")


@pytest.mark.parametrize("model", ["poisson", "weighted_nnls", "nnls"])
def test_planted_cells_and_rna_are_found(planted, model):
    spots = planted.spots.copy()
    cells = sd.deconvolve(spots, planted.reference, labels_key="type", model=model)
    rna = sd.deconvolve(spots.copy(), planted.reference, labels_key="type", model=model, per="rna")
    assert list(cells.proportions) == TYPES
    assert list(cells.proportions.index) == list(spots.obs_names)
    assert np.allclose(cells.proportions.sum(1), 1)
    assert rmse(cells.proportions, planted.cells) < 0.03 < rmse(cells.proportions, planted.rna)
    assert rmse(rna.proportions, planted.rna) < 0.03 < rmse(rna.proportions, planted.cells)


def test_spread_is_the_error_of_counting(planted, found):
    """Errors in units of the spread: 1 if the reference were exact, and a little more as it is not."""
    error = (found.proportions - planted.cells).to_numpy()
    assert 0.7 < np.sqrt(np.square(error).mean()) / np.sqrt(np.square(found.spread.to_numpy()).mean()) < 2
    shallow = Planted(depth=500)
    more = sd.deconvolve(shallow.spots, shallow.reference, labels_key="type").spread
    assert more.to_numpy().mean() > 1.5 * found.spread.to_numpy().mean()


def test_a_platform_effect_is_taken_out(planted, found):
    """A factor of two up or down in every gene moves proportions by less than 0.02; without the factor by far more."""
    other = Planted(platform=1.0)
    with_factor = sd.deconvolve(other.spots.copy(), other.reference, labels_key="type")
    with pytest.warns(ScduetWarning, match=named("unexplained", "reference")):
        without = sd.deconvolve(other.spots.copy(), other.reference, labels_key="type", platform_effect=False)
    truth = other.cells
    assert np.abs(with_factor.proportions.to_numpy() - truth).mean() < 0.02
    assert rmse(without.proportions, truth) > 2 * rmse(with_factor.proportions, truth)
    assert 0.8 < with_factor.genes["platform_log2"].std() < 1.2
    assert found.genes["platform_log2"].std() < 0.3


def test_steps_follow_the_data(planted):
    """Without a map to find few steps are taken; of spots that differ, enough to come near the maximum."""
    alike = Planted()
    rate = np.tile(planted.cells.mean(0), (N_SPOTS, 1)) @ planted.profile
    alike.spots = counts(300 * rate, np.random.default_rng(3))
    with pytest.warns(ScduetWarning, match=named("composition", "spots")):
        same = sd.deconvolve(alike.spots, alike.reference, labels_key="type")
    assert same.n_steps <= 2
    assert same.agreement.loc["poisson", "held_out_deviance"] <= same.agreement.loc["nnls", "held_out_deviance"]
    deep = Planted(depth=100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScduetWarning)
        differ = sd.deconvolve(deep.spots, deep.reference, labels_key="type")
    assert differ.n_steps >= 60
    assert differ.agreement.loc["poisson", "held_out_deviance"] < 0.5 * differ.agreement["held_out_deviance"].iloc[-1]


def test_a_type_that_the_reference_lacks_is_left_unexplained(planted, found):
    lacking = planted.reference[planted.reference.obs["type"] != "type 0"].copy()
    without = sd.deconvolve(planted.spots.copy(), lacking, labels_key="type")
    unexplained, share = without.mixtures["unexplained"], planted.rna[:, 0]
    assert found.unexplained < 0.02 < 2 * without.unexplained
    assert unexplained[share > 0.3].median() > 4 * max(unexplained[share < 0.02].median(), 0.005)
    rows = planted.profile[0, found.genes.index.str[1:].astype(int)] > 4 * planted.profile[1:].max(0)
    assert without.genes["unexplained"][rows].median() > 5 * without.genes["unexplained"].median()


def test_expression_of_types_sums_to_the_counts(planted, found):
    parts = {kind: found.expression(kind) for kind in TYPES}
    assert np.allclose(
        sum(part.to_numpy() for part in parts.values()), planted.spots[:, found.fit.genes].X.toarray(), atol=1e-6
    )
    rich = planted.cells[:, 1] > 0.6
    profile = found.expression("type 1", normalized=True)[rich].mean()
    assert np.corrcoef(profile, planted.profile[1, profile.index.str[1:].astype(int)])[0, 1] > 0.98
    with pytest.raises(OptionError, match=named("'nobody'", "'type 0'")):
        found.expression("nobody")


def test_everything_is_written(planted, found, tmp_path):
    spots = planted.spots
    spots.write_h5ad(tmp_path / "spots.h5ad")
    again = ad.read_h5ad(tmp_path / "spots.h5ad")
    assert np.allclose(again.obsm["proportions"].to_numpy(), found.proportions)
    assert np.allclose(again.obsm["proportions_spread"].to_numpy(), found.spread)
    assert again.uns["proportions"]["model"] == "poisson"
    assert list(again.uns["proportions"]["agreement"].index) == list(found.agreement.index)
    again = sd.deconvolve(spots, planted.reference, labels_key="type", key_added="proportions")
    pd.testing.assert_frame_equal(again.proportions, found.proportions)
    spots.obsm["mine"] = np.zeros((N_SPOTS, 1))
    with pytest.raises(OptionError, match=named("'mine'")):
        sd.deconvolve(spots, planted.reference, labels_key="type", key_added="mine")


def test_order_of_spots_and_genes_does_not_matter(planted):
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(N_SPOTS), rng.permutation(N_GENES)
    one = sd.deconvolve(planted.spots.copy(), planted.reference, labels_key="type", model="weighted_nnls").proportions
    other = planted.spots[rows][:, columns].copy()
    two = sd.deconvolve(other, planted.reference, labels_key="type", model="weighted_nnls").proportions
    assert np.allclose(one.iloc[rows], two, atol=1e-6)


def test_genes_are_variable_ones_markers_or_listed(planted):
    def genes_of(**options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScduetWarning)  # that few genes tell a type
            return sd.deconvolve(planted.spots.copy(), planted.reference, labels_key="type", **options).genes

    variable, marker = genes_of(n_genes=50), genes_of(genes="markers", n_genes=5)
    assert len(variable) == 50
    normalized = np.log1p(planted.reference.X.toarray() / planted.reference.X.sum(1) * 1e4)
    best = np.argsort(-np.asarray(normalized).var(0))[:50]
    assert set(variable.index) == set(planted.reference.var_names[best])
    assert len(marker) <= 5 * N_TYPES
    top = planted.profile[:, marker.index.str[1:].astype(int)].argmax(0)
    assert (marker["type"] == np.array(TYPES)[top]).all()
    listed = [f"G{i}" for i in range(20, 80)]
    assert list(genes_of(genes=listed).index) == listed


def test_least_squares_is_scipys(planted):
    from scipy.optimize import nnls

    dense = planted.spots.X.toarray().astype(float)[:20]
    expected = np.stack([nnls(planted.profile.T, row)[0] for row in dense])
    assert np.allclose(solvers.least_squares(dense, planted.profile), expected, rtol=1e-5, atol=1e-3)


def test_em_reaches_the_maximum_of_the_likelihood(planted):
    """Where amounts are above zero the gradient of the likelihood is zero, elsewhere it is not above."""
    dense, profile = planted.spots.X.toarray().astype(float)[:20], planted.profile
    *_, amounts = solvers.expectation_maximization(dense, profile, np.full(N_TYPES, 1 / N_TYPES), (2000,))
    gradient = (dense / (amounts @ profile)) @ profile.T - profile.sum(1)
    assert np.abs(gradient * amounts / dense.sum(1, keepdims=True)).max() < 1e-3
    assert gradient.max() < 0.02


def test_unexplained_is_unbiased_whatever_the_depth():
    rng = np.random.default_rng(0)
    for depth in (0.2, 5.0):
        rate = depth * rng.gamma(2, 0.5, (2000, 50))
        seen, expected = rng.poisson(rate), rate * 1.5
        misfit, square = held_out.unexplained(seen, expected, np.full(50, depth))
        assert misfit.sum() / square.sum() == pytest.approx(0.25, abs=0.04)


def spoiled(planted, **edit):
    spots = planted.spots.copy()
    for name, value in edit.items():
        setattr(spots, name, value(spots))
    return spots


def emptied(spots):
    values = spots.X.toarray()
    values[3] = 0
    return sp.csr_matrix(values)


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        ({"X": emptied}, ("'s3'", "counts")),
        ({"X": lambda a: a.X.log1p()}, ("log", "counts")),
        ({"var_names": lambda a: [f"X{i}" for i in range(N_GENES)]}, ("0 genes", "'X0'", "'G0'")),
        ({"var_names": lambda a: [f"ENSG{i:011d}" for i in range(N_GENES)]}, ("Ensembl", "symbols", "var_names")),
        ({"var_names": lambda a: [f"g{i}" for i in range(N_GENES)]}, ("case", "var_names")),
    ],
)
def test_spots_that_cannot_be_used(planted, edit, names):
    with pytest.raises(DataError, match=named(*names)):
        sd.deconvolve(spoiled(planted, **edit), planted.reference, labels_key="type")


def test_the_reference_is_checked(planted):
    with pytest.raises(DataError, match=named("'nowhere'", "labels_key")):
        sd.deconvolve(planted.spots.copy(), planted.reference, labels_key="nowhere")
    logged = planted.reference.copy()
    logged.X = logged.X.log1p()
    with pytest.raises(DataError, match=named("log", "counts")):
        sd.deconvolve(planted.spots.copy(), logged, labels_key="type")
    with pytest.raises(DataError, match=named("5 genes", "6 types")):
        sd.deconvolve(planted.spots.copy(), planted.reference, labels_key="type", genes=[f"G{i}" for i in range(5)])
    with pytest.raises(DataError, match=named("'nobody'")):
        sd.deconvolve(planted.spots.copy(), planted.reference, labels_key="type", genes=["nobody", "G1"])


def test_smoothed_counts_that_cannot_be_used(planted):
    """Before any training of the reference."""
    how = {"labels_key": "type", "model": "destvi"}
    with pytest.raises(DataError, match=named("'absent'")):
        sd.deconvolve(planted.spots.copy(), planted.reference, smoothed_layer="absent", **how)
    with pytest.raises(DataError, match=named("negative", "'s3'")):
        check_values(-np.eye(4), pd.Index([f"s{i}" for i in range(3, 7)]), "layers", "nonnegative")


def test_few_cells_and_few_markers_are_told(planted):
    kept = [0, 1, 2, *range(30, 180)]
    with pytest.warns(ScduetWarning, match=named("type 0 (3)", "10")):
        few = sd.deconvolve(planted.spots.copy(), planted.reference[kept].copy(), labels_key="type")
    assert few.types["n_cells"].tolist() == [3, 30, 30, 30, 30, 30]
    split = planted.reference.copy()
    split.obs["type"] = [*["type 0a", "type 0b"] * 15, *split.obs["type"].iloc[30:]]
    with pytest.warns(ScduetWarning, match=named("type 0a", "type 0b", "nearest")):
        sd.deconvolve(planted.spots.copy(), split, labels_key="type", genes="variable", n_genes=100)


def test_nuclei_are_told_from_cells(planted):
    """Five mitochondrial genes and MALAT1: nuclei have hardly any of the first and much of the second."""
    names = ["MT-CO1", "MT-CO2", "MT-ND1", "MT-ND2", "MT-ATP6", "MALAT1", *(f"G{i}" for i in range(6, N_GENES))]
    as_cells, as_nuclei = np.ones(N_GENES), np.ones(N_GENES)
    as_cells[:5], as_nuclei[:5], as_nuclei[5] = 8, 0.01, 30
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(N_TYPES), 30)
    spots = counts((planted.rna @ planted.profile) * as_cells * 3000, rng, names)
    nuclei = counts(planted.profile[kind] * as_nuclei * 3000, rng, names, planted.reference.obs)
    cells = counts(planted.profile[kind] * as_cells * 3000, rng, names, planted.reference.obs)
    with pytest.warns(ScduetWarning, match=named("nuclei", "mitochondrial", "%", "per='rna'")):
        sd.deconvolve(spots.copy(), nuclei, labels_key="type")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScduetWarning)
        sd.deconvolve(spots.copy(), cells, labels_key="type")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"model": "rctd"}, ("'rctd'", "poisson", "nnls")),
        ({"per": "gene"}, ("'gene'", "'cell'", "'rna'")),
        ({"genes": "all"}, ("'all'", "variable", "markers")),
        ({"n_splits": 0}, ("'n_splits'", "0")),
        ({"max_epochs": 3}, ("'max_epochs'", "poisson")),
    ],
)
def test_wrong_options_are_named(planted, options, names):
    with pytest.raises(OptionError, match=named(*names)):
        sd.deconvolve(planted.spots.copy(), planted.reference, labels_key="type", **options)


@pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
@pytest.mark.parametrize(
    ("spots", "reference", "best", "supported"),
    [
        ("deconv_lymph_visium_1000spots", "deconv_lymph_reference_330cells", 0.586, False),
        ("deconv_cerebellum_slideseq_spatial", "deconv_cerebellum_slideseq_reference", 2.217, True),
    ],
)
def test_held_out_genes_of_real_tissue(real_data, spots, reference, best, supported):
    """As good as the best method tried before; in the lymph node no better than one composition, which is said."""
    read = (real_data(f"{name}.h5ad") for name in (spots, reference))
    found = sd.deconvolve(*read, labels_key="cell_type", n_splits=1)
    assert found.agreement.loc["poisson", "held_out_deviance"] < best + 0.02
    assert supported != any("composition" in note for note in found.notes)
    assert found.genes["platform_log2"].std() > 0.9
