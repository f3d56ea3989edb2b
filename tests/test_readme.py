"""The README's own code runs: Python, then R, then the command line, in one folder; its make targets exist.

Training is cut to a few epochs, everything else is as printed.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

import scduet as sd
from scduet.cli import build

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
SHORTER = {  # what asks for training -> the same, for a few epochs
    "python": ('batch_key="batch")  # adata', 'batch_key="batch", max_epochs=3)  # adata'),
    "r": ('RunSCVI(obj, batch = "batch")', 'RunSCVI(obj, batch = "batch", max_epochs = 3)'),
    "sh": ("--save-model scvi", "--save-model scvi --max-epochs 3"),
}


def blocks(language):
    return [code for name, code in BLOCKS if name == language]


def shortened(language, code):
    asks, less = SHORTER[language]
    assert asks in code, "the README changed: say here how to shorten its training"
    return code.replace(asks, less)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's Python code has run."""
    folder = tmp_path_factory.mktemp("readme")
    (code,) = blocks("python")
    (folder / "readme.py").write_text(shortened("python", code), encoding="utf-8")
    subprocess.run([sys.executable, "readme.py"], cwd=folder, check=True)
    return folder


def test_python(folder):
    assert (folder / "report.html").stat().st_size > 100_000
    assert (folder / "model" / "scduet.json").exists()
    assert (folder / "cells.h5ad").exists()


def test_command_line(folder):
    commands = [line for code in blocks("sh") for line in code.splitlines() if line.startswith("scduet ")]
    assert len(commands) >= 5
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = shortened("sh", "\n".join(["set -e", *commands]))
    subprocess.run(["sh", "-c", script], cwd=folder, env=os.environ | {"PATH": path}, check=True)
    for name in ("integrated.h5ad", "integrated.zarr", "latent.csv", "scvi/scduet.json"):
        assert (folder / name).exists(), name


def r_has(*packages):
    asked = ", ".join(f'"{name}"' for name in packages)
    code = f"quit(status = !all(sapply(c({asked}), requireNamespace, quietly = TRUE)))"
    return shutil.which("Rscript") is not None and subprocess.run(["Rscript", "-e", code], check=False).returncode == 0


def test_r(folder, tmp_path):
    if not r_has("Seurat", "reticulate"):
        assert not os.environ.get("CI"), "CI must have R with Seurat and reticulate"
        pytest.skip("R with Seurat and reticulate is not here: make system-deps")
    environment = os.environ | {"R_LIBS": str(tmp_path), "RETICULATE_PYTHON": sys.executable}
    install = ["R", "CMD", "INSTALL", "--no-docs", "--no-test-load", f"--library={tmp_path}", ROOT / "r-package"]
    subprocess.run(install, env=environment, check=True, capture_output=True)
    (code,) = blocks("r")
    script = shortened("r", code) + "\ncat(dim(Embeddings(obj, 'scvi')))\n"
    run = ["Rscript", "-e", script]
    done = subprocess.run(run, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.endswith("700 10")


ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines() if line.startswith("| ")]


def test_the_table_of_tasks_names_what_there_is():
    """Each function is public in Python or exported in R, each command and flag in its help."""
    header, *tasks = ROWS
    assert [name.split()[0] for name in header] == ["Task", "Python", "R", "Shell"]
    exported = set(re.findall(r"export\((\w+)\)", (ROOT / "r-package/NAMESPACE").read_text(encoding="utf-8")))
    exported.add("IntegrateLayers")  # of Seurat
    for task, in_python, in_r, in_shell in tasks:
        for name in re.findall(r"sd\.(\w+)", in_python):
            assert hasattr(sd, name), (task, name)
        for name in re.findall(r"model\.(\w+)", in_python):
            assert hasattr(sd.Model, name), (task, name)
        for module in re.findall(r"from scduet import (\w+)", in_python):
            assert import_module(f"scduet.{module}")
        assert set(re.findall(r"\w+(?=\()|(?<== )\w+", in_r)) <= exported, task
        for command, flags in re.findall(r"`scduet ([\w-]+)([^`]*)`", in_shell):
            told = CliRunner().invoke(build(), [command, "--help"])
            assert told.exit_code == 0, (task, command)
            assert all(flag in told.output for flag in re.findall(r"--[\w-]+", flags)), (task, flags)


@pytest.mark.parametrize("language", ["Python", "R", "Shell"])
def test_the_table_of_tasks_leaves_nothing_out(language):
    column = " ".join(row[["Task", "Python", "R", "Shell"].index(language)] for row in ROWS)
    wanted = {
        "Python": ("integrate", "annotate", "map_query", "differential_expression", "normalized_expression", "score",
                   "recommend", "pretrain", "finetune", "gene_network", "load", "scvi"),
        "R": ("RunSCVI", "RunSCANVI", "AnnotateCells", "MapToReference", "FindModelMarkers", "NormalizeExpression",
              "ScoreIntegration", "as_seurat", "RunGeneformer", "PretrainTransformer", "GeneNetwork", "LoadModel"),
        "Shell": [command.name or command.callback.__name__.rstrip("_") for command in build().registered_commands],
    }[language]  # fmt: skip
    assert [name for name in wanted if name not in column and name not in ("fit", "doctor")] == []


def test_make_targets_and_files_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"[`\n]make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for link in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / link).exists(), link
