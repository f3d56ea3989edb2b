"""Heads on vectors of genes: their solutions are the known ones, and the table knows who knows what."""

import numpy as np
import pandas as pd
import pytest
import torch
from named import named
from sklearn.linear_model import LogisticRegression, Ridge

import scduet as sd
from scduet.errors import DataError, OptionError
from scduet.transformers.objectives.gene_heads import NUMBER, classes, cross_validated


@pytest.fixture
def many(adata):
    """The cells three times, so that each gene is in enough of them."""
    cells = adata[np.tile(np.arange(40), 3)].copy()
    cells.obs_names = [f"cell{i}" for i in range(120)]
    return cells


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6)) * [1, 2, 3, 1, 1, 9] + 5
    return x, rng.integers(0, 3, 80), x @ rng.normal(size=6) + rng.normal(size=80)


def standard(x):
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.parametrize("penalty", [1.0, 30.0])
def test_classifier_and_regressor_are_scikit_learns(drawn, penalty):
    x, code, number = drawn
    head = classes(3).fit(torch.from_numpy(x), torch.from_numpy(code), penalty)
    reference = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=2000).fit(standard(x), code)
    assert np.allclose(head(torch.from_numpy(x)).softmax(1), reference.predict_proba(standard(x)), atol=1e-4)
    for wide in (x, np.concatenate([x, np.random.default_rng(1).normal(size=(80, 100))], 1)):
        line = NUMBER.fit(torch.from_numpy(wide), torch.from_numpy(number), penalty)
        ridge = Ridge(penalty).fit(standard(wide), number)
        assert np.allclose(line(torch.from_numpy(wide))[:, 0], ridge.predict(standard(wide)))


def test_what_is_said_of_a_fold_does_not_depend_on_its_targets(drawn):
    x, code, number = drawn
    fold = np.arange(80) % 4
    for target, goal in ((code, classes(3)), (number, NUMBER)):
        changed = np.where(fold == 2, target[::-1], target)
        one, other = (cross_validated(x, y, fold, goal) for y in (target, changed))
        assert np.array_equal(one[fold == 2], other[fold == 2])
        assert not np.array_equal(one[fold != 2], other[fold != 2])


@pytest.mark.parametrize("method", ["embedding", "contextual"])
def test_a_class_that_the_vectors_hold_is_told_and_expression_does_not_know_it(write, tmp_path, many, method):
    model = sd.load(write["geneformer"](tmp_path, 2))
    secret = np.random.default_rng(3).permutation(90) < 45
    with torch.no_grad():
        model.module.gene.weight[4:] += torch.from_numpy(np.where(secret, 3.0, -3.0)[:, None]).float() * torch.tensor(
            [1.0, -1.0] * 8
        )
    known = pd.Series(np.where(secret, "in", "out"), index=many.var_names)
    table = sd.predict_genes(model, known[:70], many, method=method)
    assert table.index.tolist() == ["geneformer", "expression level", "expression pca", "constant"]
    assert table.loc["geneformer", "auc"] > 0.95
    assert (table.loc[["expression level", "expression pca"], "auc"] < 0.75).all()
    assert table.loc["constant", "accuracy"] < 0.65
    said = table.attrs["genes"]
    assert (said.loc[many.var_names[70:], "predicted"] == known[70:]).mean() > 0.9
    assert not said.loc[many.var_names[70:], "known"].any()


def test_numbers_that_expression_decides_are_better_told_by_expression(write, tmp_path, many):
    model = sd.load(write["geneformer"](tmp_path, 1))
    counts = many.X.toarray()
    level = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).mean(0)
    table = sd.predict_genes(model, dict(zip(many.var_names, level.tolist(), strict=True)), many, method="embedding")
    assert list(table.columns) == ["r2", "spearman", "n_genes"]
    assert table.loc["expression level", "r2"] > 0.98
    assert table.loc["geneformer", "r2"] < 0.5
    assert table.loc["constant", "r2"] < 0.05


def test_labels_that_mean_nothing_are_not_told(write, tmp_path, many):
    """No information leaks from the genes held out: the mean over shuffles is chance."""
    model, rng = sd.load(write["geneformer"](tmp_path)), np.random.default_rng(0)
    shuffled = [pd.Series(rng.permutation(["a", "b"] * 45), many.var_names) for _ in range(4)]
    tables = [sd.predict_genes(model, known, many, method="embedding", n_folds=3) for known in shuffled]
    auc = np.mean([table["auc"].drop("constant") for table in tables])
    assert auc == pytest.approx(0.5, abs=0.08)


def test_too_little_to_learn_from_is_told(model, many):
    names = list(many.var_names)
    with pytest.raises(DataError, match=named("'a'")):
        sd.predict_genes(model, dict.fromkeys(names, "a"), many)
    with pytest.raises(DataError, match=named(5, "'b'")):
        sd.predict_genes(model, {name: "b" if name == "GENE3" else "a" for name in names}, many)
    with pytest.raises(DataError, match=named(0, 2, "adata.var_names")):
        sd.predict_genes(model, {"x": "a", "y": "b"}, many)
    with pytest.raises(OptionError, match=named("method", "'attention'", "'contextual'")):
        sd.predict_genes(model, dict.fromkeys(names, "a"), many, method="attention")
