"""What version 0.1.0 wrote is read, gives the numbers that it gave there, and trains to the same weights."""

import shutil

import numpy as np
import pytest
from fixtures.v0_1_0.make import HERE, RESUMED, SMALL, TYPES, cells, of_reference

import scduet as sd

pytestmark = pytest.mark.filterwarnings("ignore:only . cells|only .. cells")
CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # another processor sums in another order
FITS = {
    "scvi": {"use_observed_lib_size": False, "encode_covariates": True},
    "scanvi": {"n_samples_per_label": 5, **TYPES},
    "ldvae": {},
    "autozi": {},
}


def stored(name):
    with np.load(HERE / "embeddings.npz") as file:
        return file[name]


@pytest.mark.parametrize("name", ["scvi", "scanvi", "ldvae", "autozi", "query"])
def test_models_embed_as_they_did(name, tmp_path):
    model = sd.load(HERE / name)
    adata = cells() if name == "query" else of_reference(cells())
    np.testing.assert_allclose(model.embed(adata), stored(name), **CLOSE)
    assert len(model.history) == (2 if name == "query" else 4)
    model.save(tmp_path / "again")
    assert np.array_equal(sd.load(tmp_path / "again").embed(adata), model.embed(adata))


@pytest.mark.parametrize("name", FITS)
def test_models_train_to_the_same_weights(name):
    model = sd.fit(of_reference(cells()), name, **FITS[name], **SMALL)
    np.testing.assert_allclose(model.embed(), stored(name), **CLOSE)


def test_training_that_was_cut_off_goes_on(tmp_path):
    """Three of six epochs were done by 0.1.0."""
    folder = tmp_path / "training"
    shutil.copytree(HERE / "training", folder)
    told = []
    model = sd.fit(of_reference(cells()), "scvi", checkpoint=folder, callback=lambda e: told.append(e), **RESUMED)
    assert [event.done for event in told if event.kind == "progress"] == [4, 5, 6]
    np.testing.assert_allclose(model.embed(), stored("training"), **CLOSE)


def test_a_mapped_model_takes_further_batches():
    adata = cells()
    mapped = sd.map_query(of_reference(adata), sd.load(HERE / "query"), train=False)
    assert mapped.schema.levels["batch"] == ("a", "b", "query")
