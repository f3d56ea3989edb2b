"""MultiVI: cells that lack modalities, what it imputes, queries, containers, and input that it refuses."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from multimodal_toys import SIZES, TYPE, N, mosaic, parts, rates
from named import named

import scduet as sd
from scduet.contract import SparseRows, Step
from scduet.data import on_disk
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.models.multimodal.multivi_measured import code_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
OPTIONS = {"peaks_key": "atac", "protein_key": "prot", "batch_key": "batch", "n_hidden": 32, "n_latent": 4}
OPTIONS |= {"gene_likelihood": "nb"}
QUIET = {"callback": lambda event: None}


def one_batch(model, data):
    return next(iter(minibatches(model.encode(data), sequential(N), N)))


@pytest.fixture(scope="module")
def data():
    return mosaic()


@pytest.fixture(scope="module")
def model(data):
    options = {"max_epochs": 150, "batch_size": 48, "lr": 0.01, "early_stopping": False}
    return sd.fit(data, "multivi", **options, **OPTIONS, **QUIET)


def test_a_cell_with_one_modality_has_its_expert_and_others_the_mixture(model, data):
    cells = one_batch(model, data)
    mean, variance = model.module.posterior(cells)
    experts = model.module._experts(model.module._parts(cells))
    alone = {"rna": [], "peaks": slice(180, 240)}
    for name, rows in alone.items():
        torch.testing.assert_close(mean[rows], experts[name][0][rows])
        torch.testing.assert_close(variance[rows], experts[name][1][rows])
    draws = torch.stack([m + v.sqrt() * torch.randn(4000, *m.shape) for m, v in experts.values()])[:, :, 60:120]
    torch.testing.assert_close(mean[60:120], draws.mean((0, 1)), atol=0.1, rtol=0.1)
    torch.testing.assert_close(variance[60:120], draws.var((0, 1)), atol=0.1, rtol=0.1)


def test_the_penalty_is_the_divergence_of_the_pairs_that_a_cell_has(model, data):
    cells = one_batch(model, data)
    experts = model.module._experts(model.module._parts(cells))
    normals = {name: torch.distributions.Normal(m, v.sqrt()) for name, (m, v) in experts.items()}

    def between(a, b):
        kl = torch.distributions.kl_divergence
        return (kl(normals[a], normals[b]) + kl(normals[b], normals[a])).sum(1)

    found = model.module._terms(cells)[0]["penalty"]
    assert (found[180:] == 0).all()
    torch.testing.assert_close(found[:60], between("rna", "protein")[:60], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[120:180], between("rna", "peaks")[120:180], rtol=1e-4, atol=1e-4)
    three = between("rna", "peaks") + between("rna", "protein") + between("peaks", "protein")
    torch.testing.assert_close(found[60:120], three[60:120], rtol=1e-4, atol=1e-4)


def test_the_adversary_tells_what_was_measured(model, data):
    cells = one_batch(model, data)
    expected = np.repeat([1 + 4, 1 + 2 + 4, 1 + 2, 2], 60)
    assert np.array_equal(code_of(model.module._parts(cells)).numpy(), expected)
    assert model.module.adversary.logits.out_features == 4
    assert np.array_equal(np.flatnonzero(model.reference.arrays["cells_measured"]), np.unique(expected))
    paired = mosaic({name: slice(0, N) for name in SIZES})
    assert sd.fit(paired, "multivi", max_epochs=1, **OPTIONS, **QUIET).module.adversary is None
    names = [player if isinstance(player, str) else player.name for player in model.module.players]
    assert names == ["model", "adversary"]


def test_what_was_not_measured_counts_nothing(model, data):
    terms = model.module.cell_terms(one_batch(model, data))
    assert (terms["reconstruction"][180:] == 0).all()
    assert (terms["reconstruction_peaks"][:60] == 0).all()
    assert (terms["reconstruction_protein"][120:] == 0).all()
    assert (terms["kl_background"][120:] == 0).all()
    assert all((terms["reconstruction_peaks"][60:] > 0).tolist())


@pytest.mark.parametrize(
    ("modality", "part", "rows"), [("peaks", "atac", slice(0, 60)), ("rna", "rna", slice(180, 240))]
)
def test_what_was_not_measured_is_imputed(model, data, modality, part, rows):
    """Closer to the rates of the cell's type than those of the mean cell are, in both cases by Pearson's r."""
    if modality == "peaks":
        found, truth = sd.normalized_accessibility(model, data), 1 - np.exp(-rates()[part])
    else:
        found, truth = sd.normalized_expression(model, data, n_samples=10), rates()[part]
    found, truth = found.to_numpy()[rows, 1:], truth[TYPE[rows], 1:]
    r = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(found, truth, strict=True)])
    of_mean = np.mean([np.corrcoef(truth.mean(0), b)[0, 1] for b in truth])
    assert r > of_mean + 0.1
    assert r > 0.8


def test_proteins_beyond_background(model, data):
    found = sd.protein_foreground(model, data, n_samples=5)
    assert found.shape == (N, 6)
    assert ((found > 0) & (found < 1)).all(axis=None)
    expected = sd.normalized_expression(model, data, modality="protein", include_protein_background=True, n_samples=20)
    r = np.corrcoef(np.log(expected.to_numpy()[120:, 1:].ravel()), np.log(rates()["prot"][TYPE[120:], 1:].ravel()))
    assert r[0, 1] > 0.8


def test_every_container_gives_the_same_numbers(model, data):
    """Cells that are not in a modality, and rows of zeros; other orders of cells and of peaks."""
    expected = model.embed(data)
    absent = sp.vstack([sp.csr_matrix((60, 150), dtype=np.float32), data.mod["atac"].X], "csr")
    rna = sp.vstack([data.mod["rna"].X, sp.csr_matrix((60, 40), dtype=np.float32)], "csr")
    proteins = np.vstack([data.mod["prot"].X.toarray(), np.full((120, 6), np.nan, np.float32)])
    kinds = ["Gene Expression"] * 40 + ["Peaks"] * 150
    names = [*data.mod["rna"].var_names, *data.mod["atac"].var_names]
    flat = anndata.AnnData(
        sp.hstack([rna, absent], "csr"), data.obs.copy(), pd.DataFrame({"feature_types": kinds}, names)
    )
    flat.obsm["prot"] = pd.DataFrame(proteins, flat.obs_names, data.mod["prot"].var_names)
    again = sd.fit(flat, "multivi", max_epochs=1, **{**OPTIONS, "peaks_key": "Peaks"}, **QUIET)
    assert again.genes == model.genes
    assert again.schema.features == model.schema.features
    again.module.load_state_dict(model.module.state_dict())
    np.testing.assert_allclose(again.embed(flat), expected, atol=1e-5)
    mixed = {"prot": data.mod["prot"], "atac": data.mod["atac"][::-1, ::-1], "rna": data.mod["rna"]}
    shuffled = mudata.MuData({name: part.copy() for name, part in mixed.items()})
    shuffled = shuffled[np.random.default_rng(0).permutation(N)].copy()
    shuffled.obs["batch"] = data.obs["batch"]
    place = data.obs_names.get_indexer(shuffled.obs_names)
    assert (place != np.arange(N)).any()
    np.testing.assert_allclose(model.embed(shuffled), expected[place], atol=1e-5)


def test_a_file_of_modalities_with_different_cells_is_read_while_it_trains(model, data, tmp_path, monkeypatch):
    """The same cells are held out, with the same loss, and have the same states as in memory."""
    monkeypatch.setattr(on_disk.FileSource, "entries_at_once", 2000)
    data.write_h5mu(path := tmp_path / "cells.h5mu")
    options = {"max_epochs": 1, "lr": 1e-12, "batch_size": 48, **OPTIONS, **QUIET}
    there, here = (sd.fit(cells, "multivi", **options) for cells in (path, data))
    for name, loss in here.history.iloc[-1].items():
        if name.endswith("validation"):
            assert there.history.iloc[-1][name] == pytest.approx(loss, rel=0.05)
    there.module.load_state_dict(model.module.state_dict())
    np.testing.assert_allclose(there.embed(), model.embed(data), atol=1e-5)
    np.testing.assert_allclose(model.embed(path, modality="peaks"), model.embed(data, modality="peaks"), atol=1e-5)
    for task in (sd.normalized_accessibility, sd.cell_factors, sd.protein_foreground):
        found, expected = task(model, path), task(model, data)
        assert found.index.equals(expected.index)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_queries_of_one_modality_and_new_batches(model, data):
    whole = parts({name: slice(180, 240) if name == "atac" else slice(60, 120) for name in SIZES})
    peaks, genes = mudata.MuData({"atac": whole["atac"]}), whole["rna"]
    peaks.obs["batch"], genes.obs["batch"] = "new", "a"
    with pytest.warns(ScduetWarning, match=named("matrix")):
        mapped = sd.map_query(peaks, model, max_epochs=2, **QUIET)
    assert mapped.schema.levels["batch"] == ("a", "b", "new")
    expected = model.embed(data, modality="peaks")[180:]
    np.testing.assert_allclose(peaks.obsm["X_multivi"], expected, atol=1e-5)
    assert np.array_equal(mapped.embed(data), model.embed(data))
    with pytest.warns(ScduetWarning, match=named("peaks_key")):
        sd.map_query(genes, model, **QUIET)
    np.testing.assert_allclose(genes.obsm["X_multivi"], model.embed(data, modality="rna")[60:120], atol=1e-5)


def test_a_minified_copy_gives_the_same_numbers(model, data):
    small = sd.minify(model, data)
    for draw in (sd.normalized_expression, sd.normalized_accessibility):
        np.testing.assert_allclose(draw(model, small), draw(model, data), atol=1e-5)
    same = {"modality": "protein", "n_samples": 2}
    expected = sd.normalized_expression(model, data, **same)
    np.testing.assert_allclose(sd.normalized_expression(model, small, **same), expected, rtol=1e-3)


def test_differential_accessibility_counts_the_cells_with_peaks(model, data):
    found = sd.differential_accessibility(model, data, "type", "t0", "t1", min_pct=0, verbose=False)
    opened, type_ = data.mod["atac"].X.toarray() > 0, TYPE[60:]
    shares = [pd.Series(opened[type_ == i].mean(0), data.mod["atac"].var_names) for i in (0, 1)]
    np.testing.assert_allclose(found["emp_prob1"], shares[0][found.index], rtol=1e-6)
    np.testing.assert_allclose(found["emp_prob2"], shares[1][found.index], rtol=1e-6)
    calls = found.index[found["is_da_fdr_0.05"]]
    truth = 1 - np.exp(-rates()["atac"])
    difference = pd.Series(truth[0] - truth[1], data.mod["atac"].var_names)
    assert len(calls) > 20
    assert (np.sign(found.loc[calls, "effect_size"]) == np.sign(difference[calls])).mean() > 0.9


@pytest.mark.parametrize("rows", [slice(0, N), slice(60, N)], ids=["mosaic", "all with peaks"])
def test_peaks_are_never_written_out_in_training(rows, data, monkeypatch):
    plain = SparseRows.dense

    def refused(self, *values):
        assert self.shape[1] < 150
        return plain(self, *values)

    monkeypatch.setattr(SparseRows, "dense", refused)
    monkeypatch.setattr("scduet.nn.layers.to_dense", refused)
    sd.fit(data[rows].copy(), "multivi", max_epochs=1, **OPTIONS, **QUIET)


def test_a_minibatch_in_which_a_modality_is_nowhere_gives_every_weight_a_gradient(model, data):
    cells = next(iter(minibatches(model.encode(data), np.arange(180, 200), 20)))
    model.module.zero_grad()
    model.module(cells, Step()).total.backward()
    weights = {name: p for name, p in model.module.named_parameters() if not name.startswith("adversary.")}
    assert [name for name, p in weights.items() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in weights.values())
    assert not model.module.rna.share.weight.grad.any()
    model.module.zero_grad()


def without(data, cell, modalities):
    bad = data.copy()
    for name in modalities:
        if cell in bad.mod[name].obs_names:
            row = bad.mod[name].obs_names.get_loc(cell)
            bad.mod[name].X = sp.csr_matrix(
                bad.mod[name].X.toarray() * (np.arange(bad.mod[name].n_obs) != row)[:, None]
            )
    return bad


def test_a_cell_with_nothing_is_refused_or_gets_the_prior(model, data):
    empty, rest = without(data, "c70", SIZES), without(data, "c70", ["rna", "prot"])
    with pytest.raises(DataError, match=named("'c70'")):
        sd.fit(empty, "multivi", max_epochs=1, **OPTIONS, **QUIET)
    with pytest.raises(DataError, match=named("'c70'")):
        model.embed(empty)
    assert np.isfinite(model.embed(rest)).all()
    allowed = sd.fit(empty, "multivi", max_epochs=1, allow_empty_cells=True, **OPTIONS, **QUIET)
    cells = one_batch(allowed, empty)
    mean, variance = allowed.module.posterior(cells)
    assert torch.equal(mean[70], torch.zeros(4))
    assert torch.equal(variance[70], torch.ones(4))


def test_cells_that_do_not_fit_are_refused(model, data):
    other = data.copy()
    other.mod["atac"].var_names = [f"chr2:{100 * i}-{100 * i + 90}" for i in range(150)]
    with pytest.raises(DataError, match=named("chr1:0-90")):
        model.embed(other)
    with pytest.raises(DataError, match=named("fully_paired", "120")):
        sd.fit(data, "multivi", fully_paired=True, max_epochs=1, **OPTIONS, **QUIET)
    with pytest.raises(OptionError, match=named("peaks_key", "'atac'")):
        sd.fit(data, "multivi", max_epochs=1)
    by_cell = sd.fit(data, "multivi", modality_weights="cell", max_epochs=1, **OPTIONS, **QUIET)
    assert by_cell.module.mixture.log_weight.shape == (N, 3)
    with pytest.raises(DataError):
        by_cell.embed(data[:100].copy())


def test_which_embeddings_there_are(model, data):
    found = model.embed(data, modality="protein")
    assert np.array_equal(np.isnan(found).any(1), np.arange(N) >= 120)
    with pytest.raises(OptionError, match=named("'atac'", "'peaks'")):
        model.embed(data, modality="atac")
    rna = sd.fit(data.mod["rna"], "scvi", max_epochs=1, n_hidden=4, **QUIET)
    with pytest.raises(OptionError, match=named("'scvi'", "modality")):
        rna.embed(modality="rna")
    alone = {k: v for k, v in OPTIONS.items() if k != "protein_key"}
    two = sd.fit(data[:, :].copy(), "multivi", max_epochs=1, **alone, **QUIET)
    assert two.module.modalities == ("rna", "peaks")
    with pytest.raises(OptionError, match=named("'protein'")):
        sd.protein_foreground(two)
