"""Seurat <-> AnnData through rpy2, in a process of its own: R inside Python does not go away again."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

BUILT = """
import numpy as np, pandas as pd
from anndata import AnnData
from scipy import sparse
rng = np.random.default_rng(0)
counts = sparse.csr_matrix(rng.poisson(1.0, (20, 8)).astype(np.float32))
obs = pd.DataFrame({"kind": pd.Categorical(["a", None, "b", "a"] * 5), "flag": [True, False] * 10,
                    "n": np.arange(20)}, index=[f"c{i}" for i in range(20)])
var = pd.DataFrame({"highly_variable": [i % 2 == 0 for i in range(8)]}, index=[f"g_{i}" for i in range(8)])
adata = AnnData(counts, obs, var, obsm={"X_scVI": rng.normal(size=(20, 3))})
"""

CONVERTED = (
    BUILT
    + """
from rpy2 import robjects
from rpy2.robjects import default_converter
from rpy2.robjects.conversion import localconverter
from scduet.interop import rpy
with localconverter(default_converter + rpy.converter):
    robjects.globalenv["obj"] = adata
told = robjects.r('''
  c(class(obj), rownames(obj)[1], class(obj$kind), sum(is.na(obj$kind)), class(obj$flag),
    SeuratObject::Reductions(obj), SeuratObject::VariableFeatures(obj)[2])''')
assert list(told) == ["Seurat", "g-0", "factor", "5", "logical", "scvi", "g-2"], list(told)
with localconverter(default_converter + rpy.converter):
    back = robjects.globalenv["obj"]
assert isinstance(back, AnnData)
assert (back.X != counts).nnz == 0
assert list(back.obs_names) == list(adata.obs_names)
assert back.obs["kind"].isna().tolist() == obs["kind"].isna().tolist()
assert back.obs["n"].tolist() == obs["n"].tolist()
np.testing.assert_array_equal(back.obsm["X_scVI"], adata.obsm["X_scVI"])
assert back.var["highly_variable"].tolist() == var["highly_variable"].tolist()
other = robjects.r("Matrix::Diagonal(3)")
assert "ddiMatrix" in other.rclass
"""
)

LOGGED = (
    BUILT
    + """
from rpy2 import robjects
from rpy2.robjects import default_converter
from rpy2.robjects.conversion import localconverter
from scduet.interop import rpy
obs["maybe"] = pd.array([1, None] * 10, dtype="Int64")
raw = AnnData(counts, obs, var)
logged = raw[:, :6].copy()
logged.X = logged.X.log1p()
logged.obsm["X_none"], logged.obsm["text"] = np.zeros((20, 0)), pd.DataFrame({"a": ["x"] * 20}, index=obs.index)
alone = logged.copy()
logged.raw = raw
with localconverter(default_converter + rpy.converter):
    robjects.globalenv["both"], robjects.globalenv["alone"] = logged, alone
told = robjects.r('''
  counts <- both[["RNA"]]@counts; data <- both[["RNA"]]@data
  c(identical(dim(counts), c(6L, 20L)), sum(counts), sum(data), length(alone[["RNA"]]@counts), sum(alone[["RNA"]]@data),
    sum(is.na(both$maybe)), both$maybe[3])''')
total = float(counts[:, :6].sum())
np.testing.assert_allclose(list(told), [1, total, logged.X.sum(), 0, logged.X.sum(), 10, 1], rtol=1e-6)
with localconverter(default_converter + rpy.converter):
    back = robjects.globalenv["alone"]
np.testing.assert_allclose(back.X.toarray(), logged.X.toarray(), rtol=1e-6)
"""
)

MAGIC = (
    BUILT
    + """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "scduet.interop.rpy")
shell.user_ns["adata"] = adata
shell.run_cell_magic("R", "-i adata -o out", "out <- adata; out$double <- out$n * 2")
out = shell.user_ns["out"]
assert isinstance(out, AnnData), type(out)
assert out.obs["double"].tolist() == [2 * n for n in range(20)]
"""
)


@pytest.mark.parametrize("code", [CONVERTED, LOGGED, MAGIC], ids=["converter", "values", "cell magic"])
def test_an_anndata_is_a_seurat_object_in_r_and_comes_back(host_r, code):
    for package in ("rpy2.robjects", "IPython"):
        if importlib.util.find_spec(package.partition(".")[0]) is None:
            pytest.skip(f"{package} is not installed: pip install scduet[r]")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
