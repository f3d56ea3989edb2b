"""The processes that train one module together: who they are, and what they exchange.

Each process takes its shard of every minibatch and computes gradients; the mean over cells moves the weights of all, so
these stay equal. Process 0 reports, keeps the state and saves. Either torchrun starts the processes (on one or several
machines), or `devices=n` starts n - 1 further ones beside this one: see `launcher`.
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

TIMEOUT = timedelta(minutes=10)  # how long a process waits for the others at a step before it gives up


@dataclass(frozen=True)
class Group:
    """The processes that train together, seen from one of them. A single process is a group of size one."""

    rank: int = 0
    world_size: int = 1

    @property
    def shard(self) -> Shard:
        return Shard(self.rank, self.world_size)

    def mean_gradients(self, parameters: Iterable[nn.Parameter], n_cells: int) -> None:
        """Replace each gradient, a mean over the `n_cells` of this process, by the mean over the cells of all."""
        if self.world_size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None] or [torch.zeros(0)]
        flat = torch.cat([g.flatten() * n_cells for g in gradients] + [gradients[0].new_full((1,), n_cells)])
        dist.all_reduce(flat)
        parts = torch.split(flat[:-1] / flat[-1], [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean_buffers(self, module: nn.Module) -> None:
        """Make the running means of all processes equal: their mean."""
        if self.world_size > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer.div_(self.world_size)

    def same_weights(self, module: nn.Module) -> None:
        """Give every process the weights of the first."""
        if self.world_size > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, 0)

    def broadcast(self, value: Any) -> Any:
        """The value of the first process, in all of them."""
        if self.world_size == 1:
            return value
        sent = [value]
        dist.broadcast_object_list(sent, 0)
        return sent[0]

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes, in all of them."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found


SINGLE_PROCESS = Group()


def is_first() -> bool:
    """Whether this process is the one that reports and saves; so is every process that torchrun did not start."""
    return not dist.is_torchelastic_launched() or int(os.environ["RANK"]) == 0


def local_rank() -> int:
    """Rank of this process on its machine: which of several GPUs is its own."""
    return int(os.environ.get("LOCAL_RANK", 0)) if dist.is_torchelastic_launched() else 0


def joined(device: torch.device) -> Group:
    """The group that torchrun made this process a member of, or this process alone."""
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return SINGLE_PROCESS
    if not dist.is_initialized():
        init_process_group(device)
        atexit.register(leave)
    return Group(dist.get_rank(), dist.get_world_size())


def check_shares(n_processes: int, batch_size: int, n_cells: int) -> None:
    """Raise OptionError when a process would get fewer than two cells of a minibatch."""
    if n_processes > 1 and min(batch_size, n_cells) < 2 * n_processes:
        remedy = f"take {min(batch_size, n_cells) // 2} processes at most, or a larger batch_size"
        raise OptionError(
            f"{n_processes} processes cannot share minibatches of {batch_size} from {n_cells} cells", remedy
        )


def init_process_group(device: torch.device, **where: Any) -> None:
    """Make the group of torch. torch.optim imports torch._dynamo, some of whose functions take the group of that moment
    as a default argument: imported after the group was made, it keeps the group's threads alive past the interpreter's
    end, where one that still has a tensor to free aborts the process."""
    import torch._dynamo  # noqa: F401

    dist.init_process_group(_backend(device), timeout=TIMEOUT, **where)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _backend(device: torch.device) -> str:
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
