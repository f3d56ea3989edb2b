"""Every public function meets every kind of bad input: it works, or raises an error of ours."""

import warnings
from contextlib import suppress
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from transformer_toys import make_cells, transformer

import scduet as sd
from scduet import scvi
from scduet.errors import ScduetError

QUICK = {"max_epochs": 1, "n_hidden": 4, "n_latent": 2, "callback": lambda event: None}
SHORT = {"max_epochs": 1, "callback": lambda event: None}
QUIET = {"verbose": False, "n_draws": 20}


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """Cells, and models that know them."""
    cells = make_cells(60, 0, batches=True)
    cells.obs["age"] = np.linspace(-1, 1, 60)
    cells.obsm["X_made"] = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    folder = tmp_path_factory.mktemp("bad")
    cells.write_h5ad(folder / "cells.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sd.fit(cells, "scvi", batch_key="run", **QUICK)
        classifier = sd.fit(cells, "scanvi", batch_key="run", labels_key="type", **QUICK)
        sets = pd.DataFrame(np.arange(cells.n_vars)[:, None] % 2 == [0, 1], cells.var_names, ["even", "odd"])
        programs = sd.fit(cells, "expimap", gene_sets=sets, max_epochs=1, n_hidden=4, callback=lambda event: None)
        clusters = sd.fit(cells, "saucie", max_epochs=1, callback=lambda event: None)
        rank, value = transformer("geneformer"), transformer("scgpt")
        tuned = sd.finetune(cells, rank, "type", **SHORT)
    return SimpleNamespace(
        cells=cells,
        model=model,
        programs=programs,
        clusters=clusters,
        classifier=classifier,
        rank=rank,
        value=value,
        tuned=tuned,
        folder=folder,
    )


FUNCTIONS = {  # name -> how it takes cells and options
    "fit": lambda k, a, **o: sd.fit(a, "scvi", **{"batch_key": "run", **QUICK, **o}),
    "fit, learned library": lambda k, a, **o: sd.fit(a, "scvi", **{**QUICK, "use_observed_lib_size": False, **o}),
    "integrate": lambda k, a, **o: sd.integrate(a, "scanvi", **{"labels_key": "type", **QUICK, **o}),
    "integrate, variable genes": lambda k, a, **o: sd.integrate(a, n_top_genes=20, **{**QUICK, **o}),
    "annotate": lambda k, a, **o: sd.annotate(a, k.cells.copy(), **{"labels_key": "type", **SHORT, **o}),
    "annotate, reference": lambda k, a, **o: sd.annotate(k.cells.copy(), a, **{"labels_key": "type", **SHORT, **o}),
    "annotate, model": lambda k, a, **o: sd.annotate(a, k.classifier, **o),
    "annotate, transformer": lambda k, a, **o: sd.annotate(
        a, k.cells.copy(), **{"labels_key": "type", "model": k.rank, **SHORT, **o}
    ),
    "map_query": lambda k, a, **o: sd.map_query(a, k.model, **{**SHORT, **o}),
    "prepare_query": lambda k, a, **o: sd.prepare_query(a, k.model, **o),
    "embed": lambda k, a, **o: k.model.embed(a, **o),
    "predict": lambda k, a, **o: sd.predict(k.classifier, a, **o),
    "cluster_cells": lambda k, a, **o: sd.cluster_cells(k.clusters, a, **o),
    "normalized_expression": lambda k, a, **o: sd.normalized_expression(k.model, a, **o),
    "posterior_predictive_sample": lambda k, a, **o: sd.posterior_predictive_sample(k.model, a, **o),
    "feature_correlation": lambda k, a, **o: sd.feature_correlation(k.model, a, **o),
    "likelihood_parameters": lambda k, a, **o: sd.likelihood_parameters(k.model, a, **o),
    "latent_library_size": lambda k, a, **o: sd.latent_library_size(k.model, a, **o),
    "elbo": lambda k, a, **o: sd.elbo(k.model, a, **o),
    "reconstruction_error": lambda k, a, **o: sd.reconstruction_error(k.model, a, **o),
    "marginal_log_likelihood": lambda k, a, **o: sd.marginal_log_likelihood(k.model, a, **{"n_samples": 2, **o}),
    "posterior_predictive_check": lambda k, a, **o: sd.posterior_predictive_check(k.model, a, **{"n_samples": 2, **o}),
    "find_doublets": lambda k, a, **o: sd.find_doublets(twice(a), **{"method": "scrublet", **o}),
    "program_scores": lambda k, a, **o: sd.program_scores(**{"model": k.programs, "adata": a, **o}),
    "differential_programs": lambda k, a, **o: sd.differential_programs(
        **{"model": k.programs, "adata": a, "groupby": "type", **o}
    ),
    "deconvolve": lambda k, a, **o: sd.deconvolve(a, k.cells, **{"labels_key": "type", **o}),
    "deconvolve, reference": lambda k, a, **o: sd.deconvolve(k.cells.copy(), a, **{"labels_key": "type", **o}),
    "deconvolve_bulk": lambda k, a, **o: sd.deconvolve_bulk(a, k.cells, **{"labels_key": "type", "n_draws": 2, **o}),
    "impute_genes": lambda k, a, **o: sd.impute_genes(a, beside(k.cells), **o),
    "impute_genes, single cells": lambda k, a, **o: sd.impute_genes(k.cells[:, ::2].copy(), a, **o),
    "minify": lambda k, a, **o: sd.minify(k.model, a, **o),
    "generate_cells": lambda k, a, **o: sd.generate_cells(k.classifier, **{"n": 3, "adata": a, **o}),
    "score_generated": lambda k, a, **o: sd.score_generated(k.cells, a, **{"training": k.cells, **o}),
    "score_generated, generated": lambda k, a, **o: sd.score_generated(a, k.cells, **o),
    "differential_expression": lambda k, a, **o: sd.differential_expression(
        k.model, a, **{"groupby": "type", **QUIET, **o}
    ),
    "differential_expression, idx": lambda k, a, **o: sd.differential_expression(k.model, a, **{**QUIET, **o}),
    "pseudobulk": lambda k, a, **o: sd.pseudobulk(a, **{"sample_key": "run", "groupby": "type", "min_cells": 1, **o}),
    "differential_abundance": lambda k, a, **o: sd.differential_abundance(k.model, a, **{"sample_key": "run", **o}),
    "embed_pretrained": lambda k, a, **o: sd.embed_pretrained(a, k.rank, **o),
    "embed_pretrained, scored": lambda k, a, **o: sd.embed_pretrained(a, k.rank, **{"labels_key": "type", **o}),
    "finetune": lambda k, a, **o: sd.finetune(a, k.rank, **{"labels_key": "type", **SHORT, **o}),
    "finetune_integration": lambda k, a, **o: sd.integrate(a, k.value, **{"batch_key": "run", **SHORT, **o}),
    "tuned.predict": lambda k, a, **o: k.tuned.predict(a, **o),
    "evaluate": lambda k, a, **o: sd.evaluate(k.tuned, a, **o),
    "pretrain": lambda k, a, **o: sd.pretrain(
        a, "geneformer", **{"width": 8, "n_layers": 1, "n_heads": 2, **SHORT, **o}
    ),
    "generate": lambda k, a, **o: sd.generate(k.value, a, **{"genes": ["GENE1"], **o}),
    "gene_network": lambda k, a, **o: sd.gene_network(k.model, a, **o),
    "gene_network, transformer": lambda k, a, **o: sd.gene_network(
        k.rank, a, **{"method": "attention", "groupby": "type", **o}
    ),
    "predict_perturbation": lambda k, a, **o: sd.predict_perturbation(
        a, **{"perturbation_key": "type", "control": "T", "n_splits": 1, **o}
    ),
    "score_perturbation": lambda k, a, **o: sd.score_perturbation(
        pd.DataFrame(np.ones((1, 120)), ["B"], [f"GENE{i}" for i in range(120)]),
        a,
        **{"perturbation_key": "type", "control": "T", "n_splits": 1, **o},
    ),
    "rank_perturbations": lambda k, a, **o: sd.rank_perturbations(
        {f"GENE{i}": i for i in range(40)}, a, **{"perturbation_key": "type", "control": "T", "n_splits": 1, **o}
    ),
    "perturb_in_silico": lambda k, a, **o: sd.perturb_in_silico(
        k.rank, a, **{"genes": ["GENE1"], "n_random": 2, "labels_key": "type", "goal": "B", **o}
    ),
    "predict_genes": lambda k, a, **o: sd.predict_genes(
        k.model, pd.Series(["x", "y"] * 20, [f"GENE{i}" for i in range(40)]), a, **o
    ),
    "velocity": lambda k, a, **o: sd.velocity(two_kinds(a), **o),
    "velocity_moments": lambda k, a, **o: sd.velocity_moments(two_kinds(a), **o),
    "recommend": lambda k, a, **o: sd.recommend(a, **o),
    "score": lambda k, a, **o: sd.score(a, **{"batch_key": "run", "labels_key": "type", "metrics": ["ilisi"], **o}),
    "score, expression": lambda k, a, **o: sd.score(
        a, **{"batch_key": "run", "metrics": ["cell_cycle", "pcr_comparison"], "pseudotime_key": "age", **o}
    ),
    "report": lambda k, a, **o: sd.report(
        drawn(a), k.folder / "page.html", overwrite=True, **{"labels_key": "type", "batch_key": "run", **o}
    ),
    "export_viewer": lambda k, a, **o: sd.export_viewer(
        drawn(a), k.folder / "viewer.h5ad", overwrite=True, **{"embedding": "X_pca", **o}
    ),
    "scvi.SCVI": lambda k, a, **o: facade(a, **o),
}


def beside(cells):
    """The same cells with two genes more."""
    return ad.concat([cells, ad.AnnData(np.ones((60, 2)), cells.obs[[]], pd.DataFrame(index=["M1", "M2"]))], axis=1)


def facade(cells, **options):
    scvi.model.SCVI.setup_anndata(cells, **{"batch_key": "run", **options})
    scvi.model.SCVI(cells, n_hidden=4).train(max_epochs=1)


def twice(cells):
    """Each cell twice: doublets are found among 100 cells and more."""
    if not isinstance(cells, ad.AnnData) or cells.n_obs < 50:
        return cells
    doubled = cells[np.tile(np.arange(cells.n_obs), 2)].copy()
    doubled.obs_names = [*cells.obs_names, *(f"{name}-twin" for name in cells.obs_names)]
    return doubled


def two_kinds(cells):
    """Each cell twice, with spliced and unspliced counts."""
    doubled = twice(cells)
    if isinstance(doubled, ad.AnnData) and doubled.X is not None:
        doubled.layers["spliced"], doubled.layers["unspliced"] = doubled.X.copy(), doubled.X.copy()
    return doubled


def drawn(cells):
    """With two principal components, which are drawn as they are: a UMAP takes seconds."""
    if isinstance(cells, ad.AnnData):
        cells.obsm["X_pca"] = np.random.default_rng(1).normal(size=(cells.n_obs, 2))
    return cells


def changed(**parts):
    """The cells with other columns of obs or var, or another X."""

    def change(a, folder):
        for where, value in parts.items():
            place, _, key = where.partition("_")
            value = value(a) if callable(value) else value
            if place == "X":
                a.X = value
            else:
                getattr(a, place)[key] = value
        return a

    return change


def with_x(edit):
    def change(a, folder):
        values = a.X.toarray()
        edit(values)
        a.X = sp.csr_matrix(values)
        return a

    return change


def renamed(which, edit):
    def change(a, folder):
        names = [*getattr(a, f"{which}_names")]
        setattr(a, f"{which}_names", edit(names))
        return a

    return change


def dropped_x(a, folder):
    del a.X
    return a


def raw_alone(a, folder):
    a.raw = a.copy()
    a.X = a.X.log1p()
    return a


CELLS = {  # kind of bad cells -> what is passed in place of good ones
    "path": lambda a, folder: folder / "cells.h5ad",
    "text path": lambda a, folder: str(folder / "cells.h5ad"),
    "no such file": lambda a, folder: folder / "nowhere.h5ad",
    "another file": lambda a, folder: folder / "cells.txt",
    "folder": lambda a, folder: str(folder),
    "None": lambda a, folder: None,
    "number": lambda a, folder: 5,
    "data frame": lambda a, folder: a.obs,
    "array": lambda a, folder: a.X.toarray(),
    "list": lambda a, folder: [a, a],
    "no X": dropped_x,
    "counts in raw alone": raw_alone,
    "NaN": with_x(lambda x: x.__setitem__((3, 4), np.nan)),
    "infinite": with_x(lambda x: x.__setitem__((3, 4), np.inf)),
    "negative": with_x(lambda x: x.__setitem__((3, 4), -1)),
    "empty cell": with_x(lambda x: x.__setitem__(3, 0)),
    "all zero": with_x(lambda x: x.__setitem__(slice(None), 0)),
    "logged": changed(X=lambda a: a.X.log1p()),
    "dense integers": changed(X=lambda a: a.X.toarray().astype(np.int64)),
    "complex": changed(X=lambda a: a.X.toarray().astype(complex)),
    "no cells": lambda a, folder: a[:0].copy(),
    "one cell": lambda a, folder: a[:1].copy(),
    "two cells": lambda a, folder: a[:2].copy(),
    "no genes": lambda a, folder: a[:, :0].copy(),
    "one gene": lambda a, folder: a[:, :1].copy(),
    "view": lambda a, folder: a[::2, 5:],
    "a gene twice": renamed("var", lambda names: [names[1], *names[1:]]),
    "a cell twice": renamed("obs", lambda names: [names[1], *names[1:]]),
    "lower-case genes": renamed("var", lambda names: [name.lower() for name in names]),
    "Ensembl ids": renamed("var", lambda names: [f"ensg{i:011d}" for i in range(len(names))]),
    "NaN in highly_variable": changed(var_highly_variable=lambda a: [True, np.nan] * (a.n_vars // 2)),
    "NA in highly_variable": changed(var_highly_variable=lambda a: pd.array([True, None] * 60, dtype="boolean")),
    "text in highly_variable": changed(var_highly_variable="yes"),
    "nothing highly variable": changed(var_highly_variable=False),
    "missing batches and labels": changed(
        obs_run=lambda a: a.obs["run"].where(np.arange(a.n_obs) > 3),
        obs_type=lambda a: a.obs["type"].astype("string").where(np.arange(a.n_obs) > 3),
    ),
    "nothing known": changed(obs_run=None, obs_type=np.nan),
    "one batch and label": changed(obs_run="a", obs_type="B"),
    "a batch of one cell": changed(obs_run=lambda a: ["z", *a.obs["run"].iloc[1:]]),
    "mixed columns": changed(obs_run=lambda a: [1, "1"] * (a.n_obs // 2), obs_type=lambda a: [1, "x"] * (a.n_obs // 2)),
    "lists in columns": changed(obs_run=lambda a: [[i] for i in range(a.n_obs)], obs_type=lambda a: [[1]] * a.n_obs),
    "fractions in columns": changed(obs_run=lambda a: np.linspace(0, 1, 60), obs_type=lambda a: np.linspace(0, 1, 60)),
    "dates in columns": changed(obs_run=lambda a: pd.date_range("2024", periods=60), obs_type=pd.Timestamp("2024")),
    "no columns": lambda a, folder: ad.AnnData(a.X, obs=a.obs[[]], var=a.var),
    "text in obsm": changed(obsm_X_made=lambda a: pd.DataFrame({"x": ["a"] * a.n_obs}, index=a.obs_names)),
    "NaN in obsm": changed(obsm_X_made=lambda a: np.full((a.n_obs, 2), np.nan)),
    "no column in obsm": changed(obsm_X_made=lambda a: np.zeros((a.n_obs, 0))),
    "odd uns": changed(uns_scduet_embeddings="x", uns_hvg=5, uns_x_names=[1]),
}
SEEDS = [-1, 2**32, 2**70, "a", 1.5]
NUMBERS = [0, -1, "x", 1.5]
CHOSEN = [
    *([], [999], [-1], [0.5], ["nobody"], np.ones(7, bool), [True, None] * 30, "nonsense >", "ghost == 1"),
    *(np.zeros(60, int), object()),
]
OPTIONS = {  # option -> bad values, for each function that has the option
    "seed": SEEDS,
    "layer": ["nowhere", 5],
    "batch_key": ["nowhere", 5, "age", ["run"]],
    "labels_key": ["nowhere", 5, "age"],
    "sample_key": ["nowhere", None],
    "groupby": ["nowhere", 5],
    "genes": [["nobody"], [], "nowhere", 5],
    "gene_list": [["nobody"], [], 5],
    "transform_batch": ["nobody", [], 5, None],
    "library_size": ["observed", -1, 0, np.nan, None],
    "n_samples": NUMBERS,
    "min_cells": NUMBERS,
    "batch_size": NUMBERS,
    "n_draws": NUMBERS,
    "rows": CHOSEN,
    "idx1": CHOSEN,
    "idx2": ["type == 'B'", [1]],
    "group1": ["nobody", [], 5, ["B", "nobody"]],
    "group2": ["nobody", "B", 5],
    "mode": ["nonsense", None],
    "delta": ["x", -1],
    "fdr_target": [2, "x"],
    "min_pct": [2, "x"],
    "lfc_threshold": [-1, "x"],
    "total_key": ["nowhere", "type"],
    "metrics": ["nonsense", ["nonsense"], 5, []],
    "embeddings": ["nowhere", ["nowhere"], 5, [5]],
    "pseudotime_key": ["nowhere", "type"],
    "correlation_type": ["nonsense"],
    "max_missing": [-1, "x"],
    "unknown": [2, "x"],
    "use": ["nonsense"],
    "task": ["nonsense", 5],
    "key_added": [5],
    "method": ["nonsense"],
    "control": ["nobody"],
    "goal": ["nobody"],
    "how": ["nonsense"],
    "rate": [0, 1, "x", {"all": 2}, True],
    "n_folds": [0, 1, 500, "x"],
    "n_splits": [0, -1, "x", 1.5],
    "perturbation_key": ["nowhere", 5, None, "age"],
    "context_key": ["nowhere", 5, "age"],
    "contexts": ["nobody", [], 5],
    "dose_key": ["nowhere", 5, "type"],
    "targets": ["nobody", [], 5, "T"],
    "model": ["nonsense", 5, None],
    "compare": ["nonsense", 5],
    "gene_embedding": [5, "nowhere.csv", pd.DataFrame({"x": ["a"]}, ["B"]), {"a": []}],
    "drop_escaped": ["nowhere", 5, "type"],
    "evaluate": ["nonsense", True],
    "controls": ["nonsense", None],
    "kind": ["nonsense"],
    "trained_on": [["B"], [], 5, "nobody"],
    "control_cells": [["nobody"], 5],
    "mechanisms": [5, {"nobody": "x"}],
    "n_random": [-1, "x"],
    "max_epochs": NUMBERS,
    "n": NUMBERS,
    "label": ["nobody", [], 5, ["B", "nobody"]],
    "library": [0, -1, "x", np.nan, [1, 2]],
    "max_cells": [0, "x", 1],
    "lr": [-1, "x", np.nan],
    "accelerator": ["nonsense"],
    "unlabeled_category": [5],
    "continuous_covariate_keys": ["type", "nowhere", [5]],
    "size_factor_key": ["type", "nowhere", "age"],
    "pooling": ["nonsense"],
    "gene_column": ["nowhere"],
    "embedding": ["nowhere", 5],
    "columns": [["nowhere"], 5],
    "gene_symbols": ["nowhere", 5],
    "dof": [-1, "x"],
    "nonsense": [1],
}
TRAINS = {"fit", "integrate", "annotate", "map_query", "finetune", "pretrain"}
TAKES = {  # options of functions that take them by **options
    "seed": TRAINS, "max_epochs": {"fit", "finetune"}, "lr": {"fit", "finetune"}, "batch_size": {"fit", "finetune"},
    "nonsense": set(FUNCTIONS) - {"scvi.SCVI", "generate"},
    "layer": {"fit", "integrate", "annotate", "tuned.predict"}, "genes": {"fit", "integrate", "annotate"},
    "batch_key": {"fit", "integrate", "scvi.SCVI"}, "labels_key": {"fit", "integrate", "scvi.SCVI"},
    "unlabeled_category": {"fit", "integrate"}, "accelerator": {"fit"},
    "continuous_covariate_keys": {"fit", "annotate"},
    "size_factor_key": {"fit", "annotate"}, "pooling": {"embed_pretrained"},
    "gene_column": {"embed_pretrained", "finetune", "pretrain", "tuned.predict", "generate"},
}  # fmt: skip


FEW = {  # for functions whose cells go the way of another function, that meets every kind
    *("path", "no such file", "None", "array", "no X", "NaN", "empty cell", "complex", "no cells", "one cell"),
    *("no genes", "one gene", "a cell twice", "missing batches and labels", "no columns"),
}
ALIKE = {  # by `Model.encode` as `normalized_expression`, or by `Transformer.prepared` as `embed_pretrained`
    *("embed", "predict", "posterior_predictive_sample", "feature_correlation", "likelihood_parameters"),
    *("latent_library_size", "elbo", "reconstruction_error", "marginal_log_likelihood", "posterior_predictive_check"),
    *("minify", "differential_expression, idx", "tuned.predict", "evaluate", "pretrain", "predict_genes"),
    *("gene_network, transformer", "generate_cells", "program_scores", "differential_programs", "cluster_cells"),
}
SHARED = {  # function -> kinds of cells that it meets beyond FEW; those that are not named here meet every kind
    "fit, learned library": {"a batch of one cell"},
    "integrate": {"nothing known", "one batch and label", "mixed columns"},
    "integrate, variable genes": {"all zero", "logged", "two cells", "nothing highly variable", "odd uns"},
    "annotate, reference": {"nothing known", "one batch and label", "mixed columns", "a gene twice", "two cells"},
    "annotate, model": {"a gene twice", "mixed columns"},
    "annotate, transformer": {"lower-case genes", "mixed columns"},
    "prepare_query": {"a gene twice", "lower-case genes"},
    "embed_pretrained, scored": {"two cells", "nothing known", "fractions in columns", "odd uns"},
    "finetune_integration": {"a batch of one cell", "mixed columns"},
    "find_doublets": {"a gene twice", "logged", "infinite", "negative", "nothing highly variable", "all zero"},
    "pseudobulk": {"logged", "negative", "two cells", "a gene twice", "mixed columns", "nothing known", "odd uns"},
    "deconvolve": {"all zero", "logged", "two cells", "lower-case genes", "a gene twice"},
    "deconvolve_bulk": {"logged", "negative", "two cells", "lower-case genes", "data frame"},
    "deconvolve, reference": {"logged", "two cells", "one batch and label", "mixed columns", "lists in columns"},
    "impute_genes": {"all zero", "logged", "two cells", "lower-case genes", "a gene twice", "negative"},
    "impute_genes, single cells": {"all zero", "logged", "two cells", "lower-case genes", "a gene twice"},
    "score, expression": {"two cells", "all zero", "NaN in obsm", "lower-case genes"},
    "score_perturbation": {"one batch and label", "mixed columns", "logged", "lists in columns", "nothing known"},
    "rank_perturbations": {"one batch and label", "mixed columns", "logged", "lists in columns", "nothing known"},
    "score_generated": {"logged", "mixed columns", "nothing known", "one batch and label"},
    "score_generated, generated": {"logged"},
    "report": {"two cells", "text in obsm", "NaN in obsm", "no column in obsm", "lists in columns", "odd uns"},
    "export_viewer": {
        "logged",
        "two cells",
        "a gene twice",
        "mixed columns",
        "lists in columns",
        "NaN in obsm",
        "odd uns",
    },
    "scvi.SCVI": {"logged", "mixed columns", "dates in columns", "nothing known"},
}


def fine_or_told(call):
    """Either there is a result, or an error of ours."""
    with warnings.catch_warnings(), suppress(ScduetError):
        warnings.simplefilter("ignore")
        call()


def meets(name, kind):
    return kind in FEW | SHARED.get(name, set()) or not (name in SHARED or name in ALIKE)


MET = [(name, kind) for name in FUNCTIONS for kind in CELLS if meets(name, kind)]


@pytest.mark.parametrize(("name", "kind"), MET)
def test_cells(kit, name, kind):
    options = {"idx1": "type == 'B'"} if name.endswith("idx") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = CELLS[kind](kit.cells.copy(), kit.folder)
    fine_or_told(lambda: FUNCTIONS[name](kit, cells, **options))


def takes(name, option):
    import inspect

    if option == "model" and name not in ("annotate", "annotate, reference", "predict_perturbation"):
        return False  # has a model already
    function = getattr(sd, name.split(",")[0], None)
    named = function is not None and option in inspect.signature(function).parameters
    return named or name in TAKES.get(option, ())


ASKED = [(name, option) for name in FUNCTIONS for option in OPTIONS if takes(name, option)]


@pytest.mark.parametrize(("name", "option"), ASKED)
def test_options(kit, name, option):
    if option == "nonsense":
        with pytest.raises((ScduetError, TypeError), match="nonsense"):
            FUNCTIONS[name](kit, kit.cells.copy(), nonsense=1)
        return
    for value in OPTIONS[option]:
        try:
            fine_or_told(lambda value=value: FUNCTIONS[name](kit, kit.cells.copy(), **{option: value}))
        except Exception as error:
            raise AssertionError(f"{option}={value!r}") from error
