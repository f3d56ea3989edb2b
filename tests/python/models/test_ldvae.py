"""LDVAE's decoder is linear, and its loadings say what it does."""

import numpy as np
import pytest
import torch

import scduet as sd


@pytest.mark.parametrize("use_batch_norm", [True, False])
def test_loadings_are_the_slopes_of_log_shares(counts, use_batch_norm):
    """log share of a gene against another moves with z by the difference of their loadings."""
    options = dict(batch_key="batch", n_latent=4, max_epochs=3, use_batch_norm=use_batch_norm)
    model = sd.fit(counts, "ldvae", **options)
    z = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    share = np.log(sd.decode_states(model, z).to_numpy())
    found = (share[1] - share[1, 0]) - (share[0] - share[0, 0])
    loadings = model.module.loadings().numpy()
    assert np.allclose(found, (z[1] - z[0]) @ (loadings - loadings[0]).T, atol=1e-4)


def test_the_encoder_sees_no_covariates(counts):
    model = sd.fit(counts, "ldvae", batch_key="batch", n_latent=4, max_epochs=2)
    before = model.embed(counts)
    counts.obs["batch"] = counts.obs["batch"].to_numpy()[::-1]
    assert np.array_equal(model.embed(counts), before)


def test_the_library_is_learned_unless_told_otherwise(counts):
    learned = sd.fit(counts, "ldvae", n_latent=4, max_epochs=1)
    observed = sd.fit(counts, "ldvae", n_latent=4, max_epochs=1, use_observed_lib_size=True)
    assert "kl_library_train" in learned.history
    assert "kl_library_train" not in observed.history
    assert torch.allclose(
        observed.map(observed.module.vae.log_library, counts).exp().ravel(), torch.tensor(counts.X.sum(1)).ravel()
    )
