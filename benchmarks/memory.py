"""Peak resident memory of `fit` beyond what was there just before it, for a CSR of a stated size.

    python benchmarks/memory.py [--gigabytes 1.0] [--genes 20000] [--epochs 1]

The peak is the kernel's high-water mark (Linux), set back just before `fit`. The bound that we aim at is half the CSR
plus 300 MB.
"""

import argparse
import tempfile
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp

import scduet as sd

MB = 1 << 20


def simulated(gigabytes: float, n_genes: int, per_cell: int = 2500) -> anndata.AnnData:
    """Counts as CSR with `per_cell` entries in each row, of float32 and int32."""
    n_cells = int(gigabytes * (1 << 30) / (8 * per_cell))
    rng = np.random.default_rng(0)
    step = n_genes // per_cell
    indices = np.tile(np.arange(per_cell, dtype=np.int32) * step, n_cells)
    for start in range(0, len(indices), 10_000_000):
        piece = indices[start : start + 10_000_000]
        piece += rng.integers(0, step, len(piece), dtype=np.int32)
    values = np.concatenate([rng.geometric(0.6, per_cell * 1000).astype(np.float32) for _ in range(0, n_cells, 1000)])[
        : len(indices)
    ]
    matrix = sp.csr_matrix((values, indices, np.arange(0, len(indices) + 1, per_cell)), shape=(n_cells, n_genes))
    adata = anndata.AnnData(matrix)
    adata.obs["batch"] = np.where(np.arange(n_cells) % 2, "a", "b")
    return adata


def resident(which: str) -> float:
    """VmRSS (now) or VmHWM (peak) in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=1)
    given = parser.parse_args()
    adata = simulated(given.gigabytes, given.genes)
    size = sum(array.nbytes for array in (adata.X.data, adata.X.indices, adata.X.indptr)) / MB
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before = resident("VmRSS")
    model = sd.fit(adata, batch_key="batch", max_epochs=given.epochs, recipe="scvi-tools")
    fit = resident("VmHWM") - before
    with tempfile.TemporaryDirectory() as folder:
        model.embed()
        model.save(Path(folder) / "model")
    whole = resident("VmHWM") - before
    bound = 0.5 * size + 300
    print(f"CSR {size:.0f} MB ({adata.n_obs} x {adata.n_vars}), before fit {before:.0f} MB")
    print(f"fit: +{fit:.0f} MB (aim: at most {bound:.0f}); with embed and save +{whole:.0f} MB")


if __name__ == "__main__":
    main()
