"""For whoever has a GPU: tests of the models on it, agreement with the CPU, and the race, within 8 minutes.

    python benchmarks/gpu.py [--minutes 8]

The tests are those that train, save and load every model; with a GPU they run on it, since `accelerator="auto"` takes
one. Agreement is the loss of scVI after five epochs from the same seed on both. The race is that of
`training_speed.py`, with and without bf16. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = [
    *("tests/contract/test_models.py", "tests/python/data/test_resident.py", "-p", "no:cacheprovider", "-q", "-k"),
    "test_resident or lowers_the_loss or what_is_saved or follows_the_cells",
]
RACES = (["--cases", "sim-zinb", "sim-nb"], ["--cases", "sim-nb", "--precision", "bf16"], ["--cases", "wide-zinb"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    until = time.monotonic() + 60 * parser.parse_args().minutes

    import torch

    if not torch.cuda.is_available():
        sys.exit("no GPU that this torch can use")
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}", flush=True)
    _agreement()
    speed = [sys.executable, "-W", "ignore", str(HERE / "training_speed.py"), "--accelerator", "gpu", "--runs", "1"]
    for command in (*([*speed, *race] for race in RACES), [sys.executable, "-m", "pytest", *TESTS]):
        left = until - time.monotonic()
        try:
            subprocess.run(command, cwd=HERE.parent, timeout=max(left, 1))
        except subprocess.TimeoutExpired:
            print(f"cut off by --minutes: {' '.join(command[1:])}")


def _agreement() -> None:
    import scduet as sd
    from scduet.events import silent

    adata = sd.datasets.simulate(5_000, 2_000, n_batches=3, n_types=8, seed=0, depth=500)
    for accelerator, precision in (("cpu", "32"), ("gpu", "32"), ("gpu", "bf16")):
        how = {"accelerator": accelerator, "precision": precision, "recipe": "scvi-tools", "max_epochs": 5}
        began = time.perf_counter()
        history = sd.fit(adata, "scvi", batch_key="batch", callback=silent, **how).history
        seconds = time.perf_counter() - began
        print(f"{accelerator}, {precision}: loss {history['loss_train'].iloc[-1]:.2f}, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
