"""One of the processes that torchrun starts in the tests: trains models of several modalities from a file."""

import json
import os
import sys

import scduet as sd

QUICK = {"max_epochs": 3, "batch_size": 24, "n_hidden": 8, "n_latent": 3, "validate_every": 1, "lr": 0.01}
MODELS = {
    "multivi": {"peaks_key": "atac", "protein_key": "prot"},
    "totalvi": {"layer": "mod/atac", "protein_key": "prot", "adversarial_classifier": True},
    "peakvi": {},
    "poissonvi": {},
}


def main(folder: str) -> None:
    found = {}
    for name, options in MODELS.items():
        options = {"batch_key": "batch", "callback": lambda event: None, **QUICK, **options}
        model = sd.fit(f"{folder}/cells.h5mu", name, **options)
        weights = {name: value.tolist() for name, value in model.module.state_dict().items()}
        found[name] = {"weights": weights, "losses": model.history["loss_validation"].tolist()}
    with open(f"{folder}/{os.environ['RANK']}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(sys.argv[1])
