"""The vignettes travel inside the R package; where the engine is missing they show code alone."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from interop.conftest import PACKAGE
from notebooks import VIGNETTES

BUILD = """
set -e
unset RETICULATE_PYTHON
export RETICULATE_USE_MANAGED_VENV=no
cd "$1"
R CMD build --no-manual r-package > build.log 2>&1 || { cat build.log; exit 1; }
mkdir -p vignettes-library
R CMD INSTALL --library=vignettes-library scduet_*.tar.gz > install.log 2>&1 || { cat install.log; exit 1; }
Rscript --vanilla -e 'cat(sort(vignette(package = "scduet", lib.loc = "vignettes-library")$results[, "Item"]))'
"""


def test_the_package_has_every_rmd_of_the_vignettes():
    there = {path.name for path in (PACKAGE / "vignettes").glob("*.Rmd")}
    assert there == {path.name for path in VIGNETTES.glob("*.Rmd")}
    assert all((PACKAGE / "vignettes" / name).resolve() == VIGNETTES / name for name in there), "links, not copies"


@pytest.mark.parametrize("r", ["seurat5"], indirect=True)  # one R is enough, and with this one all run
def test_a_built_package_shows_its_vignettes(r):
    shared = r.shared / "build"
    shared.mkdir()
    shutil.copytree(PACKAGE, shared / "r-package", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.whl"))
    (r.shared / "no-python").mkdir()
    command, env = r.wrapped(["bash", "-c", BUILD, "build", str(r.shared_in_r / "build")], "no-python")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == sorted(path.stem for path in VIGNETTES.glob("*.Rmd"))
