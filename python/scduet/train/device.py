"""Selects the device and the precision."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from contextlib import contextmanager

from scduet.errors import DeviceError, OptionError

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}


def choose(accelerator: str, number: int = 0) -> torch.device:
    """Return the device of kind `accelerator` with this `number`; "auto" is a CUDA GPU if available, otherwise the CPU.

    Raises DeviceError if the device is not available.
    """
    name = {"gpu": "cuda", "auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(accelerator, accelerator)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name not in there:
        raise OptionError(f"option 'accelerator' cannot be {accelerator!r}", "it must be 'auto', 'cpu', 'gpu' or 'mps'")
    if not there[name]:
        build = "torch was built without it" if name == "cuda" and not torch.version.cuda else "no driver or no card"
        raise DeviceError(f"no {accelerator!r} device is available ({build})", "use accelerator='cpu' or 'auto'")
    if name != "cuda" or number == 0:
        return torch.device(name)
    if number >= torch.cuda.device_count():
        raise DeviceError(f"{number + 1} processes, but {torch.cuda.device_count()} GPUs", "start one process per GPU")
    torch.cuda.set_device(number)
    return torch.device(name, number)


def check_precision(device: torch.device, precision: str) -> None:
    """Raise OptionError for a precision that the device does not support in training."""
    if precision == "16" and device.type == "cpu":
        raise OptionError("precision '16' needs a GPU", "use 'bf16' or '32' on a CPU")


def autocast(device: torch.device, precision: str):
    """Context manager that runs matrix products on a GPU in `precision`."""
    return torch.autocast(
        device.type, dtype=DTYPES.get(precision), enabled=precision in DTYPES and device.type != "cpu"
    )


@contextmanager
def cpu_products(device: torch.device, precision: str) -> Iterator[None]:
    """With "bf16" on a CPU, let oneDNN round what it multiplies; sums, results and weights stay float32.

    Autocast gains nothing there, for it converts whole matrices. Processors without bf16 ignore this. The setting is
    torch's own, of the whole process, and is set back.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cpu" and precision == "bf16":
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
