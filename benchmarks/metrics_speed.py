"""The default suite against scib-metrics' Benchmarker: fresh process, warm, CPU time, peak memory, and the values.

    python benchmarks/metrics_speed.py [--cells 5000 20000] [--runs 2] [--real] [--skip-theirs] [--once]

Every run is a new process, the two sides in turn; the wall time of a fresh run counts starting Python, imports,
compilation and reading the input. Both get the same embedding (30 dimensions), the same 50 components of the data
before, 12 types and 4 batches (simulated), or the first 30 components of a real PBMC atlas of 8 batches (--real).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ATLAS = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "pbmc_atlas_5studies_15k_2000g.h5ad"
SAME = {  # our metric -> theirs, for those with a common definition
    "silhouette_label": "Silhouette label",
    "clisi": "cLISI",
    "bras": "BRAS",
    "ilisi": "iLISI",
    "pcr_comparison": "PCR comparison",
    "isolated_labels": "Isolated labels",
    "nmi_kmeans": "KMeans NMI",
    "ari_kmeans": "KMeans ARI",
    "kbet": "KBET",
    "graph_connectivity": "Graph connectivity",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--real", action="store_true", help="the PBMC atlas, at most its 15,130 cells")
    parser.add_argument("--skip-theirs", action="store_true")
    parser.add_argument("--once", action="store_true", help="no second, warm call: for many cells")
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "NPZ"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return print(json.dumps(SIDES[options.child[0]](options.child[1], options.once)))
    sides = ["ours"] if options.skip_theirs else ["ours", "theirs"]
    with tempfile.TemporaryDirectory() as folder:
        for n in options.cells:
            path = str(Path(folder) / f"{n}.npz")
            np.savez(path, **(real_cells(n) if options.real else simulated_cells(n)))
            runs = [(side, measure(side, path, options.once)) for _ in range(options.runs) for side in sides]
            report(n, {side: [run for s, run in runs if s == side] for side in sides})
    return None


def simulated_cells(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Overlapping Gaussian types with batch shifts; two of the types lack two batches."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 12, n)
    batch = np.where(labels < 2, rng.integers(0, 2, n), rng.integers(0, 4, n))
    cells = rng.normal(size=(12, 30))[labels] * 0.7 + rng.normal(size=(n, 30))
    shift = rng.normal(size=(4, 30))[batch]
    before = np.hstack([cells + 1.5 * shift, 0.3 * rng.normal(size=(n, 20))])
    return {
        "x": (cells + 0.3 * shift).astype(np.float32),
        "before": before.astype(np.float32),
        "labels": labels,
        "batch": batch,
    }


def real_cells(n: int) -> dict[str, np.ndarray]:
    """PBMC of five studies: unintegrated components as both the data before and (30 of them) the embedding."""
    import anndata

    from scduet.tasks.quality.baselines import harmony, unintegrated_pca

    adata = anndata.read_h5ad(ATLAS)
    rows = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:n])
    adata = adata[rows].copy()
    before = unintegrated_pca(adata)
    x = harmony(before, adata.obs["batch"])[:, :30]
    codes = {key: np.unique(adata.obs[key].astype(str), return_inverse=True)[1] for key in ("cell_type", "batch")}
    return {"x": x.astype("f4"), "before": before.astype("f4"), "labels": codes["cell_type"], "batch": codes["batch"]}


def measure(side: str, path: str, once: bool) -> dict:
    start = time.perf_counter()
    command = [sys.executable, __file__, "--child", side, path, *(["--once"] if once else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return found | {"fresh_s": wall if once else wall - found["warm_s"]}


def run_ours(path: str, once: bool) -> dict:
    from scduet import metrics

    data = np.load(path)
    arrays = [data[name] for name in ("x", "labels", "batch", "before")]
    return _measured(lambda: {name: e.value for name, e in metrics.evaluate(*arrays).items()}, once)


def run_theirs(path: str, once: bool) -> dict:
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    import anndata
    import pandas as pd
    from scib_metrics.benchmark import Benchmarker

    logging.disable(logging.WARNING)
    threads = int(os.environ.get("NUMBA_NUM_THREADS", len(os.sched_getaffinity(0))))
    data = np.load(path)
    obs = pd.DataFrame({"batch": data["batch"], "label": data["labels"]}, index=[str(i) for i in range(len(data["x"]))])
    obs = obs.astype(str).astype("category")
    adata = anndata.AnnData(np.zeros((len(obs), 1), "f4"), obs=obs, obsm={"X": data["x"], "before": data["before"]})

    def score() -> dict:
        run = Benchmarker(adata, "batch", "label", ["X"], pre_integrated_embedding_obsm_key="before", n_jobs=threads)
        run.benchmark()
        table = run.get_results(min_max_scale=False)
        return {column: float(table.loc["X", column]) for column in table.columns}

    return _measured(score, once)


SIDES = {"ours": run_ours, "theirs": run_theirs}


def _measured(score, once: bool) -> dict:
    """Values, peak memory and CPU seconds of the first call (imports included), seconds of the second unless `once`."""
    import resource

    values = score()
    cpu = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    start = time.perf_counter()
    if not once:
        score()
    warm, warm_cpu = (float("nan"),) * 2 if once else (time.perf_counter() - start, time.process_time() - cpu)
    return {"values": values, "fresh_cpu_s": cpu, "warm_s": warm, "warm_cpu_s": warm_cpu, "peak_gb": peak}


def report(n: int, runs: dict[str, list[dict]]) -> None:
    """Medians of the runs, and the values side by side."""
    columns = ("fresh_s", "fresh_cpu_s", "warm_s", "warm_cpu_s", "peak_gb")
    print(f"\n{n} cells; medians of {len(runs['ours'])} runs")
    print(f"{'':18s}" + "".join(f"{column:>13s}" for column in columns))
    medians = {side: [statistics.median(run[c] for run in found) for c in columns] for side, found in runs.items()}
    for side, row in medians.items():
        print(f"{side:18s}" + "".join(f"{value:13.2f}" for value in row))
    if "theirs" in runs:
        ratios = [b / a for a, b in zip(medians["ours"], medians["theirs"], strict=True)]
        print(f"{'theirs / ours':18s}" + "".join(f"{ratio:13.1f}" for ratio in ratios))
        ours, theirs = runs["ours"][0]["values"], runs["theirs"][0]["values"]
        known = {name.lower(): value for name, value in theirs.items()}
        for name, value in ours.items():
            other = known.get(SAME.get(name, "").lower(), float("nan"))
            print(f"  {name:22s}{value:9.5f}{other:9.5f}")


if __name__ == "__main__":
    main()
