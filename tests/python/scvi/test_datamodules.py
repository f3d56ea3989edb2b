"""Models of the façade trained on data modules: of scvi-tools (a stand-in with its interface), and of annbatch."""

from scduet._torch import torch

from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from named import named

from scduet import scvi
from scduet.errors import OptionError

N, GENES = 200, 12


@pytest.fixture(scope="module")
def cells():
    scvi.settings.seed = 0
    made = scvi.data.synthetic_iid(batch_size=N // 2, n_genes=GENES)
    made.obs["age"] = np.linspace(-1, 1, N)
    yield made
    scvi.settings.seed = None


class DataModule:
    """What train and the constructor read of scvi.dataloaders' classes: dense tensors, codes (cell, 1), a registry."""

    def __init__(self, adata, size=64):
        self.adata, self.size, self.held = adata, size, 0
        self.levels = {key: sorted(set(adata.obs[key])) for key in ("batch", "labels")}
        self.registry = {
            "model_name": "SCVI",
            "setup_method_name": "setup_datamodule",
            "setup_args": {
                "batch_key": "batch",
                "labels_key": "labels",
                "categorical_covariate_keys": None,
                "continuous_covariate_keys": ["age"],
            },
            "field_registries": {
                "X": {"state_registry": {"column_names": list(adata.var_names)}},
                "batch": {"state_registry": {"categorical_mapping": self.levels["batch"]}},
                "labels": {"state_registry": {"categorical_mapping": [*self.levels["labels"], "Unknown"]}},
            },
        }

    def set_split(self, train_size=None, validation_size=None, shuffle_set_split=True, batch_size=None):
        self.held = round(N * (1 - (train_size or 1)))

    def train_dataloader(self):
        return self.raw(np.arange(self.held, N))

    def val_dataloader(self):
        return self.raw(np.arange(self.held)) if self.held else None

    def inference_dataloader(self):
        return [self.on_before_batch_transfer(item, None) for item in self.raw(np.arange(N))]

    def raw(self, rows):
        return [rows[i : i + self.size] for i in range(0, len(rows), self.size)]

    def on_before_batch_transfer(self, rows, dataloader_idx):
        codes = {
            key: torch.tensor(pd.Categorical(self.adata.obs[key].iloc[rows], levels).codes.copy()).long()[:, None]
            for key, levels in self.levels.items()
        }
        age = torch.tensor(self.adata.obs["age"].to_numpy()[rows]).float()[:, None]
        return {"X": torch.tensor(self.adata.X[rows]).float(), **codes, "extra_continuous_covs": age}


@pytest.mark.parametrize("name", ["SCVI", "SCANVI"])
def test_a_data_module_trains_as_its_cells(cells, name):
    module = DataModule(cells)
    model = getattr(scvi.model, name)(registry=module.registry, n_latent=3, n_hidden=8)
    assert not model.is_trained
    model.train(datamodule=module, max_epochs=3, train_size=0.8, enable_progress_bar=False)
    assert len(model.history["elbo_validation"])
    assert model.summary_stats.n_vars == GENES
    assert model.summary_stats.n_batch == 2
    assert model.summary_stats.n_cells == 160
    latent = model.get_latent_representation(dataloader=module.inference_dataloader())
    np.testing.assert_allclose(latent, model.get_latent_representation(cells), atol=1e-5)
    if name == "SCANVI":
        assert set(model.predict(cells)) <= {"label_0", "label_1", "label_2"}


def test_a_saved_model_embeds_what_a_loader_gives(cells, tmp_path):
    module = DataModule(cells)
    model = scvi.model.SCVI(registry=module.registry, n_latent=3, n_hidden=8)
    model.train(datamodule=module, max_epochs=1, enable_progress_bar=False)
    model.save(tmp_path / "model")
    loaded = scvi.model.SCVI.load(tmp_path / "model", datamodule=module)
    given = module.inference_dataloader()
    expected = model.get_latent_representation(cells)
    np.testing.assert_allclose(loaded.get_latent_representation(dataloader=given), expected, atol=1e-5)


def test_what_is_missing_is_named(cells):
    module = DataModule(cells)
    model = scvi.model.SCVI(registry=module.registry)
    with pytest.raises(OptionError, match=named("datamodule=")):
        model.train(max_epochs=1)
    with pytest.raises(OptionError, match=named("registry")):
        scvi.model.SCVI()
    with pytest.raises(OptionError, match=named("DataFrame")):
        model.train(datamodule=cells.obs, max_epochs=1)
    with pytest.raises(OptionError, match=named("use_class_sampler")):
        scvi.model.SCVI.setup_annbatch(adatas=[cells], use_class_sampler=True)


def test_annbatch_is_asked_for_where_it_is_not(cells, monkeypatch):
    monkeypatch.setattr("scduet.scvi.datamodules.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=named("annbatch")):
        scvi.model.SCVI.setup_annbatch(adatas=[cells])


if find_spec("annbatch"):  # which needs Python 3.12: make test-newest

    @pytest.mark.parametrize("place", ["files", "memory"])
    def test_annbatch_gives_the_cells(cells, place, tmp_path):
        import scipy.sparse as sp

        given = cells.copy()
        given.X, given.obsm = sp.csr_matrix(given.X.astype(np.float32)), None
        keys = {"batch_key": "batch", "labels_key": "labels", "batch_size": 32, "chunk_size": 16, "preload_nchunks": 4}
        if place == "files":
            given[:120].write_h5ad(tmp_path / "a.h5ad")
            given[120:].write_h5ad(tmp_path / "b.h5ad")
            where = {"paths": [tmp_path / "a.h5ad", tmp_path / "b.h5ad"], "collection_path": tmp_path / "cells.zarr"}
        else:
            where = {"adatas": [given]}
        module = scvi.model.SCVI.setup_annbatch(**where, **keys)
        model = scvi.model.SCVI(registry=module.registry, n_latent=3, n_hidden=8)
        model.train(datamodule=module, max_epochs=2, train_size=0.8, enable_progress_bar=False)
        assert model.summary_stats.n_cells == 160
        latent = model.get_latent_representation(dataloader=module.inference_dataloader())
        assert latent.shape == (N, 3)
        if place == "memory":
            np.testing.assert_allclose(latent, model.get_latent_representation(given), atol=1e-5)
