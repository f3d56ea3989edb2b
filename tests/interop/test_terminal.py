"""The first hour in a terminal: with a clean home, R typed into and R run on a terminal, and the shell.

The engine is where `install_scduet()` puts it by default; nothing names a Python, and progress is drawn as bars.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

import pytest
from notebooks import VIGNETTES

import scduet

pexpect = pytest.importorskip("pexpect", reason="pexpect is not installed: pip install scduet[test]")

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BAR = r"Training ■+ +(\d+)/(\d+) loss"
HOME = "home"
SECONDS = 300  # to wait for one line: a first compilation on a machine that does other things too
PROMPT = "typed> "

# pip takes what the tests' own environment has for installed, so that this downloads nothing; the engine is built and
# installed for real. Later sessions find the rest through a .pth file.
INSTALL = """
Sys.setenv(PYTHONPATH = {packages!r}, PIP_NO_BUILD_ISOLATION = "0", PIP_FIND_LINKS = "")
python <- scduet::install_scduet(python = {python!r}, offline = TRUE)
folder <- Sys.glob(file.path(dirname(dirname(python)), "lib", "python3*", "site-packages"))
unlink(file.path(folder[[1]], "scduet"), recursive = TRUE) # the checkout's own, whose loops are compiled already
writeLines(c({packages!r}, {checkout!r}), file.path(folder[[1]], "rest.pth"))
cat("python:", python)
"""
LOOK = """
sitrep <- scduet::scduet_sitrep()
cat("agree:", length(sitrep$problems) == 0, scduet::scduet_available(), sitrep$Python)
"""


@pytest.fixture(scope="module")
def home(r) -> Path:
    """A home, as R sees it, where install_scduet() was called once; the cells of the README lie in it."""
    folder = r.shared / HOME
    folder.mkdir()
    here = {"packages": sysconfig.get_paths()["purelib"], "checkout": str(REPOSITORY / "python")}
    said = r.run(INSTALL.format(**here, python=sys.executable), HOME)
    assert said.endswith(f"python: {r.shared_in_r / HOME}/.virtualenvs/r-scduet/bin/python")
    scduet.datasets.pbmc68k().write_h5ad(folder / "cells.h5ad")
    return r.shared_in_r / HOME


def test_the_report_and_the_engine_agree_on_the_python_that_was_installed(r, home):
    said = r.run(LOOK, HOME)
    assert f"agree: TRUE TRUE {home}/.virtualenvs/r-scduet/bin/python (install_scduet())" in said
    chosen = f"reticulate::use_virtualenv({sys.prefix!r})\n"
    said = r.run(chosen + "cat(unlist(scduet:::which_python()), scduet::scduet_available())", HOME)
    assert said == f"{sys.prefix}/bin/python reticulate::use_python() or use_virtualenv() TRUE"


def test_the_readme_typed_into_r(r, home):
    (code,) = re.findall(r"```r\n(.*?)```", README, flags=re.DOTALL)
    assert 'RunSCVI(obj, batch = "batch")' in code
    typed = Typed(r, ["R", "--vanilla", "--quiet", "--no-save"])
    typed.enter(f".libPaths(c({str(r.shared_in_r / 'library')!r}, .libPaths())); setwd({str(home)!r})")
    for line in code.splitlines():
        shown = typed.enter(line.replace('"batch")', '"batch", max_epochs = 100)', 1))
        if "RunSCVI" in line:
            drawn = [tuple(map(int, epochs)) for epochs in re.findall(BAR, shown)]
            assert drawn, shown
            assert {of for _, of in drawn} == {100}
    assert "700 10" in typed.enter("cat(dim(Embeddings(obj, 'scvi')))")
    assert "umap" in typed.enter("cat(Reductions(obj))")

    typed.send('long <- RunSCVI(obj, batch = "batch", max_epochs = 5000, reduction.name = "long")')
    typed.until("Training.*/5000 loss")
    typed.child.sendintr()
    shown = typed.until(re.escape(PROMPT))
    assert "training was interrupted after" in " ".join(shown.split())
    assert "700 10" in typed.enter("cat(dim(Embeddings(long, 'long')))")
    assert typed.enter("1 + 1").count("[1] 2") == 1  # R goes on as before
    typed.send("q('no')")
    typed.child.expect(pexpect.EOF)


CHUNKS = ("cells", "split", "pca", "scvi", "history", "keep")  # the rest shows no progress; test_vignettes.py runs it
PARAMS = 'params <- list(data = "cells.h5ad", batch = "batch", labels = "cell_type", max_epochs = 120)'


def test_the_first_vignette_run_on_a_terminal(r, home):
    chunks = re.findall(r"```\{r ([\w-]+).*?\}\n(.*?)```", (VIGNETTES / "seurat.Rmd").read_text(), flags=re.DOTALL)
    code = "\n".join(chunk for name, chunk in chunks if name in CHUNKS)
    shows = "options(cli.progress_show_after = 0)"  # else a training of less than 2 seconds shows no bar
    code = f"setwd({str(home)!r})\npdf(NULL)\n{shows}\n{PARAMS}\n{code}\ncat('end:', dim(Embeddings(obj, 'scvi')))"
    command, env = r.command(code, HOME)
    child = spawned(command, env)
    shown = without_colors(child.read())
    child.close()
    assert child.exitstatus == 0, shown
    assert re.findall(BAR, shown), shown
    assert "end: 500 10" in shown


def test_the_shell_draws_a_bar_that_is_gone_at_the_end(tmp_path):
    scduet.datasets.pbmc68k().write_h5ad(tmp_path / "cells.h5ad")
    command = [str(Path(sys.executable).with_name("scduet")), "integrate", str(tmp_path / "cells.h5ad"), "--batch-key"]
    command += ["batch", "--output", str(tmp_path / "out.h5ad"), "--max-epochs", "60"]
    child = spawned(command, {**os.environ, "OMP_NUM_THREADS": "1"})
    shown = child.read()
    child.close()
    assert child.exitstatus == 0, shown
    drawn = re.findall(r"training ━.*?(\d+)/60", without_colors(shown))
    assert len(drawn) > 3, shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h"), "the cursor is shown again"


class Typed:
    """An interactive R on a terminal."""

    def __init__(self, r, command: list[str]):
        self.child = spawned(*r.wrapped(command, HOME))
        self.child.expect("> ")
        self.enter(f"options(prompt = paste0('{PROMPT[:2]}', '{PROMPT[2:]}'))")  # what is typed is shown too

    def send(self, line: str) -> None:
        self.child.sendline(line)

    def enter(self, line: str) -> str:
        """Type a line; what the terminal shows until R asks for the next one. An error fails."""
        self.send(line)
        shown = self.until(re.escape(PROMPT))
        assert "Error" not in shown, shown
        return shown

    def until(self, pattern: str) -> str:
        self.child.expect(pattern)
        return without_colors(self.child.before)


def without_colors(shown: str) -> str:
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown)


def spawned(command: list[str], env: dict[str, str]):
    """A command on a terminal of its own, 160 columns wide."""
    env = {name: value for name, value in env.items() if name not in ("CI", "NO_COLOR", "FORCE_COLOR")}
    return pexpect.spawn(
        command[0], command[1:], env={**env, "TERM": "xterm"}, encoding="utf-8", timeout=SECONDS, dimensions=(40, 160)
    )
