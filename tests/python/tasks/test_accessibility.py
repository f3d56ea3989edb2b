"""Planted differences of peaks, depths and factors are found; reads become fragments; bad input is told."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import assert_named, named

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning

N_CELLS, N_PEAKS, PLANTED = 800, 300, 60


def names_of(n):
    return [f"chr1:{i * 1000}-{i * 1000 + 500}" for i in range(n)]


@pytest.fixture(scope="module")
def atac():
    """Fragments of two types in two batches; the first 30 peaks are open in type A, the next 30 in type B."""
    draw = np.random.default_rng(0)
    kind, depth = draw.integers(0, 2, N_CELLS), draw.uniform(0.3, 1, N_CELLS)
    open_ = np.tile(draw.beta(1.5, 4, (1, N_PEAKS)), (2, 1))
    open_[0, :30] = open_[1, 30:60] = 0.6
    open_[1, :30] = open_[0, 30:60] = 0.1
    rate = -np.log1p(-open_[kind] * depth[:, None])  # so that a peak is seen with probability open * depth
    obs = {"kind": np.array(["A", "B"])[kind], "half": draw.permutation(np.repeat(["left", "right"], N_CELLS // 2))}
    obs |= {"batch": draw.choice(["x", "y"], N_CELLS), "depth": depth}
    x = sp.csr_matrix(draw.poisson(rate).astype(np.float32))
    index = [f"cell{i}" for i in range(N_CELLS)]
    return anndata.AnnData(x, obs=pd.DataFrame(obs, index=index), var=pd.DataFrame(index=names_of(N_PEAKS)))


@pytest.fixture(scope="module")
def models(atac):
    options = {"batch_key": "batch", "max_epochs": 60, "lr": 2e-3, "callback": lambda event: None}
    return {name: sd.fit(atac, name, **options) for name in ("peakvi", "poissonvi")}


EFFECTS = [("peakvi", "difference"), ("peakvi", "log2fc"), ("poissonvi", "log2fc")]


@pytest.mark.parametrize(("name", "effect"), EFFECTS)
def test_planted_peaks_are_called_and_come_first(models, atac, name, effect):
    table = sd.differential_accessibility(models[name], atac, "kind", "A", "B", effect=effect, verbose=False)
    planted = names_of(PLANTED)
    assert table["is_da_fdr_0.05"].loc[planted].all()
    assert len(set(table.index[:PLANTED]) & set(planted)) > 50
    assert (table["effect_size"].loc[planted[:30]] > 0).all()  # A less B
    assert (table["effect_size"].loc[planted[30:]] < 0).all()
    assert (table["effect"] == effect).all()
    assert table.attrs["effect"] == effect
    assert {"lfc_median", "lfc_std"} <= set(table) if effect == "log2fc" else "lfc_median" not in table


@pytest.mark.parametrize(("name", "effect"), EFFECTS)
def test_random_halves_give_no_calls(models, atac, name, effect):
    """Each half holds both types: pairs of cells differ much, in both directions alike."""
    table = sd.differential_accessibility(models[name], atac, "half", "left", "right", effect=effect, verbose=False)
    assert table["is_da_fdr_0.05"].mean() < 0.05
    calibration = sd.calibration(table)
    assert calibration["n_called_permuted"].item() < 0.05 * calibration["n_tested"].item()


def test_columns_are_those_of_the_counts_and_of_the_model(models, atac):
    table = sd.differential_accessibility(models["peakvi"], atac, "kind", "A", "B", verbose=False)
    seen = pd.DataFrame((atac.X > 0).toarray(), atac.obs_names, atac.var_names).groupby(atac.obs["kind"]).mean()
    assert np.allclose(table["emp_prob1"], seen.loc["A", table.index])
    assert np.allclose(table["emp_effect"], (seen.loc["A"] - seen.loc["B"])[table.index])
    assert np.allclose(table["effect_size"], table["est_prob1"] - table["est_prob2"])
    assert (table["delta"] == 0.05).all()
    mean = sd.normalized_accessibility(models["peakvi"], atac).groupby(atac.obs["kind"].to_numpy()).mean()
    assert np.abs(table["est_prob1"] - mean.loc["A", table.index]).max() < 0.05  # means over draws


def test_several_groups_are_told_apart(models, atac):
    table = sd.differential_accessibility(models["peakvi"], atac, "kind", verbose=False, n_draws=200)
    assert list(dict.fromkeys(table["comparison"])) == ["A vs Rest", "B vs Rest"]
    assert set(table["group1"]) == {"A", "B"}


def test_the_default_effect_is_that_of_the_unit(models, atac, capsys):
    for name, effect in (("peakvi", "difference"), ("poissonvi", "log2fc")):
        table = sd.differential_accessibility(models[name], atac, "kind", "A", "B", n_draws=200)
        assert table.attrs["effect"] == effect
        assert_named(capsys.readouterr().out, effect, "peaks")


def test_a_difference_of_shares_is_refused(models, atac):
    with pytest.raises(OptionError, match=named("'poissonvi'", "'log2fc'")):
        sd.differential_accessibility(models["poissonvi"], atac, "kind", effect="difference")
    with pytest.raises(OptionError, match=named("effect='fold'")):
        sd.differential_accessibility(models["peakvi"], atac, "kind", effect="fold")


def test_depths_are_those_planted(models, atac):
    found = sd.cell_factors(models["peakvi"], atac)
    assert list(found.index) == list(atac.obs_names)
    assert found.between(0, 1).all()
    assert np.corrcoef(found, atac.obs["depth"])[0, 1] > 0.85
    assert np.allclose(sd.cell_factors(models["poissonvi"], atac), np.asarray(atac.X.sum(1)).ravel())


def test_what_is_expected_to_be_seen_is_what_is_seen(models, atac):
    """With both factors: of PeakVI the open peaks of each cell, of PoissonVI its fragments."""
    seen = sd.normalized_accessibility(models["peakvi"], atac, normalize_cells=True, normalize_regions=True)
    assert np.corrcoef(seen.mean(0), (atac.X > 0).toarray().mean(0))[0, 1] > 0.95
    assert np.corrcoef(seen.sum(1), (atac.X > 0).toarray().sum(1))[0, 1] > 0.9
    seen = sd.normalized_accessibility(models["poissonvi"], atac, normalize_cells=True, normalize_regions=True)
    assert np.allclose(seen.sum(1), atac.X.toarray().sum(1), rtol=1e-4)


def test_factors_of_regions(models, atac):
    peakvi, poissonvi = models["peakvi"], models["poissonvi"]
    assert sd.region_factors(peakvi).between(0, 1).all()
    assert list(sd.region_factors(poissonvi).index) == list(atac.var_names)
    with torch.no_grad():
        assert np.allclose(sd.region_factors(poissonvi), poissonvi.module.scvi.share.bias)
    plain = sd.normalized_accessibility(peakvi, atac)
    scaled = sd.normalized_accessibility(peakvi, atac, normalize_regions=True)
    assert np.allclose(scaled, plain * sd.region_factors(peakvi))
    free, whole = (sd.normalized_accessibility(poissonvi, atac, normalize_regions=r) for r in (False, True))
    expected = whole / np.exp(sd.region_factors(poissonvi))
    assert np.allclose(free, expected.div(expected.sum(1), axis=0), rtol=1e-4)


def test_a_threshold_gives_a_sparse_matrix_and_peaks_can_be_chosen(models, atac):
    some = names_of(7)[::-1]
    chosen = sd.normalized_accessibility(models["peakvi"], atac, region_list=some, transform_batch="x")
    assert list(chosen.columns) == some
    sparse = sd.normalized_accessibility(models["peakvi"], atac, region_list=some, transform_batch="x", threshold=0.5)
    assert np.array_equal(sparse.toarray(), chosen.where(chosen >= 0.5, 0).to_numpy())
    both = [sd.normalized_accessibility(models["peakvi"], atac, transform_batch=b) for b in ("x", "y")]
    mean = sd.normalized_accessibility(models["peakvi"], atac, transform_batch=["x", "y"])
    assert np.allclose(mean, (both[0] + both[1]) / 2, atol=1e-6)
    with pytest.raises(OptionError, match=named("threshold=2")):
        sd.normalized_accessibility(models["peakvi"], atac, threshold=2)


def test_a_model_of_genes_has_no_accessibility(counts):
    model = sd.fit(counts, "scvi", max_epochs=1, callback=lambda event: None)
    for function in (sd.normalized_accessibility, sd.region_factors, sd.cell_factors):
        with pytest.raises(OptionError, match=named("'scvi'", "peakvi")):
            function(model)


def as_reads(atac):
    """Each fragment has two ends; of one in ten only one lies in the peak."""
    reads = atac.copy()
    alone = np.random.default_rng(0).random(reads.X.nnz) < 0.1
    reads.X.data = 2 * reads.X.data - alone
    return reads


def test_reads_become_fragments(atac):
    reads = as_reads(atac)
    before = reads.X.copy()
    sd.reads_to_fragments(reads)
    assert (reads.layers["fragments"] != atac.X).nnz == 0
    assert (before != reads.X).nnz == 0
    reads.layers["counts"] = reads.X.toarray()
    sd.reads_to_fragments(reads, read_layer="counts", fragment_layer="half")
    assert (reads.layers["half"] != atac.X).nnz == 0
    with pytest.raises(DataError, match=named("layers['fragments']")):
        sd.reads_to_fragments(reads, read_layer="fragments")
    with pytest.raises(DataError, match=named("'missing'")):
        sd.reads_to_fragments(reads, read_layer="missing")


def test_poissonvi_refuses_reads_and_what_is_binary(atac):
    with pytest.raises(DataError, match=named("reads", "scduet.reads_to_fragments")):
        sd.fit(as_reads(atac), "poissonvi", max_epochs=1)
    binary = atac.copy()
    binary.X.data[:] = 1
    with pytest.raises(DataError, match=named("'poissonvi'", "'peakvi'")):
        sd.fit(binary, "poissonvi", max_epochs=1)


def test_a_cell_without_open_peaks_is_named(atac):
    empty = atac.copy()
    empty.X.data[empty.X.indptr[3] : empty.X.indptr[4]] = 0
    with pytest.raises(DataError, match=named("cell3")):
        sd.fit(empty, "peakvi", max_epochs=1)


def test_a_query_with_other_peaks_is_told(models, atac):
    other = atac.copy()
    other.var_names = [name.replace("chr1", "chr2") for name in other.var_names]
    with pytest.raises(DataError, match=named("chr1:0-500")):
        models["peakvi"].embed(other)
    subset = atac[:, ::-1].copy()
    assert np.allclose(models["peakvi"].embed(subset), models["peakvi"].embed(atac), atol=1e-5)


@pytest.mark.parametrize("name", ["peakvi", "poissonvi"])
def test_one_cell_can_be_trained_on(atac, name):
    """Thirty thousand peaks of a single cell: a warning that there is little to learn, and a finite embedding."""
    draw = np.random.default_rng(0)
    x = sp.random(1, 30_000, 0.03, format="csr", dtype=np.float32, random_state=0)
    x.data[:] = draw.choice([1, 1, 2, 3], x.nnz)
    one = anndata.AnnData(x, var=pd.DataFrame(index=names_of(30_000)))
    with pytest.warns(ScduetWarning, match=named("1")):
        model = sd.fit(one, name, max_epochs=2, train_size=1.0)
    assert np.isfinite(model.embed()).all()
    assert model.embed().shape == (1, 13)
