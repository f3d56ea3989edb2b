"""CondSCVI, DestVI and Stereoscope of scvi-tools are read here and give its numbers, and go back."""

import numpy as np
import pytest
import torch
from named import named
from parity.test_scvi_tools_files import cells, near, pretended

import scduet as sd
from scduet.errors import DataError
from scduet.tasks.spatial.deep import proportions_of

GENES = slice(0, 40)


def spots():
    adata = cells()[:, GENES].copy()
    adata.obs_names = [f"spot{i}" for i in range(adata.n_obs)]
    return adata


def moved(model):
    """With parameters that are not the initial ones."""
    torch.manual_seed(1)
    for name in ("per_ct_bias", "beta", "eta"):
        if hasattr(model.module, name):
            getattr(model.module, name).data.normal_()
    return pretended(model)


def single_cell(scvi, **options):
    adata = cells()[:, GENES].copy()
    fine = {"fine_labels_key": "site"} if options.pop("fine", False) else {}
    scvi.model.CondSCVI.setup_anndata(adata, batch_key="batch", labels_key="cell_type", **fine)
    torch.manual_seed(0)
    return moved(scvi.model.CondSCVI(adata, **options)), adata


@pytest.mark.parametrize(
    "options", [{"prior": "mog"}, {"prior": "normal", "weight_obs": True, "n_layers": 1}, {"fine": True}], ids=str
)
def test_condscvi(scvi_tools, tmp_path, options):
    model, adata = single_cell(scvi_tools, **options)
    model.save(tmp_path / "theirs", save_anndata=False)
    mine = sd.load(tmp_path / "theirs")
    near(mine.embed(adata), model.get_latent_representation(adata))
    if options.get("fine"):
        module = mine.module
        share = mine.map(lambda batch: module.fine_logits(module.embed(batch), batch.label).softmax(-1), adata)
        near(share, model.predict(soft=True))
    else:
        mine.export_scvi_tools(tmp_path / "ours")
        again = scvi_tools.model.CondSCVI.load(tmp_path / "ours", adata)
        for name, value in model.module.state_dict().items():
            assert torch.equal(again.module.state_dict()[name], value), name
        near(again.get_latent_representation(), model.get_latent_representation())


@pytest.mark.parametrize("options", [{}, {"n_states_per_label": 1, "add_celltypes": 2}], ids=str)
def test_destvi(scvi_tools, tmp_path, options):
    known, _ = single_cell(scvi_tools, prior="mog")
    adata = spots()
    model = moved(scvi_tools.model.DestVI.from_rna_model(adata, known, **options))
    model.save(tmp_path / "theirs")
    mine = sd.load(tmp_path / "theirs")
    expected = model.get_proportions()
    near(mine.embed(adata), expected)
    found = proportions_of(mine, adata)
    assert list(found.columns) == list(expected.columns)
    near(mine.map(mine.module.states, adata).transpose(1, 2), model.get_gamma(return_numpy=True))
    near(mine.map(lambda batch: mine.module.type_shares(batch, 1), adata), model.get_scale_for_ct(expected.columns[1]))
    mine.save(tmp_path / "again")
    assert np.array_equal(sd.load(tmp_path / "again").embed(adata), mine.embed(adata))
    assert np.isnan(mine.holds["single_cell"].module.encoder.mean.weight.detach()).all()  # files do not have it
    mine.export_scvi_tools(tmp_path / "ours")
    there = scvi_tools.model.DestVI.load(tmp_path / "ours", spots())
    near(there.get_proportions(), expected)
    near(there.get_gamma(return_numpy=True), model.get_gamma(return_numpy=True))
    near(sd.load(tmp_path / "ours").embed(adata), expected)


def test_stereoscope(scvi_tools, tmp_path):
    external, reference, adata = scvi_tools.external, cells()[:, GENES].copy(), spots()
    external.RNAStereoscope.setup_anndata(reference, labels_key="cell_type")
    known = moved(external.RNAStereoscope(reference))
    known.save(tmp_path / "known")
    near(sd.load(tmp_path / "known").module.rate.detach(), known.module.W.detach())
    sd.load(tmp_path / "known").export_scvi_tools(tmp_path / "known again")
    again = external.RNAStereoscope.load(tmp_path / "known again", cells()[:, GENES].copy())
    for name, value in known.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value), name
    external.SpatialStereoscope.setup_anndata(adata)
    model = moved(external.SpatialStereoscope.from_rna_model(adata, known))
    model.save(tmp_path / "theirs")
    mine = sd.load(tmp_path / "theirs")
    near(proportions_of(mine, adata), model.get_proportions())
    with pytest.raises(DataError, match=named("fit", "order")):
        mine.embed(adata[:10].copy())  # which columns of the file are theirs is not known
    mine.export_scvi_tools(tmp_path / "ours")
    there = external.SpatialStereoscope.load(tmp_path / "ours", spots())
    for name, value in model.module.state_dict().items():
        assert torch.equal(there.module.state_dict()[name], value), name
    near(there.get_proportions(), model.get_proportions())
    near(mine.module.type_rates().detach()[[1, 0]], model.get_scale_for_ct(np.array(mine_types(mine))[[1, 0]]))


def mine_types(model):
    held = model.holds["single_cell"].schema
    return list(held.values(held.fields.labels_key))
