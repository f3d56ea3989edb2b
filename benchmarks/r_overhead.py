"""What R costs: moving matrices beside `Matrix::t()` + reticulate's converter, and RunSCVI beside Python's integrate.

    python benchmarks/r_overhead.py                                  # 20 million values, 3,000 cells: some minutes
    python benchmarks/r_overhead.py --cells 500 --epochs 2 --runs 1  # a try

Runs in the Debian root with Seurat 5 where there is one (reticulate before 1.38 cannot convert to NumPy 2, so the usual
way has no chance on older systems), else with this machine's R. Alternating runs in fresh processes; medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
ROOT = Path(os.environ.get("V5ROOT", "/var/cache/seurat5/trixie"))
VALUES = 2000  # of each cell, in the matrix that is moved


def main() -> None:
    asked = options()
    in_root = ROOT.is_dir() and os.geteuid() == 0
    work = Path(tempfile.mkdtemp(dir=ROOT / "tmp" if in_root else None))
    seen = Path("/") / work.relative_to(ROOT) if in_root else work  # the same folder as R sees it
    try:
        (work / "library").mkdir()
        library = f"--library={seen / 'library'}"
        run(in_root, ["R", "CMD", "INSTALL", "--no-docs", library, str(REPOSITORY / "r-package")])
        attaching(in_root, seen, asked.runs)
        moving(in_root, seen, asked.cells, asked.runs)
        training(in_root, work, seen, asked.epochs, asked.runs)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", type=int, default=10_000, help=f"of the matrix that is moved, {VALUES} values each")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


def attaching(in_root: bool, seen: Path, runs: int) -> None:
    code = f"cat(system.time(library(scduet, lib.loc = '{seen / 'library'}'))[['elapsed']])"
    seconds = [float(run(in_root, ["Rscript", "-e", code])) for _ in range(runs)]
    print(f"library(scduet)       {statistics.median(seconds):8.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})\n")


def moving(in_root: bool, seen: Path, cells: int, runs: int) -> None:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    script = [str(REPOSITORY / "benchmarks/r/bridge.R"), str(seen / "library"), str(cells), str(VALUES)]
    for _ in range(runs):
        for way in ("ours", "theirs"):
            for line in run(in_root, ["Rscript", *script, way]).splitlines():
                direction, seconds, megabytes = line.split()
                found.setdefault((direction, way), []).append((float(seconds), float(megabytes)))
    print(f"{cells * VALUES / 1e6:.0f} million values     seconds (spread)      peak extra MB")
    middle = {key: [statistics.median(column) for column in zip(*values, strict=True)] for key, values in found.items()}
    for (direction, way), values in sorted(found.items()):
        seconds = [value[0] for value in values]
        spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"{direction:6} {way:7}  {middle[direction, way][0]:8.2f} {spread:18} {middle[direction, way][1]:8.0f}")
    for direction in ("there", "back"):
        (ours, less), (theirs, more) = middle[direction, "ours"], middle[direction, "theirs"]
        print(f"{direction:6} {theirs / ours:.1f} times as fast, {less / more:.2f} of the peak")


def training(in_root: bool, work: Path, seen: Path, epochs: int, runs: int) -> None:
    """Both train on the same file with the same seed, in turns; Python in this process, R in a fresh one."""
    import scduet
    from scduet.errors import ScduetWarning

    warnings.simplefilter("ignore", ScduetWarning)
    adata = scduet.datasets.simulate(n_cells=3000, n_genes=1000, n_batches=2, n_types=5, seed=0)
    adata.write_h5ad(work / "cells.h5ad")
    script = [str(REPOSITORY / "benchmarks/r/overhead.R"), str(seen / "cells.h5ad"), str(seen / "library"), str(epochs)]
    scduet.fit(adata[:200].copy(), "scvi", max_epochs=1)
    in_python, in_r = [], []
    for _ in range(runs):
        begun = time.perf_counter()
        model = scduet.integrate(adata, "scvi", batch_key="batch", max_epochs=epochs, early_stopping=False, seed=42)
        in_python.append((time.perf_counter() - begun, model.history["seconds"].sum()))
        in_r.append(tuple(map(float, run(in_root, ["Rscript", *script]).split())))
    whole, alone = (tuple(map(statistics.median, zip(*times, strict=True))) for times in (in_python, in_r))
    print(f"\n3,000 cells x 1,000 genes, {epochs} epochs    Python      R")
    print(f"whole call, s                     {whole[0]:8.2f} {alone[0]:8.2f}   overhead {alone[0] - whole[0]:.2f} s")
    print(f"training alone, s                 {whole[1]:8.2f} {alone[1]:8.2f}   ratio {alone[1] / whole[1]:.2f}")


def run(in_root: bool, command: list[str]) -> str:
    runner = [str(REPOSITORY / "tests/seurat5/run.sh"), sys.prefix, str(REPOSITORY)] if in_root else []
    env = {"OMP_NUM_THREADS": "2", **os.environ, "RETICULATE_PYTHON": sys.executable}
    if not in_root:  # else Debian's libpython may come before the environment's own
        home = subprocess.run(["R", "RHOME"], capture_output=True, text=True, check=True).stdout.strip()
        env["R_LD_LIBRARY_PATH"] = f"{home}/lib"
    done = subprocess.run([*runner, *command], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
