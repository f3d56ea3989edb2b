"""Posteriors of cells: what every analysis of a trained VAE starts from; and states between them."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float
from torch import Tensor

from scduet.api import Model
from scduet.capabilities import VAE, Generates
from scduet.contract import CellBatch
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError, some
from scduet.nn.layers import rsample

BATCH_SIZE = 1024  # cells decoded together
MINIFIED = "_scvi_adata_minify_type"  # key of uns that marks cells whose counts are gone: that of scvi-tools
LATENT_KEYS = ("{}_latent_{}", "_{}_latent_{}", "X_latent_{}")  # of obsm, since 1.2.2, before, and of the user
LIBRARY_KEYS = ("observed_lib_size", "_scvi_observed_lib_size")  # of obs


@dataclass(frozen=True)
class States:
    """A minibatch of cells and what the encoder says of them."""

    cells: CellBatch
    mean: Float[Tensor, "cell latent"]
    variance: Float[Tensor, "cell latent"]
    library: Callable[[CellBatch], Float[Tensor, "cell 1"]]  # its logarithm, for those who ask

    @cached_property
    def log_library(self) -> Float[Tensor, "cell 1"]:
        return self.library(self.cells)

    def draw(self, vae: VAE) -> Float[Tensor, "cell latent"]:
        """A draw from the posterior, as the decoder wants it."""
        return vae.state(rsample(self.mean, self.variance))


def vae_of(model: Model) -> VAE:
    """The VAE of counts that `model` is or holds. Raises OptionError where there is none."""
    if not isinstance(model.module, Generates):
        raise OptionError(f"{model.name!r} has no distribution of counts to ask", "use e.g. scvi or scanvi")
    return model.module.vae


@torch.inference_mode()
def states(model: Model, adata=None, rows: np.ndarray | None = None, batch_size: int = BATCH_SIZE) -> Iterator[States]:
    """Posteriors of the cells at `rows` (None: all) in minibatches; of minified cells, those that were kept.

    adata: AnnData, or Cells that the model has encoded already; None for the cells trained on.
    """
    vae = vae_of(model)
    model.module.eval()
    kept = _kept(model, adata) if is_minified(adata) else None
    cells = adata if isinstance(adata, Cells) else model.encode(adata) if kept is None else kept.cells
    for batch in minibatches(cells, sequential(len(cells)) if rows is None else np.asarray(rows), batch_size):
        batch = batch.to(model.device)
        assert isinstance(batch, CellBatch)
        if kept is None:
            mean, variance = vae.posterior(batch)
            yield States(batch, mean, variance, vae.log_library)
        else:
            mean, variance = (_at(batch, known) for known in (kept.mean, kept.variance))
            yield States(batch, mean, variance, partial(_at, known=kept.log))


def write_shares(
    into: Float[Tensor, "cell gene"], vae: VAE, z: Float[Tensor, "cell latent"], cells: CellBatch, batch: Tensor
) -> None:
    """Put the shares of cells in the states `z` where they are wanted, without a copy on the way where that can be."""
    if into.device == z.device:
        vae.shares(z, cells, batch, out=into)
    else:
        into.copy_(vae.shares(z, cells, batch))


def is_minified(adata) -> bool:
    """Are these cells that `minify` (or scvi-tools) kept without their counts?"""
    return adata is not None and not isinstance(adata, str) and MINIFIED in getattr(adata, "uns", {})


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Inside, torch draws from `seed`, and goes on where it was afterwards; None leaves its stream alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def n_cells_of(model: Model, adata=None) -> int:
    return len(model.encode()) if adata is None else adata.n_obs


def cell_names(model: Model, adata=None) -> pd.Index:
    return pd.RangeIndex(len(model.encode())) if adata is None else adata.obs_names


def gene_places(model: Model, genes) -> tuple[np.ndarray, list[str]]:
    """Columns and names of `genes` (None: all). Raises DataError naming those that the model lacks."""
    if genes is None:
        return np.arange(len(model.genes)), model.genes
    names = [genes] if isinstance(genes, str) else list(genes)
    place = pd.Index(model.genes).get_indexer(names)
    if (place < 0).any():
        raise DataError(f"the model has no gene {some(np.array(names)[place < 0])}", "see model.genes")
    return place, names


def batch_codes(model: Model, names) -> list[int | None]:
    """Codes of batches to decode as; None is the batch that was observed."""
    if names is None:
        return [None]
    key = model.schema.fields.batch_key
    levels = () if key is None else model.schema.levels[key]
    wanted = [names] if isinstance(names, (str, int, float, np.number)) else list(names)
    unknown = [name for name in wanted if str(name) not in levels]
    if unknown:
        raise DataError(f"the model has no batch {some(unknown)}", f"it has {some(levels, 9)}")
    return [levels.index(str(name)) for name in wanted]


def as_batch(cells: CellBatch, code: int | None) -> Tensor:
    return cells.batch if code is None else torch.full_like(cells.batch, code)


def interpolate(
    start: Float[np.ndarray, " latent"], end: Float[np.ndarray, " latent"], n: int = 10
) -> Float[np.ndarray, "step latent"]:
    """`n` states on the straight line from `start` to `end`, both included."""
    share = np.linspace(0, 1, n, dtype=np.float32)[:, None]
    return (1 - share) * np.asarray(start, np.float32) + share * np.asarray(end, np.float32)


@torch.inference_mode()
def decode_states(model: Model, states, *, batch=None) -> pd.DataFrame:
    """Expected share of each gene (state x gene, rows sum to 1) for states of the latent space, e.g. interpolated ones.

    batch: name of the batch to decode as; None for the first. Raises DataError for models with further covariates.

    To compare with log-normalized cells, draw counts with `sample_states` first: the logarithm of a mean is above the
    mean of logarithms, most for genes with few counts.
    """
    vae = vae_of(model)
    share = [vae.shares(z, cells).cpu().numpy() for z, cells in cells_in_states(model, states, batch)]
    return pd.DataFrame(np.concatenate(share), columns=model.genes)  # type: ignore[arg-type]


def cells_in_states(
    model: Model, states, batch, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[Float[Tensor, "state latent"], CellBatch]]:
    """States as the decoder wants them, with cells in them that have no counts, in minibatches."""
    fields = model.schema.fields
    if fields.categorical_covariate_keys or fields.continuous_covariate_keys:
        raise DataError("states alone do not say the covariates of the cells", "use a model without covariate keys")
    model.module.eval()
    z = torch.from_numpy(np.ascontiguousarray(states, dtype=np.float32)).to(model.device)
    code = batch_codes(model, batch)[0] or 0
    nothing = Cells(_no_counts(len(z), len(model.genes)), np.zeros(len(z)), np.full(len(z), code))
    for cells in minibatches(nothing, sequential(len(z)), batch_size):
        assert isinstance(cells, CellBatch)
        yield z[cells.index.to(z.device)], cells.to(model.device)


@dataclass(frozen=True)
class _Kept:
    cells: Cells
    mean: np.ndarray
    variance: np.ndarray
    log: np.ndarray  # log of the library size, (cell, 1)


def _kept(model: Model, adata) -> _Kept:
    """What minified cells hold in place of counts. Raises DataError naming what is missing."""
    mean, variance = (_first(adata.obsm, [k.format(model.name, part) for k in LATENT_KEYS]) for part in ("qzm", "qzv"))
    library = np.asarray(_first(adata.obs, LIBRARY_KEYS), dtype=np.float32)
    schema = replace(model.schema, expects="lognormal")  # there are no counts to check
    cells = schema.encode(adata)
    log = np.log(library if cells.size_factor is None else cells.size_factor)[:, None]
    return _Kept(cells, np.asarray(mean, np.float32), np.asarray(variance, np.float32), log)


def _at(cells: CellBatch, known: np.ndarray) -> Tensor:
    """What is known of these cells, on their device."""
    return torch.from_numpy(known[cells.index.cpu().numpy()]).to(cells.index.device)


def _first(where, keys):
    found = [key for key in keys if key in where]
    if not found:
        raise DataError(f"these minified cells have none of {some(keys, 4)}", "minify them again with this model")
    return where[found[0]]


def _no_counts(n_cells: int, n_genes: int):
    from scduet.data.sources import in_memory

    return in_memory(sp.csr_matrix((n_cells, n_genes), dtype=np.float32))
