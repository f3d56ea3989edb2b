"""Collective communication between the processes that train one module.

Each process computes gradients on its shard of every minibatch; all apply the mean over cells, so their weights stay
equal. Process 0 reports progress and saves. The processes are started by torchrun (on one or several machines) or by
`devices=n`, which starts n - 1 workers: see `launcher`.
"""

from __future__ import annotations

from scduet._torch import torch

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import nn

from scduet.data.samplers import Shard
from scduet.errors import OptionError
from scduet.events import Listener, RaiseLater, silent
from scduet.train.progress import default_listener

TIMEOUT = timedelta(minutes=10)  # how long a process waits for the others in a step


@dataclass(frozen=True)
class Group:
    """The process group, as seen by one process. A single process is a group of size one."""

    rank: int = 0
    world_size: int = 1

    @property
    def shard(self) -> Shard:
        return Shard(self.rank, self.world_size)

    def mean_gradients(self, parameters: Iterable[nn.Parameter], n_cells: int) -> None:
        """Average each gradient, a mean over the `n_cells` of this process, over the cells of all processes."""
        if self.world_size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None] or [torch.zeros(0)]
        flat = torch.cat([g.flatten() * n_cells for g in gradients] + [gradients[0].new_full((1,), n_cells)])
        dist.all_reduce(flat)
        parts = torch.split(flat[:-1] / flat[-1], [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean_buffers(self, module: nn.Module) -> None:
        """Average the running statistics over all processes."""
        if self.world_size > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer.div_(self.world_size)

    def same_weights(self, module: nn.Module) -> None:
        """Copy the weights of the first process to all others."""
        if self.world_size > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, 0)

    def broadcast(self, value: Any) -> Any:
        """Return the value of the first process in all processes."""
        if self.world_size == 1:
            return value
        sent = [value]
        dist.broadcast_object_list(sent, 0)
        return sent[0]

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in all processes."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found


SINGLE_PROCESS = Group()


def is_first() -> bool:
    """Whether this process reports and saves; true for every process not started by torchrun."""
    return not dist.is_torchelastic_launched() or int(os.environ["RANK"]) == 0


def local_rank() -> int:
    """Rank of this process on its machine, which selects its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if dist.is_torchelastic_launched() else 0


def joined(device: torch.device) -> Group:
    """The group created by torchrun, or a group of size one."""
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return SINGLE_PROCESS
    if not dist.is_initialized():
        init_process_group(device)
        atexit.register(leave)
    return Group(dist.get_rank(), dist.get_world_size())


def check_shares(n_processes: int, batch_size: int, n_cells: int) -> None:
    """Raise OptionError if a process would get fewer than two cells of a minibatch."""
    if n_processes > 1 and min(batch_size, n_cells) < 2 * n_processes:
        remedy = f"use at most {min(batch_size, n_cells) // 2} processes, or increase batch_size"
        raise OptionError(
            f"{n_processes} processes cannot share minibatches of {batch_size} from {n_cells} cells", remedy
        )


def init_process_group(device: torch.device, **where: Any) -> None:
    """Initialize torch's process group.

    torch._dynamo must be imported first: some of its functions take the current group as a default argument, which
    keeps the group's threads alive at interpreter exit, where one that still frees a tensor aborts the process.
    """
    import torch._dynamo  # noqa: F401

    dist.init_process_group(_backend(device), timeout=TIMEOUT, **where)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _backend(device: torch.device) -> str:
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def reporter(callback: Listener | None) -> RaiseLater:
    """`callback` (None: the progress bar) in the process that reports; a silent callback in the others."""
    if isinstance(callback, RaiseLater):
        return callback
    if not is_first():
        return RaiseLater(silent)
    return RaiseLater(callback or default_listener(), takes_warnings=callback is not None)
