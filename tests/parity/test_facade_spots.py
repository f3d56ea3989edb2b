"""The façade's CondSCVI, DestVI and Stereoscope give the numbers of scvi-tools' with the same weights."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named
from parity.test_scvi_tools_files import cells, near
from parity.test_spatial_files import GENES, moved, single_cell, spots

from scduet import scvi as ours
from scduet.errors import DataError, OptionError

SOME = [5, 2, 9]


def loaded(cls, model, adata, folder):
    """Ours, read from the file of theirs."""
    model.save(folder, save_anndata=False)
    return cls.load(folder, adata)


def alike(mine, theirs):
    """Tables with the same numbers, rows and columns."""
    assert list(mine.index) == list(theirs.index)
    assert list(mine.columns) == list(theirs.columns)
    near(mine.to_numpy(), theirs.to_numpy())


@pytest.mark.parametrize("prior", ["mog", "normal"])
def test_condscvi(scvi_tools, tmp_path, prior):
    model, adata = single_cell(scvi_tools, prior=prior)
    mine = loaded(ours.model.CondSCVI, model, adata, tmp_path / "theirs")
    near(mine.get_latent_representation(indices=SOME), model.get_latent_representation(indices=SOME))
    weights = model.module.state_dict()
    assert set(mine.module.state_dict()) == set(weights)
    near(mine.module.state_dict()["px_decoder.weight"], weights["px_decoder.weight"])
    p = 1 if prior == "normal" else 10  # of one cluster, where k-means has no start to choose
    found, expected = mine.get_vamp_prior(p=p), model.get_vamp_prior(p=p)
    for name, value in expected.items():  # there tensors of a mixture, else arrays
        near(found[name], torch.as_tensor(value).detach(), rtol=1e-4)
    with pytest.raises(OptionError, match=named("confusion_coarse_celltypes")):
        mine.confusion_coarse_celltypes()
    with pytest.raises(OptionError, match=named("fine_labels_key")):
        mine.predict()


def test_condscvi_with_fine_types(scvi_tools, tmp_path):
    model, adata = single_cell(scvi_tools, fine=True)
    mine = loaded(ours.model.CondSCVI, model, adata, tmp_path / "theirs")
    alike(mine.predict(soft=True, indices=SOME), model.predict(soft=True, indices=SOME))
    assert list(mine.predict()) == list(model.predict())


@pytest.mark.parametrize(
    "options",
    [{}, {"n_states_per_label": 1, "add_celltypes": 2}, {"amortization": "proportion", "prior_mode": "normal"}],
    ids=str,
)
def test_destvi(scvi_tools, tmp_path, options):
    known, _ = single_cell(scvi_tools, prior="mog")
    adata = spots()
    model = moved(scvi_tools.model.DestVI.from_rna_model(adata, known, **options))
    mine = loaded(ours.model.DestVI, model, adata, tmp_path / "theirs")
    assert list(mine.cell_type_mapping) == list(model.cell_type_mapping)
    for given in ({}, {"keep_additional": True}, {"normalize": False}, {"indices": SOME}):
        alike(mine.get_proportions(**given), model.get_proportions(**given))
    if model.module.amortization == "both":
        near(mine.get_gamma(return_numpy=True), model.get_gamma(return_numpy=True))
        for kind, table in model.get_gamma(indices=SOME).items():
            alike(mine.get_gamma(indices=SOME)[kind], table)
    for kind in model.cell_type_mapping_extended[1:]:
        alike(mine.get_scale_for_ct(kind, indices=SOME), model.get_scale_for_ct(kind, indices=SOME))
        alike(mine.get_expression_for_ct(kind), model.get_expression_for_ct(kind))
    kind = model.cell_type_mapping[0]
    sparse = [m.get_expression_for_ct(kind, return_sparse_array=True).toarray() for m in (mine, model)]
    near(*sparse)
    with pytest.raises(OptionError, match=named("'no_type'")):
        mine.get_scale_for_ct("no_type")
    with pytest.raises(OptionError, match=named("n_latent_amortization")):
        mine.get_latent_representation()


def test_the_latent_space_of_destvi(scvi_tools, tmp_path):
    known, _ = single_cell(scvi_tools, prior="mog")
    adata = spots()
    model = moved(scvi_tools.model.DestVI.from_rna_model(adata, known, n_latent_amortization=4))
    mine = loaded(ours.model.DestVI, model, adata, tmp_path / "theirs")
    near(mine.get_latent_representation(indices=SOME), model.get_latent_representation(indices=SOME, mc_samples=1))
    for found, expected in zip(
        mine.get_latent_representation(return_dist=True),
        model.get_latent_representation(return_dist=True, mc_samples=1),
        strict=True,
    ):
        near(found, expected)


def with_smoothed_layer():
    adata = spots()
    values = adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X)
    adata.layers["smoothed"] = sp.csr_matrix(0.5 * (values + np.roll(values, 1, 0)))
    return adata


def test_smoothed_layer(scvi_tools, tmp_path):
    """Theirs is read, written, trained on, and asked of spots without the layer, which it then does not need."""
    known, _ = single_cell(scvi_tools, prior="mog")
    adata = with_smoothed_layer()
    where = {"smoothed_layer": "smoothed"}
    model = moved(scvi_tools.model.DestVI.from_rna_model(adata, known, anndata_setup_kwargs=where))
    mine = loaded(ours.model.DestVI, model, adata, tmp_path / "theirs")
    assert mine._model.schema.fields.smoothed_layer == "layers/smoothed"
    alike(mine.get_proportions(), model.get_proportions())
    mine.train(2, plan_kwargs={"weighting_smoothing": 50}, enable_progress_bar=False)
    assert mine._model.config.weighting_smoothing == 50.0
    assert np.isfinite(mine.history["smoothing_train"].to_numpy()).all()
    mine.export_scvi_tools(tmp_path / "ours")
    again = scvi_tools.model.DestVI.load(tmp_path / "ours", with_smoothed_layer())
    alike(again.get_proportions(), mine.get_proportions())
    assert "x_smoothed" in again.registry_["field_registries"]


def test_fine_types_of_spots(scvi_tools, tmp_path):
    """Equal to theirs with one state a type; with more, theirs mixes states and types up, ours sum to all types."""
    known, cells_ = single_cell(scvi_tools, prior="mog", fine=True)
    adata = spots()
    reference = loaded(ours.model.CondSCVI, known, cells_, tmp_path / "reference")
    model = moved(scvi_tools.model.DestVI.from_rna_model(adata, known, n_states_per_label=1))
    mine = loaded(ours.model.DestVI, model, adata, tmp_path / "one")
    alike(mine.get_fine_celltypes(reference), model.get_fine_celltypes(known))
    model = moved(scvi_tools.model.DestVI.from_rna_model(adata, known))
    mine = loaded(ours.model.DestVI, model, adata, tmp_path / "three")
    found = mine.get_fine_celltypes(reference, indices=SOME)
    near(found.sum(1), mine.get_proportions(normalize=False, indices=SOME).sum(1))


def test_stereoscope(scvi_tools, tmp_path):
    theirs, reference, adata = scvi_tools.external, cells()[:, GENES].copy(), spots()
    theirs.RNAStereoscope.setup_anndata(reference, labels_key="cell_type")
    known = moved(theirs.RNAStereoscope(reference))
    first = loaded(ours.external.RNAStereoscope, known, reference, tmp_path / "known")
    near(first.module.state_dict()["W"], known.module.W.detach())
    theirs.SpatialStereoscope.setup_anndata(adata)
    model = moved(theirs.SpatialStereoscope.from_rna_model(adata, known))
    mine = loaded(ours.external.SpatialStereoscope, model, adata, tmp_path / "theirs")
    alike(mine.get_proportions(), model.get_proportions())
    noise = torch.nn.functional.softplus(model.module.V.detach()).t()  # keep_noise=True fails there
    noise = (noise / noise.sum(1, keepdim=True))[:, -1]
    near(mine.get_proportions(keep_noise=True)["noise_term"], noise)
    wanted = model.cell_type_mapping[::-1]
    near(mine.get_scale_for_ct(wanted), model.get_scale_for_ct(wanted))
    near(mine.get_scale_for_ct(list(wanted)), model.get_scale_for_ct(wanted))
    with pytest.raises(OptionError, match=named("'no_type'")):
        mine.get_scale_for_ct(["no_type"])


def test_the_epochs_have_the_columns_that_theirs_have(scvi_tools):
    adata, reference = spots(), cells()[:, GENES].copy()
    given = {"max_epochs": 1, "enable_progress_bar": False}
    seen = {}
    for package in (scvi_tools, ours):
        package.model.CondSCVI.setup_anndata(reference, labels_key="cell_type")
        known = package.model.CondSCVI(reference, prior="mog")
        known.train(**given)
        model = package.model.DestVI.from_rna_model(adata, known)
        model.train(**given)
        seen[package] = [set(known.history), set(model.history)]
    for theirs, mine in zip(*seen.values(), strict=True):
        assert {name for name in theirs if name.endswith("_train")} <= mine


@pytest.fixture
def reference():
    ours.settings.seed = 0
    adata = cells()[:, GENES].copy()
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X * 0.5
    ours.model.CondSCVI.setup_anndata(adata, labels_key="cell_type", layer="counts")
    yield ours.model.CondSCVI(adata, n_hidden=8)
    ours.settings.seed = None


def test_spots_have_the_layer_and_the_genes_of_the_reference(reference):
    adata = spots()
    adata.layers["counts"] = adata.X.copy()
    turned = adata[:, ::-1].copy()
    model = ours.model.DestVI.from_rna_model(turned, reference)
    assert model._model.schema.fields.layer == "counts"
    assert model._model.genes == list(reference.adata.var_names)
    model = ours.model.DestVI.from_rna_model(adata, reference, anndata_setup_kwargs={"layer": None})
    assert model._model.schema.fields.layer is None
    with pytest.raises(DataError, match=named("gene39")):
        ours.model.DestVI.from_rna_model(adata[:, :39].copy(), reference)
    with pytest.raises(OptionError, match=named("CondSCVI", "DestVI")):
        ours.model.DestVI.from_rna_model(adata, model)
    with pytest.raises(OptionError, match="from_rna_model"):
        ours.model.DestVI(adata)


def test_training_continues_and_free_parameters_hold_no_spot_out(reference, tmp_path):
    adata = spots()
    adata.layers["counts"] = adata.X.copy()
    model = ours.model.DestVI.from_rna_model(adata, reference, amortization="none", vamp_prior_p=2)
    with pytest.raises(OptionError, match=named("train_size")):
        model.train(1, train_size=0.8)
    model.train(1)
    model.train(1)
    assert len(model.history["train_loss"]) == 2
    model.save(tmp_path / "saved")
    again = ours.model.DestVI.load(tmp_path / "saved", adata)
    alike(again.get_proportions(indices=SOME), model.get_proportions().iloc[SOME])


def test_the_closed_start_finds_the_types_of_cells():
    """Cells taken as spots: without a step of training of the spots, most are what they are."""
    ours.settings.seed = 0
    adata = cells()
    ours.external.RNAStereoscope.setup_anndata(adata, labels_key="cell_type")
    known = ours.external.RNAStereoscope(adata, initialization="closed")
    ours.external.SpatialStereoscope.setup_anndata(adata)
    model = ours.external.SpatialStereoscope.from_rna_model(adata, known, initialization="closed")
    ours.settings.seed = None
    found = model.get_proportions()
    assert isinstance(found, pd.DataFrame)
    assert np.mean(found.idxmax(axis=1) == adata.obs["cell_type"].to_numpy()) > 0.9
