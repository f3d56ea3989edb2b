"""What all tests share: real data where it is, and small data sets."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

for threads in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):  # the tests run in two processes side by side
    os.environ.setdefault(threads, "1")
# one cache for all processes, and for R in a root of its own: each loop is compiled once
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".make" / "numba"))
if os.environ.get("SCDUET_SHAPES"):
    import shapes

    shapes.install()
DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
NO_DATA = "there is no ../shared/data"  # in the reason of every skip for want of them

# what `make test-fast` leaves out: folders and files
SLOW = {"interop", "parity", "distributed", "cli", "scvi", "report", "transformers"}
SLOW |= {"test_toys.py", "test_readme.py", "test_notebook.py", "test_vignettes.py", "test_docs.py"}
SLOW |= {"test_resume.py", "test_progress.py", "test_without.py", "test_generate_cells.py", "test_expimap.py"}


def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW & set(item.path.relative_to(Path(__file__).parent).parts):
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _no_skip_under_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _no_skip_under_ci((yield))


def _no_skip_under_ci(report):
    """Under CI a skip, of a test or of a whole file, is a failure, unless it asks for the data beside a clone alone."""
    data_asked = NO_DATA in str(report.longrepr) and not DATA.is_dir()
    if report.skipped and os.environ.get("CI") and not data_asked:
        report.outcome, report.longrepr = "failed", f"skipped under CI: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws does not depend on the tests before it."""
    import torch

    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(scope="session")
def real_data():
    """Reads a real data set by its file name; skips where the data are not (a user's clone)."""
    import anndata

    def read(name: str):
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{NO_DATA}: {name}")
        return anndata.read_h5ad(path)

    return read


@pytest.fixture
def counts():
    """200 cells x 60 genes of three cell types in two batches; a new object for each test."""
    return make_counts()


def make_counts(n_cells=200, n_genes=60, seed=0):
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(0, 3, n_cells), rng.integers(0, 2, n_cells)
    rate = rng.gamma(0.5, 1.0, (3, n_genes))[kind] * np.exp(rng.normal(0, 0.3, (2, n_genes)))[batch]
    x = sp.csr_matrix(rng.poisson(rate * rng.gamma(5, 0.3, (n_cells, 1)) + 0.02).astype(np.float32))
    x[np.asarray(x.sum(1)).ravel() == 0, 0] = 1
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical.from_codes(batch, ["b0", "b1"]),
            "cell_type": pd.Categorical.from_codes(kind, ["B", "NK", "T"]),
            "site": rng.choice(["x", "y", "z"], n_cells),
            "age": rng.normal(50, 10, n_cells),
            "size": rng.gamma(5, 0.2, n_cells),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]))
