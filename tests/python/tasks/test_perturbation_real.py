"""Figures on real data that were worked out before, by other code."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scduet as sd
from scduet.tasks.perturbation.held_out import Study, cases_to_hold_out, evaluate
from scduet.tasks.perturbation.pseudobulk import split_by
from scduet.tasks.perturbation.screen import read_screen

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = [
    pytest.mark.skipif(not DATA.exists(), reason="there is no ../shared/data"),
    pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning"),
]
MERGED = {
    "CD4 Naive T": "CD4 T", "CD4 Memory T": "CD4 T", "T activated": "CD4 T", "CD8 T": "CD8 T", "B": "B",
    "B Activated": "B", "CD14 Mono": "CD14 Mono", "CD16 Mono": "CD16 Mono", "DC": "DC", "NK": "NK",
}  # fmt: skip


def norman():
    cells = ad.read_h5ad(DATA / "perturb_norman_mcfaline_500g.h5ad")
    cells = cells[cells.obs["dataset"] == "norman19"]
    return cells[:, np.asarray((cells.X > 0).sum(0)).ravel() >= 10].copy()


def gene_sets():
    folder = DATA / "files" / "genesets"
    return {
        **sd.read_gmt(folder / "GO_Biological_Process_2021.gmt.gz"),
        **sd.read_gmt(folder / "Reactome_2016.gmt.gz"),
    }


def test_pairs_of_norman_are_additive_as_worked_out_before():
    """By the split of the controls of the reference: delta .614, L2 .908; with shared controls .870, .445."""
    cells = norman()
    study = Study.of(read_screen(cells, "perturbation", total_key="n_counts"))
    cases = [case for case in cases_to_hold_out(study, []) if len(case.target) == 2]
    is_control = np.flatnonzero(study.screen.is_control)
    order = np.random.default_rng(0).permutation(len(is_control))
    truth = np.random.default_rng(0).random(cells.n_obs) < 0.5
    truth[is_control] = False
    truth[is_control[order[len(order) // 2 :]]] = True
    row = ("combination, 2 of 2 seen", "additive")
    apart = evaluate(study, cases, splits=[split_by(study.screen, study.pairs, truth)]).table.loc[row]
    assert apart["n"] == 5
    np.testing.assert_allclose(apart[["delta", "L2"]].to_numpy(float), [0.614, 0.908], atol=0.03)
    shared = evaluate(study, cases, controls="shared", n_splits=1).table.loc[row]
    np.testing.assert_allclose(
        shared[["delta", "L2", "discrimination"]].to_numpy(float), [0.870, 0.445, 0.03], atol=0.01
    )


def test_no_change_wins_for_unseen_genes_of_norman_and_the_table_says_so():
    pred = sd.predict_perturbation(norman(), "perturbation", "SET", total_key="n_counts", gene_embedding=gene_sets())
    rows = pred.table.loc["gene", "relative_error"].drop("ceiling")
    assert rows.idxmin() == "no change"
    assert pred.support["verdict"].item() in ("no better than no change", "no measurable effect")
    assert pred.support["model"].item() == "mean"


def test_papalexi_ranks_measurable_genes_alone_and_knowledge_of_pathways_beats_the_mean():
    cells = ad.read_h5ad(DATA / "perturb_papalexi_thp1_299g.h5ad")
    cells = cells[cells.obs["assigned"] == "single"].copy()
    pred = sd.predict_perturbation(cells, "perturbation", control="control", gene_embedding=gene_sets(), n_splits=3)
    held = pred.held_out
    strong = set(held[held["half_correlation"] > 0.5]["target"])
    assert strong == {"IFNGR1", "IFNGR2", "IRF1", "JAK2", "SMAD4", "STAT1"}
    assert pred.table.loc[("gene", "mean"), "n"] < held["target"].nunique() / 2
    assert (held["verdict"] == "no measurable effect").groupby(held["target"]).any().sum() > 10
    error = held[held["target"].isin(strong)].groupby("method")["L2"].mean()
    assert error["linear"] < 0.8 * error["mean"]
    np.testing.assert_allclose(error[["linear", "mean", "no change"]], [3.508, 4.635, 5.173], rtol=0.06)


@pytest.mark.parametrize(("held", "weighted", "additive"), [("CD4 T", 0.913, 0.845), ("CD14 Mono", 0.926, 0.862)])
def test_the_weighted_rule_leads_on_kang(held, weighted, additive):
    """Delta with shared controls as worked out before, on 2,000 genes that the training cells chose."""
    import scanpy as sc

    cells = ad.read_h5ad(DATA / "kang_ifnb_2800.h5ad")
    cells = cells[cells.obs["cell_type"].isin(MERGED)].copy()
    cells.obs["type"] = cells.obs["cell_type"].map(MERGED).astype(str)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    train = cells[~((cells.obs["type"] == held) & (cells.obs["condition"] == "stim"))]
    genes = sc.pp.highly_variable_genes(train, n_top_genes=2000, inplace=False)["highly_variable"].to_numpy()
    pred = sd.predict_perturbation(
        cells[:, genes].copy(), "condition", "stim", context_key="type", contexts=held, n_splits=1
    )
    rows = pred.held_out[pred.held_out["context"] == held].set_index("method")
    np.testing.assert_allclose(rows.loc[["weighted", "additive"], "delta_shared"], [weighted, additive], atol=0.002)
    assert rows.loc["weighted", "relative_error"] < rows.loc["additive", "relative_error"] < 1
    assert pred.support["model"].item() == "weighted"
    assert rows.loc["ceiling", "delta"] > rows.loc["weighted", "delta"]


def test_donors_of_a_tumor_differ_and_one_s_own_control_tells():
    """Delta .572 by one's own control with the others' change, .564 by the others' treated cells."""
    cells = ad.read_h5ad(DATA / "drug_gbm_panobinostat_5donors_300g.h5ad")
    pred = sd.predict_perturbation(
        cells, "condition", "panobinostat", context_key="donor", controls="shared", n_splits=1
    )
    rows = pred.table.loc["context"]
    np.testing.assert_allclose(rows.loc[["additive", "mean", "no change"], "L2"], [9.732, 11.281, 10.202], atol=0.01)
    np.testing.assert_allclose(rows.loc[["additive", "mean"], "delta"], [0.572, 0.564], atol=0.002)


@pytest.mark.parametrize("name", ["KLF1", "FOXL2+HOXB9"])
def test_half_of_the_cells_of_a_perturbation_find_the_other_half(name):
    """The most alike of 33 is the perturbation itself, or a combination with it."""
    cells = norman()
    own = np.flatnonzero(cells.obs["perturbation"] == name)
    half = cells[own[::2]].copy()
    half.X = np.log1p(half.X.toarray() / half.obs["n_counts"].to_numpy()[:, None] * 1e4)
    rest = cells[np.setdiff1d(np.arange(cells.n_obs), own[::2])].copy()
    ranked = sd.rank_perturbations(half, rest, "perturbation", total_key="n_counts")
    assert set(name.split("+")) <= set(ranked.index[0].split("+"))
    assert ranked.loc[name, "rank"] < 5 < ranked.attrs["chance_rank"]
