"""How likely the model finds the cells: bounds, errors, and the parameters of its distributions."""

from __future__ import annotations

from scduet._torch import torch

import math
from collections import defaultdict

import numpy as np
from torch import Tensor

from scduet.api import Model
from scduet.capabilities import HasELBO, HasLikelihood, LearnsLibrary, part_with
from scduet.contract import CellBatch
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import DataError, OptionError
from scduet.nn.distributions import HasParameters
from scduet.nn.layers import rsample
from scduet.options import check_arguments
from scduet.tasks.posterior.latent import (
    BATCH_SIZE,
    Modality,
    encoder_of,
    is_minified,
    modality_of,
    rows_of,
    seeded,
    states,
)


@torch.inference_mode()
def elbo(
    model: Model, adata=None, *, return_mean: bool = True, batch_size: int = BATCH_SIZE, seed: int | None = 0
) -> float | np.ndarray:
    """Evidence lower bound, mean over cells, with full weight of the KL terms; higher is better.

    It is negative; the history's losses are of the other sign. A draw: `seed` fixes it, None uses torch's own stream.
    return_mean: False for the value of each cell (cell).
    """
    found = -sum(terms_of_cells(model, adata, batch_size=batch_size, seed=seed).values(), np.zeros(1))
    return float(found.mean()) if return_mean else found


@torch.inference_mode()
def reconstruction_error(
    model: Model,
    adata=None,
    *,
    return_mean: bool = True,
    batch_size: int = BATCH_SIZE,
    seed: int | None = 0,
    modality: str | None = None,
) -> float | np.ndarray:
    """-log p(x | z), summed over genes, mean over cells, at a draw of each state; lower is better.

    return_mean: False for the value of each cell (cell). modality: that of another matrix, e.g. "protein".
    """
    chosen = modality_of(model, modality)
    name = "reconstruction" if chosen.is_main else f"reconstruction_{chosen.name}"
    found = terms_of_cells(model, adata, batch_size=batch_size, seed=seed)[name]
    return float(found.mean()) if return_mean else found


@torch.inference_mode()
def terms_of_cells(
    model: Model, adata=None, *, batch_size: int = BATCH_SIZE, seed: int | None = 0
) -> dict[str, np.ndarray]:
    """The terms of each cell's negative evidence lower bound, at a draw of its state; `elbo` is minus their sum.

    Of each term a float64 array (cell): "reconstruction", "kl", and the model's own.
    """
    check_arguments(batch_size=batch_size)
    _refuse_minified(adata)
    module = model.module
    if not isinstance(module, HasELBO):
        raise OptionError(f"{model.name!r} has no bound of the likelihood", "use e.g. scvi or scanvi")
    cells, parts = model.encode(adata), []
    model.module.eval()
    with seeded(seed):
        for batch in minibatches(cells, sequential(len(cells)), batch_size):
            assert isinstance(batch, CellBatch)
            parts.append(module.cell_terms(batch.to(model.device)))
    return {name: torch.cat([part[name] for part in parts]).double().cpu().numpy() for name in parts[0]}


@torch.inference_mode()
def marginal_log_likelihood(
    model: Model,
    adata=None,
    *,
    n_samples: int = 1000,
    batch_size: int = BATCH_SIZE,
    seed: int | None = 0,
    modality: str | None = None,
    rows=None,
) -> np.ndarray:
    """log p(x) of each cell, by importance sampling from the posterior with `n_samples` draws (biased downwards).

    rows: the cells to use, as for `normalized_expression`; None for all.
    modality: of this matrix alone; None for all that the model decodes. What was not measured counts nothing.
    Source: Burda, Grosse and Salakhutdinov 2016.
    """
    check_arguments(n_samples=n_samples, batch_size=batch_size)
    _refuse_minified(adata)
    rows, chosen = rows_of(model, adata, rows), _modalities(model, modality)
    encoder, found = encoder_of(model), []
    decoder, learned = chosen[0].decoder, _learned_library(model)
    fast = decoder if modality is None and isinstance(decoder, HasLikelihood) else None
    with seeded(seed):
        for part in states(model, adata, rows, batch_size):
            library = None
            if learned is not None:
                library = learned.library_posterior(part.cells), learned.library_prior(part.cells)
            total = torch.full((len(part.cells),), -math.inf, device=part.mean.device)
            for _ in range(n_samples):
                draw = rsample(part.mean, part.variance)
                weight = log_normal(draw, torch.zeros_like(draw), torch.ones_like(draw))
                weight = weight - log_normal(draw, part.mean, part.variance)
                log_library = part.log_library
                if library is not None:
                    posterior, prior = library
                    log_library = rsample(*posterior)
                    weight = weight + log_normal(log_library, *prior) - log_normal(log_library, *posterior)
                z = encoder.transform_latent(draw)
                if fast is None or log_library is None:
                    ll = _log_likelihood(chosen, z, part.cells, log_library)
                else:
                    ll = fast.log_likelihood(z, part.cells, log_library)
                total = torch.logaddexp(total, weight + ll)
            found.append((total - math.log(n_samples)).cpu())
    return torch.cat([torch.zeros(0), *found]).numpy()


@torch.inference_mode()
def likelihood_parameters(
    model: Model,
    adata=None,
    *,
    n_samples: int = 1,
    batch_size: int = BATCH_SIZE,
    seed: int | None = 0,
    modality: str | None = None,
) -> dict[str, np.ndarray]:
    """Parameters of the distribution of counts, (cell, gene) each, means over `n_samples` draws of the states.

    "mean": of the counts before dropout. "dispersions": inverse dispersion (NB, ZINB) or standard deviation (normal).
    "dropout": logits of a dropout (ZINB). Of a mixture of background and foreground "mean", the means "background" and
    "foreground" and "mixing", the logits of the background. modality: of another matrix, e.g. "protein".
    """
    check_arguments(n_samples=n_samples, batch_size=batch_size)
    chosen, pieces = modality_of(model, modality), defaultdict(list)
    with seeded(seed):
        for part in states(model, adata, None, batch_size):
            where = part.cells, part.cells.batch, part.log_library
            drawn = [_parameters(chosen.of(part.draw(), *where)) for _ in range(n_samples)]
            for name in drawn[0]:
                mean = torch.stack([parameters[name] for parameters in drawn]).mean(0)
                pieces[name].append(mean.expand(len(part.cells), -1).cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in pieces.items()}


@torch.inference_mode()
def latent_library_size(
    model: Model, adata=None, *, give_mean: bool = True, batch_size: int = BATCH_SIZE, seed: int | None = 0
) -> np.ndarray:
    """Library size of each cell (cell, 1): the posterior mean of a learned one, the total of an observed one.

    give_mean: of the log-normal posterior; False for a draw. Raises OptionError for a draw of an observed size.
    """
    check_arguments(batch_size=batch_size)
    learned, found = _learned_library(model), []
    if learned is None and not give_mean:
        raise OptionError("an observed library size has no distribution to draw from", "leave give_mean at True")
    with seeded(seed):
        for part in states(model, adata, None, batch_size):
            log_library = part.log_library
            if log_library is None:
                raise OptionError(f"{model.name!r} has no library size", "use e.g. scvi")
            if learned is not None:
                mean, variance = learned.library_posterior(part.cells)
                log_library = mean + 0.5 * variance if give_mean else rsample(mean, variance)
            found.append(log_library.exp().cpu())
    return torch.cat([torch.zeros(0), *found]).numpy()


def _learned_library(model: Model) -> LearnsLibrary | None:
    """The part of the model that has a posterior of the library size; None where it is observed."""
    part = part_with(model.module, LearnsLibrary)
    return part if part is not None and part.learns_library else None


def _modalities(model: Model, name: str | None) -> list[Modality]:
    main = modality_of(model, name)
    return [main] if name is not None else [modality_of(model, each) for each in main.decoder.modalities]


def _log_likelihood(chosen: list[Modality], z: Tensor, cells: CellBatch, log_library: Tensor | None) -> Tensor:
    """log p(x | z), summed over what was measured of the features of these modalities."""
    decoded, total = chosen[0].decoder.decode(z, cells, None, log_library), torch.zeros(len(cells), device=z.device)
    for modality in chosen:
        x = modality.observed(cells)
        known = ~x.isnan()
        total += decoded[modality.name].log_prob(x.where(known, 0)).where(known, 0).sum(-1)
    return total


def _parameters(distribution) -> dict[str, Tensor]:
    return distribution.parameters if isinstance(distribution, HasParameters) else {"mean": distribution.mean}


def log_normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log density of a normal distribution, summed over the last axis."""
    return -0.5 * ((x - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)


def _refuse_minified(adata) -> None:
    if is_minified(adata):
        raise DataError("minified cells have no counts to compare with", "pass the AnnData with counts")
