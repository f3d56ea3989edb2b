"""Several processes that train one module together: who they are, how they are started, what they tell each other.

Each process takes its part of every minibatch and computes gradients; the mean over cells moves the weights of all, so
these stay equal. Process 0 reports, keeps the state and saves. Either torchrun starts the processes (on one or several
machines), or `devices=n` starts n - 1 further ones beside this one.
"""

from __future__ import annotations

from scduet._torch import torch

import atexit
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import spawn
from typing import IO, TYPE_CHECKING, Any

import torch.distributed as dist
from torch import nn

from scduet.data.samplers import Share
from scduet.errors import DeviceError, OptionError, ScduetError, TrainingError
from scduet.train.events import Listener, RaiseLater, silent
from scduet.train.progress import default_listener

if TYPE_CHECKING:
    from scduet.train.loop import Trainer

START = timedelta(minutes=10)  # how long the first process waits until the others have started
PATIENCE = timedelta(minutes=10)  # how long a process waits for the others at a step before it gives up
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # network interface by which processes of one machine talk


@dataclass(frozen=True)
class Group:
    """The processes that train together, seen from one of them. One process alone has nobody to ask."""

    number: int = 0
    of: int = 1

    @property
    def share(self) -> Share:
        return Share(self.number, self.of)

    def mean_gradients(self, parameters: Iterable[nn.Parameter], n_cells: int) -> None:
        """Replace each gradient, a mean over the `n_cells` of this process, by the mean over the cells of all."""
        if self.of == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None] or [torch.zeros(0)]
        flat = torch.cat([g.flatten() * n_cells for g in gradients] + [gradients[0].new_full((1,), n_cells)])
        dist.all_reduce(flat)
        parts = torch.split(flat[:-1] / flat[-1], [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean_buffers(self, module: nn.Module) -> None:
        """Make the running means of all processes equal: their mean."""
        if self.of > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer.div_(self.of)

    def same_weights(self, module: nn.Module) -> None:
        """Give every process the weights of the first."""
        if self.of > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, 0)

    def told(self, value: Any) -> Any:
        """What the first process says, in all of them."""
        if self.of == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, 0)
        return told[0]

    def gathered(self, value: Any) -> list[Any]:
        """What each of them says, in all of them."""
        if self.of == 1:
            return [value]
        found: list[Any] = [None] * self.of
        dist.all_gather_object(found, value)
        return found


ALONE = Group()


def is_first() -> bool:
    """Whether this process is the one that reports and saves; so is every process that torchrun did not start."""
    return not dist.is_torchelastic_launched() or int(os.environ["RANK"]) == 0


def reporter(callback: Listener | None) -> RaiseLater:
    """`callback` (None: the progress bar) in the process that reports; in the others a callback that says nothing."""
    if isinstance(callback, RaiseLater):
        return callback
    if not is_first():
        return RaiseLater(silent)
    return RaiseLater(callback or default_listener(), takes_warnings=callback is not None)


def local_number() -> int:
    """Number of this process on its machine: which of several GPUs is its own."""
    return int(os.environ.get("LOCAL_RANK", 0)) if dist.is_torchelastic_launched() else 0


def joined(device: torch.device) -> Group:
    """The group that torchrun made this process a member of, or this process alone."""
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return ALONE
    if not dist.is_initialized():
        _init(device)
        atexit.register(_leave)
    return Group(dist.get_rank(), dist.get_world_size())


def check_shares(n_processes: int, batch_size: int, n_cells: int) -> None:
    """Raise OptionError when a process would get fewer than two cells of a minibatch."""
    if n_processes > 1 and min(batch_size, n_cells) < 2 * n_processes:
        remedy = f"take {min(batch_size, n_cells) // 2} processes at most, or a larger batch_size"
        raise OptionError(
            f"{n_processes} processes cannot share minibatches of {batch_size} from {n_cells} cells", remedy
        )


@contextmanager
def helped(trainer: Trainer) -> Iterator[None]:
    """Inside, `trainer` is one of `devices` processes of this machine; the further ones end when the block does."""
    n = trainer.config.devices
    if n == 1 or trainer.group.of > 1:
        yield
        return
    _refuse_missing_devices(trainer.device, n)
    threads = torch.get_num_threads()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=START)
    crew = [_Helper(number) for number in range(1, n)]
    try:
        torch.set_num_threads(max(1, threads // n))
        for helper in crew:
            helper.start(trainer, store.port, n)
        _wait_until_ready(crew, store)
        _enter(trainer, store, Group(0, n))
        yield
    except RuntimeError as error:
        _explain(crew, error)
        raise
    finally:
        for helper in crew:
            helper.stop()
        _leave()
        torch.set_num_threads(threads)
        trainer.group = ALONE


def serve() -> None:
    """What a further process does: take a trainer from standard input and train with the others."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which then ends this one
    order = pickle.load(sys.stdin.buffer)
    sys.path[:] = order["path"]
    torch.set_num_threads(order["threads"])
    trainer: Trainer = pickle.load(sys.stdin.buffer)
    if trainer.device.type == "cuda":
        trainer.move(torch.device("cuda", order["number"]))
    store = dist.TCPStore("127.0.0.1", order["port"], timeout=START)
    store.set(f"ready {order['number']}", "yes")
    _enter(trainer, store, Group(order["number"], order["of"]))
    trainer.epochs(silent)


class _Helper:
    """One further process, and what it wrote before it ended."""

    def __init__(self, number: int):
        self.number, self.errors = number, tempfile.TemporaryFile()  # noqa: SIM115 closed in `stop`
        command = [os.fsdecode(spawn.get_executable()), "-c", "from scduet.train.processes import serve; serve()"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.errors, env=_environment()
        )

    def start(self, trainer: Trainer, port: int, of: int) -> None:
        order = {"number": self.number, "of": of, "port": port, "path": sys.path, "threads": torch.get_num_threads()}
        assert self.process.stdin is not None
        try:
            pickle.dump(order, self.process.stdin)
            pickle.dump(trainer, self.process.stdin, protocol=5)
            self.process.stdin.close()
        except BrokenPipeError:
            self.process.wait()
            raise TrainingError(self.ending()) from None

    def ending(self) -> str:
        """How it ended, with the last line that it wrote."""
        lines = _text(self.errors).strip().splitlines()
        return (
            f"process {self.number} ended with code {self.process.returncode}: {lines[-1] if lines else 'no message'}"
        )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def _wait_until_ready(crew: list[_Helper], store: dist.TCPStore) -> None:
    until = time.monotonic() + START.total_seconds()
    while not store.check([f"ready {helper.number}" for helper in crew]):
        for helper in crew:
            if helper.process.poll() is not None:
                raise TrainingError(helper.ending(), "devices=1 trains in this process alone")
        if time.monotonic() > until:
            raise TrainingError(f"the further processes were not ready in {START}", "is the machine overloaded?")
        time.sleep(0.05)


def _enter(trainer: Trainer, store: dist.TCPStore, group: Group) -> None:
    with _loopback():
        _init(trainer.device, store=store, rank=group.number, world_size=group.of)
    trainer.group = group


def _init(device: torch.device, **where: Any) -> None:
    """Make the group of torch. torch.optim imports torch._dynamo, some of whose functions take the group of that moment
    as a default argument: imported after the group was made, it keeps the group's threads alive past the interpreter's
    end, where one that still has a tensor to free aborts the process."""
    import torch._dynamo  # noqa: F401

    dist.init_process_group(_backend(device), timeout=PATIENCE, **where)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _explain(crew: list[_Helper], error: RuntimeError) -> None:
    """Raise what made a helper end, or that one is silent, when that is why `error` came up here."""
    if isinstance(error, ScduetError):
        return
    remedy = "the last kept state is safe: with checkpoint=, run again to go on from there"
    if "timed out" in str(error).lower():  # before the helpers are looked at, who end because this process gave up
        raise TrainingError(f"training stopped: a process was silent for {PATIENCE}", remedy) from error
    for _ in range(50):  # the network may tell of the end before the system does
        for helper in crew:
            if helper.process.poll() is not None:
                raise TrainingError(f"training stopped: {helper.ending()}", remedy) from error
        time.sleep(0.1)


def _backend(device: torch.device) -> str:
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _refuse_missing_devices(device: torch.device, n: int) -> None:
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, n)
    if there < n:
        raise DeviceError(f"devices={n}, but there are {there} of kind {device.type!r}", f"pass devices={there}")


def _environment() -> dict[str, str]:
    """The environment of a helper: no trace of the parent's `__main__`, loopback for the network."""
    return {**os.environ, **_network()}


def _network() -> dict[str, str]:
    return {"GLOO_SOCKET_IFNAME": LOOPBACK[sys.platform]} if sys.platform in LOOPBACK else {}


@contextmanager
def _loopback() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _network()}
    os.environ.update(_network())
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
