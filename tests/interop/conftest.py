"""The two R's that the tests drive: that of this machine, and R 4.5 with Seurat 5 in a Debian root (tests/seurat5)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "r-package"
ROOT = Path(os.environ.get("V5ROOT", "/var/cache/seurat5/trixie"))
DATA = REPOSITORY.parent / "shared" / "data" / "files"
CONDA_AND_VENV = ("VIRTUAL_ENV", "CONDA_PREFIX", "WORKON_HOME", "R_USER_CONFIG_DIR", "XDG_CONFIG_HOME")
NAMES_PYTHON = ("RETICULATE_PYTHON", "RETICULATE_PYTHON_ENV", *CONDA_AND_VENV)  # to R, or a place where one may be
HOST_PACKAGES = ("Seurat", "reticulate", "testthat", "cli", "rlang", "SingleCellExperiment")


@pytest.fixture
def real_file():
    """The path of a real R file that others wrote; skips where the folder is not (a user's clone)."""

    def find(name: str) -> Path:
        if not (DATA / name).is_file():
            pytest.skip("there is no ../shared/data")
        return DATA / name

    return find


@dataclass(frozen=True)
class R:
    """An R with the package installed. `shared` is a folder that host and R both see, under `shared_in_r` in R."""

    name: str
    shared: Path
    shared_in_r: Path

    def command(self, code: str, home: str | None = None) -> tuple[list[str], dict[str, str]]:
        script = self.shared / f"script-{abs(hash(code))}.R"
        script.write_text(f".libPaths(c({str(self.shared_in_r / 'library')!r}, .libPaths()))\n{code}\n")
        return self.wrapped(["Rscript", "--vanilla", str(self.shared_in_r / script.name)], home)

    def wrapped(self, command: list[str], home: str | None = None) -> tuple[list[str], dict[str, str]]:
        """The command and its environment. home: a folder in `shared` that is HOME; nothing names a Python."""
        data = {"SCDUET_TEST_DATA": str(DATA), "MOUNT": str(DATA)} if DATA.is_dir() else {}
        threads = {"OMP_NUM_THREADS": "1"}
        if self.name == "seurat5":
            runner = REPOSITORY / "tests" / "seurat5" / "run.sh"
            clean = {"CLEAN_HOME": str(self.shared_in_r / home)} if home else {}
            return [str(runner), sys.prefix, str(REPOSITORY), *command], {**os.environ, **threads, **data, **clean}
        r_home = subprocess.run(["R", "RHOME"], capture_output=True, text=True, check=True).stdout.strip()
        # R puts /usr/lib first, where Debian's libpython of the same version would replace the environment's own
        python = {"RETICULATE_PYTHON": sys.executable, "R_LD_LIBRARY_PATH": f"{r_home}/lib"}
        env = {**os.environ, **threads, **data, **python}
        if home:
            env = {name: value for name, value in env.items() if name not in NAMES_PYTHON}
            env["HOME"] = str(self.shared / home)
        return command, env

    def run(self, code: str, home: str | None = None) -> str:
        """What R prints; a failure shows everything that it said."""
        command, env = self.command(code, home)
        done = subprocess.run(command, env=env, cwd=self.shared, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{self.name}:\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session", params=["host", "seurat5"])
def r(request, tmp_path_factory) -> R:
    """Each R in turn, with the package of this checkout installed; skips with the reason where there is none."""
    found = _host(tmp_path_factory) if request.param == "host" else _seurat5(request)
    (found.shared / "library").mkdir()
    source = found.shared / "r-package"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.whl"))
    library, package = found.shared_in_r / "library", found.shared_in_r / "r-package"
    command, env = found.wrapped(["R", "CMD", "INSTALL", "--no-docs", f"--library={library}", str(package)])
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return found


@pytest.fixture(scope="session")
def host_r() -> None:
    """Skips where there is no R with the packages that the tests need."""
    _skip_without_packages()


def _host(tmp_path_factory) -> R:
    _skip_without_packages()
    _skip_if_too_new()
    shared = tmp_path_factory.mktemp("host-r")
    return R("host", shared, shared)


def _skip_without_packages() -> None:
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    wanted = ", ".join(f"'{name}'" for name in HOST_PACKAGES)
    code = f"x <- c({wanted}); cat(x[!x %in% rownames(installed.packages())])"
    missing = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True).stdout
    if missing:
        pytest.skip(f"R packages are not installed: {missing}")


def _skip_if_too_new() -> None:
    """Old versions of reticulate cannot run new versions of Python: those that `find_python()` of the package knows."""
    newer = "if (v >= '1.44') 14 else if (v >= '1.40') 13 else if (v >= '1.33') 12 else 11"
    code = f"v <- packageVersion('reticulate'); cat({newer})"
    newest = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True).stdout
    if sys.version_info[1] > int(newest):
        pytest.skip(f"the reticulate of this R runs Python up to 3.{newest}")


def _seurat5(request) -> R:
    stamp = ROOT.with_name(f"{ROOT.name}.stamp")
    if not stamp.exists():
        pytest.skip("no root with Seurat 5: as root on Debian, tests/seurat5/root.sh makes one")
    if os.geteuid() != 0:
        pytest.skip("the root with Seurat 5 needs root rights (mounts)")
    inside = Path("/tmp") / f"scduet-{os.getpid()}"
    shared = ROOT / inside.relative_to("/")
    shared.mkdir(parents=True)
    request.addfinalizer(lambda: shutil.rmtree(shared, ignore_errors=True))
    return R("seurat5", shared, inside)
