"""Under CI nothing is skipped in silence: neither a test nor a whole file of tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
SKIPPED = {
    "a test": "def test_it():\n    pytest.importorskip('no_such_package')\n",
    "a file": "pytest.importorskip('no_such_package')\n\ndef test_it():\n    pass\n",
}


@pytest.mark.parametrize("what", SKIPPED)
@pytest.mark.parametrize("ci", [True, False])
def test_a_skip_fails_under_ci_alone(tmp_path, what, ci):
    said, code = run_in(tmp_path, SKIPPED[what], ci)
    assert ("skipped under CI" in said) == ci
    assert (code in (1, 2)) == ci, said


@pytest.mark.parametrize("there", [True, False])
def test_real_data_are_asked_for_where_their_folder_is(tmp_path, there):
    tests = tmp_path / "repository" / "tests"  # conftest looks for the data beside the repository
    tests.mkdir(parents=True)
    if there:
        (tmp_path / "shared" / "data").mkdir(parents=True)
    said, code = run_in(tests, "def test_it(real_data):\n    real_data('cells.h5ad')\n", ci=True)
    assert (code, "1 failed" in said, "1 skipped" in said) == (int(there), there, not there), said


def run_in(folder: Path, test: str, ci: bool) -> tuple[str, int]:
    """What pytest says of a test beside this conftest, and its status."""
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_it.py").write_text(f"import pytest\n\n{test}")
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | ({"CI": "true"} if ci else {})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", str(folder)]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return run.stdout, run.returncode
