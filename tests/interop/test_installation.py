"""Installing the R package from the repository root, and the engine that travels inside it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "r-package"
PYTHON = REPOSITORY / "python"


def test_the_description_is_the_same_in_the_root_and_in_the_package():
    assert (REPOSITORY / "DESCRIPTION").read_bytes() == (PACKAGE / "DESCRIPTION").read_bytes()


def test_installing_from_the_root_gives_the_full_package_and_takes_edits(host_r, tmp_path):
    copy, library = tmp_path / "repository", tmp_path / "library"
    library.mkdir()
    _copy_of_tracked_files(copy)
    before = _files(copy)
    assert "RunSCVI" in _exports_after_install(copy, library)
    code = copy / "r-package" / "R" / "h5ad.R"
    code.write_text(code.read_text() + "\nEdited <- function() 1\n")
    namespace = copy / "r-package" / "NAMESPACE"
    namespace.write_text(namespace.read_text() + "export(Edited)\n")
    exports = _exports_after_install(copy, library)
    assert {"Edited", "RunSCVI", "install_scduet"} <= set(exports)
    assert (library / "scduet" / "python" / "source" / "python" / "scduet" / "api.py").is_file()
    subprocess.run(["sh", "./cleanup"], cwd=copy, check=True)
    assert _files(copy) == before, "installing left files behind or took some away"


def test_a_wheel_of_the_travelling_sources_and_one_made_before_hold_what_python_holds(tmp_path):
    """`make wheel` puts one into the package, which then goes first; none is in git, where it could be stale."""
    source = tmp_path / "source"
    shutil.copytree(PACKAGE / "inst" / "python" / "source", source, ignore=shutil.ignore_patterns("*.egg-info"))
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, *build, str(source)], check=True, capture_output=True)
    made_before = list((PACKAGE / "inst" / "python").glob("scduet-*.whl"))
    assert len(made_before) <= 1
    for wheel in [next(tmp_path.glob("scduet-*.whl")), *made_before]:
        _same_as_python(wheel)


def test_r_and_python_name_the_same_protocol():
    spec = importlib.util.find_spec("scduet.interop.reticulate")
    assert spec is not None
    assert spec.origin is not None
    here = next(line for line in Path(spec.origin).read_text().splitlines() if line.startswith("PROTOCOL = "))
    there = next(line for line in (PACKAGE / "R" / "python.R").read_text().splitlines() if line.startswith("PROTOCOL"))
    assert int(here.split("=")[1].split("#")[0]) == int(there.split("<-")[1].split("L")[0])


def test_r_asks_for_the_harmony_that_the_engine_asks_for():
    (wanted,) = re.findall(r'^HARMONY <- "(.*?)"', (PACKAGE / "R" / "install.R").read_text(), re.MULTILINE)
    assert f'baselines = ["{wanted}"]' in (REPOSITORY / "pyproject.toml").read_text()


def test_every_exported_function_has_one_place_in_the_reference_of_the_site():
    exported = re.findall(r"^export\((\w+)\)$", (PACKAGE / "NAMESPACE").read_text(), re.MULTILINE)
    site = (PACKAGE / "_pkgdown.yml").read_text()
    assert sorted(re.findall(r"^  - (\w+)$", site, re.MULTILINE)) == sorted(exported)
    pages = "".join(page.read_text() for page in (PACKAGE / "man").glob("*.Rd"))
    assert not [name for name in exported if f"\\alias{{{name}}}" not in pages], "a help page for each"


def test_examples_fit_the_page_of_the_manual():
    """R CMD check notes lines of more than 100 characters."""
    pages = {
        page.name: page.read_text().partition("\\examples{")[2].partition("\n}\n")[0]
        for page in (PACKAGE / "man").glob("*.Rd")
    }
    long = [(name, line) for name, text in pages.items() for line in text.splitlines() if len(line) > 100]
    assert not [(name, line) for name, line in long if "examplesIf" not in line]


def test_every_model_has_its_short_form_in_r():
    from scduet.models import MODELS

    source = (PACKAGE / "R" / "models.R").read_text()
    runs = dict(re.findall(r'(\w+) = "(Run\w+)"', source[source.index("MODEL_FUNCTIONS <- c(") :].partition(")")[0]))
    exported = re.findall(r"^export\((\w+)\)$", (PACKAGE / "NAMESPACE").read_text(), re.MULTILINE)
    assert {name: row.r for name, row in MODELS.items()}.items() <= runs.items()
    assert set(runs.values()) <= set(exported)


def test_only_one_file_of_the_package_speaks_reticulate():
    allowed = {"python.R", "which_python.R", "install.R", "managed.R"}  # before there is a Python
    speakers = {path.name for path in (PACKAGE / "R").glob("*.R") if "reticulate::" in _without_comments(path)}
    assert speakers <= allowed


def _without_comments(path: Path) -> str:
    return "\n".join(line.partition("#")[0] for line in path.read_text().splitlines())


def _same_as_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if name.startswith("scduet/")}
    here = {
        str(path.relative_to(PYTHON)): path.read_bytes()
        for path in (PYTHON / "scduet").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == here


def _copy_of_tracked_files(target: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        source = REPOSITORY / name
        if (
            name
            and (source.is_symlink() or source.is_file())
            and not name.startswith(("tests/", "docs/", "vignettes/"))
        ):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _exports_after_install(copy: Path, library: Path) -> list[str]:
    install = ["R", "CMD", "INSTALL", "--no-docs", "--no-test-load", f"--library={library}", "."]
    done = subprocess.run(install, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    code = f"cat(getNamespaceExports(loadNamespace('scduet', lib.loc = '{library}')))"
    return subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True).stdout.split()
