"""SOLO gives the scores of scvi-tools' for the same states, doublets and weights."""

import warnings

import numpy as np
import pytest
import torch
from named import named
from sklearn.metrics import roc_auc_score

from scduet import scvi as ours
from scduet.errors import OptionError

KEYS = {  # weights of theirs: ours
    "classifier.0.fc_layers.Layer 0.0": "hidden.linear.0",
    "classifier.0.fc_layers.Layer 0.1": "hidden.norm.0",
    "classifier.1": "logits",
}


def renamed(name):
    return next(mine + name.removeprefix(theirs) for theirs, mine in KEYS.items() if name.startswith(theirs))


@pytest.mark.parametrize(("batch", "learned"), [(None, False), ("b1", True)])
def test_scores_are_those_of_scvi_tools(scvi_tools, counts, tmp_path, batch, learned):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi_tools.settings.seed = 0
        scvi_tools.model.SCVI.setup_anndata(counts, batch_key="batch" if batch else None)
        vae = scvi_tools.model.SCVI(counts, n_hidden=16, use_observed_lib_size=not learned)
        vae.train(max_epochs=3, accelerator="cpu", enable_progress_bar=False)
        vae.save(tmp_path / "vae")
        theirs = scvi_tools.external.SOLO.from_scvi_model(vae, restrict_to_batch=batch)
        theirs.train(max_epochs=5, accelerator="cpu", enable_progress_bar=False)
        expected = theirs.predict(include_simulated_doublets=True)
    model = ours.model.SCVI.load(tmp_path / "vae", counts)
    solo = ours.external.SOLO.from_scvi_model(model, restrict_to_batch=batch)
    np.testing.assert_allclose(solo.adata.X, theirs.adata.X, rtol=1e-4, atol=1e-5)
    assert list(solo.adata.obs_names) == list(theirs.adata.obs_names)
    solo.module.load_state_dict({renamed(name): value for name, value in theirs.module.state_dict().items()})
    found = solo.predict(include_simulated_doublets=True)
    assert list(found.columns) == list(expected.columns)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (solo.predict(soft=False) == theirs.predict(soft=False)).mean() > 0.99
    assert found.index[: len(solo.predict())].equals(solo.predict().index)


def test_training_learns_the_doublets(counts):
    ours.model.SCVI.setup_anndata(counts)
    model = ours.model.SCVI(counts, n_hidden=16)
    model.train(max_epochs=20, enable_progress_bar=False)
    solo = ours.external.SOLO.from_scvi_model(model, n_hidden=32)
    solo.train(max_epochs=30, lr=0.01, enable_progress_bar=False)
    assert len(solo.history["validation_loss"]) == 30
    made = (solo.adata.obs["_solo_doub_sim"] == "doublet").to_numpy()
    assert made.sum() == 400
    assert roc_auc_score(made, solo.predict(include_simulated_doublets=True)["doublet"]) > 0.8
    logits = solo.predict(return_logits=True).to_numpy()
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(1), solo.predict(), rtol=1e-5)


def test_what_solo_cannot_do_is_named(counts):
    ours.model.SCVI.setup_anndata(counts, batch_key="batch", categorical_covariate_keys=["site"])
    with pytest.raises(ValueError, match="covariates"), pytest.warns(UserWarning, match="restrict_to_batch="):
        ours.external.SOLO.from_scvi_model(ours.model.SCVI(counts))
    ours.model.SCVI.setup_anndata(counts, batch_key="batch")
    with pytest.raises(ValueError, match=named("'b9'", "'b0'")):
        ours.external.SOLO.from_scvi_model(ours.model.SCVI(counts), restrict_to_batch="b9")
    with pytest.raises(OptionError, match="use_batch_norm"):
        ours.external.SOLO.from_scvi_model(ours.model.SCVI(counts), restrict_to_batch="b1", use_batch_norm=False)
    with pytest.raises(AttributeError, match="'RESOLVI'"):
        ours.external.RESOLVI  # noqa: B018
