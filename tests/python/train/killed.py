"""A run that a test kills: trains with its state kept after each epoch, tells each epoch, ends with its weights."""

import json
import sys
import time

import torch
from conftest import make_counts
from toys import Profile, trainer

from scduet.data.schema import Fields, Schema
from scduet.train import resume

OPTIONS = {"max_epochs": 60, "lr": 0.5, "early_stopping": True, "early_stopping_patience": 8}


def train(folder, seconds):
    """The weights and losses at the end; each epoch takes `seconds` more than it needs."""
    resume.SECONDS_BETWEEN = 0.0
    counts = make_counts()
    run = trainer(Schema.learn(counts, Fields()).encode(counts), Profile(), **OPTIONS)
    torch.manual_seed(0)
    checkpoint = resume.Checkpoint(folder, OPTIONS)
    resume.restore(run, checkpoint)

    def tell(event):
        print(event.done, flush=True)
        time.sleep(seconds)

    outcome = run.run(tell, checkpoint.keep)
    weights = {name: value.tolist() for name, value in run.module.state_dict().items()}
    return {
        "weights": weights,
        "losses": [row["loss_validation"] for row in outcome.history],
        "best": outcome.best_epoch,
    }


if __name__ == "__main__":
    print(json.dumps(train(sys.argv[1], float(sys.argv[2]))))
