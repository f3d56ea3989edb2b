"""Does a model of one's own keep the contract? Each promise is tried on small data, and a breach is told in words."""

from __future__ import annotations

from scduet._torch import torch

import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scduet.api import fit, load, reference_of
from scduet.contract import Loss, Step, players_of
from scduet.count_model import Model
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.data.schema import Fields, Schema
from scduet.data.simulate import simulate
from scduet.errors import ScduetError, some
from scduet.events import silent
from scduet.models import find, is_own, name_of, own
from scduet.options import build, options_of, refuse_unknown

N_CELLS, N_GENES = 200, 60
SHORT = {"max_epochs": 3, "batch_size": 32, "seed": 0}
LONG = {"max_epochs": 15, "batch_size": 32, "seed": 0}
LEAST_FALL = 0.01  # of the loss in the long training, as a share of its first value
LIBRARIES = [Path(__file__).resolve().parents[2], Path(np.__file__).parents[1], Path(tempfile.__file__).parent]
ALIKE = 1e-3  # largest difference of an embedding that is rounding, by its standard deviation


@dataclass(frozen=True)
class Check:
    """A promise of the contract: whether it is kept, and if not, why. `passed` is None where it was not tried."""

    what: str
    passed: bool | None
    why: str = ""


@dataclass(frozen=True)
class ModelChecks:
    """The result of `check_model`; printed, a line for each check."""

    name: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def __repr__(self) -> str:
        marks = {True: "ok  ", False: "FAIL", None: "-   "}
        lines = [f"{marks[c.passed]} {c.what}" + (f"\n     {c.why}" if c.why else "") for c in self.checks]
        n = sum(check.passed is False for check in self.checks)
        return "\n".join([f"{self.name}: {f'{n} failed' if n else 'all passed'}", *lines])


class Broken(Exception):
    """A promise is not kept."""


def check_model(model: str | type, adata=None, **options) -> ModelChecks:
    """Try whether a class of your own, or any model, keeps what the rest of scduet relies on. Takes seconds.

    model: the class, "file.py:Class", or the name of a model.
    adata: cells to try it on, e.g. with its further inputs; None for 200 simulated cells of 60 genes in two batches,
        as counts, log-normalized or binary, as the model expects.
    options: as for `fit`, e.g. where the inputs are. Options of training are set here.

    The class has what it must have; it is built, and returns a finite Loss; every weight gets a gradient, for each
    choice of each option too; training lowers the loss; the same seed gives the same model; the embedding has a finite
    row for each cell that depends on nothing but the cell; and a saved model is loaded as it was.

    Returns the checks, which print as a table; `passed` is True if all are kept. Raises OptionError for a class that
    cannot be read or an option that it does not have.
    """
    cls = own.class_in(model) if isinstance(model, str) and is_own(model) else model
    cls = find(cls) if isinstance(cls, str) else cls
    title = getattr(cls, "__name__", repr(cls))
    lacking = tuple(Check(f"the class: {message}", False, remedy) for message, remedy in own.faults(cls))
    if lacking:
        return ModelChecks(title, lacking)
    name = name_of(cls if is_own(model) else model)
    refuse_unknown(options, [option.name for option in options_of(name)], f"model {name!r}")
    trial = Trial(name, cls, _toy(cls) if adata is None else adata, options)
    checks: list[Check] = [Check("the class has what a model needs", True)]
    for what, needed, promise in PROMISES:
        tried = all(check.passed for check in checks if check.what == needed)
        checks.append(_tried(what, promise, trial) if tried else Check(what, None, "not tried: see above"))
    return ModelChecks(title, tuple(checks))


def _toy(cls: type) -> Any:
    adata = simulate(N_CELLS, N_GENES, n_batches=2, n_types=3, seed=0)
    kind: Any = cls.expects  # type: ignore[attr-defined]
    if kind == "lognormal":
        adata.X = adata.X.multiply(1e4 / adata.X.sum(1)).log1p().tocsr().astype(np.float32)
    elif kind == "binary":
        adata.X = (adata.X > 1).astype(np.float32)
    return adata


@dataclass(frozen=True)
class Trial:
    """A model, data to try it on, and what was made of both."""

    name: str
    cls: Any
    adata: Any
    given: Mapping[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        known = {"batch_key": "batch", "labels_key": "cell_type"} if "depth" in self.adata.obs else {}
        return {**known, **self.given}

    @cached_property
    def learned(self) -> tuple[Any, Any]:
        """The encoded cells, and what the module is built from."""
        fields = build(getattr(self.cls, "Fields", Fields), self.options)
        main, *_ = getattr(self.cls, "modalities", ("rna",))
        schema = Schema.learn(self.adata, fields, self.cls.expects, getattr(self.cls, "inputs", None), main)
        cells = schema.encode(self.adata)
        return cells, reference_of(self.cls, schema, cells, self.adata)

    def built(self, **options) -> tuple[Any, Any]:
        """A new module, in training mode, and all cells as one minibatch."""
        cells, reference = self.learned
        torch.manual_seed(0)
        module = self.cls(reference, build(self.cls.Config, {**self.options, **options}))
        return module.train(), next(iter(minibatches(cells, sequential(len(cells)), len(cells))))

    def losses(self, module: Any, batch: Any) -> list[Any]:
        return [module(batch, Step(kl_weight=0.5, player=player.name)) for player in players_of(module)]

    def fitted(self, how: Mapping[str, Any]) -> Model:
        return fit(self.adata, self.name, callback=silent, **{**self.options, **how})

    @cached_property
    def trained(self) -> Model:
        return self.fitted(SHORT)


def _builds(trial: Trial) -> None:
    trial.built()


def _returns_a_loss(trial: Trial) -> None:
    module, batch = trial.built()
    for player, loss in zip(players_of(module), trial.losses(module, batch), strict=True):
        if not isinstance(loss, Loss):
            raise Broken(f"forward returned {type(loss).__name__}: return Loss(total, terms, n_cells)")
        if loss.total.ndim or not torch.isfinite(loss.total):
            raise Broken(f"the total of player {player.name!r} is {loss.total}: it must be one finite number")
        if loss.n_cells != len(batch):
            raise Broken(f"n_cells is {loss.n_cells} for {len(batch)} cells: pass len(cells)")


def _every_weight_learns(trial: Trial, **options) -> None:
    module, batch = trial.built(**options)
    for player, loss in zip(players_of(module), trial.losses(module, batch), strict=True):
        mine = getattr(module, "parameters_of", lambda _: module.parameters())(player.name)
        mine = [weight for weight in mine if weight.requires_grad]
        found = torch.autograd.grad(loss.total, mine, allow_unused=True)
        got = {id(weight) for weight, slope in zip(mine, found, strict=True) if slope is not None and slope.any()}
        asked = {id(weight) for weight in mine} - got
        idle = [name for name, weight in module.named_parameters() if id(weight) in asked]
        if idle:
            raise Broken(f"no gradient reaches {some(idle)}: leave them out, or use them in the loss")


def _every_choice_learns(trial: Trial) -> None:
    for option in (option for option in options_of(trial.name) if option.group == "model"):
        values = option.choices or ((not option.default,) if isinstance(option.default, bool) else ())
        for value in values:
            try:
                _returns_a_loss_with(trial, **{option.name: value})
                _every_weight_learns(trial, **{option.name: value})
            except Exception as error:
                raise Broken(f"with {option.name}={value!r}: {_told(error)}") from error


def _returns_a_loss_with(trial: Trial, **options) -> None:
    module, batch = trial.built(**options)
    if not all(torch.isfinite(loss.total) for loss in trial.losses(module, batch)):
        raise Broken("the loss is not finite")


def _learns(trial: Trial) -> None:
    loss = trial.fitted(LONG).history["loss_train"]
    first, last = loss.iloc[0], loss.iloc[-1]
    if not last < first - LEAST_FALL * abs(first):
        raise Broken(f"from {first:.4g} to {last:.4g} in {len(loss)} epochs: is the sign right, and the learning rate?")


def _repeats(trial: Trial) -> None:
    if not np.array_equal(trial.trained.embed(), trial.fitted(SHORT).embed()):
        raise Broken("draw random numbers with torch alone, which fit seeds")


def _embeds(trial: Trial) -> None:
    found = trial.trained.map(trial.trained.module.embed)  # type: ignore[arg-type]
    n = trial.adata.n_obs
    if found.ndim != 2 or len(found) != n:
        raise Broken(f"embed gave the shape {tuple(found.shape)} for {n} cells: return a row of numbers for each")
    if not torch.isfinite(found).all():
        raise Broken("embed gave values that are not finite")


def _embeds_cells_alone(trial: Trial) -> None:
    model = trial.trained
    whole = model.embed()
    if not np.array_equal(model.embed(), whole):
        raise Broken("two calls of embed differ: return the mean of a distribution, not a draw")
    limit = ALIKE * max(float(whole.std()), 1e-6)
    if np.abs(model.embed(batch_size=7) - whole).max() > limit:
        raise Broken("it depends on the other cells of the minibatch: use no statistics of the minibatch in embed")
    if not getattr(trial.cls, "per_cell", False):
        order = np.random.default_rng(0).permutation(trial.adata.n_obs)
        if np.abs(model.embed(trial.adata[order].copy()) - whole[order]).max() > limit:
            raise Broken("it depends on the order of the cells")


def _is_saved(trial: Trial) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        trial.trained.save(path)
        if not np.array_equal(load(path).embed(trial.adata), trial.trained.embed(trial.adata)):
            raise Broken("the embedding changed: keep what is learned in parameters and buffers (register_buffer)")


GIVES, WEIGHTS, EMBEDS, ALONE = (
    "forward returns a Loss",
    "every weight gets a gradient",
    "embed gives a row for each cell",
    "the embedding of a cell depends on this cell alone",
)
PROMISES: tuple[tuple[str, str, Callable[[Trial], None]], ...] = (  # what, what must hold for it, check
    ("it is built", "", _builds),
    (GIVES, "it is built", _returns_a_loss),
    (WEIGHTS, GIVES, _every_weight_learns),
    ("so with every choice of its options", WEIGHTS, _every_choice_learns),
    ("training lowers the loss", GIVES, _learns),
    (EMBEDS, GIVES, _embeds),
    (ALONE, EMBEDS, _embeds_cells_alone),
    ("the same seed gives the same model", ALONE, _repeats),
    ("a saved model is loaded as it was", ALONE, _is_saved),
)


def _tried(what: str, promise: Callable[[Trial], None], trial: Trial) -> Check:
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            promise(trial)
    except Exception as error:
        return Check(what, False, _told(error))
    return Check(what, True)


def _told(error: Exception) -> str:
    """What went wrong, with the line of the user's file that it came from."""
    if isinstance(error, (Broken, ScduetError)):
        return str(error)
    files = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    theirs = [f"{p.name}, line {line}" for p, line in files if not any(p.is_relative_to(known) for known in LIBRARIES)]
    where = f" ({theirs[-1]})" if theirs else ""
    return f"{type(error).__name__}: {error}{where}"
