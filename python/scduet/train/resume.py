"""Resume an interrupted run from its checkpoint: all of its state in one safetensors file, replaced atomically.

On a CPU the result is equal, bit for bit, to that of a run that was never interrupted.
"""

from __future__ import annotations

from scduet._torch import torch

import hashlib
import json
import time
from dataclasses import fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scduet.data.loader_source import LoaderSource
from scduet.data.schema import Fields
from scduet.data.sources import Cells, marks
from scduet.errors import FormatError, TrainingError, some
from scduet.io.atomic import place_whole, probe
from scduet.train.config import TrainConfig
from scduet.train.loop import Trainer

FILE = "training.safetensors"
SECONDS_BETWEEN = 30.0


class Checkpoint:
    """The checkpoint of one run; `run` identifies it by options and cells."""

    def __init__(self, folder: str | Path, run: dict):
        self.folder, self.run, self.saved = Path(folder), run, time.monotonic()
        _refuse_unwritable(self.folder)

    def keep(self, trainer: Trainer, last: bool) -> None:
        """Write the state between two epochs if it is due or this was the `last` epoch."""
        if last or time.monotonic() - self.saved >= SECONDS_BETWEEN:
            save(trainer, self.folder, self.run)
            self.saved = time.monotonic()


def save(trainer: Trainer, folder: Path, run: dict) -> None:
    """Write the state of `trainer` between two epochs."""
    tensors = {f"module.{name}": value for name, value in trainer.module.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in trainer.best.weights.items()}
    for player, optimizer in trainer.optimizers.items():
        for number, state in optimizer.state_dict()["state"].items():
            kept = {name: value for name, value in state.items() if isinstance(value, Tensor)}
            tensors |= {f"adam.{player}.{number}.{name}": value for name, value in kept.items()}
    tensors["random"] = torch.get_rng_state()
    if trainer.device.type == "cuda":
        tensors["random_cuda"] = torch.cuda.get_rng_state(trainer.device)
    state = {
        "run": run,
        "outcome": vars(trainer.outcome),
        "best": [trainer.best.loss, trainer.best.epoch],
        "number": trainer.number,
        "rates": {player: optimizer.param_groups[0]["lr"] for player, optimizer in trainer.optimizers.items()},
        "schedules": dict(zip(trainer.optimizers, (_plain(s.state_dict()) for s in trainer.schedules), strict=True)),
        "scaler": trainer.scaler.state_dict(),
    }
    _replace(folder, {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, json.dumps(state))


def restore(trainer: Trainer, checkpoint: Checkpoint) -> bool:
    """Restore `trainer` from the checkpoint in `folder`; return False if there is none.

    Raises FormatError if the folder holds another run (naming the differences) or a damaged file.
    """
    path = checkpoint.folder / FILE
    reads = trainer.group.rank == 0 and path.exists()  # other machines may not see the folder
    found = trainer.group.broadcast(_read(path) if reads else None)
    if found is None:
        return False
    tensors, state = found
    _refuse_other(path, state["run"], checkpoint.run)
    trainer.module.load_state_dict(_part("module.", tensors))
    rates, schedules = (_by_player(state[key], trainer, path) for key in ("rates", "schedules"))
    for (player, optimizer), schedule in zip(trainer.optimizers.items(), trainer.schedules, strict=True):
        _restore_optimizer(optimizer, _part(f"adam.{player}.", tensors), rates[player])
        schedule.load_state_dict(schedules[player])
    trainer.number = state.get("number", 0)  # not stored by version 0.1.0, which did not need it
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.best.loss, trainer.best.epoch = state["best"]
    trainer.best.weights = {name: value.to(trainer.device) for name, value in _part("best.", tensors).items()}
    trainer.outcome = type(trainer.outcome).from_json(state["outcome"])
    if trainer.outcome.stop_reason in ("interrupted", "callback"):
        trainer.outcome.stop_reason = "finished"  # resumed after an interruption
    torch.set_rng_state(tensors["random"])
    if trainer.device.type == "cuda" and "random_cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random_cuda"], trainer.device)
    return True


def fingerprint(cells: Cells, index, about_features: tuple[dict, dict] = ({}, {})) -> str:
    """A fingerprint of the training cells and all inputs, so that a run cannot be resumed with others.

    index: names of the cells, or of the genes of a loader, of whose cells the number alone is compared.
    about_features: inputs not aligned with cells, arrays and tables.
    """
    walked = isinstance(cells.counts, LoaderSource)  # whose order, and so whose totals, are others in each session
    digest = hashlib.sha256(str(len(cells)).encode() if walked else cells.total.tobytes())
    digest.update("\n".join(map(str, index)).encode())
    for name, source in sorted(cells.extra.items()):
        digest.update(name.encode() + marks(source).tobytes())
    arrays, tables = about_features
    for name, values in sorted(arrays.items()):
        digest.update(name.encode() + values.tobytes())
    if tables:
        digest.update(json.dumps(tables, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _by_player(saved: dict | list, trainer: Trainer, path: Path) -> dict:
    """The saved state of each player; version 0.1.0 stored them in order."""
    named = dict(zip(trainer.optimizers, saved, strict=False)) if isinstance(saved, list) else saved
    if set(named) != set(trainer.optimizers):
        there = f"{path} is from a model with players {some(named)}, not {some(trainer.optimizers)}"
        raise FormatError(there, "pass another checkpoint folder, or delete it")
    return named


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], rate: float) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, what = name.partition(".")
        state.setdefault(int(number), {})[what] = value
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
    for weight, kept in optimizer.state.items():  # in memory as the weight is, for the step goes through both alike
        kept.update({k: torch.empty_like(weight).copy_(v) for k, v in kept.items() if v.shape == weight.shape})
    optimizer.param_groups[0]["lr"] = rate


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} cannot be read ({error})", "delete it to start anew") from error


def _replace(folder: Path, tensors: dict[str, Tensor], state: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place_whole(folder / FILE, lambda new: save_file(tensors, new, metadata={"state": state}), durable=True)
    except (OSError, SafetensorError) as error:
        kept = "the last checkpoint is kept" if (folder / FILE).exists() else "there is no checkpoint yet"
        remedy = f"{kept}; free disk space (or choose another folder) and run again"
        raise TrainingError(f"cannot write the checkpoint to {folder} ({error})", remedy) from error


def _refuse_unwritable(folder: Path) -> None:
    """Fail before training rather than at the first checkpoint."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe(folder)
    except OSError as error:
        raise TrainingError(
            f"cannot write to the folder {folder} ({error})", "choose another checkpoint folder"
        ) from error


def _refuse_other(path: Path, saved: dict, run: dict) -> None:
    run, usual = json.loads(json.dumps(run)), {f.name: f.default for cls in (TrainConfig, Fields) for f in fields(cls)}
    before = {key: saved.get(key, usual.get(key)) for key in run}  # newer options had their defaults
    differ = [f"{key}: {before[key]!r} there, {now!r} now" for key, now in run.items() if before[key] != now]
    if differ:
        remedy = "pass another checkpoint folder, or delete it"
        raise FormatError(f"{path} is from another run ({some(differ)})", remedy)


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _plain(state: dict) -> dict:
    """The part of a scheduler's state that JSON can store."""
    return {k: v for k, v in state.items() if isinstance(v, (int, float, str, bool, list, type(None)))}
