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
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_it.py").write_text(f"import pytest\n\n{SKIPPED[what]}")
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | ({"CI": "true"} if ci else {})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", str(tmp_path)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ("skipped under CI" in run.stdout) == ci
    assert (run.returncode in (1, 2)) == ci, run.stdout
