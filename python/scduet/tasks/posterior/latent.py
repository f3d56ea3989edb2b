"""Posteriors of cells and the modalities decoded from them: where every analysis of an autoencoder starts."""

from __future__ import annotations

from scduet._torch import torch

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from scduet.api import Model
from scduet.capabilities import Decodes, Encodes, HasLibrary, part_with
from scduet.contract import CellBatch
from scduet.data import feature_names, levels
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.data.schema import on_disk
from scduet.data.selection import selected
from scduet.data.sources import Cells, Source
from scduet.errors import DataError, OptionError, some
from scduet.nn.distributions import Distribution
from scduet.nn.layers import rsample
from scduet.nn.random import own_random_numbers
from scduet.options import listed, refuse_unknown

BATCH_SIZE = 1024  # cells decoded together
MINIFIED = "_scvi_adata_minify_type"  # key of uns that marks cells whose counts are gone: that of scvi-tools
LATENT_KEYS = ("{}_latent_{}", "_{}_latent_{}", "X_latent_{}")  # of obsm, since 1.2.2, before, and of the user
LIBRARY_KEYS = ("observed_lib_size", "_scvi_observed_lib_size")  # of obs


@dataclass(frozen=True)
class States:
    """A minibatch of cells and what the encoder says of them."""

    cells: CellBatch
    encoder: Encodes | None  # None for a model that has one state of a cell, no posterior
    mean: Float[Tensor, "cell latent"]
    variance: Float[Tensor, "cell latent"]
    library: Callable[[CellBatch], Float[Tensor, "cell 1"]] | None  # its logarithm; None for a model without

    @cached_property
    def log_library(self) -> Float[Tensor, "cell 1"] | None:
        return None if self.library is None else self.library(self.cells)

    def draw(self) -> Float[Tensor, "cell latent"]:
        """A draw from the posterior, as the decoder takes it; the state itself where there is no posterior."""
        if self.encoder is None:
            return self.mean
        return self.encoder.transform_latent(rsample(self.mean, self.variance))


def encoder_of(model: Model) -> Encodes:
    """The part of `model` that has posteriors of cells. Raises OptionError where there is none."""
    found = part_with(model.module, Encodes)
    if found is None:
        raise OptionError(f"{model.name!r} has no posterior of the state of a cell", "use e.g. scvi or scanvi")
    return found


def refuse_lognormal(model: Model, what: str) -> None:
    """Raise OptionError for a model of log-normalized values, of which there are no shares or counts."""
    if model.schema.expects == "lognormal":
        raise OptionError(
            f"{model.name!r} decodes log-normalized values: no {what}", "use a model of counts, e.g. scvi"
        )


@dataclass(frozen=True)
class Modality:
    """What a model decodes of a state: one of its matrices."""

    name: str
    is_main: bool
    features: list[str]
    decoder: Decodes

    def of(
        self, z: Float[Tensor, "cell latent"], cells: CellBatch, batch: Tensor, log_library: Tensor | None
    ) -> Distribution:
        """Its distribution in cells of the states `z`."""
        return self.decoder.decode(z, cells, batch, log_library)[self.name]

    def normalized(
        self, z: Float[Tensor, "cell latent"], cells: CellBatch, batch: Tensor | None = None, out=None, **options
    ):
        """Expected values per unit of library, (cell, feature); written to `out` without a copy on the way, if any.

        options: of the model's own `normalized_expression`, see `check_options`.
        """
        if out is None or out.device != z.device:
            found = self.decoder.normalized_expression(z, cells, batch, self.name, **options)
            return found if out is None else out.copy_(found)
        return self.decoder.normalized_expression(z, cells, batch, self.name, out, **options)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise OptionError for options that the model's own `normalized_expression` does not have."""
        parameters = inspect.signature(self.decoder.normalized_expression).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        refuse_unknown(options, known, f"the {self.name} of this model")

    def observed(self, cells: CellBatch) -> Float[Tensor, "cell feature"]:
        """What was measured in the cells; NaN where nothing was."""
        x = cells.x if self.is_main else cells.extra[self.name]
        dense = x if isinstance(x, Tensor) else x.dense()
        known = cells.measured.get("x" if self.is_main else self.name)
        return dense if known is None else dense.where(known[:, None], torch.nan)

    def source(self, cells: Cells) -> Source:
        """The rows of its matrix."""
        return cells.counts if self.is_main else cells.extra[self.name]

    def measured(self, cells: Cells, rows: Int[np.ndarray, " cell"]) -> Int[np.ndarray, " measured"]:
        """Those of the cells at `rows` in which it was measured."""
        known = cells.measured.get("x" if self.is_main else self.name)
        return rows if known is None else rows[known[rows]]

    def places(self, names) -> tuple[np.ndarray, list[str]]:
        """Columns and names of these features (None: all). Raises DataError naming those that the model lacks."""
        if names is None:
            return np.arange(len(self.features)), self.features
        names = listed("gene_list", names)
        place = feature_names.places_of(pd.Index(names), pd.Index(self.features))
        if (place < 0).any():
            remedy = "see model.genes" if self.is_main else f"it has {some(self.features, 9)}"
            raise DataError(f"the model has no {self.feature} {some(np.array(names)[place < 0])}", remedy)
        return place, names

    @property
    def feature(self) -> str:
        """The word for one of its features."""
        return {"rna": "gene", "peaks": "peak"}.get(self.name, self.name)


def modality_of(model: Model, name: str | Modality | None = None) -> Modality:
    """The modality called `name`, or the main one. Raises OptionError where the model does not decode it."""
    if isinstance(name, Modality):  # another view of one
        return name
    decoder = part_with(model.module, Decodes)
    if decoder is None:
        raise OptionError(f"{model.name!r} decodes no distribution of counts", "use e.g. scvi or scanvi")
    names = decoder.modalities
    if name is not None and name not in names:
        raise OptionError(f"{model.name!r} has no modality {name!r}", f"it has {some(names, 9)}")
    if name is None or name == names[0]:
        return Modality(names[0], True, model.genes, decoder)
    columns = model.schema.features.get(name, 0)
    features = [f"{name}_{i}" for i in range(columns)] if isinstance(columns, int) else list(columns)
    return Modality(name, False, features, decoder)


@torch.inference_mode()
def states(model: Model, adata=None, rows: np.ndarray | None = None, batch_size: int = BATCH_SIZE) -> Iterator[States]:
    """Posteriors of the cells at `rows` (None: all) in minibatches; of minified cells, those that were kept.

    Of a model that decodes what it embeds the embedding, with a variance of zero.
    adata: AnnData, or Cells that the model has encoded already; None for the cells trained on.
    """
    encoder, holder = part_with(model.module, Encodes), part_with(model.module, HasLibrary)
    if encoder is None and (not isinstance(model.module, Decodes) or is_minified(adata)):
        encoder = encoder_of(model)  # which says what is missing
    model.module.eval()
    kept = _kept(model, adata) if is_minified(adata) else None
    cells = adata if isinstance(adata, Cells) else model.encode(adata) if kept is None else kept.cells
    for batch in minibatches(cells, sequential(len(cells)) if rows is None else np.asarray(rows), batch_size):
        batch = batch.to(model.device)
        assert isinstance(batch, CellBatch)
        if kept is not None:
            mean, variance = (_at(batch, known) for known in (kept.mean, kept.variance))
            yield States(batch, encoder, mean, variance, None if kept.log is None else partial(_at, known=kept.log))
        elif encoder is None:
            mean = model.module.embed(batch)  # type: ignore[operator]
            yield States(batch, None, mean, torch.zeros_like(mean), None if holder is None else holder.log_library)
        else:
            yield States(batch, encoder, *encoder.posterior(batch), None if holder is None else holder.log_library)


def is_minified(adata) -> bool:
    """Are these cells that `minify` (or scvi-tools) kept without their counts?"""
    return adata is not None and not isinstance(adata, str) and MINIFIED in getattr(adata, "uns", {})


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Inside, torch draws from `seed`, and goes on where it was afterwards; None leaves its stream alone."""
    with nullcontext() if seed is None else own_random_numbers(seed):
        yield


def opened(adata):
    """`adata` as an analysis takes it: a path as the cells in that file; None stands for the cells trained on."""
    return None if adata is None else on_disk(adata)


def cell_names(model: Model, adata=None) -> pd.Index:
    if adata is None or isinstance(adata, Cells):
        return pd.RangeIndex(len(model.encode() if adata is None else adata))
    return adata.obs_names


def rows_of(model: Model, adata, wanted) -> np.ndarray | None:
    """Places of the cells that the user's `wanted` stands for, see `selected`; None for all."""
    return None if wanted is None else selected(wanted, cell_names(model, adata), getattr(adata, "obs", None))


def batch_codes(model: Model, names) -> list[int | None]:
    """Codes of batches to decode as; None is the batch that was observed."""
    if names is None:
        return [None]
    key = model.schema.fields.batch_key
    known = () if key is None else model.schema.levels[key]
    wanted = list(names) if pd.api.types.is_list_like(names) else [names]
    found = levels.places_of(wanted, known)
    if (found < 0).any() or not wanted:
        unknown = some(levels.absent(wanted, known))
        raise DataError(f"the model has no batch {unknown}", f"it has {some(known, 9)}")
    return found.tolist()


def as_batch(cells: CellBatch, code: int | None) -> Tensor:
    return cells.batch if code is None else torch.full_like(cells.batch, code)


@dataclass(frozen=True)
class _Kept:
    cells: Cells
    mean: np.ndarray
    variance: np.ndarray
    log: np.ndarray | None  # log of the library size, (cell, 1), of a model that has one


def _kept(model: Model, adata) -> _Kept:
    """What minified cells hold in place of counts. Raises DataError naming what is missing."""
    mean, variance = (_first(adata.obsm, [k.format(model.name, part) for k in LATENT_KEYS]) for part in ("qzm", "qzv"))
    schema = replace(model.schema, expects="lognormal")  # there are no counts to check
    cells = schema.encode(adata)
    library = None
    if part_with(model.module, HasLibrary) is not None:
        library = _first(adata.obs, LIBRARY_KEYS) if cells.size_factor is None else cells.size_factor
    log = None if library is None else np.log(np.asarray(library, np.float32))[:, None]
    return _Kept(cells, np.asarray(mean, np.float32), np.asarray(variance, np.float32), log)


def _at(cells: CellBatch, known: np.ndarray) -> Tensor:
    """What is known of these cells, on their device."""
    return torch.from_numpy(known[cells.index.cpu().numpy()]).to(cells.index.device)


def _first(where, keys):
    found = [key for key in keys if key in where]
    if not found:
        raise DataError(f"these minified cells have none of {some(keys, 4)}", "minify them again with this model")
    return where[found[0]]
