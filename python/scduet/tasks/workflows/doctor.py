"""What is installed here, does it work, and how to mend what does not."""

from __future__ import annotations

from scduet._torch import torch

import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from scduet._version import __version__
from scduet.errors import ScduetError
from scduet.io.cells import check_folder

PACKAGES = ("torch", "numpy", "scipy", "pandas", "anndata", "scanpy", "scikit-learn", "safetensors")
OPTIONAL = {"harmonypy": "the Harmony baseline in scores", "huggingface_hub": "models by the name hf://owner/name"}
R_PACKAGES = {"Seurat": "Seurat objects", "reticulate": "calling scduet from R", "scduet": "the R side of scduet"}
SLOW = 5.0  # times numpy's own speed: seen were 20 to 50 where R's BLAS took over, 0.5 to 2 elsewhere


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `ok` is None for what is optional and absent."""

    what: str
    found: str
    ok: bool | None = True
    remedy: str = ""


def examine(model: str | Path | None = None, folder: str | Path = ".") -> list[Finding]:
    """Look at versions, devices, the speed of torch, R, permission to write in `folder`, and a saved `model`."""
    findings = [
        Finding("scduet", __version__),
        Finding("python", f"{platform.python_version()} on {platform.platform()}"),
    ]
    findings += [*_packages(), *_devices(), _matrix_product(), *_r(), _folder(Path(folder))]
    return findings + ([] if model is None else _model(model))


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        found = _version(name)
        yield Finding(name, found or "missing", found is not None, "" if found else f"pip install {name}")
    for name, purpose in OPTIONAL.items():
        found = _version(name)
        yield (
            Finding(name, found, True)
            if found
            else Finding(name, f"absent; gives {purpose}", None, f"pip install {name}")
        )


def _devices() -> Iterator[Finding]:
    yield Finding("CPU", f"{torch.get_num_threads()} threads for torch")
    for i in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(i)
        yield Finding(f"GPU {i}", f"{of.name}, {of.total_memory >> 30} GB, torch built for CUDA {torch.version.cuda}")
    if torch.cuda.device_count() == 0 and shutil.which("nvidia-smi"):
        built = f"torch {torch.__version__} sees no GPU, though there is a driver"
        yield Finding("GPU", built, None, "install the build of torch for your CUDA")
    if torch.backends.mps.is_available():
        yield Finding("GPU", "Apple's (mps)")


def _matrix_product() -> Finding:
    """Torch's matrix product beside numpy's: another BLAS loaded first, e.g. R's, may have taken torch's place."""
    a = np.ones((512, 512), np.float32)
    b, threads = torch.from_numpy(a), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            times = [(_seconds(lambda: b @ b), _seconds(lambda: a @ a)) for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    ratio = min(t for t, _ in times) / min(n for _, n in times)
    remedy = "start a new session and load scduet before other packages; in R install an optimized BLAS"
    found = f"a matrix product takes {ratio:.1f} times as long as numpy's"
    return Finding("speed of torch", found, ratio < SLOW, "" if ratio < SLOW else remedy)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _r() -> Iterator[Finding]:
    if shutil.which("Rscript") is None:
        yield Finding("R", "absent; only needed for Seurat objects", None, "make system-deps, or your system's R")
        return
    asked = ", ".join(f'"{name}"' for name in R_PACKAGES)
    code = (
        "cat(R.version$major, '.', R.version$minor, '\\n', sep = '');"
        f"for (p in c({asked})) cat(tryCatch(as.character(packageVersion(p)), error = function(e) ''), '\\n', sep = '')"
    )
    run = subprocess.run(["Rscript", "--vanilla", "-e", code], capture_output=True, text=True, timeout=60, check=False)
    lines = run.stdout.splitlines()
    if run.returncode or len(lines) != 1 + len(R_PACKAGES):
        yield Finding("R", f"does not run: {run.stderr.strip()[-200:]}", False, "reinstall R")
        return
    yield Finding("R", lines[0])
    for (name, purpose), found in zip(R_PACKAGES.items(), lines[1:], strict=True):
        yield Finding(f"R package {name}", found or f"absent; gives {purpose}", True if found else None)


def _folder(folder: Path) -> Finding:
    try:
        check_folder(folder.absolute())
    except ScduetError as error:
        return Finding("writing", error.message, False, error.hint)
    return Finding("writing", f"{folder.absolute()}, {shutil.disk_usage(folder).free >> 30} GB free")


def _model(folder: str | Path) -> list[Finding]:
    """Can the model be read, and for a published transformer: is it whole and of the published size?"""
    from scduet.api import load
    from scduet.checkpoints import pretrained

    if pretrained.recognize(folder):
        return [Finding(f"model: {check.what}", check.found, check.passed) for check in pretrained.verify(folder)]
    try:
        model = load(folder)
    except ScduetError as error:
        return [Finding("model", error.message, False, error.hint)]
    return [Finding("model", model.description)]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
