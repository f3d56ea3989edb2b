"""The stories that need Python alone run from top to bottom, cut short, and show what their texts promise."""

import pytest
from notebooks import executed, told

HONEST = "[honest['accuracy'].to_dict(), programs.attrs['links'].to_dict('list'), effects['n_cells'].to_dict()]"


def test_pretrain_finetune(monkeypatch):
    """At a size that teaches the models little."""
    pictures, facts = executed("pretrain_finetune.ipynb", HONEST, monkeypatch, EPOCHS="1", CELLS="400")
    accuracy, links, perturbed = facts
    models = {f"{name}{how}" for name in ("geneformer", "scgpt") for how in ("", ", not pre-trained")}
    assert set(accuracy) == {*models, "knn on pca", "logistic regression", "linear svm"}
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


def test_denoising_judged(monkeypatch):
    facts = "[table['d2'].to_dict(), invented['false_discovery_rate'].to_dict(), adata.layers['denoised'].shape]"
    pictures, (d2, invented, shape) = executed("denoising_judged.ipynb", facts, monkeypatch)
    assert [row for row in d2 if f"`{row}`" not in told("denoising_judged.ipynb")] == [], "not explained"
    assert d2["walk"] > d2["type means"] > d2["gene mean"] == 0
    assert d2["scvi"] > 0 > d2["alra"]
    assert invented["no denoising"] < 0.15 < 0.3 < invented["walk"]
    assert shape == [274, 1000]
    assert pictures == 1


def test_doublets_judged(monkeypatch):
    facts = "[precision, truth.mean(), right.sum() / called.sum(), right.sum() / truth.sum()]"
    pictures, (precision, share, of_called, of_doublets) = executed("doublets_judged.ipynb", facts, monkeypatch)
    assert precision["neighbors"] > 0.33
    assert precision["neighbors"] > precision["scrublet"] > precision["total count"] > share
    assert 0.35 < of_called < 0.6, "about half"
    assert 0.25 < of_doublets < 0.5, "more than half of the doublets stay"
    assert pictures == 2


def test_gene_programs(monkeypatch):
    facts = "[table['program'].tolist()[:3], table['set_t'].tolist()[:2], table['bayes_factor'].tolist()[:2]]"
    pictures, (first, plain, factor) = executed("gene_programs.ipynb", facts, monkeypatch, EPOCHS="20")
    assert {"INTERFERON_ALPHA_RESPONSE", "INTERFERON_GAMMA_RESPONSE"} <= set(first)
    assert min(plain) > 10
    assert min(factor) > 1
    assert pictures == 1


def test_crispr_screen(monkeypatch):
    name = "crispr_screen.ipynb"
    facts = "[pred.table['relative_error'].droplevel(0).to_dict(), (half > 0.5).sum(), list(ranking.index[:4])]"
    pictures, (rules, strong, alike) = executed(name, facts, monkeypatch)
    assert [rule for rule in rules if f"`{rule}`" not in told(name) and rule not in ("ceiling", "no change")] == []
    assert rules["ceiling"] < rules["linear"] < rules["no change"]
    assert strong == 6
    assert set(alike) == {"IFNGR1", "IFNGR2", "JAK2", "STAT1"}
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
