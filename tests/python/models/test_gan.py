"""The GAN: its penalty in closed form and by finite differences, and mixtures whose modes are known."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.models.perturbation.gan import Critic, gradient_penalty

TYPES, N = "ABC", 480
SMALL = {"n_hidden": 64, "n_noise": 8, "lr": 8e-3, "batch_size": 32, "callback": lambda event: None}


@pytest.fixture(scope="module")
def mixture():
    """Cells of three profiles, each with five genes of its own, with Poisson noise; and the profiles (shares)."""
    draw = np.random.default_rng(0)
    profile = np.ones((3, 20))
    for i in range(3):
        profile[i, 5 * i : 5 * i + 5] = 8
    profile /= profile.sum(1, keepdims=True)
    kind = draw.choice(3, N, p=[0.5, 0.3, 0.2])
    x = draw.poisson(draw.integers(300, 600, N)[:, None] * profile[kind]).astype(np.float32)
    obs = pd.DataFrame({"kind": np.array(list(TYPES))[kind]}, index=[f"c{i}" for i in range(N)])
    return anndata.AnnData(sp.csr_matrix(x), obs=obs), profile


@pytest.fixture(scope="module")
def conditional(mixture):
    return sd.fit(mixture[0], "gan", labels_key="kind", max_epochs=100, **SMALL)


def shares(adata):
    x = adata.X.toarray()
    return x / x.sum(1, keepdims=True)


def nearest(adata, profile):
    """The profile that each cell is most like."""
    return np.linalg.norm(np.sqrt(shares(adata))[:, None] - np.sqrt(profile), axis=2).argmin(1)


def test_the_penalty_of_a_linear_critic_is_that_of_its_slope():
    weight = torch.tensor([3.0, 4.0])
    real, fake, level = torch.randn(7, 2), torch.randn(7, 2), torch.zeros(7, dtype=torch.long)
    penalty = gradient_penalty(lambda x, y: x @ weight, real, fake, level)
    assert penalty.item() == pytest.approx((5 - 1) ** 2, rel=1e-5)


def test_the_gradient_of_the_penalty_is_that_of_finite_differences():
    critic = Critic(6, 8, 2, 3).double()
    real, fake = torch.rand(9, 6, dtype=torch.double), torch.rand(9, 6, dtype=torch.double)
    level = torch.arange(9) % 3

    def penalty():
        torch.manual_seed(3)
        return gradient_penalty(critic, real, fake, level)

    penalty().backward()
    step = 1e-6
    for weight in (critic.body.linear[0].weight, critic.body.linear[1].weight, critic.of_level, critic.score.weight):
        for place in ((0, 0), (weight.shape[0] - 1, weight.shape[1] - 1)):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight[place] += sign * step
                values.append(penalty().item())
                with torch.no_grad():
                    weight[place] -= sign * step
            assert weight.grad[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-4)


def test_cells_of_a_type_have_its_profile_and_the_library_of_their_source(mixture, conditional):
    cells, profile = mixture
    for i, name in enumerate(TYPES):
        made = sd.generate_cells(conditional, 200, label=name)
        apart = min(np.abs(profile[i] - other).sum() for other in np.delete(profile, i, 0))
        assert np.abs(shares(made).mean(0) - profile[i]).sum() < 0.3 * apart
        assert (nearest(made, profile) == i).mean() > 0.9
        source = cells[made.obs["source"].to_numpy()]
        assert set(source.obs["kind"]) == {name}
        assert np.abs(made.X.sum(1) / source.X.sum(1) - 1).max() < 0.1  # rounding alone


def test_without_types_every_mode_is_found(mixture):
    cells, profile = mixture
    model = sd.fit(cells, "gan", max_epochs=100, **SMALL)
    made = sd.generate_cells(model, 400)
    found = np.bincount(nearest(made, profile), minlength=3) / 400
    assert (found > [0.25, 0.15, 0.1]).all()  # half of their shares
    assert made.obs.columns.tolist() == ["source"]


def test_the_critic_embeds_types_apart(mixture, conditional):
    z = conditional.embed()
    assert z.shape == (N, 64)
    kind = mixture[0].obs["kind"].to_numpy()
    centers = np.array([z[kind == name].mean(0) for name in TYPES])
    assert (np.array(list(TYPES))[((z[:, None] - centers) ** 2).sum(2).argmin(1)] == kind).mean() > 0.95


def test_libraries_and_seeds_are_as_asked(conditional):
    fixed = sd.generate_cells(conditional, 50, library=1000.0, seed=1)
    assert np.abs(fixed.X.sum(1) - 1000).max() < 40
    assert (fixed.X != sd.generate_cells(conditional, 50, library=1000.0, seed=1).X).nnz == 0
    assert (fixed.X != sd.generate_cells(conditional, 50, library=1000.0, seed=2).X).nnz > 0


def test_a_held_out_loss_is_the_distance_of_both_without_the_penalty(mixture):
    model = sd.fit(mixture[0], "gan", labels_key="kind", max_epochs=2, train_size=0.8, validate_every=1, **SMALL)
    row = model.history.iloc[-1]
    assert row["loss_validation"] == pytest.approx(-row["wasserstein_validation"])
    assert row["loss_train"] == pytest.approx(10 * row["penalty_train"] - row["wasserstein_train"], rel=1e-4)


def test_what_a_gan_cannot_do_is_named(mixture, conditional):
    with pytest.raises(DataError, match=named("'E'")):
        sd.generate_cells(conditional, 5, label="E")
    with pytest.raises(OptionError, match=named("'gan'", "'other'", "'kind'")):
        sd.generate_cells(conditional, 5, label="A", labels_key="other")
    with pytest.raises(OptionError, match=named("batch=")):
        sd.generate_cells(conditional, 5, batch="b")
    with pytest.raises(OptionError, match=named("penalty_weight")):
        sd.fit(mixture[0], "gan", penalty_weight=0, **SMALL)
    cells = mixture[0].copy()
    cells.obs["run"] = np.repeat(["a", "b"], N // 2)
    with pytest.warns(ScduetWarning, match=named("batch")):
        sd.fit(cells, "gan", batch_key="run", max_epochs=1)
