"""A run that ends by kill -9 after three epochs: trains a toy with its state kept after each, and tells each.

killed.py MODEL OPTIONS(JSON) FOLDER
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import anndata
from contract.conftest import TOYS

import scduet as sd
from scduet.models import MODELS
from scduet.train import resume


def tell(event):
    """Called when the state of the epoch before is kept."""
    if event.kind == "progress" and event.done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    if event.kind == "progress":
        print(event.done, flush=True)


if __name__ == "__main__":
    MODELS.update(TOYS)
    resume.SECONDS_BETWEEN = 0.0
    model, options, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    how = {"max_epochs": 8, "batch_size": 32, "checkpoint": folder / "run", "callback": tell}
    sd.fit(anndata.read_h5ad(folder / "cells.h5ad"), model, **options, **how)
