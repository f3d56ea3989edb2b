"""R data files from and to other formats: .rds and .rda are read without R, and written by R with scduet in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path
from typing import Any

from anndata import AnnData

from scduet.errors import FormatError, ScduetWarning
from scduet.interop.objects import write_h5ad
from scduet.io.atomic import place_whole
from scduet.io.cells import WRITERS, as_in, check_target, file_size, read, write

ENDINGS = (".rds", ".rda", ".rdata")

READY = """
here <- function(package) nzchar(system.file(package = package)) # without loading: Seurat's takes seconds
cat("ready:", here("SeuratObject"), here("scduet"))
"""

SAVE = """
arguments <- commandArgs(trailingOnly = TRUE)
note <- function(m) {
  cat("note: ", gsub("\\n", " ", conditionMessage(m)), "\\n", sep = "")
  invokeRestart("muffleMessage")
}
object <- withCallingHandlers(scduet::ReadH5AD(arguments[1]), scduet_message = note)
if (arguments[3] == "") saveRDS(object, arguments[2]) else {
  assign(arguments[3], object)
  save(list = arguments[3], file = arguments[2])
}
"""


def convert(source: str | Path, target: str | Path, *, name: str | None = None, overwrite: bool = False) -> Any:
    """Read `source` in one format and write it as `target` in another, by their suffixes.

    source: .h5ad, .h5mu, .zarr, .loom, 10x .h5; a folder of 10x, Visium, STARsolo (Velocyto/filtered) or alevin-fry; or
        .rds, .rda and .RData of R, which are read without R.
    target: .h5ad, .h5mu, .zarr, or .rds and .rda (needs R). In an .h5mu, kinds of features in X and counts in obsm that
        have names are modalities; elsewhere modalities other than "rna" are in obsm, with NaN in cells that lack them.
    name: of the object in an .rda: that to read where there are several, and that to write (default "object").

    Returns the cells (AnnData, or MuData for .h5mu). A ScduetWarning names what the target has no place for. Raises
    FormatError, before work starts where that can be known.
    """
    source, target = Path(source), Path(target)
    check_target(target, overwrite, file_size(source), (*WRITERS, *ENDINGS))
    if _is_r(target):
        check_r()
    adata = as_in(target, _read_r(source, name) if _is_r(source) else read(source, multimodal=True))
    if _is_r(target):
        _place(adata, target, name or "object")
    else:
        write(adata, target, overwrite=overwrite)
    return adata


def write_rds(adata: AnnData, path: str | Path, *, name: str = "object", overwrite: bool = False) -> Path:
    """Write `adata` as a Seurat object: .rds, or .rda with the object under `name`. Runs R with the package scduet.

    What Seurat has no place for is named in a ScduetWarning. Raises FormatError where R or a package is missing.
    """
    path = check_target(path, overwrite, endings=ENDINGS)
    check_r()
    _place(adata, path, name)
    return path


def check_r() -> None:
    """Make sure that there is an R with SeuratObject and scduet. Raises FormatError that says what is missing."""
    if shutil.which("Rscript") is None:
        raise FormatError("R data files are written by R, which is not installed", "install R, or write an .h5ad")
    said = _run(["-e", READY]).stdout.rpartition("ready:")[2].split()
    missing = [package for package, found in zip(("SeuratObject", "scduet"), said, strict=False) if found != "TRUE"]
    if missing or len(said) < 2:
        remedy = "in R: install.packages('Seurat'); in a copy of scduet's repository: R CMD INSTALL r-package"
        raise FormatError(
            f"R lacks the package {' and '.join(missing or ['scduet'])}, which writes R data files", remedy
        )


def _read_r(path: Path, name: str | None) -> AnnData:
    from scduet.interop.rds import read_rds  # needs rdata, which is optional

    return read_rds(path, None if path.suffix.lower() == ".rds" else name)


def _place(adata: AnnData, path: Path, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        passed = str(Path(folder) / "cells.h5ad")
        write_h5ad(adata, passed)
        place_whole(path, lambda new: _save(passed, str(new), "" if path.suffix.lower() == ".rds" else name))


def _save(source: str, target: str, name: str) -> None:
    done = _run(["-e", SAVE, source, target, name])
    if done.returncode:
        said = " ".join(done.stderr.partition("Error")[2].split())[:500]
        raise FormatError(f"R could not write the file: {said}", "scduet_sitrep() in R says what is wrong")
    for line in done.stdout.splitlines():
        if line.startswith("note: "):
            told = " ".join(line.removeprefix("note: ").removeprefix("ℹ ").removeprefix("i ").split())
            warnings.warn(told, ScduetWarning, stacklevel=4)


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Rscript with this Python as R's Python, where R can load it: one whose library is shared."""
    environment = dict(os.environ)
    if sysconfig.get_config_var("Py_ENABLE_SHARED") or sys.platform == "win32":
        environment["RETICULATE_PYTHON"] = sys.executable
        if sys.platform.startswith("linux"):  # else Debian's libpython may come before the environment's own
            home = subprocess.run(["R", "RHOME"], capture_output=True, text=True, check=True).stdout.strip()
            environment["R_LD_LIBRARY_PATH"] = f"{home}/lib"
    return subprocess.run(["Rscript", *arguments], env=environment, capture_output=True, text=True, check=False)


def _is_r(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS
