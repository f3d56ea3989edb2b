"""gimVI on two data sets of the same planted types: mixed, told apart by type, and what it is not given is refused."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from named import named

import scduet as sd
from scduet.data.samplers import Shard
from scduet.data.side_by_side import side_by_side
from scduet.errors import DataError, OptionError
from scduet.train.config import TrainConfig
from scduet.train.feed import BatchFeeder

N_GENES, N_PANEL = 40, 24


def made(n, genes, seed, prefix):
    """Cells of three types, a third of the genes high in each."""
    draw = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    rate = np.where(np.arange(N_GENES) % 3 == kind[:, None], 8.0, 0.7) * draw.gamma(8, 1 / 8, (n, 1))
    adata = AnnData(draw.poisson(rate[:, genes]).astype(np.float32))
    adata.obs["kind"], adata.obs["batch"] = kind, np.where(np.arange(n) < n // 2, "b0", "b1")
    adata.obs_names = [f"{prefix}{i}" for i in range(n)]
    adata.var_names = [f"g{i}" for i in genes]
    return adata


pytestmark = pytest.mark.filterwarnings("ignore:Cannot join columns:UserWarning")  # of mudata


@pytest.fixture(scope="module")
def both():
    return made(120, range(N_GENES), 0, "cell"), made(60, range(N_PANEL - 1, -1, -1), 1, "spot")


@pytest.fixture(scope="module")
def trained(both):
    mudata = MuData(dict(zip(("rna", "spatial"), both, strict=True)))
    return sd.fit(mudata, "gimvi", spatial_key="spatial", max_epochs=60, batch_size=48, seed=0), mudata


def test_types_of_both_data_sets_lie_together(trained, both):
    model, mudata = trained
    latent = pd.DataFrame(model.embed(), mudata.obs_names)
    cells, spatial = (latent.loc[adata.obs_names].to_numpy() for adata in both)
    centers = np.array([cells[both[0].obs["kind"] == kind].mean(0) for kind in range(3)])
    nearest = np.linalg.norm(spatial[:, None] - centers, axis=2).argmin(1)
    assert (nearest == both[1].obs["kind"]).mean() > 0.8


def test_hidden_genes_follow_the_types(trained, both):
    model, mudata = trained
    module = model.module
    shares = model.map(lambda c: module.normalized_expression(module.posterior(c)[0], c, modality="spatial"))
    shares = pd.DataFrame(shares.numpy(), mudata.obs_names, model.genes).loc[both[1].obs_names]
    assert np.allclose(shares[[f"g{i}" for i in range(N_PANEL)]].sum(1), 1, atol=1e-5)
    for gene in range(N_PANEL, N_GENES):
        own = both[1].obs["kind"] == gene % 3
        assert shares.loc[own.to_numpy(), f"g{gene}"].mean() > 2 * shares.loc[~own.to_numpy(), f"g{gene}"].mean()


def test_one_anndata_gives_the_same(trained, both):
    model, mudata = trained
    cells, spatial = both
    obs = pd.DataFrame(index=[*cells.obs_names, *spatial.obs_names])
    joined = side_by_side(cells.X, spatial.X, (cells.var_names, spatial.var_names), "panel", obs)
    other = sd.fit(joined, "gimvi", spatial_key="panel", max_epochs=1)
    other.module.load_state_dict(model.module.state_dict())
    order = pd.Index(mudata.obs_names).get_indexer(joined.obs_names)
    assert np.allclose(other.embed(), model.embed()[order], atol=1e-5)


def test_minibatches_hold_as_many_cells_of_one_as_of_the_other(trained):
    model, _ = trained
    feed = BatchFeeder(model.cells, TrainConfig(batch_size=40), model.device, None)
    batches, n = feed.training(model.module, np.arange(180), 0, Shard())
    sizes = [(int((b.x.sum() > 0).sum()), int((b.extra["spatial"].sum() > 0).sum())) for b in batches]
    assert sizes == [(20, 20)] * n
    assert n == 6  # the larger data set once


def test_spatial_counts_of_genes_beyond_the_panel_are_not_read(trained, both):
    model, _ = trained
    spatial = both[1].copy()
    wide = made(60, range(N_GENES), 2, "spot")
    wide.X[:, wide.var_names.get_indexer(spatial.var_names)] = spatial.X
    alone = MuData({"rna": both[0], "spatial": spatial})
    found = model.embed(MuData({"rna": both[0], "spatial": wide}))
    assert np.allclose(found, model.embed(alone), atol=1e-5)


def test_bad_input(both, trained):
    cells, spatial = both
    mudata = MuData({"rna": cells, "spatial": spatial})
    quick = {"spatial_key": "spatial", "max_epochs": 1}
    ids = spatial.copy()
    ids.var_names = [f"ENSG{i}" for i in range(N_PANEL)]
    logged = spatial.copy()
    logged.X = np.log1p(logged.X)
    for data, options, error, names in [
        (mudata, {**quick, "spatial_key": None}, OptionError, ["spatial_key="]),
        (mudata, {**quick, "spatial_key": "spots"}, DataError, ["'spots'"]),
        (MuData({"rna": cells, "spatial": ids}), quick, DataError, ["spatial"]),
        (MuData({"rna": cells, "spatial": logged}), quick, DataError, ["spatial"]),
        (mudata, {**quick, "kappa": -1.0}, OptionError, ["kappa"]),
        (mudata, {**quick, "n_layers_decoder_shared": -1}, OptionError, ["n_layers_decoder_shared", "0"]),
        (mudata, {**quick, "dim_hidden_encoder": 0}, OptionError, ["dim_hidden_encoder"]),
        (mudata, {**quick, "categorical_covariate_keys": ("kind",)}, OptionError, ["'gimvi'"]),
    ]:
        with pytest.raises(error, match=named(*names)):
            sd.fit(data, "gimvi", **options)
    batched = sd.fit(mudata, "gimvi", batch_key="batch", **quick)
    new = cells.copy()
    new.obs["batch"] = "b7"
    with pytest.raises(OptionError, match=named("'gimvi'")):
        sd.map_query(MuData({"rna": new, "spatial": spatial}), batched)
