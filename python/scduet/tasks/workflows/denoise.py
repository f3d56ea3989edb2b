"""Denoise counts: a layer of expected counts, by a network or by a simple method that a network must beat."""

from __future__ import annotations

from scduet._torch import torch

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scduet.api import Model, fit
from scduet.data.counts import counts_of
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.events import Listener, silent
from scduet.options import refuse_unknown
from scduet.tasks.posterior.latent import modality_of, refuse_lognormal, seeded, states
from scduet.tasks.quality import denoisers
from scduet.tasks.quality.denoisers import Expected
from scduet.tasks.quality.provenance import DENOISED, note_denoised
from scduet.tasks.quality.scimpute import scimpute

WALK_UP_TO = 50_000  # cells; measured in docs/models/denoising.md
EPOCHS, EPOCHS_UP_TO, FEWEST = 60, 20_000, 10  # of scVI: more fit the noise where cells are few
N_SAMPLES = 10
BASELINES: Mapping[str, Callable[..., Expected]] = {
    "walk": denoisers.walk,
    "alra": denoisers.alra,
    "magic": denoisers.magic,
    "scimpute": scimpute,
}
NETWORKS = ("scvi", "dca", "deepimpute")
ADVICE = "denoised values are for looking at; test genes on counts, as tests on denoised values find false signals"


def denoise(
    adata: AnnData,
    method: str | Model | None = None,
    *,
    layer: str | None = None,
    key_added: str = "denoised",
    seed: int = 0,
    callback: Listener | None = None,
    **options: Any,
) -> Model | None:
    """Write the expected counts of each cell to layers[key_added]; X stays as it is.

    adata: AnnData with raw counts (cell, gene) in X or in `layer`. Gains a float32 layer at the depth of each cell (of
        `method="deepimpute"` and "dca" nearly so), and uns["scduet_denoised"].
    method: "walk": shares of genes averaged over neighbors by a lazy random walk, the best or close to it in four data
        sets, in seconds. "scvi": with a Poisson likelihood and at most 60 epochs, the best of the networks there.
        "dca", "alra", "deepimpute", "scimpute", "magic" (its package must be installed): to compare with. The last four
        keep or inflate observed values: these are no expectations. Or a model that was trained on these genes.
        None for "walk" up to 50,000 cells, and "scvi" above, as the neighbors of every cell have to be found.
    layer: as for `fit`. Genes are those of the option `genes`, else of var["highly_variable"], else all; others
        are NaN.
    options: of a network those of `fit`; of "walk" t, n_neighbors and n_components; of "alra" rank; of "scimpute"
        n_clusters and threshold; of "magic" t and n_neighbors.

    Tests belong on counts: a t-test between groups of denoised cells had a false-discovery rate of 41 to 48% at a
    nominal 5%, whatever the method (see `compare_denoisers`). `differential_expression` refuses the layer.

    Returns the model, or None of a method that has none. Raises OptionError, and DataError for cells without counts.
    """
    name = _chosen(adata, method, layer, key_added)
    model, genes = method if isinstance(method, Model) else None, options.pop("genes", None)
    if model is not None:
        refuse_unknown([*options, *(["genes"] if genes else [])], [], "a trained model")
        features, values = model.genes, expected_counts(model, adata, seed)
    elif name in NETWORKS:
        own = {"layer": layer, "seed": seed, **({} if genes is None else {"genes": genes})}
        model = fit(adata, name, callback=callback, **{**defaults_of(name, adata.n_obs), **own, **options})
        features, values = model.genes, expected_counts(model, seed=seed)
    else:
        function = baseline(name, seed, options)
        features, counts = counts_of(adata, layer, genes)
        values = function(counts)
    place = adata.var_names.get_indexer(features)
    if (place < 0).any():
        lacking = some(np.array(features)[place < 0])
        raise DataError(f"genes {lacking} of layer={layer!r} are not in var_names", "pass the genes= of adata")
    found = np.full(adata.shape, np.nan, np.float32)
    found[:, place] = values
    adata.layers[key_added] = found
    note_denoised(adata, key_added, name)
    warnings.warn(f"layers[{key_added!r}]: {ADVICE}", ScduetWarning, stacklevel=2)
    return model


@torch.inference_mode()
def expected_counts(model: Model, adata=None, seed: int = 0, n_samples: int = N_SAMPLES) -> Expected:
    """Expected counts of cells at their depth, dropout included: means over draws of the state, (cell, gene)."""
    chosen, found = modality_of(model), []
    with seeded(seed):
        for part in states(model, adata):
            n = 1 if part.encoder is None else n_samples
            draws = (chosen.of(part.draw(), part.cells, part.cells.batch, part.log_library).mean for _ in range(n))
            found.append((sum(draws) / n).cpu().numpy())  # type: ignore[union-attr]
    return np.concatenate(found)


def denoiser(name: str, seed: int = 0) -> Callable[[sp.csr_matrix], Expected]:
    """The method `name` with its defaults, as a function of counts (cell, gene) that gives expected counts."""
    if name not in NETWORKS:
        return baseline(_known(name), seed, {})

    def by_network(counts: sp.csr_matrix) -> Expected:
        data = AnnData(sp.csr_matrix(counts, dtype=np.float32))
        options = {**defaults_of(name, data.n_obs), "seed": seed, "callback": silent}
        return expected_counts(fit(data, name, **options), seed=seed)

    return by_network


def baseline(name: str, seed: int, options: Mapping[str, Any]) -> Callable[[sp.csr_matrix], Expected]:
    """One of BASELINES as a function of counts. Raises OptionError for options that it does not have."""
    function = BASELINES[name]
    known = [option for option in inspect.signature(function).parameters if option not in ("counts", "seed")]
    refuse_unknown(options, known, f"method {name!r}")
    draws = {"seed": seed} if "seed" in inspect.signature(function).parameters else {}
    return lambda counts: function(counts, **draws, **options)


def defaults_of(name: str, n_cells: int) -> dict[str, Any]:
    """How a network is trained to denoise `n_cells`, where it is not trained as always."""
    if name != "scvi":
        return {}
    epochs = max(min(round(EPOCHS_UP_TO / n_cells * EPOCHS), EPOCHS), FEWEST)
    return {"gene_likelihood": "poisson", "max_epochs": epochs}


def _chosen(adata: Any, method: str | Model | None, layer: str | None, key_added: str) -> str:
    """Name of the method, once it is known that there is room for the result."""
    if not isinstance(adata, AnnData) or adata.isbacked:
        raise OptionError(f"denoise needs cells in memory, not {type(adata).__name__}", "read the file first")
    taken = key_added in adata.layers and key_added not in adata.uns.get(DENOISED, {})
    if taken or key_added == layer:
        raise OptionError(f"layers[{key_added!r}] is there, and denoise did not write it", "pass another key_added=")
    if isinstance(method, Model):
        refuse_lognormal(method, "expected counts")
        return method.name
    return _known(method or ("walk" if adata.n_obs <= WALK_UP_TO else "scvi"))


def _known(name: str) -> str:
    if name not in (*NETWORKS, *BASELINES):
        raise OptionError(f"unknown method {name!r}", f"choose from {', '.join([*BASELINES, *NETWORKS])}")
    return name
