"""TOTALVI, PEAKVI and POISSONVI of the façade: with their weights and seeds they give scvi-tools' numbers and forms."""

import gzip

import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named
from parity.test_scvi_tools_files import near, pretended, seed_ours
from scipy.io import mmwrite

from scduet import scvi as ours
from scduet.errors import DataError, FormatError

ALL = 200  # cells in a minibatch: more than there are, since later draws of theirs move the stream for other reasons
SETUP = {"protein_expression_obsm_key": "protein_expression", "protein_names_uns_key": "protein_names"}
MULTIOME = {"rna_layer": "rna", "atac_layer": "accessibility", "protein_layer": "protein_expression"}
FEW = {"n_samples_overall": 300, "silent": True}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def cite_seq(missing=True):
    adata = ours.data.synthetic_iid(batch_size=30, n_genes=12, n_proteins=11, n_regions=0)
    adata.obsm["protein_expression"] = adata.obsm["protein_expression"].astype(np.float32)
    if missing:
        adata.obsm["protein_expression"][:30, :2] = 0
    return adata


def class_of(scvi, name):
    return getattr(scvi.external if name == "POISSONVI" else scvi.model, name)


@pytest.fixture(scope="module")
def pair(scvi_tools, tmp_path_factory):
    """Models of theirs with weights that are not the initial ones, and the same read by us from their folders."""
    made = {}
    ours.settings.seed = 1
    setups = {
        "TOTALVI": (cite_seq(), SETUP),
        "PEAKVI": (ours.data.synthetic_iid(batch_size=55, n_genes=40, n_proteins=0, n_regions=0), {}),
        "POISSONVI": (ours.data.synthetic_iid(batch_size=55, n_genes=40, n_proteins=0, n_regions=0), {}),
    }  # fmt: skip
    few = {"batch_size": 30, "n_genes": 12, "n_proteins": 4, "n_regions": 30}
    setups["MULTIVI"] = ours.data.synthetic_iid(**few, return_mudata=True), {"modalities": MULTIOME}
    ours.settings.seed = None
    setups["POISSONVI"][0].X = np.ceil(setups["POISSONVI"][0].X / 12)
    for name, (adata, setup) in setups.items():
        cls = class_of(scvi_tools, name)
        (cls.setup_mudata if name == "MULTIVI" else cls.setup_anndata)(adata, batch_key="batch", **setup)
        torch.manual_seed(0)
        theirs = pretended(class_of(scvi_tools, name)(adata))
        theirs.history_, theirs.train_indices_ = None, np.arange(adata.n_obs)
        folder = tmp_path_factory.mktemp(name)
        theirs.save(folder, overwrite=True)
        made[name] = theirs, class_of(ours, name).load(folder, adata=adata.copy()), adata
    return made


def form(value):
    """Type, shape, names and dtypes of a result."""
    if isinstance(value, dict):
        return {name: form(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [form(part) for part in value]
    if isinstance(value, pd.DataFrame):
        return "table", value.shape, list(value.columns), sorted(value.index), [str(dtype) for dtype in value.dtypes]
    return type(value).__name__, tuple(value.shape), str(value.dtype)


def flat(value):
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
    return [part.toarray() if hasattr(part, "toarray") else np.asarray(part) for part in parts]


FACTORS, BACKGROUND = {"normalize_cells": True, "normalize_regions": True}, {"include_protein_background": True}
TWO = {"idx1": np.arange(20), "idx2": np.arange(30, 50)}
LISTS = {"gene_list": ["gene_3", "gene_1"], "protein_list": ["protein_4", "protein_2"]}
SAME = [  # of the same draws: the same numbers
    ("TOTALVI", "get_latent_representation", {}),
    ("TOTALVI", "get_latent_representation", {"return_dist": True}),
    ("TOTALVI", "get_latent_representation", {"give_mean": False}),
    ("TOTALVI", "get_normalized_expression", {}),
    ("TOTALVI", "get_normalized_expression", {"transform_batch": "batch_1", **BACKGROUND, **LISTS}),
    ("TOTALVI", "get_normalized_expression", {"scale_protein": True, "library_size": 50, "return_numpy": True}),
    ("TOTALVI", "get_normalized_expression", {"library_size": "latent", "indices": [5, 3, 40]}),
    ("TOTALVI", "get_protein_foreground_probability", {}),
    ("TOTALVI", "get_protein_foreground_probability", {"protein_list": ["protein_4"], "return_numpy": True}),
    ("TOTALVI", "get_elbo", {}),
    ("TOTALVI", "get_elbo", {"return_mean": False}),
    ("TOTALVI", "get_reconstruction_error", {"return_mean": False}),
    ("PEAKVI", "get_latent_representation", {}),
    ("PEAKVI", "get_normalized_accessibility", {}),
    ("PEAKVI", "get_normalized_accessibility", {"use_z_mean": False, **FACTORS}),
    ("PEAKVI", "get_normalized_accessibility", {"transform_batch": "batch_0", "region_list": ["gene_5", "gene_2"]}),
    ("PEAKVI", "get_normalized_accessibility", {"threshold": 0.5}),
    ("PEAKVI", "get_normalized_accessibility", {"threshold": 0.5, "return_numpy": True, "indices": np.arange(9)}),
    ("PEAKVI", "get_library_size_factors", {}),
    ("PEAKVI", "get_region_factors", None),
    ("PEAKVI", "get_elbo", {"return_mean": False}),
    ("PEAKVI", "get_reconstruction_error", {}),
    ("POISSONVI", "get_latent_representation", {}),
    ("POISSONVI", "get_normalized_accessibility", {}),
    ("POISSONVI", "get_normalized_accessibility", {"normalize_regions": True, "library_size": 9}),
    ("POISSONVI", "get_normalized_accessibility", {"return_numpy": True, "transform_batch": ["batch_0"]}),
    ("POISSONVI", "get_normalized_expression", {}),
    ("POISSONVI", "get_region_factors", None),
    ("POISSONVI", "get_reconstruction_error", {"return_mean": False}),
    ("MULTIVI", "get_latent_representation", {}),
    ("MULTIVI", "get_latent_representation", {"modality": "expression"}),
    ("MULTIVI", "get_latent_representation", {"modality": "accessibility", "indices": [4, 2]}),
    ("MULTIVI", "get_latent_representation", {"return_dist": True}),
    ("MULTIVI", "get_normalized_expression", {}),
    ("MULTIVI", "get_normalized_expression", {"gene_list": ["gene_3"], "transform_batch": "batch_1"}),
    ("MULTIVI", "get_normalized_accessibility", {}),
    ("MULTIVI", "get_normalized_accessibility", FACTORS),
    ("MULTIVI", "get_protein_foreground_probability", {}),
    ("MULTIVI", "get_library_size_factors", {}),
    ("MULTIVI", "get_region_factors", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "method", "options"), SAME, ids=str)
def test_the_same_call_gives_the_same_numbers_in_the_same_form(pair, name, method, options):
    theirs, mine, _ = pair[name]
    options = {} if options is None else {"batch_size": ALL, **options}
    torch.manual_seed(5)
    wanted = getattr(theirs, method)(**options)
    seed_ours(5)
    found = getattr(mine, method)(**options)
    assert form(found) == form(wanted)
    for one, other in zip(flat(found), flat(wanted), strict=True):
        near(one, other, rtol=3e-5)


FORMS = [  # of other draws: the same forms
    ("TOTALVI", "get_normalized_expression", {"n_samples": 3, "return_mean": False, **LISTS}),
    ("TOTALVI", "get_protein_foreground_probability", {"n_samples": 3, "return_mean": False}),
    ("TOTALVI", "get_protein_foreground_probability", {"n_samples": 3, "transform_batch": ["batch_0", "batch_1"]}),
    ("TOTALVI", "posterior_predictive_sample", {}),
    ("TOTALVI", "posterior_predictive_sample", {"n_samples": 2, "gene_list": ["gene_2"]}),
    ("TOTALVI", "get_feature_correlation_matrix", {"n_samples": 2}),
    ("TOTALVI", "get_latent_library_size", {"batch_size": 9}),
    ("TOTALVI", "differential_expression", {"groupby": "labels", **FEW}),
    ("TOTALVI", "differential_expression", {"idx1": np.arange(20), "use_field": ["protein"], **FEW}),
    ("TOTALVI", "differential_expression", {"groupby": "labels", "group1": "label_0", "mode": "vanilla", **FEW}),
    ("PEAKVI", "differential_accessibility", {"groupby": "labels", "group1": "label_0", **FEW}),
    ("PEAKVI", "differential_accessibility", {"idx1": np.arange(20), "mode": "vanilla", **FEW}),
    ("POISSONVI", "differential_accessibility", {"groupby": "labels", **FEW}),
    ("POISSONVI", "get_normalized_accessibility", {"n_samples": 2, "return_mean": False}),
    ("MULTIVI", "differential_expression", {**TWO, **FEW}),
    ("MULTIVI", "differential_accessibility", {**TWO, **FEW}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "method", "options"), FORMS, ids=str)
def test_other_draws_have_the_same_form(pair, name, method, options):
    theirs, mine, _ = pair[name]
    wanted, found = (getattr(model, method)(**options) for model in (theirs, mine))
    if method.startswith("differential"):  # whose statistics are of double precision here
        wanted, found = (table.astype(dict.fromkeys(table.select_dtypes("number"), float)) for table in (wanted, found))
    assert form(found) == form(wanted)


def test_several_groups_can_be_told_apart(pair):
    """Theirs has no column that says of which group a row is."""
    theirs, mine, _ = pair["PEAKVI"]
    wanted, found = (m.differential_accessibility(groupby="labels", silent=True) for m in (theirs, mine))
    assert list(found) == [*wanted, "comparison", "group1", "group2"]
    assert found["comparison"].value_counts().to_dict() == {f"label_{i} vs Rest": 40 for i in range(3)}


def test_poissonvi_calls_what_differs(pair):
    """At a threshold that nothing passes theirs of 1.4 calls every peak."""
    theirs, mine, _ = pair["POISSONVI"]
    given = {"groupby": "labels", "group1": "label_0", "delta": 10, **FEW}
    wanted, found = (m.differential_accessibility(**given) for m in (theirs, mine))
    assert wanted["is_de_fdr_0.05"].all()
    assert not found["is_de_fdr_0.05"].any()


def test_a_model_of_a_mudata_is_read_with_its_cells(scvi_tools, tmp_path):
    ours.settings.seed = 1
    mdata = ours.data.synthetic_iid(batch_size=30, n_genes=12, n_proteins=11, n_regions=0, return_mudata=True)
    ours.settings.seed = None
    mdata.mod["rna"].layers["counts"], mdata.mod["rna"].obs["run"] = mdata.mod["rna"].X, mdata.obs["batch"].to_numpy()
    modalities = {"rna_layer": "rna", "protein_layer": "protein_expression", "batch_key": "rna"}
    setup = {"rna_layer": "counts", "batch_key": "run", "modalities": modalities}
    scvi_tools.model.TOTALVI.setup_mudata(mdata, **setup)
    torch.manual_seed(0)
    theirs = pretended(scvi_tools.model.TOTALVI(mdata))
    theirs.history_, theirs.train_indices_ = None, np.arange(60)
    theirs.save(tmp_path, overwrite=True, save_anndata=True)
    mine = ours.model.TOTALVI.load(tmp_path)
    assert isinstance(mine.adata, md.MuData)
    for method, options in (("get_latent_representation", {}), ("get_normalized_expression", {"indices": [7, 3]})):
        torch.manual_seed(5)
        wanted = getattr(theirs, method)(batch_size=ALL, **options)
        seed_ours(5)
        found = getattr(mine, method)(batch_size=ALL, **options)
        assert form(found) == form(wanted)
        for one, other in zip(flat(found), flat(wanted), strict=True):
            near(one, other, rtol=3e-5)
    assert form(mine.posterior_predictive_sample()) == form(theirs.posterior_predictive_sample())
    for field in ("X", "proteins", "batch"):
        place = dict(theirs.adata_manager.data_registry[field])
        assert mine.adata_manager.data_registry[field] == {**place, "attr_key": place["attr_key"]}
        got, there = (model.adata_manager.get_from_registry(field) for model in (mine, theirs))
        assert np.array_equal(np.asarray(got), np.asarray(there)), field
    for name in ("n_vars", "n_proteins", "n_batch", "n_cells"):
        assert mine.summary_stats[name] == theirs.summary_stats[name]
    fresh = ours.data.synthetic_iid(batch_size=30, n_genes=12, n_proteins=11, n_regions=0, return_mudata=True)
    fresh.mod["rna"].layers["counts"], fresh.mod["rna"].obs["run"] = fresh.mod["rna"].X, fresh.obs["batch"].to_numpy()
    ours.model.TOTALVI.setup_mudata(fresh, **setup)
    made = ours.model.TOTALVI(fresh)  # and one of ours says the same of the same cells
    for key, value in mine.registry["setup_args"].items():
        assert made.registry["setup_args"][key] == value, key


def test_multiome_cells_are_joined_as_there(scvi_tools):
    ours.settings.seed = 1
    whole = ours.data.synthetic_iid(batch_size=10, n_genes=9, n_proteins=0, n_regions=0, sparse_format="csr_matrix")
    ours.settings.seed = None
    parts = whole[:8].copy(), whole[8:15, :5].copy(), whole[15:, 4:].copy()
    wanted = scvi_tools.data.organize_multiome_anndatas(*(part.copy() for part in parts))
    found = ours.data.organize_multiome_anndatas(*parts)
    assert list(found.obs_names) == list(wanted.obs_names)
    assert list(found.var_names) == list(wanted.var_names)
    assert found.obs["modality"].tolist() == wanted.obs["modality"].tolist()
    assert (found.X != wanted.X).nnz == 0
    with pytest.raises(DataError, match=named("'expression'")):
        ours.data.organize_multiome_anndatas(parts[0][:, :3].copy(), parts[2])


def test_proteins_in_x_are_moved_as_there(scvi_tools):
    adata = ours.data.synthetic_iid(batch_size=10, n_genes=9, n_proteins=0, n_regions=0, sparse_format="csr_matrix")
    adata.var["feature_types"] = ["Gene Expression"] * 6 + ["Antibody Capture"] * 3
    wanted = scvi_tools.data.organize_cite_seq_10x(adata.copy(), copy=True)
    found = ours.data.organize_cite_seq_10x(adata, copy=True)
    assert adata.n_vars == 9
    assert (found.X != wanted.X).nnz == 0
    assert found.obsm["protein_expression"].equals(wanted.obsm["protein_expression"])
    with pytest.raises(DataError, match=named("'Antibody Capture'")):
        ours.data.organize_cite_seq_10x(found)


@pytest.mark.parametrize("zipped", [False, True])
def test_10x_folders_are_read_as_there(scvi_tools, tmp_path, zipped):
    rng = np.random.default_rng(0)
    counts = sp.random(4, 3, 0.6, "coo", random_state=0, data_rvs=lambda n: rng.integers(1, 9, n))
    mmwrite(tmp_path / "matrix.mtx", counts.astype(int))
    kinds = ["Gene Expression"] * 2 + ["Peaks"] * 2
    rows = [f"id{i}\tname{i}\t{kind}\tchr1\t{i}00\t{i}50" for i, kind in enumerate(kinds)]
    (tmp_path / "features.tsv").write_text("\n".join(rows))
    (tmp_path / "peaks.bed").write_text("\n".join(f"chr{i}\t{i}00\t{i}50" for i in range(4)))
    (tmp_path / "barcodes.tsv").write_text("AAA-1\nCCC-1\nGGG-2")
    for reader in ("read_10x_multiome", "read_10x_atac"):
        wanted = getattr(scvi_tools.data, reader)(tmp_path)
        if zipped:
            for path in tmp_path.glob("*.*"):
                (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
                path.unlink()
        found = getattr(ours.data, reader)(tmp_path)
        assert (found.X != wanted.X).nnz == 0
        assert found.obs.equals(wanted.obs)
        assert found.var.equals(wanted.var)
        if zipped:
            break
    next(tmp_path.glob("barcodes*")).unlink()
    with pytest.raises(FormatError, match=named("barcodes.tsv")):
        ours.data.read_10x_multiome(tmp_path)
