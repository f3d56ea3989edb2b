"""Time and memory of the two methods that `denoise` chooses from by the number of cells, each run in a fresh process.

python benchmarks/denoising_scale.py [folder of data] [number of cells ...]

Cells are Poisson draws around sorted PBMC, the 2,000 most variable genes, one thread. CPU seconds are of `denoise`, the
peak is resident memory beyond what the process held before it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

METHODS = ("walk", "scvi")


def main(folder: Path, sizes: list[int]) -> None:
    print("cells    method   CPU s   wall s   peak GB")
    for n in sizes:
        for method in METHODS:
            command = [sys.executable, __file__, "one", str(folder), str(n), method]
            print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, end="", flush=True)


def one(folder: Path, n: int, method: str) -> None:
    import anndata as ad
    import numpy as np
    import scanpy as sc
    import scipy.sparse as sp

    import scduet as sd
    from scduet.events import silent

    warnings.simplefilter("ignore")
    adata = ad.read_h5ad(folder / "pbmc_purified_facs10.h5ad")
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    genes = sc.pp.highly_variable_genes(logged, n_top_genes=2000, inplace=False)["highly_variable"].to_numpy()
    pick, x = np.random.default_rng(0), sp.csr_matrix(adata.X)[:, genes]
    many = x[pick.integers(0, adata.n_obs, n)]
    many.data = pick.poisson(many.data).astype(np.float32)
    many.eliminate_zeros()
    many = many[np.asarray(many.sum(1)).ravel() > 0]
    cells = ad.AnnData(many)
    options = {"callback": silent} if method == "scvi" else {}
    short = {"max_epochs": 1} if options else {}
    sd.denoise(cells[:300].copy(), method, **options, **short)  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, clock = time.process_time(), time.perf_counter()
    sd.denoise(cells, method, **options)
    took = time.process_time() - start, time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{n:7,d}  {method:6s}  {took[0]:6.1f}  {took[1]:7.1f}   {(peak - before) / 1e6:7.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        one(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        given = sys.argv[1:]
        main(Path(given[0]) if given else Path("../shared/data"), [int(n) for n in given[1:]] or [10000, 50000, 100000])
