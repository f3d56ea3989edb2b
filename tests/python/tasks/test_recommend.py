"""Recommendations: every rule can be reached and has its source; simple data get simple methods."""

import re

import anndata as ad
import numpy as np
import pytest
from named import assert_named, named

from scduet.errors import DataError, OptionError
from scduet.tasks.workflows.recommend import ALIASES, RULES, TASKS, recommend, traits


def row(adata, task, **keys):
    table = recommend(adata, task, **keys)
    assert len(table) == 1
    return table.iloc[0]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.task}, {rule.method[:30]}")
def test_every_rule_is_whole(rule):
    for source in rule.source.split("; "):
        assert re.match(r"[A-Z].* 20\d\d, [A-Z].* \d+:e?\d+", source), "a source is authors, year, journal, volume:page"
    assert rule.reason
    known = {"n_cells", "n_batches", "n_labels", "counts", "unspliced", "beyond_noise"}
    assert {trait for trait, _, _ in rule.when} <= known
    if rule.deep:
        assert "scduet." in rule.method  # what we recommend can be called


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_an_answer_for_all_data(task):
    rules = [rule for rule in RULES if rule.task == task]
    assert rules[-1].when == ()
    assert all(rule.when for rule in rules[:-1])  # a rule after one that always fits would never be reached
    assert len({rule.when for rule in rules}) == len(rules)


def test_aliases_name_tasks():
    assert {name for names in ALIASES.values() for name in names} <= set(TASKS)


def test_all_tasks_by_default(counts):
    table = recommend(counts)
    assert tuple(table["task"]) == TASKS
    assert list(table) == ["task", "method", "deep_model", "reason", "source", "data"]


@pytest.mark.parametrize(
    "task",
    [
        *("visualization", "annotation", "differential expression between conditions", "perturbation response"),
        *("denoising", "prediction across modalities"),
    ],
)
def test_tasks_that_need_no_deep_model(counts, task):
    assert not row(counts, task)["deep_model"]


def test_one_batch_and_few_cells_need_no_deep_model(counts):
    one = row(counts[:, :].copy()[:150], "integration", batch_key="site")
    assert one["deep_model"]
    alone = counts.copy()
    del alone.obs["batch"]
    assert not row(alone, "integrate")["deep_model"]
    assert_named(row(alone, "integrate")["data"], "batch_key")
    few = row(counts[:80], "integration", batch_key="batch")
    assert not few["deep_model"]
    assert_named(few["data"], 80)


def test_integration_follows_labels_counts_and_size(counts):
    assert "scanvi" in row(counts, "integration")["method"]
    del counts.obs["cell_type"]
    assert row(counts, "integration")["method"].startswith("Harmony")
    logged = counts.copy()
    logged.X = logged.X.log1p()
    assert_named(row(logged, "integration")["method"], "Harmony", "PCA")
    assert_named(row(logged, "integration")["data"], "counts")
    many = counts[np.resize(np.arange(200), 4000)].copy()
    assert "'scvi'" in row(many, "integration")["method"]


def test_unlabeled_cells_are_no_cell_type(counts):
    counts.obs["cell_type"] = np.where(counts.obs["cell_type"] == "B", "B", "Unknown")
    assert traits(counts, None, None, "Unknown", None)[0]["n_labels"] == 1
    assert not row(counts, "annotation")["deep_model"]


def test_a_file_is_recommended_the_same(counts, tmp_path):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    assert recommend(tmp_path / "cells.h5ad").equals(recommend(counts))


def test_bad_input_is_named(counts):
    with pytest.raises(OptionError, match=named("'integratoin'", "'integration'")):
        recommend(counts, "integratoin")
    with pytest.raises(DataError, match=named("'donor'", "adata.obs", "batch_key=")):
        recommend(counts, batch_key="donor")


def test_the_command_tells_the_row(counts, tmp_path, capsys):
    from scduet.cli import main

    counts.write_h5ad(tmp_path / "cells.h5ad")
    assert main(["recommend", str(tmp_path / "cells.h5ad"), "--task", "denoising"]) == 0
    told, known = capsys.readouterr().out, row(counts, "denoising")
    for what in ("method", "reason", "source", "data"):
        assert known[what] in told
    assert "deep model: not needed" in told


@pytest.mark.parametrize(
    ("unspliced", "score", "told"),
    [(0, None, "'unspliced'"), (1, None, "2.0%"), (20, 1.2, "1.2"), (20, 7.0, "7.0")],
)
def test_a_velocity_is_advised_where_unspliced_molecules_support_it(unspliced, score, told):
    cells = ad.AnnData(np.full((120, 3), 49, np.float32))
    if unspliced:
        cells.layers["spliced"], cells.layers["unspliced"] = cells.X, np.full((120, 3), unspliced, np.float32)
    if score is not None:
        cells.uns["scduet_velocity"] = {"scores": {"permutation": score}}
    row = recommend(cells, "velocity").iloc[0]
    assert told in row["data"]
    assert ("compare_velocity" in row["method"]) == (score == 7.0)


def test_denoising_is_recommended_as_denoise_chooses(counts):
    from scduet.tasks.workflows.denoise import WALK_UP_TO

    few, many = (rule for rule in RULES if rule.task == "denoising")
    assert few.when == (("n_cells", "<=", WALK_UP_TO),)
    assert_named(row(counts, "imputation")["method"], "'walk'", "compare_denoisers")
    assert_named(many.method, "'scvi'")
