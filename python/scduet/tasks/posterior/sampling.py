"""Counts drawn from the model, and the correlation of genes in them."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from scduet.api import Model
from scduet.errors import OptionError
from scduet.nn.distributions import HasRates
from scduet.options import check_arguments
from scduet.tasks.posterior.decode_states import cells_in_states
from scduet.tasks.posterior.latent import (
    BATCH_SIZE,
    Modality,
    as_batch,
    batch_codes,
    modality_of,
    opened,
    rows_of,
    seeded,
    states,
)


@torch.inference_mode()
def posterior_predictive_sample(
    model: Model,
    adata=None,
    *,
    n_samples: int = 1,
    gene_list=None,
    transform_batch=None,
    rows=None,
    batch_size: int = BATCH_SIZE,
    seed: int | None = 0,
    modality: str | None = None,
) -> sp.csr_matrix | list[sp.csr_matrix]:
    """Counts drawn from p(new x | x): a state of each cell, then counts of that state.

    Returns a CSR matrix (cell, gene); a list of them when n_samples is above 1. Options as in `normalized_expression`,
    but for transform_batch, which is one batch.
    """
    check_arguments(n_samples=n_samples, batch_size=batch_size)
    adata, chosen, codes = opened(adata), modality_of(model, modality), batch_codes(model, transform_batch)
    if len(codes) > 1:
        raise OptionError(f"transform_batch={transform_batch!r}", "it is one batch: counts are drawn, not averaged")
    (pieces,) = draw_counts(model, adata, [(chosen, chosen.places(gene_list)[0])], codes[0], n_samples,
                            rows_of(model, adata, rows), batch_size, seed)  # fmt: skip
    return pieces[0] if n_samples == 1 else pieces


@torch.inference_mode()
def draw_counts(
    model: Model,
    adata,
    wanted: Sequence[tuple[Modality, np.ndarray]],
    code: int | None,
    n_samples: int,
    rows: np.ndarray | None,
    batch_size: int,
    seed: int | None,
) -> list[list[sp.csr_matrix]]:
    """Of each modality (and places of its features) its draws, (cell, feature); all modalities from the same states."""
    pieces: list[list[list[sp.csr_matrix]]] = [[[] for _ in range(n_samples)] for _ in wanted]
    with seeded(seed):
        for part in states(model, adata, rows, batch_size):
            for draw in range(n_samples):
                given = part.draw(), part.cells, as_batch(part.cells, code), part.log_library
                decoded = wanted[0][0].decoder.decode(*given)
                for kept, (chosen, place) in zip(pieces, wanted, strict=True):
                    drawn = decoded[chosen.name].sample().cpu().numpy()
                    kept[draw].append(sp.csr_matrix(drawn[:, place]))
    return [[sp.csr_matrix(sp.vstack(parts, format="csr")) for parts in kept] for kept in pieces]


@torch.inference_mode()
def sample_states(
    model: Model,
    states,
    library_size: float | Float[np.ndarray, " state"],
    *,
    batch=None,
    seed: int | None = 0,
    modality: str | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> sp.csr_matrix:
    """Counts drawn from the model for states of the latent space, e.g. shifted ones: a CSR matrix (state, gene).

    library_size: total count of each, over the genes of the model; those of the cells that are compared with. A size
        factor, for a model that was trained with size_factor_key.
    batch: name of the batch to decode as; None for the first. modality, inputs: as of `decode_states`.

    What is compared with log-normalized cells has to be sampled and log-normalized like them: log1p of expected counts
    (`decode_states`, `normalized_expression`) lies above the mean of log1p of counts.

    Raises DataError for models with further covariates, OptionError for totals that are not above zero.
    """
    try:
        library = np.broadcast_to(np.asarray(library_size, dtype=np.float32), len(states))
    except (TypeError, ValueError) as error:
        raise OptionError(f"library_size does not fit the states: {error}", "give a number, or one a state") from None
    if not (library > 0).all():
        raise OptionError("library_size has values that are not above zero", "give the total count of each state")
    chosen, log_library, pieces = modality_of(model, modality), torch.from_numpy(np.log(library))[:, None], []
    with seeded(seed):
        for z, cells in cells_in_states(model, states, batch, inputs):
            drawn = chosen.of(z, cells, cells.batch, log_library[cells.index.cpu()].to(z.device)).sample()
            pieces.append(sp.csr_matrix(drawn.cpu().numpy()))
    return sp.csr_matrix(sp.vstack(pieces, format="csr"))


@torch.inference_mode()
def feature_correlation(
    model: Model,
    adata=None,
    *,
    n_samples: int = 10,
    gene_list=None,
    rna_size_factor: float = 1000.0,
    transform_batch=None,
    correlation_type: Literal["spearman", "pearson"] = "spearman",
    batch_size: int = 64,
    seed: int | None = 0,
    modality: str | Sequence[str | Modality] | None = None,
) -> pd.DataFrame:
    """Correlation of genes in expression drawn from the model without its counting noise (gene x gene).

    Each draw takes a state, and a rate of it from Gamma(dispersion, rna_size_factor * share / dispersion). Means over
    `transform_batch`es. Needs a NB or ZINB. modality: of another matrix, e.g. "protein", or of several side by side; a
    protein with the name of a gene is then e.g. "CD4_protein".
    """
    check_arguments(n_samples=n_samples, batch_size=batch_size, rna_size_factor=rna_size_factor)
    if correlation_type not in ("spearman", "pearson"):
        raise OptionError(f"correlation_type={correlation_type!r}", "it is spearman or pearson")
    several = not isinstance(modality, str | None)
    chosen = [modality_of(model, one) for one in modality] if several else [modality_of(model, modality)]
    if several and gene_list is not None:
        raise OptionError("gene_list is of one modality", "leave it out, and pick rows and columns of the result")
    names = _told_apart(chosen) if several else chosen[0].places(gene_list)[1]
    place = np.arange(len(names)) if several else chosen[0].places(gene_list)[0]
    codes = batch_codes(model, transform_batch)
    with seeded(seed):
        found = []
        for code in codes:
            drawn = np.concatenate(
                [d[:, place] for d in _rates(model, chosen, adata, n_samples, rna_size_factor, code, batch_size)]
            )
            found.append(_correlation(drawn, correlation_type))
    return pd.DataFrame(np.mean(found, axis=0), index=names, columns=names)


def _told_apart(chosen: list[Modality]) -> list[str]:
    """The features of several modalities; one whose name an earlier modality has carries that of its own."""
    names: list[str] = []
    for one in chosen:
        taken = set(names)
        names += [f"{name}_{one.name}" if name in taken else name for name in one.features]
    return names


def _rates(
    model: Model, chosen: list[Modality], adata, n_samples: int, size: float, code: int | None, batch_size: int
) -> Iterator[np.ndarray]:
    """Draws of expression, (cell, feature) each, the features of all modalities side by side."""
    for part in states(model, adata, None, batch_size):
        for _ in range(n_samples):
            given = part.draw(), part.cells, as_batch(part.cells, code), part.log_library
            yield torch.cat([_with_rates(one.of(*given)).sample_rates(size) for one in chosen], -1).cpu().numpy()


def _with_rates(distribution) -> HasRates:
    if not isinstance(distribution, HasRates):
        raise OptionError("only a NB or ZINB has rates to correlate", "train with gene_likelihood='nb'")
    return distribution


def _correlation(drawn: np.ndarray, kind: str) -> np.ndarray:
    if kind == "spearman":
        from scipy.stats import rankdata

        drawn = rankdata(drawn, axis=0)
    return np.corrcoef(drawn, rowvar=False)
