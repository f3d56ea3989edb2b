"""One of the processes that torchrun starts in the tests: trains on counts of its own making and tells what it saw."""

import atexit
import json
import os
import sys
from pathlib import Path

import torch
from conftest import make_counts
from toys import Profile, silent, trainer

from scduet.data.schema import Fields, Schema


def tell_threads(folder: str) -> None:
    """Registered before training, thus called after all that training left for the end."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
    Path(folder, f"{os.environ['RANK']}.threads").write_text("\n".join(names))


def main(folder: str, n_cells: int, options: dict) -> None:
    cells = Schema.learn(counts := make_counts(n_cells), Fields()).encode(counts)
    torch.manual_seed(int(os.environ["RANK"]))  # weights of all become those of the first
    run, seen = trainer(cells, Profile(), **options), []
    plain = run.feed.training

    def noted(*rest):
        batches, n = plain(*rest)
        return (seen.append(batch.index.tolist()) or batch for batch in batches), n

    run.feed.training = noted
    history = run.run(silent).history
    found = {
        "seen": seen,
        "rows": run.train_rows.tolist(),
        "history": [{**row, "seconds": 0} for row in history],
        "weights": {name: value.tolist() for name, value in run.module.state_dict().items()},
    }
    with open(f"{folder}/{os.environ['RANK']}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    atexit.register(tell_threads, sys.argv[1])
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
