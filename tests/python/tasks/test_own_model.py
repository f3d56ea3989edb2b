"""A model of one's own: the page about it, executed; what check_model says of broken ones; saving; the terminal."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import anndata as ad
import numpy as np
import pytest
import torch
from named import assert_named, named
from torch import nn

import scduet as sd
from scduet.cli import main
from scduet.contract import Loss
from scduet.errors import FormatError, OptionError
from scduet.models import OWN

PAGE = Path(__file__).resolve().parents[3] / "docs" / "own_model.md"
CODE = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Each test is a session of its own."""
    monkeypatch.setattr("scduet.models.OWN", OWN)
    OWN.clear()


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.simulate(n_cells=200, n_genes=60, n_batches=2, n_types=3, seed=1)


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_vae.py").write_text(CODE[0], encoding="utf-8")
    found = {"__name__": "page"}
    for code in CODE:
        exec(compile(code, "page", "exec"), found)
    assert "FAIL" not in capsys.readouterr().out
    np.testing.assert_array_equal(found["again"].embed(found["adata"]), found["model"].embed())
    assert found["model"].key == "X_MyVAE"
    np.testing.assert_allclose(found["expression"].sum(1), 1, rtol=1e-4)
    assert {ax.get_title() for ax in found["figure"].axes} & {"sparsity", "reconstruction"}
    way = found["way"].to_numpy()
    np.testing.assert_allclose(way.sum(1), 1, rtol=1e-4)
    steps = np.abs(way - way[0]).sum(1)
    assert (np.diff(steps) > 0).all(), "each step leads farther from the start"
    assert set(found["made"].obs["cell_type"]) == {found["kind"][0]}


@dataclass(frozen=True)
class Config:
    n_latent: int = 3
    """Dimensions."""
    center: bool = True
    """A choice."""
    kind: Literal["linear", "deep"] = "linear"
    """Another."""


class Factors(nn.Module):
    """A small model that is right; those below each break one promise."""

    Config = Config
    players = ("model",)
    expects = "counts"

    def __init__(self, reference, config):
        super().__init__()
        self.down = nn.Linear(reference.n_genes, config.n_latent)
        self.up = nn.Linear(config.n_latent, reference.n_genes)

    def forward(self, cells, step):
        x = cells.x.dense().log1p()
        error = (self.up(self.down(x)) - x).square().sum(1).mean()
        return Loss(error, {"error": error}, len(cells))

    def embed(self, cells):
        return self.down(cells.x.dense().log1p())


class NoEmbed(nn.Module):
    Config, players, expects = Config, ("model",), "counts"

    def __init__(self, reference, config):
        super().__init__()

    def forward(self, cells, step):
        return None


class NoConfig(Factors):
    Config = None


class Idle(Factors):
    def __init__(self, reference, config):
        super().__init__(reference, config)
        self.extra = nn.Linear(2, 2)


class IdleByChoice(Factors):
    def __init__(self, reference, config):
        super().__init__(reference, config)
        self.extra = nn.Linear(2, 2) if config.kind == "deep" else None


class Tensor(Factors):
    def forward(self, cells, step):
        return super().forward(cells, step).total


class Uphill(Factors):
    def forward(self, cells, step):
        loss = super().forward(cells, step)
        return replace(loss, total=2 * loss.total.detach() - loss.total)


class Draws(Factors):
    def embed(self, cells):
        z = super().embed(cells)
        return z + torch.randn_like(z)


class Minibatch(Factors):
    def embed(self, cells):
        z = super().embed(cells)
        return z - z.mean(0)


class Forgets(Factors):
    def __init__(self, reference, config):
        super().__init__(reference, config)
        self.shift = torch.zeros(1)

    def forward(self, cells, step):
        self.shift = self.shift + 1
        return super().forward(cells, step)

    def embed(self, cells):
        return super().embed(cells) + self.shift


class Crash(Factors):
    def forward(self, cells, step):
        return self.nowhere(cells)


FAULTS = {  # class -> words of the check that fails, and what it must name
    NoEmbed: ("class", ("'NoEmbed'", "embed(self, cells)")),
    NoConfig: ("class", ("'NoConfig'", "Config")),
    Idle: ("gradient", ("'extra.weight'", "'extra.bias'")),
    IdleByChoice: ("choice", ("kind='deep'", "'extra.weight'")),
    Tensor: ("Loss", ("Tensor", "Loss(total, terms, n_cells)")),
    Uphill: ("lowers", ("sign",)),
    Draws: ("alone", ("embed", "mean")),
    Minibatch: ("alone", ("minibatch",)),
    Forgets: ("saved", ("register_buffer",)),
    Crash: ("Loss", ("AttributeError", "'nowhere'", "test_own_model.py")),
}


def test_a_right_model_passes_every_check():
    found = sd.check_model(Factors)
    assert found.passed, found
    assert len(found.checks) == 10


@pytest.mark.parametrize("cls", FAULTS, ids=lambda cls: cls.__name__)
def test_each_fault_is_found_and_named(cls):
    found, (check, names) = sd.check_model(cls), FAULTS[cls]
    failed = [one for one in found.checks if one.passed is False]
    assert len(failed) == 1, found
    assert check in failed[0].what
    assert re.search(named(*names), f"{failed[0].what} {failed[0].why}"), failed[0]
    assert not found.passed


def test_fit_refuses_a_class_that_is_no_model_before_training(adata):
    with pytest.raises(OptionError, match=named("'NoEmbed'", "embed")):
        sd.fit(adata, NoEmbed)
    with pytest.raises(OptionError, match=named("'n_latnt'", "'n_latent'")):
        sd.fit(adata, Factors, n_latnt=2)
    with pytest.raises(OptionError, match=named("'scvi'")):
        sd.fit(adata, type("scvi", (Factors,), {}))
    with pytest.raises(OptionError, match=named("nowhere.py")):
        sd.fit(adata, "nowhere.py:Factors")
    with pytest.raises(OptionError, match=named("kind", "'odd'")):
        sd.fit(adata, Factors, kind="odd")


def test_a_saved_model_needs_its_class_in_a_new_session(adata, tmp_path):
    model = sd.fit(adata, Factors, max_epochs=2, n_latent=2)
    model.save(tmp_path / "model")
    OWN.clear()
    with pytest.raises(FormatError, match=named("'Factors'", "model=")):
        sd.load(tmp_path / "model")
    again = sd.load(tmp_path / "model", model=Factors)
    np.testing.assert_array_equal(again.embed(adata), model.embed())
    again.save(tmp_path / "again")  # known from here on
    assert sd.load(tmp_path / "again").config == Config(n_latent=2)
    with pytest.raises(FormatError, match=named("'Factors'", "'Uphill'")):
        sd.load(tmp_path / "model", model=Uphill)


def test_its_embedding_is_kept_like_that_of_any_model(adata):
    data = adata.copy()
    model = sd.integrate(data, Factors, max_epochs=2)
    assert (model.key, data.obsm["X_Factors"].shape) == ("X_Factors", (200, 3))
    assert data.uns["scduet_embeddings"]["X_Factors"]["model"] == "Factors"
    assert sd.map_query(adata[:50].copy(), model, max_epochs=1).embed().shape == (50, 3)


def test_from_a_file_in_the_terminal(adata, tmp_path, capsys):
    (tmp_path / "my_vae.py").write_text(CODE[0], encoding="utf-8")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells, own, folder = str(tmp_path / "cells.h5ad"), f"{tmp_path / 'my_vae.py'}:MyVAE", str(tmp_path / "model")
    assert main(["fit", "--model", own, "--help"]) == 0
    assert "Distribution of the counts." in " ".join(capsys.readouterr().out.split())
    call = ["--likelihood", "nb", "--n-latent", "4", "--max-epochs", "2", "-q"]
    assert main(["fit", cells, "--model", own, "--output", folder, *call]) == 0
    OWN.clear()
    embed = ["embed", cells, "--model", folder, "--output", str(tmp_path / "z.h5ad")]
    assert main(embed) == 1
    assert "MyVAE" in capsys.readouterr().err
    assert main(["--model-class", own, *embed]) == 0
    assert ad.read_h5ad(tmp_path / "z.h5ad").obsm["X_MyVAE"].shape == (200, 4)


def test_check_model_in_the_terminal_says_what_failed(tmp_path, capsys):
    source = CODE[0].replace("    def embed(self, cells)", "    def embedding(self, cells)")
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    assert main(["check-model", f"{tmp_path / 'mine.py'}:MyVAE"]) == 1
    assert_named(capsys.readouterr().out, "'MyVAE'", "embed(self, cells)")
    assert main(["check-model", f"{tmp_path / 'mine.py'}:Mine"]) == 2
    assert_named(capsys.readouterr().err, "'Mine'", "MyVAE")
