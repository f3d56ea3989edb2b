"""Doublets: known ones are found, calls follow the rate, captures stay apart, and bad input is named."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import assert_named, named
from sklearn.metrics import average_precision_score

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.events import silent
from scduet.tasks.posterior.solo import solo_data


def three_kinds(n=300, n_doublets=30, seed=0):
    """Cells of three kinds, of which the last are sums of two cells of two kinds."""
    draw = np.random.default_rng(seed)
    rate = draw.gamma(0.5, 2, (3, 200))
    kind = draw.integers(0, 3, n)
    x = draw.poisson(rate[kind])
    first = draw.integers(0, 3, n_doublets)
    x = np.concatenate([x, draw.poisson(rate[first] + rate[(first + 1) % 3])]).astype(np.float32)
    obs = pd.DataFrame({"doublet": np.arange(n + n_doublets) >= n}, [f"c{i}" for i in range(n + n_doublets)])
    return ad.AnnData(sp.csr_matrix(x), obs)


@pytest.fixture(scope="module")
def cells():
    return three_kinds()


def precision(adata):
    return average_precision_score(adata.obs["doublet"], adata.obs["doublet_score"])


def test_hashed_doublets_are_ranked_high(real_data):
    """Droplets that two hashtags show to be doublets. Plain code had an average precision of .378, scrublet of .305."""
    adata = real_data("doublet_hashing_4lines_2000.h5ad")
    adata = adata[adata.obs["doublet"] != "negative"].copy()
    table = sd.find_doublets(adata, rate=0.113)
    truth, called = (adata.obs["doublet"] == "doublet").to_numpy(), adata.obs["predicted_doublet"].to_numpy()
    assert average_precision_score(truth, adata.obs["doublet_score"]) >= 0.33
    assert table.loc["all", "n_called"] == called.sum() == round(0.113 * 1917 * table.loc["all", "heterotypic"])
    assert table.loc["all", "heterotypic"] == pytest.approx(0.79, abs=0.04)  # by the cell lines: .790
    assert truth[called].mean() > 0.38


@pytest.mark.parametrize(
    ("method", "options"), [("neighbors", {}), ("scrublet", {}), ("solo", {"max_epochs": 30, "n_hidden": 32})]
)
def test_doublets_of_two_kinds_are_found(cells, method, options):
    adata = cells.copy()
    table = sd.find_doublets(adata, method, rate=30 / 330 * 1.5, callback=silent, **options)
    assert precision(adata) > (0.3 if method == "solo" else 0.75)
    assert adata.obs["predicted_doublet"].sum() == table.loc["all", "n_called"]
    called = adata.obs["predicted_doublet"]
    assert adata.obs["doublet_score"][called].min() == table.loc["all", "cutoff"]
    assert adata.obs["doublet_score"][~called].max() <= table.loc["all", "cutoff"]
    assert adata.uns["scduet_doublets"]["method"] == method


def test_a_trained_scvi_will_do_for_solo(cells):
    adata = cells.copy()
    model = sd.fit(adata, max_epochs=30, n_hidden=32, callback=silent)
    sd.find_doublets(adata, model, callback=silent)
    assert precision(adata) > 0.3  # by chance .09
    data = solo_data(model, np.arange(10, 40), adata)
    assert data.features.shape == (90, 11)
    np.testing.assert_allclose(data.features[:30, :10], model.embed()[10:40], atol=1e-5)
    np.testing.assert_allclose(data.features[:30, 10], np.log(adata.X[10:40].sum(1).A1), rtol=1e-5)
    shallow = cells.copy()
    sd.find_doublets(shallow, model, use_depth=False, callback=silent)
    assert not np.allclose(shallow.obs["doublet_score"], adata.obs["doublet_score"], atol=1e-3)


def test_scores_do_not_depend_on_the_order_of_the_cells(cells):
    adata, order = cells.copy(), np.random.default_rng(1).permutation(cells.n_obs)
    shuffled = cells[order].copy()
    sd.find_doublets(adata)
    sd.find_doublets(shuffled)
    columns = ["doublet_score", "predicted_doublet"]
    pd.testing.assert_frame_equal(shuffled.obs[columns], adata.obs[columns].iloc[order])


def test_captures_are_apart(cells):
    both = ad.concat({"one": cells, "two": three_kinds(120, 10, seed=3)}, label="lane", index_unique="-")
    table = sd.find_doublets(both, batch_key="lane", rate={"one": 0.1, "two": 0.2})
    alone = cells.copy()
    alone.obs_names += "-one"
    sd.find_doublets(alone, rate=0.1)
    mine = both.obs.loc[alone.obs_names]
    np.testing.assert_array_equal(mine["doublet_score"], alone.obs["doublet_score"])
    assert table["n_cells"].to_dict() == {"one": 330, "two": 130}
    assert table["rate"].to_dict() == {"one": 0.1, "two": 0.2}
    by_rate = sd.find_doublets(both, batch_key="lane")
    assert by_rate["rate"].to_dict() == pytest.approx({"one": 0.00264, "two": 0.00104})


def test_types_tell_how_many_doublets_cannot_be_found(cells):
    adata = cells.copy()
    adata.obs["type"] = ["a"] * 165 + ["b"] * 165
    table = sd.find_doublets(adata, rate=0.2, labels_key="type")
    assert table.loc["all"].tolist()[:4] == [330, 0.2, 0.5, 33]


def test_what_was_found_is_a_part_of_the_file(cells, tmp_path):
    adata = cells.copy()
    table = sd.find_doublets(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(read.uns["scduet_doublets"]["captures"], table, check_names=False)
    assert read.obs["predicted_doublet"].dtype == bool


@pytest.mark.parametrize("how", ["barcodes", "column"])
def test_several_captures_without_their_column_warn(cells, how):
    adata = cells.copy()
    if how == "column":
        adata.obs["Sample"] = ["a", "b"] * 165
    else:
        adata.obs_names = [
            f"{''.join(np.random.default_rng(i).choice(list('ACGT'), 16))}-{i % 2 + 1}" for i in range(330)
        ]
    with pytest.warns(ScduetWarning, match=named("'Sample'" if how == "column" else "'1'", "batch_key=")):
        sd.find_doublets(adata, "scrublet")


def test_bad_input_is_named(cells):
    adata = cells.copy()
    adata.obs["part"] = ["small"] * 60 + ["large"] * 270
    adata.obs["half"] = ["small"] * 160 + ["large"] * 170
    adata.layers["logged"] = adata.X.log1p()
    model = sd.fit(adata, "dca", max_epochs=1, callback=silent)
    several = sd.fit(adata, categorical_covariate_keys=["part"], max_epochs=1, callback=silent)
    cases = [
        (DataError, ["'small'", 60, 100], {"batch_key": "part"}),
        (OptionError, ["'slo'", "solo"], {"method": "slo"}),
        (OptionError, ["'rate'", 1.5], {"rate": 1.5}),
        (OptionError, ["'large'", "rate="], {"batch_key": "half", "rate": {"small": 0.1}}),
        (OptionError, ["'n_latent'", "'neighbors'"], {"n_latent": 5}),
        (OptionError, ["'n_latnt'", "'n_latent'"], {"method": "solo", "n_latnt": 5}),
        (OptionError, ["'dca'", "'scvi'"], {"method": model}),
        (OptionError, ["covariates"], {"method": several}),
        (OptionError, ["'seed'", -1], {"seed": -1}),
        (DataError, ["'lanes'"], {"batch_key": "lanes"}),
        (DataError, ["'types'"], {"labels_key": "types"}),
        (DataError, ["logged"], {"layer": "logged"}),
        (DataError, [20], {"genes": list(adata.var_names[:20])}),
    ]
    for error, names, options in cases:
        with pytest.raises(error) as caught:
            sd.find_doublets(adata, **options)
        assert_named(str(caught.value), *names)
    assert "doublet_score" not in adata.obs
    with pytest.raises(DataError, match=named("'all'", 60)):
        sd.find_doublets(cells[:60].copy())
