"""What R costs: moving matrices beside `Matrix::t()` + reticulate's converter, and RunSCVI beside Python's integrate.

Runs in the Debian root with Seurat 5 where there is one (reticulate before 1.38 cannot convert to NumPy 2, so the usual
way has no chance on older systems), else with this machine's R. Alternating runs in fresh processes; medians.
"""

from __future__ import annotations

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
RUNS, EPOCHS = 3, 30


def main() -> None:
    in_root = ROOT.is_dir() and os.geteuid() == 0
    work = Path(tempfile.mkdtemp(dir=ROOT / "tmp" if in_root else None))
    seen = Path("/") / work.relative_to(ROOT) if in_root else work  # the same folder as R sees it
    try:
        (work / "library").mkdir()
        library = f"--library={seen / 'library'}"
        run(in_root, ["R", "CMD", "INSTALL", "--no-docs", library, str(REPOSITORY / "r-package")])
        moving(in_root, seen)
        training(in_root, work, seen)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def moving(in_root: bool, seen: Path) -> None:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(RUNS):
        for way in ("ours", "theirs"):
            said = run(in_root, ["Rscript", str(REPOSITORY / "benchmarks/r/bridge.R"), way, str(seen / "library")])
            for line in said.splitlines():
                direction, seconds, megabytes = line.split()
                found.setdefault((direction, way), []).append((float(seconds), float(megabytes)))
    print("20 million values     seconds (spread)      peak extra MB")
    for (direction, way), values in sorted(found.items()):
        seconds, megabytes = zip(*values, strict=True)
        middle, spread = statistics.median(seconds), f"({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"{direction:6} {way:7}  {middle:8.2f} {spread:18} {statistics.median(megabytes):8.0f}")


def training(in_root: bool, work: Path, seen: Path) -> None:
    import scduet
    from scduet.errors import ScduetWarning

    warnings.simplefilter("ignore", ScduetWarning)
    adata = scduet.datasets.simulate(n_cells=3000, n_genes=1000, n_batches=2, n_types=5, seed=0)
    adata.write_h5ad(work / "cells.h5ad")
    script = [str(REPOSITORY / "benchmarks/r/overhead.R"), str(seen / "cells.h5ad"), str(seen / "library"), str(EPOCHS)]
    options = dict(batch_key="batch", max_epochs=EPOCHS, early_stopping=False, seed=42)
    scduet.fit(adata[:200].copy(), "scvi", max_epochs=1)
    in_python, in_r = [], []
    for _ in range(RUNS):
        begun = time.perf_counter()
        model = scduet.integrate(adata, "scvi", **options)
        in_python.append((time.perf_counter() - begun, model.history["seconds"].sum()))
        in_r.append(tuple(map(float, run(in_root, ["Rscript", *script]).split())))
    whole, alone = (tuple(map(statistics.median, zip(*times, strict=True))) for times in (in_python, in_r))
    print(f"\n3,000 cells x 1,000 genes, {EPOCHS} epochs    Python      R")
    print(f"whole call, s                     {whole[0]:8.2f} {alone[0]:8.2f}   overhead {alone[0] - whole[0]:.2f} s")
    print(f"training alone, s                 {whole[1]:8.2f} {alone[1]:8.2f}   ratio {alone[1] / whole[1]:.2f}")


def run(in_root: bool, command: list[str]) -> str:
    runner = [str(REPOSITORY / "tests/seurat5/run.sh"), sys.prefix, str(REPOSITORY)] if in_root else []
    env = {"RETICULATE_PYTHON": sys.executable, "OMP_NUM_THREADS": "2", "LD_LIBRARY_PATH": "", **os.environ}
    done = subprocess.run([*runner, *command], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
