"""Sums over samples, and DESeq2 on them: sums equal pandas', and planted genes are found."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import assert_named, named

import scduet as sd
from scduet.cli import main
from scduet.errors import DataError, OptionError
from scduet.tasks.comparison import pseudobulk as module


@pytest.fixture(scope="module")
def donors():
    """Six donors with levels of their own; in half of the cells of each ten genes go up fourfold."""
    draw = np.random.default_rng(0)
    obs = pd.DataFrame({"donor": np.repeat(list("abcdef"), 60), "condition": ["ctrl", "stim"] * 180})
    obs["sex"], obs["depth"] = obs["donor"].map(lambda donor: "F" if donor < "d" else "M"), draw.random(360)
    obs.index = [f"c{i}" for i in range(360)]
    rate = draw.gamma(2, 1, 80) * draw.lognormal(0, 0.5, (6, 80))[np.arange(360) // 60]
    rate[np.ix_(obs["condition"] == "stim", range(10))] *= 4
    adata = ad.AnnData(sp.csr_matrix(draw.poisson(rate).astype(np.float32)), obs)
    adata.var_names = [f"G{i}" for i in range(80)]
    return adata


def test_sums_are_those_of_pandas(donors):
    adata = donors.copy()
    adata.obs.loc[adata.obs_names[:5], "donor"] = None
    adata.obs.loc[adata.obs["donor"] == "b", "condition"] = "ctrl"
    sums = sd.pseudobulk(adata, "donor", "condition")
    expected = adata.to_df().groupby([adata.obs["donor"], adata.obs["condition"]]).sum()
    assert list(sums.obs_names) == ["_".join(names) for names in expected.index]
    np.testing.assert_array_equal(sums.X, expected)
    assert sums.X.dtype == np.int64
    assert sums.obs.loc[["a_ctrl", "a_stim", "b_ctrl"], "n_cells"].tolist() == [27, 28, 60]
    assert "sex" in sums.obs
    assert "depth" not in sums.obs
    assert sums.obs.loc["f_stim", "sex"] == "M"
    assert list(sd.pseudobulk(adata, "donor", "condition", min_cells=28).obs_names) == list(sums.obs_names[1:])
    assert "condition" not in sd.pseudobulk(adata, "donor").obs


@pytest.fixture(scope="module")
def tested(donors):
    return sd.differential_expression(None, donors, "condition", "stim", "ctrl", method="pydeseq2", sample_key="donor")


def test_planted_genes_are_found(tested):
    called = tested.index[tested["is_de_fdr_0.05"]]
    assert {f"G{i}" for i in range(10)} <= set(called)
    assert len(called) <= 14
    assert tested.loc["G3", "lfc"] == pytest.approx(2, abs=0.5)
    assert tested.attrs["designs"] == ["~ sample + group"]
    assert tested["n_samples1"].unique() == [6]


def test_donors_that_differ_by_chance_call_few_genes(donors):
    """Their own levels differ in every gene: a test on cells would call most of them."""
    found = sd.differential_expression(None, donors, "sex", "F", "M", method="pydeseq2", sample_key="donor")
    assert found.attrs["designs"] == ["~ group"]
    assert found["is_de_fdr_0.05"].mean() < 0.15


def test_bad_input_is_named(donors, monkeypatch):
    def ask(groupby="condition", **options):
        return sd.differential_expression(
            None, donors, groupby, **{"method": "pydeseq2", "sample_key": "donor", **options}
        )

    with pytest.raises(OptionError, match=named("sample_key")):
        ask(sample_key=None)
    with pytest.raises(OptionError, match=named("donor")):
        ask("donor")
    with pytest.raises(DataError, match=named("nobody")):
        ask(group1="nobody")
    with pytest.raises(DataError, match=named("stim", "ctrl")):
        sd.differential_expression(
            None, donors[donors.obs["donor"] == "a"], "condition", "stim", "ctrl", method="pydeseq2", sample_key="donor"
        )
    with pytest.raises(OptionError, match=named("method")):
        ask(method="deseq")
    with pytest.raises(OptionError, match=named("model")):
        ask(method="model")
    with pytest.raises(DataError, match=named("1000")):
        sd.pseudobulk(donors, "donor", min_cells=1000)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=named("pydeseq2")):
        ask()


def test_from_a_terminal(donors, tested, tmp_path, capsys):
    cells, sums, table = (str(tmp_path / name) for name in ("cells.h5ad", "sums.h5ad", "table.csv"))
    donors.write_h5ad(cells)
    assert main(["pseudobulk", cells, "-o", sums, "--sample-key", "donor", "--groupby", "condition"]) == 0
    np.testing.assert_array_equal(ad.read_h5ad(sums).X, sd.pseudobulk(donors, "donor", "condition").X)
    options = ["--groupby", "condition", "--group1", "stim", "--group2", "ctrl"]
    assert main(["de", cells, "-o", table, *options, "--method", "pydeseq2", "--sample-key", "donor"]) == 0
    np.testing.assert_allclose(pd.read_csv(table, index_col=0)["pvalue"], tested["pvalue"], rtol=1e-6)
    capsys.readouterr()
    assert main(["de", cells, "-o", table, *options, "--overwrite"]) == 2
    assert_named(capsys.readouterr().err, "pydeseq2")
