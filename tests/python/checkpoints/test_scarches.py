"""Folders of scArches' EXPIMAP: what the model says is what plain torch with the same weights says."""

import pickle

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from named import named
from torch.nn import functional as F

import scduet as sd
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import FormatError

N, GENES, TERMS, WIDTH = 30, 20, 4, 8


def weights_of(n_conditions, n_free, seed=0):
    """Named and shaped as by scArches 0.6.1."""
    torch.manual_seed(seed)
    shapes = {
        "theta": (GENES, n_conditions),
        "encoder.FC.L0.expr_L.weight": (WIDTH, GENES),
        "encoder.FC.L0.expr_L.bias": (WIDTH,),
        "encoder.FC.L0.cond_L.weight": (WIDTH, n_conditions),
        "encoder.FC.L1.weight": (WIDTH, WIDTH),
        "encoder.FC.L1.bias": (WIDTH,),
        "encoder.mean_encoder.weight": (TERMS, WIDTH),
        "encoder.mean_encoder.bias": (TERMS,),
        "encoder.log_var_encoder.weight": (TERMS, WIDTH),
        "encoder.log_var_encoder.bias": (TERMS,),
        "decoder.L0.expr_L.weight": (GENES, TERMS),
        "decoder.L0.cond_L.weight": (GENES, n_conditions),
    }
    if n_free:
        shapes |= {f"encoder.expand_{head}_encoder.weight": (n_free, WIDTH) for head in ("mean", "var")}
        shapes |= {f"encoder.expand_{head}_encoder.bias": (n_free,) for head in ("mean", "var")}
        shapes |= {"decoder.L0.ext_L.weight": (GENES, n_free)}
    return {name: torch.randn(*shape) * 0.3 for name, shape in shapes.items()}


def saved(folder, weights, mask, conditions, soft=False, **changed):
    folder.mkdir()
    n_free = len(weights.get("encoder.expand_mean_encoder.bias", ()))
    attributes = {
        "condition_key_": "study", "conditions_": conditions, "hidden_layer_sizes_": [WIDTH, WIDTH], "dr_rate_": 0.05,
        "recon_loss_": "nb", "use_bn_": False, "use_ln_": True, "input_dim_": GENES, "use_l_encoder_": False,
        "decoder_last_layer_": "softmax", "mask_": mask.T.astype(int).tolist(), "latent_dim_": TERMS, "ext_mask_": None,
        "n_ext_": n_free, "n_ext_m_": 0, "soft_mask_": soft, "soft_ext_mask_": False, "use_hsic_": bool(n_free),
        "hsic_one_vs_all_": False, "is_trained_": True,
    }  # fmt: skip
    (folder / "attr.pkl").write_bytes(pickle.dumps({**attributes, **changed}))
    own = {} if soft else {"decoder.L0.expr_L.mask": torch.tensor(mask)}
    torch.save({**weights, **own}, folder / "model_params.pt")
    np.savetxt(folder / "var_names.csv", [f"g{i}" for i in range(GENES)], fmt="%s")
    return folder


@pytest.fixture
def cells():
    x = np.random.default_rng(0).poisson(2, (N, GENES)).astype(np.float32)
    obs = pd.DataFrame({"study": ["a", "b"] * (N // 2)}, [f"c{i}" for i in range(N)])
    return AnnData(x, obs, pd.DataFrame(index=[f"g{i}" for i in range(GENES)]))


@pytest.fixture
def mask():
    return (np.random.default_rng(1).random((GENES, TERMS)) < 0.4).astype(np.float32)


@pytest.mark.parametrize(
    ("conditions", "n_free", "soft"), [(["b", "a"], 2, False), (["all"], 0, False), (["all"], 0, True)]
)
def test_scores_and_expression_are_those_of_the_weights(cells, mask, tmp_path, conditions, n_free, soft):
    w = weights_of(len(conditions), n_free)
    model = sd.load(saved(tmp_path / "m", w, mask, conditions, soft))
    x = torch.tensor(cells.X)
    code = torch.tensor([conditions.index(s) if len(conditions) > 1 else 0 for s in cells.obs["study"]])
    h = torch.log1p(x) @ w["encoder.FC.L0.expr_L.weight"].t() + w["encoder.FC.L0.expr_L.bias"]
    h = F.relu(F.layer_norm(h + w["encoder.FC.L0.cond_L.weight"].t()[code], (WIDTH,)))
    h = F.relu(F.layer_norm(h @ w["encoder.FC.L1.weight"].t() + w["encoder.FC.L1.bias"], (WIDTH,)))
    z = h @ w["encoder.mean_encoder.weight"].t() + w["encoder.mean_encoder.bias"]
    loadings = w["decoder.L0.expr_L.weight"] * (1 if soft else torch.tensor(mask))
    if n_free:
        more = h @ w["encoder.expand_mean_encoder.weight"].t() + w["encoder.expand_mean_encoder.bias"]
        z, loadings = torch.cat([z, more], 1), torch.cat([loadings, w["decoder.L0.ext_L.weight"]], 1)
    np.testing.assert_allclose(model.embed(cells), z, atol=1e-5)
    share = (z @ loadings.t() + w["decoder.L0.cond_L.weight"].t()[code]).softmax(1)
    batch = model.encode(cells)
    found = model.module.scvi.decode(z, next(iter(minibatches(batch, sequential(N), N))))["rna"]
    np.testing.assert_allclose(found.mean.detach(), share * x.sum(1, keepdim=True), rtol=1e-4)
    theta = w["theta"].t()[code].exp()
    np.testing.assert_allclose(found.dispersion.detach().expand(N, GENES), theta, rtol=1e-4)
    names = [f"term_{i + 1}" for i in range(TERMS)] + [f"free_{i + 1}" for i in range(n_free)]
    assert list(sd.program_scores(model, cells).columns) == names
    model.save(tmp_path / "ours")
    assert np.array_equal(sd.load(tmp_path / "ours").embed(cells), model.embed(cells))


def test_names_of_sets_come_from_the_cells_beside(cells, mask, tmp_path):
    folder = saved(tmp_path / "m", weights_of(1, 0), mask, ["all"])
    cells.uns["terms"] = np.array(["one", "two", "three", "four"], dtype=object)
    cells.write_h5ad(folder / "adata.h5ad")
    assert list(sd.program_scores(sd.load(folder), cells).columns) == ["one", "two", "three", "four"]
    with h5py.File(folder / "adata.h5ad", "a") as file:
        del file["uns/terms"]
    assert sd.program_scores(sd.load(folder), cells).columns[0] == "term_1"


def test_what_cannot_be_read_is_named(mask, tmp_path):
    w = weights_of(1, 0)
    for name, value in {"recon_loss_": "mse", "use_bn_": True, "n_ext_m_": 2, "hidden_layer_sizes_": [8, 16]}.items():
        with pytest.raises(FormatError, match=named(name)):
            sd.load(saved(tmp_path / name, w, mask, ["all"], **{name: value}))
    with pytest.raises(FormatError, match=named(GENES, 19)):
        sd.load(saved(tmp_path / "genes", w, mask[:19], ["all"]))
    lacking = {name: value for name, value in w.items() if name != "theta"}
    with pytest.raises(FormatError, match="theta"):
        sd.load(saved(tmp_path / "lacking", lacking, mask, ["all"]))


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/scduet-was-here",)


def test_nothing_in_the_files_is_run(mask, tmp_path):
    folder = saved(tmp_path / "m", weights_of(1, 0), mask, ["all"], is_trained_=Evil())
    with pytest.raises(FormatError):
        sd.load(folder)
