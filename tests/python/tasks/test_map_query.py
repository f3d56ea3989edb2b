"""Mapping a query adds rows to tables and moves nothing else."""

import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import make_counts
from named import named

import scduet as sd
from scduet.capabilities import Decodes, part_with
from scduet.errors import DataError, OptionError, ScduetWarning

ALL = dict(batch_key="batch", categorical_covariate_keys=("site",), labels_key="cell_type", n_latent=5, n_hidden=16)
OPTIONS = [  # every way for a batch to enter a model
    ("scvi", {}),
    ("scvi", {"encode_covariates": True, "n_layers": 2}),
    ("scvi", {"encode_covariates": True, "batch_representation": "embedding", "dispersion": "gene-batch"}),
    ("scvi", {"use_observed_lib_size": False, "encode_covariates": True}),
    ("scanvi", {"encode_covariates": True}),
]


def trained(model="scvi", **options):
    return sd.fit(make_counts(), model, max_epochs=2, recipe="scvi-tools", **{**ALL, **options})


def new_cells(n=90):
    """Cells of two batches and a site that the model has not seen, beside known ones."""
    query = make_counts(n, seed=5)
    query.obs["batch"] = pd.Categorical(np.random.default_rng(0).choice(["b1", "new", "a new one"], n))
    query.obs.loc[query.obs_names[:30], "site"] = "nowhere"
    return query


def expression(model, adata):
    def scale(cells):
        vae = part_with(model.module, Decodes)
        return vae.normalized_expression(vae.transform_latent(vae.posterior(cells)[0]), cells)

    return model.map(scale, adata).numpy()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_the_reference_does_not_move_by_a_bit(name, options, train):
    """Embedding and expression, with categorical covariates too, whose columns scvi-tools mixes up."""
    model, reference, query = trained(name, **options), make_counts(), new_cells()
    before = model.embed(reference), expression(model, reference)
    weights = {key: value.clone() for key, value in model.module.state_dict().items()}
    mapped = sd.map_query(query, model, train=train, max_epochs=3)
    assert np.array_equal(before[0], mapped.embed(reference))
    assert np.array_equal(before[1], expression(mapped, reference))
    assert all(np.array_equal(value, model.module.state_dict()[key]) for key, value in weights.items())
    assert mapped.schema.levels["batch"] == ("b0", "b1", "a new one", "new")
    assert np.array_equal(query.obsm["X_scVI" if name == "scvi" else "X_scANVI"], mapped.embed())


def test_training_changes_the_new_rows_alone():
    model, query = trained(encode_covariates=True), new_cells()
    how = dict(max_epochs=8, lr=0.05, kl_warmup_epochs=0, adam_eps=1e-8, recipe="scvi-tools")
    untrained, mapped = (sd.map_query(query, model, train=train, **how) for train in (False, True))
    for name, value in mapped.module.state_dict().items():
        known = model.module.state_dict()[name]
        before = untrained.module.state_dict()[name]
        assert np.array_equal(value[: len(known)] if value.ndim else value, known)
        assert (value.shape == known.shape) == np.array_equal(value, before)
    assert mapped.history["loss_train"].iloc[-2:].mean() < mapped.history["loss_train"].iloc[:2].mean()


def test_a_covariate_of_one_level_gains_a_table():
    reference, query = make_counts(), make_counts(60, seed=3)
    reference.obs["site"], query.obs["site"] = "here", "there"
    model = sd.fit(reference, "scvi", max_epochs=2, **ALL)
    mapped = sd.map_query(query, model, train=False)
    assert np.array_equal(expression(mapped, reference), expression(model, reference))
    assert mapped.module.decoder.linear[0].covariate["1"].shape == (2, 16)


def test_a_query_of_known_batches_needs_no_change():
    model, query = trained(), make_counts(60, seed=3)
    mapped = sd.map_query(query, model)
    assert mapped.module is model.module
    assert np.array_equal(mapped.embed(), model.embed(query))


def test_a_mapped_model_is_saved_and_maps_again(tmp_path):
    mapped = sd.map_query(new_cells(), trained(), train=False)
    mapped.save(tmp_path / "m")
    loaded = sd.load(tmp_path / "m")
    more = new_cells()
    more.obs["batch"] = "third"
    again = sd.map_query(more, loaded, train=False)
    assert again.schema.levels["batch"] == ("b0", "b1", "a new one", "new", "third")
    assert np.array_equal(again.embed(new_cells()), mapped.embed())


def test_missing_genes_are_zero_up_to_a_limit():
    model, query = trained(), new_cells()
    zeroed = query.copy()
    zeroed.X[:, 50:] = 0
    fewer = query[:, np.random.default_rng(0).permutation(50)].copy()
    with pytest.warns(ScduetWarning, match=named(10, 60, "17%", "'gene50'")):
        found = sd.map_query(fewer, model, train=False).embed()
    assert np.allclose(found, sd.map_query(zeroed, model, train=False).embed(), atol=1e-5)
    with pytest.raises(DataError, match=named(10, 60, "max_missing")):
        sd.map_query(fewer, model, max_missing=0.1)


def test_no_shared_gene_says_where_the_names_are():
    model, query = trained(), new_cells()
    query.var["symbol"] = query.var_names
    query.var_names = [f"ENSG{i:011}" for i in range(60)]
    with pytest.raises(DataError, match=named("var['symbol']", "100%")):
        sd.map_query(query, model)
    with pytest.raises(DataError, match=named(60, "100%", "max_missing")):
        sd.map_query(query[:, :0].copy(), model)


def test_labels_may_be_missing_or_unknown_in_the_query():
    model, query = trained("scanvi"), new_cells()
    with_labels = sd.map_query(query, model, train=False)
    query.obs["cell_type"] = "never heard of"
    assert (sd.map_query(query, model, train=False).cells.label == -1).all()
    del query.obs["cell_type"]
    without = sd.map_query(query, model, train=False)
    assert (without.cells.label == -1).all()
    assert (with_labels.cells.label >= 0).all()
    assert np.array_equal(with_labels.embed(), without.embed())


def test_what_is_wrong_is_said_at_the_door():
    model, query = trained(), new_cells()
    with pytest.raises(OptionError, match=named("'n_latent'", "map_query")):
        sd.map_query(query, model, n_latent=3)
    del query.obs["batch"]
    with warnings.catch_warnings(), pytest.raises(DataError, match=named("'batch'", "adata.obs")):
        sd.map_query(query, model)
