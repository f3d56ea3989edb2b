"""Starts and stops the worker processes of `devices=n` on this machine."""

from __future__ import annotations

from scduet._torch import torch

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import spawn
from typing import IO, TYPE_CHECKING

import torch.distributed as dist

from scduet.errors import DeviceError, ScduetError, TrainingError
from scduet.events import silent
from scduet.train import group
from scduet.train.group import SINGLE_PROCESS, Group, init_process_group, leave

if TYPE_CHECKING:
    from scduet.train.loop import Trainer

START = timedelta(minutes=10)  # how long the first process waits for the workers to start
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # network interface for processes on one machine


@contextmanager
def launch_workers(trainer: Trainer) -> Iterator[None]:
    """Make `trainer` one of `devices` processes on this machine; the workers stop when the context exits."""
    n = trainer.config.devices
    if n == 1 or trainer.group.world_size > 1:
        yield
        return
    _refuse_missing_devices(trainer.device, n)
    threads = torch.get_num_threads()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=START)
    workers = [_Worker(rank) for rank in range(1, n)]
    try:
        torch.set_num_threads(max(1, threads // n))
        for worker in workers:
            worker.start(trainer, store.port, n)
        _wait_until_ready(workers, store)
        _enter(trainer, store, Group(0, n))
        yield
    except RuntimeError as error:
        _explain(workers, error)
        raise
    finally:
        for worker in workers:
            worker.stop()
        leave()
        torch.set_num_threads(threads)
        trainer.group = SINGLE_PROCESS


def serve() -> None:
    """Entry point of a worker: read a trainer from standard input and train with the others."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process handles Ctrl-C and stops this one
    order = pickle.load(sys.stdin.buffer)
    sys.path[:] = order["path"]
    torch.set_num_threads(order["threads"])
    trainer: Trainer = pickle.load(sys.stdin.buffer)
    if trainer.device.type == "cuda":
        trainer.move(torch.device("cuda", order["group"].rank))
    store = dist.TCPStore("127.0.0.1", order["port"], timeout=START)
    store.set(f"ready {order['group'].rank}", "yes")
    _enter(trainer, store, order["group"])
    trainer.epochs(silent)


class _Worker:
    """A worker process and its output."""

    def __init__(self, rank: int):
        self.rank, self.errors = rank, tempfile.TemporaryFile()  # noqa: SIM115 closed in `stop`
        command = [os.fsdecode(spawn.get_executable()), "-c", "from scduet.train.launcher import serve; serve()"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.errors, env=_environment()
        )

    def start(self, trainer: Trainer, port: int, world_size: int) -> None:
        order = {
            "group": Group(self.rank, world_size),
            "port": port,
            "path": sys.path,
            "threads": torch.get_num_threads(),
        }
        assert self.process.stdin is not None
        try:
            pickle.dump(order, self.process.stdin)
            pickle.dump(trainer, self.process.stdin, protocol=5)
            self.process.stdin.close()
        except BrokenPipeError:
            self.process.wait()
            raise TrainingError(self.ending()) from None

    def ending(self) -> str:
        """Describe how it ended, with the last line of its output."""
        lines = _text(self.errors).strip().splitlines()
        return f"process {self.rank} ended with code {self.process.returncode}: {lines[-1] if lines else 'no message'}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def _wait_until_ready(workers: list[_Worker], store: dist.TCPStore) -> None:
    until = time.monotonic() + START.total_seconds()
    while not store.check([f"ready {worker.rank}" for worker in workers]):
        for worker in workers:
            if worker.process.poll() is not None:
                raise TrainingError(worker.ending(), "devices=1 uses only this process")
        if time.monotonic() > until:
            raise TrainingError(f"the worker processes did not start within {START}", "is the machine overloaded?")
        time.sleep(0.05)


def _enter(trainer: Trainer, store: dist.TCPStore, member: Group) -> None:
    with _loopback():
        init_process_group(trainer.device, store=store, rank=member.rank, world_size=member.world_size)
    trainer.group = member


def _explain(workers: list[_Worker], error: RuntimeError) -> None:
    """Raise an error if `error` was caused by a worker that ended or stopped responding."""
    if isinstance(error, ScduetError):
        return
    remedy = "with checkpoint=, run again to resume from the last checkpoint"
    if "timed out" in str(error).lower():  # checked before the workers, which end because this process timed out
        raise TrainingError(f"training stopped: a process did not respond for {group.TIMEOUT}", remedy) from error
    for _ in range(50):  # the network may report the end before the system does
        for worker in workers:
            if worker.process.poll() is not None:
                raise TrainingError(f"training stopped: {worker.ending()}", remedy) from error
        time.sleep(0.1)


def _refuse_missing_devices(device: torch.device, n: int) -> None:
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, n)
    if there < n:
        raise DeviceError(f"devices={n}, but {there} of type {device.type!r} are available", f"pass devices={there}")


def _environment() -> dict[str, str]:
    """The environment of a worker: without the parent's `__main__`, with the loopback network."""
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
