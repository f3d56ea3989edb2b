"""What a new model needs is its own file and row: two toys pass through every part without an edit of shared code.

ToyCiteSeq reads proteins beside the counts, some not measured; ToyMasked reads dense values and gene sets and has a
critic as second player.
"""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from contract.toys.masked import LIMIT
from named import named

import scduet as sd
from scduet.cli import main
from scduet.contract import Step
from scduet.data.sources import gathered
from scduet.errors import DataError, FormatError, OptionError, ScduetWarning
from scduet.models import MODELS
from scduet.tasks.posterior.likelihoods import terms_of_cells
from scduet.train import resume

pytestmark = pytest.mark.usefixtures("toys")
KILLED = Path(__file__).parent / "toys" / "killed.py"
OPTIONS = {
    "toy_citeseq": {"protein_key": "prot", "batch_key": "batch", "n_latent": 4},
    "toy_masked": {"mask_key": "programs", "batch_key": "batch", "layer": "logged"},
}
TOYS = list(OPTIONS)


@pytest.fixture
def data(cite):
    cite.layers["logged"] = cite.X.log1p()
    return cite


def fitted(adata, model, **options):
    return sd.fit(adata, model, **{**OPTIONS[model], "max_epochs": 4, "batch_size": 32, **options})


def rows_of(model, name, adata=None):
    return model.map(lambda cells: cells.extra[name], adata).numpy()


@pytest.mark.parametrize("model", TOYS)
def test_it_learns(data, model):
    history = fitted(data, model, max_epochs=15).history
    assert history["loss_train"].iloc[-1] < 0.9 * history["loss_train"].iloc[0]


def test_proteins_are_learned_where_they_were_measured(data):
    """Predicted and measured proteins go together."""
    model = fitted(data, "toy_citeseq", max_epochs=60)
    module = model.module
    rate = model.map(lambda cells: module.protein(module.embed(cells)).exp() * module.background).numpy()
    proteins = data.obsm["prot"].to_numpy()
    seen = ~np.isnan(proteins)
    pairs = [(rate[seen[:, i], i], proteins[seen[:, i], i]) for i in range(5)]
    assert np.mean([np.corrcoef(np.log1p(pair))[0, 1] for pair in pairs]) > 0.4


def test_the_model_decides_what_its_recipe_leaves_open(data):
    model = fitted(data, "toy_citeseq")
    assert model.training.lr == 4e-3
    steps = 6  # minibatches of 32 for 180 training cells
    assert model.history["kl_weight"].tolist() == [min(1, steps * epoch / 50) for epoch in range(4)]
    assert fitted(data, "toy_citeseq", lr=1e-2).training.lr == 1e-2
    by_epochs = fitted(data, "toy_citeseq", kl_warmup_epochs=2)
    assert by_epochs.history["kl_weight"].tolist() == [0, 0.5, 1, 1]
    with pytest.raises(OptionError, match="kl_warmup_steps"):
        fitted(data, "toy_citeseq", kl_warmup_epochs=2, kl_warmup_steps=3)


def test_the_loss_is_that_of_the_first_player_and_the_second_reports_its_own(data):
    model = fitted(data, "toy_masked", max_epochs=6)
    row = model.history.iloc[-1]
    assert {"loss_train", "reconstruction_train", "critic_loss_train", "entropy_train"} <= set(row.index)
    assert row["critic_loss_train"] == pytest.approx(row["entropy_train"])
    assert row["loss_train"] != row["critic_loss_train"]
    assert {name for name in row.index if name.endswith("_validation")} == {
        "loss_validation",
        "reconstruction_validation",
    }
    assert model.module.critic.weight.abs().max() <= LIMIT
    assert row["lr"] == pytest.approx(model.history["lr"].iloc[0] * 0.07, rel=0.5)


def test_minibatches_hold_equal_numbers_of_each_batch(data):
    data.obs["batch"] = np.where(np.arange(200) < 20, "few", "many")
    seen = []

    def note(module, arguments):
        seen.append(torch.bincount(arguments[0].batch).tolist())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: note(module, given) if hasattr(module, "critic") and module.training else None
    )
    try:
        fitted(data, "toy_masked", max_epochs=1)
    finally:
        handle.remove()
    assert {tuple(numbers) for numbers in seen} == {(16, 16)}


@pytest.mark.parametrize("model", TOYS)
def test_early_stopping_keeps_the_best_weights(data, model):
    options = {"early_stopping": True, "early_stopping_patience": 2, "max_epochs": 60, "lr": 0.2}
    trained = fitted(data, model, **options)
    losses = trained.history["loss_validation"]
    assert trained.outcome.best_epoch == losses.idxmin()
    assert len(losses) < 60


@pytest.mark.parametrize("model", TOYS)
def test_a_run_that_is_killed_goes_on_to_the_same_bits(data, model, tmp_path, monkeypatch):
    """kill -9 when three of eight epochs are kept."""
    data.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr(resume, "SECONDS_BETWEEN", 0.0)
    arguments = [sys.executable, str(KILLED), model, json.dumps(OPTIONS[model]), str(tmp_path)]
    killed = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
    assert (killed.returncode, killed.stdout.split()) == (-9, ["1", "2", "3"])
    epochs, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)  # as there: bits are promised for one number of threads
    try:
        resumed, whole = (
            fitted(
                data,
                model,
                max_epochs=8,
                checkpoint=tmp_path / folder,
                callback=lambda event: epochs.append(event.done) if event.kind == "progress" else None,
            )
            for folder in ("run", "whole")
        )
    finally:
        torch.set_num_threads(threads)
    assert epochs == [4, 5, 6, 7, 8, *range(1, 9)]
    assert np.array_equal(resumed.embed(), whole.embed())


@pytest.mark.parametrize(("model", "change"), [("toy_citeseq", "prot"), ("toy_masked", "programs")])
def test_a_run_does_not_go_on_with_another_input(data, model, change, tmp_path):
    fitted(data, model, checkpoint=tmp_path / "run", max_epochs=2)
    table = data.obsm if change in data.obsm else data.varm
    table[change] = table[change].fillna(0) * (0 if change == "programs" else 2)
    with pytest.raises(FormatError, match=named("training.safetensors")):
        fitted(data, model, checkpoint=tmp_path / "run", max_epochs=2)


@pytest.mark.parametrize("model", TOYS)
def test_saved_and_loaded(data, model, tmp_path):
    trained = fitted(data, model)
    trained.save(tmp_path / "model")
    loaded = sd.load(tmp_path / "model")
    assert np.array_equal(loaded.embed(data), trained.embed())
    assert loaded.schema == trained.schema
    assert loaded.reference.n_extra == trained.reference.n_extra
    for name, values in trained.reference.arrays.items():
        assert np.array_equal(loaded.reference.arrays[name], values)
    del data.varm["programs"]  # the model has its own copy
    assert np.array_equal(loaded.embed(data), trained.embed())


def test_a_file_of_a_newer_version_is_refused(data, tmp_path):
    fitted(data, "toy_citeseq").save(tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "scduet.json").read_text())
    places = [("schema",), ("schema", "fields"), ("schema", "inputs", "protein"), ("reference",), ("config",)]
    for place in [*places, ("training",), ("outcome",)]:
        newer = json.loads(json.dumps(manifest))
        entry = newer
        for key in place:
            entry = entry[key]
        entry["from_the_future"] = 1
        (tmp_path / "model" / "scduet.json").write_text(json.dumps(newer))
        with pytest.raises(FormatError, match="from_the_future"):
            sd.load(tmp_path / "model")


def test_columns_of_new_cells_are_put_in_order_by_name(data):
    model, proteins = fitted(data, "toy_citeseq"), data.obsm["prot"]
    data.obsm["prot"] = proteins[["CD3", "CD0", "CD4", "CD2", "CD1"]].assign(more=1.0)
    assert np.array_equal(rows_of(model, "protein", data), rows_of(model, "protein"), equal_nan=True)
    data.obsm["prot"] = proteins.drop(columns="CD2")
    assert np.isnan(rows_of(model, "protein", data)[:, 2]).all()
    data.obsm["prot"] = proteins.to_numpy()  # unnamed: the number must be the same
    assert np.array_equal(rows_of(model, "protein", data), rows_of(model, "protein"), equal_nan=True)
    data.obsm["prot"] = proteins.to_numpy()[:, :4]
    with pytest.raises(DataError, match="4 columns"):
        model.embed(data)


def test_a_query_is_mapped_with_its_proteins_or_without(data):
    model, query = fitted(data, "toy_citeseq"), data[:90].copy()
    query.obs["batch"] = "new"
    mapped = sd.map_query(query, model, max_epochs=2)
    assert mapped.schema.levels["batch"] == ("b0", "b1", "new")
    assert np.array_equal(rows_of(mapped, "protein"), data.obsm["prot"].to_numpy()[:90], equal_nan=True)
    assert np.array_equal(mapped.embed(data), model.embed())
    assert np.array_equal(query.obsm["X_toyCiteSeq"], mapped.embed())
    del query.obsm["prot"]
    with pytest.warns(ScduetWarning, match="protein_key"):
        without = sd.map_query(query, model, train=False)
    assert np.isnan(rows_of(without, "protein")).all()


def test_a_prepared_query_keeps_its_proteins(data):
    model = fitted(data, "toy_citeseq")
    prepared = sd.prepare_query(data[:50].copy(), model)
    assert np.array_equal(rows_of(model, "protein", prepared), rows_of(model, "protein")[:50], equal_nan=True)


def test_annotating_joins_the_proteins_of_reference_and_query(data):
    seen = []
    query, reference = data[:80].copy(), data[80:].copy()
    query.obsm["prot"] = query.obsm["prot"][["CD4", "CD1", "CD0", "CD2"]]
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: (
            seen.append((given[0].index, given[0].extra["protein"])) if hasattr(module, "protein") else None
        )
    )
    try:
        options = {"protein_key": "prot", "n_latent": 4, "max_epochs": 30, "batch_size": 32}
        table = sd.annotate(query, reference, "cell_type", "toy_citeseq", **options)
    finally:
        hook.remove()
    found = torch.full((200, 5), -1.0)
    for index, proteins in seen:
        found[index] = proteins
    expected = pd.concat([reference.obsm["prot"], query.obsm["prot"].reindex(columns=reference.obsm["prot"].columns)])
    assert np.array_equal(found.numpy(), expected.to_numpy(), equal_nan=True)
    assert table.loc["toy_citeseq", "accuracy"] > 0.6
    assert (query.obs["predicted"] == data.obs["cell_type"][:80]).mean() > 0.6


def test_minified_cells_keep_their_proteins(data):
    model = fitted(data, "toy_citeseq")
    small = sd.minify(model, data)
    assert small.X.nnz == 0
    assert np.array_equal(rows_of_small(model, small), data.obsm["prot"].to_numpy(), equal_nan=True)
    whole, kept = (sd.normalized_expression(model, cells, seed=0) for cells in (data, small))
    np.testing.assert_allclose(kept, whole, rtol=1e-4)


def test_every_analysis_takes_another_modality(data):
    """Against the module's own rate at the posterior mean, and the proteins, of which batch b0 lacks two."""
    model, proteins = fitted(data, "toy_citeseq", max_epochs=60), data.obsm["prot"]
    module, draws = model.module, {"modality": "protein", "n_samples": 50}
    names = list(proteins.columns)
    mean = sd.normalized_expression(model, data, **draws)
    assert mean.columns.tolist() == names
    rate = model.map(lambda cells: module._proteins(module.embed(cells)).rate).numpy()
    assert np.corrcoef(np.log(mean.to_numpy().ravel()), np.log(rate.ravel()))[0, 1] > 0.97
    np.testing.assert_allclose(sd.likelihood_parameters(model, data, **draws)["mean"], mean, rtol=1e-4)
    assert np.array_equal(sd.normalized_expression(model, data, gene_list=["CD3"], **draws)["CD3"], mean["CD3"])
    drawn = np.mean([d.toarray() for d in sd.posterior_predictive_sample(model, data, **draws)], axis=0)
    np.testing.assert_allclose(drawn.mean(0), mean.mean(0), rtol=0.05)
    state = np.repeat(model.embed(data)[:1], 5000, axis=0)
    expected = sd.decode_states(model, state[:1], modality="protein")
    assert expected.columns.tolist() == names
    np.testing.assert_allclose(expected.iloc[0], rate[0], rtol=1e-4)
    np.testing.assert_allclose(sd.sample_states(model, state, 1.0, modality="protein").mean(0).A1, rate[0], rtol=0.1)
    check = sd.posterior_predictive_check(model, data, modality="protein")
    assert check.loc["mean", "correlation"] == pytest.approx(1)  # of five proteins, in order
    assert check.loc["mean", "error"] < 0.1 * np.nanmean(proteins)
    assert np.isfinite(sd.feature_correlation(model, data, n_samples=1)).all(axis=None)
    with pytest.raises(OptionError, match="NB"):
        sd.feature_correlation(model, data, modality="protein")
    small = sd.minify(model, data)
    np.testing.assert_allclose(sd.normalized_expression(model, small, **draws), mean, rtol=1e-4)


def test_likelihoods_leave_out_what_was_not_measured(data):
    model, proteins = fitted(data, "toy_citeseq", max_epochs=30), data.obsm["prot"].to_numpy()
    seen = ~np.isnan(proteins)
    error = sd.reconstruction_error(model, data, return_mean=False, modality="protein", seed=0)
    terms = terms_of_cells(model, data, seed=0)
    assert np.array_equal(error, terms["reconstruction_protein"])
    assert sd.reconstruction_error(model, data, seed=0) == pytest.approx(terms["reconstruction"].mean())
    each = {name: sd.marginal_log_likelihood(model, data, n_samples=200, modality=name) for name in ("rna", "protein")}
    both = sd.marginal_log_likelihood(model, data, n_samples=200)
    assert np.isfinite(both).all()
    assert both.mean() > sd.elbo(model, data)
    assert both.mean() == pytest.approx(each["rna"].mean() + each["protein"].mean(), rel=0.02)
    changed = data.copy()
    changed.obsm["prot"] = data.obsm["prot"].where(seen & ~seen.all(1)[:, None])  # now no cell has them all
    fewer = sd.marginal_log_likelihood(model, changed, n_samples=200, modality="protein")
    assert abs(np.median(fewer[seen.all(1)])) < 1  # without a measurement p(x) = 1, up to the error of the draws
    assert np.median(fewer[~seen.all(1)]) < -5


def test_groups_differ_in_their_proteins(data):
    model, proteins = fitted(data, "toy_citeseq", max_epochs=60), data.obsm["prot"]
    how = {"groupby": "cell_type", "group1": "T", "group2": "B", "verbose": False}
    table = sd.differential_expression(model, data, modality="protein", **how).loc[proteins.columns]
    means = proteins.groupby(data.obs["cell_type"], observed=True).mean()
    np.testing.assert_allclose(table[["raw_mean1", "raw_mean2"]].T, means.loc[["T", "B"]], rtol=1e-5)
    share = (proteins > 0).where(proteins.notna()).groupby(data.obs["cell_type"], observed=True).mean()
    np.testing.assert_allclose(table["non_zeros_proportion1"], share.loc["T"].astype(float), rtol=1e-5)
    assert np.corrcoef(table["lfc_mean"], np.log2(means.loc["T"] / means.loc["B"]))[0, 1] > 0.8
    by_name = sd.differential_expression(model, data, modality="rna", **how)
    pd.testing.assert_frame_equal(by_name, sd.differential_expression(model, data, **how))


def test_states_are_decoded_with_the_inputs_that_the_decoder_reads(data, monkeypatch):
    monkeypatch.setitem(MODELS, "toy_guided", replace(MODELS["toy_citeseq"], path="contract.toys.citeseq:ToyGuided"))
    model, states = sd.fit(data, "toy_guided", **OPTIONS["toy_citeseq"], max_epochs=1), np.zeros((2, 4))
    decode = partial(sd.decode_states, model, states, modality="protein")
    given = pd.DataFrame(np.arange(10.0).reshape(2, 5), columns=data.obsm["prot"].columns)
    zero = decode(inputs={"protein": np.zeros((2, 5))})
    pd.testing.assert_frame_equal(decode(inputs={"protein": given.iloc[:, ::-1]}) - zero, given, check_dtype=False)
    assert sd.decode_states(model, states).shape == (2, 60)  # the decoder of RNA reads no proteins
    with pytest.raises(DataError, match=named("'protein'", "inputs")):
        decode()
    with pytest.raises(DataError, match=named("inputs['protein']", "(2, 4)", "(2, 5)")):
        decode(inputs={"protein": np.zeros((2, 4))})
    with pytest.raises(OptionError, match=named("'protien'", "'protein'")):
        decode(inputs={"protien": given})
    with pytest.raises(DataError, match=named("'protein'", "inputs")):
        decode(inputs={"protein": given.drop(columns="CD2")})


def test_a_model_knows_what_was_measured_in_each_batch(data, tmp_path):
    data.obsm["prot"].iloc[np.flatnonzero(data.obs["batch"] == "b1")[:10], 0] = np.nan
    model = fitted(data, "toy_citeseq", max_epochs=1)
    expected = data.obsm["prot"].notna().groupby(data.obs["batch"], observed=True).mean()
    np.testing.assert_allclose(model.reference.arrays["protein_measured"], expected, rtol=1e-6)
    query = data[:90].copy()
    query.obs["batch"], query.obsm["prot"] = "new", query.obsm["prot"].drop(columns="CD4")
    found = sd.map_query(query, model, train=False).reference.arrays["protein_measured"]
    np.testing.assert_allclose(found[:2], expected, rtol=1e-6)
    np.testing.assert_allclose(found[2], data.obsm["prot"][:90].notna().assign(CD4=False).mean(), rtol=1e-6)


def test_a_misspelt_modality_names_those_that_are_there(data):
    model, state = fitted(data, "toy_citeseq", max_epochs=1), np.zeros((1, 4))
    calls = [
        sd.normalized_expression,
        sd.posterior_predictive_sample,
        sd.feature_correlation,
        sd.posterior_predictive_check,
    ]
    calls += [sd.likelihood_parameters, sd.reconstruction_error, sd.marginal_log_likelihood]
    calls += [partial(sd.differential_expression, groupby="cell_type")]
    calls = [*(partial(call, model, data) for call in calls), partial(sd.decode_states, model, state)]
    for call in [*calls, partial(sd.sample_states, model, state, 1.0)]:
        with pytest.raises(OptionError, match=named("'protien'", "'rna'", "'protein'")):
            call(modality="protien")
    for option in ({"library_size": 1e4}, {"library_size": "latent"}):
        with pytest.raises(OptionError, match="library_size"):
            sd.normalized_expression(model, data, modality="protein", **option)
    with pytest.raises(DataError, match=named("'CD9'", "'CD0'")):
        sd.normalized_expression(model, data, modality="protein", gene_list=["CD9"])
    with pytest.raises(OptionError, match="total_key"):
        sd.differential_expression(model, data, "cell_type", modality="protein", total_key="x")


def rows_of_small(model, small):
    return gathered(replace(model.schema, expects="lognormal").encode(small).extra["protein"])


@pytest.mark.parametrize("model", TOYS)
def test_on_the_command_line(data, model, tmp_path, capsys):
    data.write_h5ad(tmp_path / "cells.h5ad")
    options = [word for name, value in OPTIONS[model].items() for word in (f"--{name.replace('_', '-')}", str(value))]
    call = [str(tmp_path / "cells.h5ad"), "--model", model, *options, "--max-epochs", "4", "--batch-size", "32"]
    for more in ([], ["--on-disk"]):
        assert main(["fit", *call, "--output", str(tmp_path / "model"), "--overwrite", "-q", *more]) == 0
        assert main(["embed", str(tmp_path / "cells.h5ad"), "--model", str(tmp_path / "model"), "--output",
                     str(tmp_path / "latent.npy"), "--overwrite"]) == 0  # fmt: skip
        if not more:
            assert np.array_equal(np.load(tmp_path / "latent.npy"), fitted(data, model).embed())
    assert main(["fit", "--model", model, "--help"]) == 0
    assert options[0] in capsys.readouterr().out


def test_another_modality_on_the_command_line(data, tmp_path):
    model = fitted(data, "toy_citeseq")
    model.save(tmp_path / "model")
    data.write_h5ad(tmp_path / "cells.h5ad")
    call = [str(tmp_path / "cells.h5ad"), "--model", str(tmp_path / "model"), "--modality", "protein", "--output"]
    assert main(["expression", *call, str(tmp_path / "x.csv")]) == 0
    expected = sd.normalized_expression(model, data, modality="protein")
    found = pd.read_csv(tmp_path / "x.csv", index_col=0)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, check_dtype=False, check_names=False)
    assert main(["de", *call, str(tmp_path / "de.csv"), "--groupby", "cell_type", "--group1", "T"]) == 0
    table = sd.differential_expression(model, data, "cell_type", "T", modality="protein", verbose=False)
    assert pd.read_csv(tmp_path / "de.csv")["gene"].tolist() == table.index.tolist()


def test_gene_sets_from_anywhere_are_the_same(data, tmp_path):
    sets = data.varm["programs"]
    data.uns["sets"] = {name: list(sets.index[sets[name] == 1]) for name in sets}
    lines = [f"{name}\tno description\t" + "\t".join(genes) + "\n" for name, genes in data.uns["sets"].items()]
    (tmp_path / "sets.gmt").write_text("".join(lines))
    sets.to_csv(tmp_path / "sets.csv")
    shuffled = sets.sample(frac=1, random_state=0)
    for place in ("varm/programs", str(tmp_path / "sets.gmt"), tmp_path / "sets.csv", shuffled, "uns/sets"):
        model = fitted(data, "toy_masked", mask_key=place, max_epochs=1)
        assert np.array_equal(model.reference.arrays["mask"], sets.to_numpy())
        assert model.schema.features["mask"] == ("one", "two", "three")


BAD = {
    "misspelt": ("toy_citeseq", {"protein_key": "protien"}, DataError, ["obsm['protien']", "'prot'"]),
    "not given": ("toy_citeseq", {"protein_key": None}, OptionError, ["protein_key", "'prot'"]),
    "no such place": ("toy_citeseq", {"protein_key": "obsm/none"}, DataError, ["obsm['none']", "'prot'"]),
    "no modality": ("toy_citeseq", {"protein_key": "mod/prot"}, DataError, ["'prot'"]),
    "logged": ("toy_citeseq", {"protein_key": "logged"}, DataError, ["obsm['logged']", "protein_key"]),
    "text": ("toy_citeseq", {"protein_key": "text"}, DataError, ["obsm['text']"]),
    "not binary": ("toy_masked", {"mask_key": "weights"}, DataError, ["varm['weights']"]),
    "nan": ("toy_masked", {"mask_key": "holes"}, DataError, ["varm['holes']"]),
    "no file": ("toy_masked", {"mask_key": "nowhere.gmt"}, FormatError, ["nowhere.gmt"]),
    "other genes": ("toy_masked", {"mask_key": pd.DataFrame({"s": [1.0]}, index=["x"])}, DataError, ["'x'"]),
    "few genes": ("toy_masked", {"mask_key": pd.DataFrame({"s": [1.0]}, index=["gene1"])}, DataError, [59]),
    "twice": ("toy_citeseq", {"protein_key": "twice"}, DataError, ["'CD0'"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_training(data, case, tmp_path):
    data.obsm["logged"] = data.obsm["prot"].map(np.log1p)
    data.obsm["text"] = data.obsm["prot"].astype(str).assign(CD0="high")
    data.obsm["twice"] = data.obsm["prot"].set_axis(["CD0", "CD0", "CD1", "CD2", "CD3"], axis=1)
    data.varm["weights"] = data.varm["programs"] * 0.5
    data.varm["holes"] = data.varm["programs"].where(data.var_names.to_series() != "gene3")
    model, options, error, names = BAD[case]
    with pytest.raises(error, match=named(*names)):
        fitted(data, model, checkpoint=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_step_tells_where_training_is(data):
    steps = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: (
            steps.append((given[1], module.training)) if len(given) > 1 and isinstance(given[1], Step) else None
        )
    )
    try:
        fitted(data, "toy_citeseq", max_epochs=2)
    finally:
        handle.remove()
    steps = [step for step, training in steps if training]
    assert [step.number for step in steps] == list(range(12))
    assert [step.progress for step in steps] == pytest.approx([i / 12 for i in range(12)])
    assert {step.player for step in steps} == {"model"}
    assert steps[0].lr == 4e-3
    assert steps[0].generator is steps[5].generator is not steps[6].generator


def test_a_model_stands_on_a_trained_one(data, tmp_path):
    base = sd.fit(data, "scvi", genes=tuple(data.var_names[::-1]), n_hidden=16, n_latent=4, max_epochs=2)
    before = {name: value.clone() for name, value in base.module.state_dict().items()}
    how = {"max_epochs": 3, "batch_size": 32, "checkpoint": tmp_path / "run"}
    model = sd.fit(data, "toy_spots", start=base, **how)
    assert model.genes == base.genes
    assert model.history["loss_train"].iloc[-1] < model.history["loss_train"].iloc[0]
    for module in (base.module, model.module.single_cell):
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    model.save(tmp_path / "model")
    loaded = sd.load(tmp_path / "model")
    assert np.array_equal(loaded.embed(data), model.embed())
    assert np.array_equal(loaded.holds["single_cell"].embed(data), base.embed())
    further = sd.fit(data, "toy_spots", start=loaded, max_epochs=1)  # goes on with the same model below
    assert np.array_equal(further.holds["single_cell"].embed(data), base.embed())
    other = sd.fit(data, "scvi", genes=tuple(base.genes), n_hidden=16, n_latent=4, max_epochs=2, seed=1)
    with pytest.raises(FormatError, match="start single_cell"):
        sd.fit(data, "toy_spots", start=other, **how)
    for wrong in (None, sd.fit(data, "ldvae", max_epochs=1)):
        with pytest.raises(OptionError, match="'scvi'"):
            sd.fit(data, "toy_spots", start=wrong)
