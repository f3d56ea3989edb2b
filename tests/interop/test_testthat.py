"""The R package's own tests, under R 4.2 with Seurat 4 and under R 4.5 with Seurat 5."""

from __future__ import annotations

import filecmp
import re
import shutil
from pathlib import Path

TESTS = Path(__file__).parents[2] / "r-package" / "tests" / "testthat"


def test_the_r_package_passes_its_own_tests_without_new_snapshots(r):
    shutil.copytree(TESTS, r.shared / "testthat")
    said = r.run(
        f"""
        library(testthat)
        results <- test_dir({str(r.shared_in_r / "testthat")!r}, package = "scduet", load_package = "installed",
                            reporter = "check", stop_on_failure = TRUE)
        """
    )
    counts = re.search(r"\[ FAIL (\d+) \| WARN (\d+) \| SKIP (\d+) \| PASS (\d+) \]", said)
    assert counts, said
    failed, _, skipped, passed = map(int, counts.groups())
    assert failed == 0, said
    assert passed > 130, said
    assert skipped <= 20, said
    if r.name == "seurat5":  # the other R compares no words, and keeps those of skipped tests alone
        _same_files(TESTS / "_snaps", r.shared / "testthat" / "_snaps")


def _same_files(expected: Path, found: Path) -> None:
    names = sorted(path.name for path in expected.iterdir())
    if found.is_dir():
        _, changed, _ = filecmp.cmpfiles(expected, found, names, shallow=False)
        new = [path.name for path in found.iterdir() if path.name not in names]
        assert not changed, f"snapshots differ: {changed}"
        assert not new, f"snapshots that are not in git: {new}"
