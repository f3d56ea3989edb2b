"""Training veloVI beside scvi-tools: cells per second, same data, model, batch size and epochs.

    python benchmarks/velocity_speed.py [--epochs 4] [--runs 3] [--threads 2]

The mouse pancreas (3,696 cells, 371 genes), as `velocity_moments(scale=True)` prepares it, without validation. Each run
is a fresh process, the two tools in turn. An epoch counts from the end of the first, so that imports, set-up and
compilation are left out. Cells per CPU second are shown too: on a machine that is not idle they are the better guide.
Embedding is of all cells.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings

from peaks_speed import PEAK_MEMORY, held, megabytes
from training_speed import EMBEDDED, TRAINED, child, lightning_callback, listener, now, rates, report
from velocity import DATA

BATCH_SIZE = 256  # scvi-tools' for this model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return print(json.dumps(_measured(options.child[0], options)))
    found = {tool: [] for tool in TOOLS}
    for _ in range(options.runs):
        for tool, runs in found.items():
            runs.append(child(tool, "velovi"))
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")
    report("velovi", found)
    print(*(f"{PEAK_MEMORY}: {tool} {max(run[PEAK_MEMORY] for run in runs):,.0f}" for tool, runs in found.items()))
    return None


def _measured(tool: str, options: argparse.Namespace) -> dict[str, float]:
    """Cells per second and per CPU second, of training and of embedding; megabytes."""
    import anndata
    import torch

    import scduet as sd

    torch.set_num_threads(options.threads)
    cells = sd.velocity_moments(anndata.read_h5ad(DATA), spliced="X", scale=True)
    clock: list[tuple[float, float]] = []
    before = held()
    embed = TOOLS[tool](cells, options.epochs + 1, lambda: clock.append(now()))
    figures = dict(zip(TRAINED, rates(cells.n_obs * options.epochs, clock[0], clock[-1]), strict=True))
    embed(cells)
    start = now()
    embed(cells)
    figures |= dict(zip(EMBEDDED, rates(cells.n_obs, start, now()), strict=True))
    return figures | {PEAK_MEMORY: megabytes("VmHWM") - before}


def _scvi_tools(cells, epochs: int, tick):
    import scvi

    scvi.external.VELOVI.setup_anndata(cells, spliced_layer="Ms", unspliced_layer="Mu")
    trained = scvi.external.VELOVI(cells)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "early_stopping": False}
    trained.train(epochs, train_size=1.0, batch_size=BATCH_SIZE, callbacks=[lightning_callback(tick)], **quiet)
    return lambda cells: trained.get_latent_representation(cells, batch_size=BATCH_SIZE)


def _scduet(cells, epochs: int, tick):
    import scduet as sd

    options = {"max_epochs": epochs, "train_size": 1.0, "early_stopping": False, "validate_every": 0}
    trained = sd.fit(
        cells,
        "velovi",
        recipe="scvi-tools",
        batch_size=BATCH_SIZE,
        accelerator="cpu",
        callback=listener(tick),
        **options,
    )
    return lambda cells: trained.embed(cells, batch_size=BATCH_SIZE)


TOOLS = {"scvi-tools": _scvi_tools, "scduet": _scduet}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
