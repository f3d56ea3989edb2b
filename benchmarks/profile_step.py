"""Where the time of a training step goes, by torch op and by line of scduet.

    python benchmarks/profile_step.py [zinb nb scanvi totalvi peakvi] [--cells 6000] [--genes 2000] [--depth 500]
                                      [--threads 2] [--rows 14] [--precision 32]

Simulated cells, minibatches of 128, the recipe "scvi-tools". The first epoch compiles. The second is timed as it is,
the third runs under torch's profiler ("op": its own time, without what it calls), and in the fourth a timer asks every
half millisecond which line of scduet the main thread is in ("line": its time, calls into other packages included, the
time of other threads not). Milliseconds a step; of lines CPU time of the main thread, so that other work on the machine
matters little.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import scduet as sd

PACKAGE = str(Path(sd.__file__).parent)
EVERY = 5e-4  # seconds between two looks
BATCH_SIZE, TRAIN_SIZE = 128, 0.9


class Lines:
    """CPU time of the main thread by line of scduet, in the innermost call."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.last = 0.0

    def __enter__(self) -> Lines:
        signal.signal(signal.SIGALRM, self._look)
        self.last = time.thread_time()
        signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)
        return self

    def __exit__(self, *_) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _look(self, _number, frame) -> None:
        """Python calls this only between its own instructions: the time since the last look is what a long op took."""
        now = time.thread_time()
        passed, self.last = now - self.last, now
        while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back
        where = f"{frame.f_code.co_filename[len(PACKAGE) + 1 :]}:{frame.f_lineno}" if frame else "outside scduet"
        self.seconds[f"{where} {frame.f_code.co_qualname if frame else ''}"] += passed


class Watch:
    """Follows a run by its epochs: plain, under torch's profiler, by line."""

    def __init__(self) -> None:
        self.clock: list[tuple[float, float]] = []
        self.ops, self.lines = profile(activities=[ProfilerActivity.CPU]), Lines()

    def __call__(self, event) -> None:
        if event.kind != "progress":
            return
        self.clock.append((time.perf_counter(), time.process_time()))
        if len(self.clock) == 2:
            self.ops.__enter__()
        elif len(self.clock) == 3:
            self.ops.__exit__(None, None, None)
            self.lines.__enter__()
        elif len(self.clock) == 4:
            self.lines.__exit__()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["zinb", "nb", "scanvi"])
    for name, default in (("cells", 6000), ("genes", 2000), ("depth", 500), ("threads", 2), ("rows", 14)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", default="32")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    for model in options.models:
        watch = Watch()
        _fit(model, options, watch)
        steps = int(np.ceil(TRAIN_SIZE * options.cells / BATCH_SIZE))
        wall, cpu = (1e3 * (b - a) / steps for a, b in zip(*watch.clock[:2], strict=True))
        print(f"\n## {model}, {options.cells:,} cells x {options.genes:,}, load {os.getloadavg()[0]:.1f}")
        print(f"a step {wall:.2f} ms, CPU {cpu:.2f} ms, {BATCH_SIZE / wall * 1e3:,.0f} cells per second\n")
        ops = Counter({op.key: op.self_cpu_time_total / 1e6 for op in watch.ops.key_averages()})
        _show("op", ops, steps, options.rows)
        _show("line", watch.lines.seconds, steps, options.rows)


def _show(what: str, seconds: Counter[str], steps: int, rows: int) -> None:
    whole = sum(seconds.values())
    print(f"| {what} | ms | share |\n|---|---|---|")
    for name, value in [*seconds.most_common(rows), ("all", whole)]:
        print(f"| {name} | {1e3 * value / steps:.3f} | {value / whole:.0%} |")
    print(flush=True)


def _fit(model: str, options: argparse.Namespace, watch: Watch) -> None:
    adata = sd.datasets.simulate(options.cells, options.genes, n_batches=3, n_types=8, seed=0, depth=options.depth)
    how = {"recipe": "scvi-tools", "max_epochs": 4, "batch_size": BATCH_SIZE, "accelerator": "cpu", "validate_every": 0}
    how |= {"batch_key": "batch", "callback": watch, "early_stopping": False, "train_size": TRAIN_SIZE}
    how["precision"] = options.precision
    if model == "scanvi":
        how["labels_key"] = "cell_type"
    elif model == "totalvi":
        counts = np.random.default_rng(0).poisson(20, (adata.n_obs, 30))
        adata.obsm["protein"], how["protein_key"] = counts.astype(np.float32), "protein"
    elif model == "peakvi":
        adata.X.data[:] = 1
    else:
        model, how["gene_likelihood"] = "scvi", model
    sd.fit(adata, model, **how)


if __name__ == "__main__":
    main()
