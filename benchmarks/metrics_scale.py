"""A million cells x 30 dimensions x 20 batches x 40 labels: seconds and standard error of each metric, peak memory.

    python benchmarks/metrics_scale.py [--cells 1000000] [--exact]

Above 100,000 cells: 5,000 queries against all cells, graphs and clusters on 100,000 cells. `--exact` uses all cells
(meant for 100,000).
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from itertools import pairwise

import numpy as np

from scduet import metrics

NAMES = [*(name for name, m in metrics.METRICS.items() if "default" in m.suites), "nmi_leiden", "ari_leiden", "cilisi",
         "silhouette_batch"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--exact", action="store_true")
    options = parser.parse_args()
    x, labels, batch, before = simulated(options.cells)
    plan = metrics.SamplingPlan(exact_up_to=options.cells if options.exact else 100_000)
    clock: list[tuple[str, float, float]] = []
    start = time.perf_counter()

    def begin(name: str) -> None:
        clock.append((name, time.perf_counter(), time.process_time()))
        print(f"{clock[-1][1] - start:7.0f} s  {name}", file=sys.stderr, flush=True)

    found = metrics.evaluate(x, labels, batch, before, metrics=NAMES, plan=plan, callback=begin)
    clock.append(("end", time.perf_counter(), time.process_time()))
    for (name, wall, cpu), (_, wall_after, cpu_after) in pairwise(clock):
        e = found[name]
        line = f"{name:20s}{e.value:9.4f} +- {e.standard_error:.4f}  {e.n_cells:9d} cells"
        print(f"{line}{wall_after - wall:9.1f} s{cpu_after - cpu:9.1f} CPU s  {e.reason}", flush=True)
    print(f"all: {time.perf_counter() - start:.0f} s, {time.process_time():.0f} CPU s, "
          f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GB")  # fmt: skip


def simulated(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian types of unequal size, five of them in half of the batches only."""
    rng = np.random.default_rng(0)
    labels = rng.choice(40, n, p=rng.dirichlet(np.full(40, 5.0)))
    batch = np.where(labels < 5, rng.integers(0, 10, n), rng.integers(0, 20, n))
    x = rng.normal(size=(40, 30)).astype(np.float32)[labels] * 0.8
    x += rng.standard_normal((n, 30), dtype=np.float32)
    shift = rng.normal(size=(20, 30)).astype(np.float32)[batch]
    return x + 0.3 * shift, labels, batch, x + shift


if __name__ == "__main__":
    main()
