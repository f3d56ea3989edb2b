"""MAGAN: its losses in closed form, planted types that go to their own, and what is refused where nothing is tied."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

import scduet as sd
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import DataError
from scduet.events import silent

SHARED = pd.DataFrame({"gene": ["g0", "g9", "elsewhere"], "protein": ["p3", "p5", "p0"]})
OPTIONS = {"protein_key": "protein", "train_size": 1.0, "callback": silent}


@pytest.fixture(scope="module")
def cells():
    """Three types; half the cells have 20 genes, the others 6 proteins. g0 and p3, g9 and p5 measure the same."""
    draw = np.random.default_rng(0)
    kind, first = draw.integers(0, 3, 400), np.arange(400) < 200
    genes, proteins = 5 * np.exp(draw.normal(0, 1, (3, 20))), 20 * np.exp(draw.normal(0, 1, (3, 6)))
    genes[:, [0, 9]] = np.array([[8, 8], [24, 8], [24, 72]])
    proteins[:, [3, 5]] = np.array([[20, 20], [60, 20], [60, 180]])
    x, y = draw.poisson(genes[kind]).astype(np.float32), draw.poisson(proteins[kind]).astype(np.float32)
    x[~first], y[first] = 0, np.nan
    obs = pd.DataFrame({"kind": np.array(["A", "B", "C"])[kind]}, [f"c{i}" for i in range(400)])
    adata = anndata.AnnData(sp.csr_matrix(x), obs, pd.DataFrame(index=[f"g{i}" for i in range(20)]))
    adata.obsm["protein"] = pd.DataFrame(y, adata.obs_names, [f"p{i}" for i in range(6)])
    return adata


def own_type(model, cells):
    """Share of the cells with genes that come to lie among the cells with proteins of their type."""
    place, kind = model.embed(), cells.obs["kind"].to_numpy()
    return (KNeighborsClassifier(5).fit(place[200:], kind[200:]).predict(place[:200]) == kind[:200]).mean()


@pytest.mark.parametrize("tie", [{"shared_features": SHARED}, {"labels_key": "kind"}], ids=["features", "labels"])
def test_planted_types_go_to_their_own(cells, tie):
    model = sd.fit(cells, "magan", max_epochs=40, lr=2e-3, **OPTIONS, **tie)
    assert own_type(model, cells) > 0.95


def values(module, batch):
    """Genes and proteins as the model sees them, from its arrays, and as it makes them."""
    arrays, x, y = module.reference.arrays, batch.x.dense(), batch.extra["protein"]
    x = (torch.log1p(1e4 * x / x.sum(1, keepdim=True)) - torch.tensor(arrays["rna"][0])) / torch.tensor(
        arrays["rna"][1]
    )
    y = (torch.log1p(y) - torch.tensor(arrays["protein"][0])) / torch.tensor(arrays["protein"][1])
    return x[:200], y[200:], module.to_protein(x[:200]), module.to_rna(y[200:])


@pytest.mark.parametrize("tie", ["features", "labels"])
def test_losses_are_those_of_the_formulas(cells, tie):
    options = {"shared_features": SHARED, "labels_key": "kind", "correspondence": tie}
    model = sd.fit(cells, "magan", max_epochs=1, **OPTIONS, **options)
    module, batch = model.module, next(iter(minibatches(model.cells, sequential(400), 400)))
    x, y, made_y, made_x = values(module, batch)
    np.testing.assert_allclose([x.mean(), x.std(), y.mean(), y.std()], [0, 1, 0, 1], atol=0.01)
    of_genes, of_proteins = module.critics
    told = [of_genes(x), of_genes(made_x), of_proteins(y), of_proteins(made_y)]
    wrong = [F.binary_cross_entropy_with_logits(t, torch.full_like(t, 1.0 - i % 2)) for i, t in enumerate(told)]
    critic = module(batch, Step(player="critic")).total
    np.testing.assert_allclose(critic.item(), torch.stack(wrong).mean().item(), rtol=1e-4)
    fooled = [F.binary_cross_entropy_with_logits(t, torch.ones_like(t)) for t in (told[1], told[3])]
    cycles = [F.mse_loss(module.to_rna(made_y), x), F.mse_loss(module.to_protein(made_x), y)]
    if tie == "features":
        tied = [F.mse_loss(made_y[:, [3, 5]], x[:, [0, 9]]), F.mse_loss(made_x[:, [0, 9]], y[:, [3, 5]])]
    else:
        kind = cells.obs["kind"].to_numpy()
        a, b = ([torch.tensor(side == name) for name in "ABC"] for side in (kind[:200], kind[200:]))
        means = [[v[rows].mean(0) for rows in of] for v, of in ((x, a), (made_x, b), (y, b), (made_y, a))]
        tied = [F.mse_loss(torch.stack(means[i]), torch.stack(means[i + 1])) for i in (0, 2)]
    loss = module(batch, Step(player="generator")).total
    np.testing.assert_allclose(loss.item(), torch.stack([*fooled, *cycles, *tied]).mean().item(), rtol=1e-4)


def test_each_player_moves_its_own_weights_and_embeddings_say_what_was_measured(cells):
    model = sd.fit(cells, "magan", shared_features=SHARED, max_epochs=1, **OPTIONS)
    module = model.module
    of = [{id(p) for p in module.parameters_of(player)} for player in ("generator", "critic")]
    assert not of[0] & of[1]
    assert of[0] | of[1] == {id(p) for p in module.parameters()}
    assert of[1] == {id(p) for p in module.critics.parameters()}
    rna, protein, both = (model.embed(modality=name) for name in ("rna", "protein", None))
    assert np.isnan(rna[200:]).all()
    assert np.isnan(protein[:200]).all()
    np.testing.assert_array_equal(both, np.vstack([rna[:200], protein[200:]]))


def test_what_ties_nothing_together_is_refused(cells):
    lonely = cells.copy()
    lonely.obs["apart"] = np.where(np.arange(400) < 200, "genes", "proteins")
    nowhere = SHARED.assign(gene="elsewhere")
    for options in ({}, {"labels_key": "apart"}, {"shared_features": nowhere}):
        with pytest.raises(DataError, match=named("shared_features", "labels_key")):
            sd.fit(lonely, "magan", **OPTIONS, **options)
    with pytest.raises(DataError, match=named("features")):
        sd.fit(cells, "magan", labels_key="kind", correspondence="features", **OPTIONS)
    with pytest.raises(DataError, match=named("'antibody'", "protein")):
        sd.fit(cells, "magan", shared_features=SHARED.set_axis(["gene", "antibody"], axis=1), **OPTIONS)
    with pytest.raises(sd.errors.ScduetError, match=named("protein_key")):
        sd.fit(cells, "magan", labels_key="kind", callback=silent)
    unmeasured = cells[:200].copy()
    with pytest.raises(DataError, match=named("'protein'")):
        sd.fit(unmeasured, "magan", labels_key="kind", **OPTIONS)
