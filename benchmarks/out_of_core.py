"""Training from a file beside training from memory: cells per second, growth of resident memory, cost per cell.

    python benchmarks/out_of_core.py [--cells 10000 100000 1000000] [--format h5ad] [--rounds 3] [--folder DIR]

Cells are made from the real atlas of `shared/data`: each is one of its cells with every count kept with probability 0.8
(binomial thinning), so no two are equal. Each measurement is a process of its own; file and memory take turns. Memory
is what the process holds at most during `fit` and `embed`, less what it held just before, after a warm-up (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

ATLAS = Path(__file__).resolve().parents[2] / "shared" / "data" / "pbmc_atlas_5studies_15k_2000g.h5ad"
PIECE = 15_130
OPTIONS = {"batch_key": "batch", "recipe": "scvi-tools", "batch_size": 128, "validate_every": 0}


def main() -> None:
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(measure(Path(arguments.one[0]), arguments.one[1], arguments.epochs, arguments.threads)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for n_cells in arguments.cells:
            path = make_file(Path(folder) / f"cells{n_cells}.{arguments.format}", n_cells)
            print(f"{n_cells} cells, {_size(path) >> 20} MB on disk", flush=True)
            for _ in range(arguments.rounds):
                for where in arguments.where:
                    print(where, _in_a_process(path, where, arguments.epochs, arguments.threads), flush=True)


def make_file(path: Path, n_cells: int, seed: int = 0) -> Path:
    """Thinned copies of the atlas, written piece by piece (gzip, chunks of 100,000 counts)."""
    import anndata
    import pandas as pd
    from anndata.io import sparse_dataset, write_elem

    atlas, random = anndata.read_h5ad(ATLAS), np.random.default_rng(seed)
    with _root(path) as root:
        written = 0
        while written < n_cells:
            piece = _thinned(atlas.X[: n_cells - written], random)
            if written:
                sparse_dataset(root["X"]).append(piece)
            else:
                _write_first(root, piece, write_elem)
            written += piece.shape[0]
        batch = np.resize(atlas.obs["batch"].astype(str).to_numpy(), n_cells)
        obs = pd.DataFrame({"batch": pd.Categorical(batch)}, index=pd.Index(np.arange(n_cells).astype(str)))
        write_elem(root, "obs", obs)
        write_elem(root, "var", atlas.var[[]])
    return path


def measure(path: Path, where: str, epochs: int, threads: int) -> dict:
    """One training run: cells per second of the training passes, seconds beside them, and memory."""
    import anndata
    import torch

    import scduet as sd

    torch.set_num_threads(threads)
    warm = anndata.read_h5ad(ATLAS)[::30].copy()
    sd.fit(warm, max_epochs=1, **OPTIONS)
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before, begun, worked = _megabytes("VmRSS"), time.monotonic(), time.process_time()
    model = sd.fit(path if where == "file" else _read(path), max_epochs=epochs, **OPTIONS)
    worked, fitted, begun = time.process_time() - worked, time.monotonic() - begun, time.monotonic()
    latent = model.embed()
    embedded = time.monotonic() - begun
    seconds, n_train = list(model.history["seconds"]), int(np.ceil(0.9 * len(latent)))
    return {
        "cells_per_second": round(n_train / min(seconds)),
        "embedded_per_second": round(len(latent) / embedded),
        "seconds_beside_training": round(fitted - sum(seconds), 1),
        "megabytes_grown": round(_megabytes("VmHWM") - before),
        "processor_seconds_of_fit": round(worked, 1),  # tells more than the clock on a machine that others use too
        "loss": round(float(model.history["loss_train"].iloc[-1]), 2),
    }


def _megabytes(which: str) -> float:
    """VmRSS (held now) or VmHWM (held at most) of this process; Linux."""
    return int(Path("/proc/self/status").read_text().split(f"{which}:")[1].split()[0]) / 1024


def _thinned(counts, random: np.random.Generator):
    thinned = counts.copy()
    thinned.data = random.binomial(thinned.data.astype(np.int64), 0.8).astype(np.float32)
    empty = np.flatnonzero(np.add.reduceat(thinned.data, thinned.indptr[:-1]) == 0)
    thinned.data[thinned.indptr[empty]] = 1
    thinned.eliminate_zeros()
    return thinned


def _write_first(root, piece, write_elem) -> None:
    if isinstance(root, h5py.File):
        options = {"compression": "gzip", "compression_opts": 1, "chunks": (100_000,)}
    else:
        options = {"chunks": (100_000,)}
    write_elem(root, "X", piece, dataset_kwargs=options)


def _root(path: Path):
    import contextlib

    import zarr

    if path.suffix == ".zarr":
        return contextlib.nullcontext(zarr.open_group(str(path), mode="w", zarr_format=2))
    return h5py.File(path, "w")


def _read(path: Path):
    import anndata

    return anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _in_a_process(path: Path, where: str, epochs: int, threads: int) -> str:
    command = [sys.executable, "-W", "ignore", __file__, "--one", str(path), where]
    command += ["--epochs", str(epochs), "--threads", str(threads)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--format", choices=["h5ad", "zarr"], default="h5ad")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--where", nargs="+", default=["file", "memory"])
    parser.add_argument("--folder", default=None, help="where the file is made; it needs about 0.5 GB a million cells")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
