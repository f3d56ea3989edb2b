"""The trained model returned by `fit`."""

from __future__ import annotations

from scduet._torch import torch

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from scduet.capabilities import Classifier
from scduet.checkpoints import model_folder, scvi_export
from scduet.contract import Reference
from scduet.data import cell_loader, inference
from scduet.data.cell_loader import CellLoader
from scduet.data.feature_names import places_of
from scduet.data.schema import Schema, on_disk
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError, some
from scduet.events import Listener, counted
from scduet.models import key_of
from scduet.options import check_arguments
from scduet.train import device as devices
from scduet.train.config import TrainConfig
from scduet.train.group import is_first
from scduet.train.loop import TrainingResult
from scduet.train.summary import summary, summary_html


@dataclass(frozen=True)
class Model:
    """A trained module together with the schema of the data it was trained on. Made by `fit` and `load`."""

    name: str
    module: nn.Module = field(repr=False)
    schema: Schema = field(repr=False)
    reference: Reference = field(repr=False)
    config: Any
    training: TrainConfig = field(repr=False)
    outcome: TrainingResult = field(repr=False, default_factory=TrainingResult)
    cells: Cells | None = field(repr=False, compare=False, default=None)  # training cells, if trained in this session
    holds: Mapping[str, Model] = field(repr=False, default_factory=dict)  # trained models that it builds on

    needs_mapping = True

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: mean loss and its terms per cell, for training and held-out cells."""
        return self.outcome.table()

    @property
    def genes(self) -> list[str]:
        return list(self.schema.genes)

    features = genes

    @property
    def key(self) -> str:
        """Key of its embedding in obsm."""
        return key_of(self.name)

    @property
    def description(self) -> str:
        return f"{self.name} of {len(self.genes)} genes, trained for {len(self.history)} epochs"

    @property
    def columns(self) -> dict[str, str]:
        """The columns of obs with its batches and labels, as "batch_key" and "labels_key"."""
        fields = self.schema.fields
        known = {"batch_key": fields.batch_key, "labels_key": fields.labels_key}
        return {name: value for name, value in known.items() if value is not None}

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def __repr__(self) -> str:
        return summary(self)

    def _repr_html_(self) -> str:
        return summary_html(self)

    def embed(
        self,
        adata=None,
        *,
        batch_size: int = 1024,
        accelerator: str | None = None,
        callback: Listener | None = None,
        modality: str | None = None,
    ) -> np.ndarray:
        """Embedding of each cell of `adata` (None: the cells trained on), float32 (cell, latent).

        adata: an AnnData; the path of an .h5ad or .zarr, whose counts are read in blocks; or a CellLoader, whose cells
            are embedded in the order in which it gives them. Genes may be in any order.
        accelerator: None for the model's device. callback: called with an Event after each minibatch.
        modality: of a model that embeds modalities apart, such as MultiVI, by what was measured of this one alone; NaN
            in cells in which it was not. None for all together.
        Raises DataError naming genes, levels or cells that do not match the model.
        """
        if accelerator is not None:
            self.module.to(devices.choose(accelerator))
        function = self.module.embed if modality is None else self._of_modality(modality)
        return self.map(function, adata, batch_size, callback).float().cpu().numpy()  # type: ignore[arg-type]

    def _of_modality(self, modality: str) -> Callable[[Any], Tensor]:
        """The embedding by one modality. Raises OptionError where the model has none."""
        embed: Any = self.module.embed
        if "modality" not in inspect.signature(embed).parameters:
            raise OptionError(f"{self.name!r} does not embed modalities apart", "leave modality out, or use multivi")
        known: Any = self.module.modalities
        if modality not in known:
            raise OptionError(f"{self.name!r} has no modality {modality!r}", f"it has {some(known, 9)}")
        return partial(embed, modality=modality)

    def predict(self, adata=None) -> pd.DataFrame:
        """Probability of each cell type (cell x type), for classifiers; None: the cells trained on."""
        module, key = self.module, self.schema.fields.labels_key
        if not isinstance(module, Classifier) or key is None:
            remedy = "use 'scanvi' with labels_key="
            raise OptionError(f"model {self.name!r} is not a classifier of labeled cells", remedy)
        adata = adata if adata is None or isinstance(adata, CellLoader) else on_disk(adata)
        share = self.map(lambda cells: module.classify(cells).softmax(-1), adata)
        index = getattr(adata, "obs_names", None)
        return pd.DataFrame(share.cpu().numpy(), index=index, columns=self.schema.values(key))

    def map(
        self,
        function: Callable[[Any], Tensor],
        adata=None,
        batch_size: int = 1024,
        callback: Listener | None = None,
    ) -> Tensor:
        """`function` of each minibatch of cells, in evaluation mode and without gradients, joined along the cells."""
        check_arguments(batch_size=batch_size)
        cells, told = self._to_map(adata), counted(callback, self.name, "cell")
        self.module.eval()
        with torch.inference_mode():
            found = inference.each(function, inference.in_order(cells), len(cells), batch_size, self.device, told)
            return torch.cat([result for _, result in found])

    def _to_map(self, adata) -> Cells:
        """As `encode`, also of a CellLoader, which need not be read before."""
        if not isinstance(adata, CellLoader):
            return self.encode(adata)
        source = cell_loader.source_of(self.schema, adata, most=adata.n_cells)
        return Cells(source, np.zeros(0), np.zeros(adata.n_cells or 0, np.int64))

    def gene_rows(self, adata) -> np.ndarray:
        """Row of each gene of `adata` among the model's genes, -1 for an unknown one."""
        return places_of(adata.var_names, pd.Index(self.genes))

    def encode(self, adata=None) -> Cells:
        """The cells of `adata` as the model sees them; None: the cells it was trained on.

        Raises DataError where these were edited since, e.g. by sc.pp.log1p, or do not fit.
        """
        if adata is not None:
            return self.schema.encode(adata)
        if self.cells is None:
            raise DataError("this model was loaded and has no cells of its own", "pass adata")
        self.cells.refuse_edited()
        return self.cells

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the model to `folder`: safetensors + JSON, see `scduet.io.native`.

        Under torchrun, only the first process writes. Raises FormatError if the folder exists, unless overwrite=True
        and it contains only a scduet model.
        """
        if not is_first():
            return
        model_folder.write(Path(folder), self._parts(), overwrite)

    def _parts(self) -> model_folder.Parts:
        parts = {name: value for name, value in vars(self).items() if name not in ("cells", "holds")}
        return model_folder.Parts(**parts, holds={name: one._parts() for name, one in self.holds.items()})

    def export_scvi_tools(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write a model folder for scvi-tools 1.4: `scvi.model.SCVI.load(folder, adata)`.

        Raises FormatError if the folder exists or scvi-tools has no such model.
        """
        parts = self.module, self.schema, self.outcome.history
        scvi_export.write(Path(folder), self.name, *parts, overwrite, self.holds)
