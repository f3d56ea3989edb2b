"""Which cells show a protein beyond its background, as a probability."""

from __future__ import annotations

from scduet._torch import torch

import numpy as np
import pandas as pd

from scduet.api import Model
from scduet.capabilities import HasForeground, part_with
from scduet.errors import OptionError
from scduet.options import check_arguments
from scduet.tasks.posterior.latent import (
    BATCH_SIZE,
    as_batch,
    batch_codes,
    cell_names,
    modality_of,
    opened,
    seeded,
    states,
)


@torch.inference_mode()
def protein_foreground(
    model: Model,
    adata=None,
    *,
    transform_batch=None,
    protein_list=None,
    n_samples: int = 1,
    return_mean: bool = True,
    batch_size: int = BATCH_SIZE,
    seed: int | None = 0,
) -> pd.DataFrame | np.ndarray:
    """Probability that a protein is in the foreground of each cell (totalVI, Gayoso et al. 2021), from draws of states.

    adata: AnnData or MuData, None for the cells trained on.
    transform_batch: decode as if measured in this batch; a list is averaged; None for the batch of each cell.
    n_samples: draws a cell, averaged when return_mean.

    Returns a DataFrame (cell x protein) or, with several draws not averaged, an array (draw, cell, protein), float32.
    Raises DataError for proteins and batches that the model lacks, OptionError for a model without proteins.
    """
    module = part_with(model.module, HasForeground)
    if module is None:
        raise OptionError(f"{model.name!r} has no foreground of proteins", "use totalvi")
    (place, names), codes = modality_of(model, "protein").places(protein_list), batch_codes(model, transform_batch)
    check_arguments(n_samples=n_samples, batch_size=batch_size)
    adata = opened(adata)
    index = cell_names(model, adata)
    found, start = np.zeros((n_samples, len(index), len(place)), np.float32), 0
    with seeded(seed):
        for part in states(model, adata, None, batch_size):
            for draw in found[:, start : start + len(part.cells)]:
                z = part.draw()
                for code in codes:
                    values = module.foreground_probability(z, part.cells, as_batch(part.cells, code))
                    draw += values.cpu().numpy()[:, place] / len(codes)
            start += len(part.cells)
    if n_samples > 1 and not return_mean:
        return found
    return pd.DataFrame(found.mean(0), index=index, columns=pd.Index(names))
