"""The stories that need Python alone run from top to bottom, cut short, and show what their texts promise."""

import pytest
from notebooks import executed, told

HONEST = "[honest['accuracy'].to_dict(), programs.attrs['links'].to_dict('list'), effects['n_cells'].to_dict()]"


def test_pretrain_finetune(monkeypatch):
    """At a size that teaches the models little."""
    pictures, facts = executed("pretrain_finetune.ipynb", HONEST, monkeypatch, EPOCHS="1", CELLS="400")
    accuracy, links, perturbed = facts
    models = {f"{name}{how}" for name in ("geneformer", "scgpt") for how in ("", ", not pre-trained")}
    assert set(accuracy) == {*models, "knn on pca", "logistic regression"}
    assert accuracy["logistic regression"] > 0.4, "of ten kinds"
    shares = dict(zip(links["method"], links["in_common_set"], strict=True))
    assert shares["coexpression"] > shares["random pairs"]
    assert "CD79A" in perturbed
    assert all(n >= 10 for n in perturbed.values())
    assert pictures == 3, "training of both, network"


def test_is_my_integration_good(monkeypatch):
    name = "is_my_integration_good.ipynb"
    facts = "[table['total'].to_dict(), list(table.columns), others['cilisi'].notna().all()]"
    pictures, (total, shown, has_others) = executed(name, facts, monkeypatch, EPOCHS="2")
    assert {"X_pca", "X_scVI", "X_scANVI"} <= set(total)
    assert all(0 < value < 1 for value in total.values())
    assert [column for column in shown if f"`{column}`" not in told(name) and column != "rank"] == [], "not explained"
    assert has_others
    assert pictures == 3


def test_does_a_deep_model_help(monkeypatch):
    name = "does_a_deep_model_help.ipynb"
    facts = (
        "[pred.table['relative_error'].droplevel(0).to_dict(), table['relative_error'].to_dict(), by_donor.table.shape]"
    )
    pictures, (rules, deep, donors) = executed(name, facts, monkeypatch, EPOCHS="2")
    assert [rule for rule in rules if f"`{rule}`" not in told(name) and rule != "ceiling"] == [], "not explained"
    assert rules["ceiling"] < rules["weighted"] < rules["additive"] < rules["no change"]
    assert rules["no change"] == pytest.approx(1)
    assert deep.keys() == {*rules, "scVI"}
    assert 0 < deep["ceiling"] < deep["scVI"]
    assert donors[0] == 6
    assert pictures == 1


def test_predict_modalities(monkeypatch):
    name = "predict_modalities.ipynb"
    facts = "[table['pearson'].to_dict(), covered, matches.table['foscttm'].to_dict(), len(best), float(right.mean())]"
    pictures, (pearson, covered, foscttm, n_matched, right) = executed(name, facts, monkeypatch)
    assert [method for method in ("kernel_ridge", "knn", "cca") if f"`{method}`" not in told(name)] == []
    assert pearson["ridge"] > 0.5
    assert right > 0.4
    assert 0.75 < covered <= 1
    assert foscttm["cca"] < 0.3
    assert foscttm["mmvae"] < foscttm["chance"]
    assert n_matched == 200
    assert pictures == 2
