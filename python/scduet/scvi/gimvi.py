"""scvi-tools' GIMVI: two AnnData, of single cells and of spatial data, whose results come as a list of two."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from torch import Tensor

from scduet.api import Model
from scduet.checkpoints.scvi_gimvi import PAIRS, SPATIAL
from scduet.data.locate import column, locate_main
from scduet.data.side_by_side import side_by_side
from scduet.errors import DataError, FormatError, OptionError, some
from scduet.io.atomic import place_whole
from scduet.models.spatial.gimvi import GimVI
from scduet.models.spatial.gimvi_networks import DATA_SETS
from scduet.nn.layers import rsample
from scduet.scvi import settings
from scduet.scvi.registry import refuse
from scduet.scvi.setup import noted, untrained
from scduet.scvi.signatures import takes
from scduet.scvi.trained import ScviModel, model_in
from scduet.tasks.posterior.latent import seeded

FILES = ("adata_seq.h5ad", "adata_spatial.h5ad")  # cells saved beside a model
NO_BATCH = 0  # level of cells whose batches have no column, as there


class GIMVI(ScviModel):
    adatas: list[AnnData] | None

    @takes("adata_seq!, adata_spatial!, generative_distributions, model_library_size, n_latent=10, **", "__init__")
    def __init__(self, adata_seq, adata_spatial, more, **given):
        if adata_seq is adata_spatial:
            raise OptionError("adata_seq and adata_spatial are the same object", "pass a copy as adata_spatial")
        self.adatas = [adata_seq, adata_spatial]
        fields = [noted(adata, type(self).__name__, self._name) for adata in self.adatas]
        lacking = adata_spatial.var_names[~adata_spatial.var_names.isin(adata_seq.var_names)]
        if len(lacking):
            remedy = "leave these genes out of adata_spatial"
            raise DataError(f"adata_seq lacks genes of adata_spatial: {some(lacking)}", remedy)
        batches = [_batches(adata, one.batch_key) for adata, one in zip(self.adatas, fields, strict=True)]
        key = next((one.batch_key for one in fields if one.batch_key is not None), None)
        together = _together(self.adatas, [one.layer for one in fields], None if key is None else {key: batches})
        known = replace(fields[0], layer=None, batch_key=key, labels_key=None, spatial_key=SPATIAL)  # type: ignore[call-arg]
        options: dict[str, Any] = {name: value for name, value in {**given, **more}.items() if value is not None}
        for theirs, ours in PAIRS.items():
            options |= dict(zip(ours, options.pop(theirs, ()), strict=False))
        self._hold(untrained(together, self._name, known, options), together, is_trained=False)

    @takes(
        "max_epochs=200, accelerator='auto', devices='auto', kappa=5, train_size, validation_size,"
        "shuffle_set_split=True, batch_size=128, datasplitter_kwargs, plan_kwargs, **"
    )
    def train(self, kappa, batch_size, more, **given):
        """Train. batch_size: cells of each data set in a minibatch. kappa: weight of fooling the classifier of both."""
        self._reconfigure(kappa=float(kappa))
        module: Any = self._model.module
        module.players = GimVI.players if kappa else GimVI.players[:1]
        self._train({**given, **more, "batch_size": 2 * batch_size})

    @takes("adatas, deterministic=True, batch_size=128")
    def get_latent_representation(self, adatas, deterministic, batch_size):
        """States of the cells of each data set: a list of (cell, latent)."""
        module: Any = self._model.module

        def state(cells) -> Tensor:
            return _drawn(*module.posterior(cells), at_mean=deterministic)

        return self._of_each(lambda name: state, adatas, batch_size)

    @takes("adatas, deterministic=True, normalized=True, decode_mode, batch_size=128")
    def get_imputed_values(self, adatas, deterministic, normalized, decode_mode, batch_size):
        """Expected values of all genes in the cells of each data set: a list of (cell, gene).

        normalized: shares, of the single cells in the counts of all genes, of the spatial cells in those of the genes
        measured there; False for counts. decode_mode: 0 or 1, to scale the cells of both as one of the data sets.
        """
        if decode_mode not in (None, 0, 1):
            raise OptionError(f"decode_mode={decode_mode!r}", "it is 0 for single cells, 1 for spatial data, or None")
        module: Any = self._model.module

        def values_as(name: str):
            def values(cells) -> Tensor:
                z = _drawn(*module.posterior(cells), at_mean=deterministic)
                share = module.normalized_expression(z, cells, modality=name)
                return (
                    share
                    if normalized
                    else share * _drawn(*module.library_posterior(cells), at_mean=deterministic).exp()
                )

            return values

        decoded = None if decode_mode is None else DATA_SETS[decode_mode]
        return self._of_each(lambda name: values_as(decoded or name), adatas, batch_size)

    @takes("dir_path!, prefix, overwrite=False, save_anndata=False, save_kwargs, **")
    def save(self, dir_path, prefix, overwrite, save_anndata, **_):
        """Write a folder of ours (safetensors and JSON); `export_scvi_tools` writes one that scvi-tools reads."""
        super().save(dir_path, prefix, overwrite)
        folder = Path(dir_path) / prefix if prefix else Path(dir_path)
        for name, adata in zip(FILES, self.adatas or (), strict=False):
            (folder / name).unlink(missing_ok=True)
            if save_anndata:
                place_whole(folder / name, adata.write_h5ad)

    @classmethod
    @takes("dir_path!, adata_seq, adata_spatial, accelerator='auto', device='auto', prefix, backup_url")
    def load(cls, dir_path, adata_seq, adata_spatial, prefix, backup_url, **_):
        """Read a folder of ours or of scvi-tools; nothing in it is run. Raises DataError for cells that do not fit."""
        if not Path(dir_path).exists():
            refuse("load", backup_url=backup_url)
        model = model_in(dir_path, prefix)
        if model.name != cls._name:
            raise FormatError(f"{dir_path} holds a {model.name!r}, not a {cls.__name__}", "load it with its own class")
        given = [adata_seq, adata_spatial]
        for i, name in enumerate(FILES):
            saved = Path(dir_path) / (prefix or "") / name, Path(dir_path) / f"{prefix or ''}{name}"
            path = next((place for place in saved if place.exists()), None)
            given[i] = read_h5ad(path) if given[i] is None and path is not None else given[i]
        if any(adata is None for adata in given):
            made = cls._holding(model, None)
            made.adatas = None
            return made
        together = _fitting(model, given)
        made = cls._holding(replace(model, cells=model.encode(together)), together)
        made.adatas = given
        return made

    def _of_each(self, asked, adatas, batch_size) -> list[np.ndarray]:
        """What is asked of the cells of each data set. asked: name of the data set -> function of a minibatch."""
        given = self.adatas if adatas is None else list(adatas)
        if given is None or len(given) != len(DATA_SETS):
            raise DataError("GIMVI reads single cells and spatial data", "pass adatas=[adata_seq, adata_spatial]")
        together, n = self.adata if adatas is None else _fitting(self._model, given), given[0].n_obs
        parts = {"rna": together[:n], "spatial": together[n:]}
        with seeded(settings.seed):
            found = [self._model.map(asked(name), part, batch_size) for name, part in parts.items()]
        return [values.cpu().numpy() for values in found]


def _drawn(mean: Tensor, variance: Tensor, at_mean: bool) -> Tensor:
    return mean if at_mean else rsample(mean, variance)


def _batches(adata: AnnData, key: str | None) -> list[Any]:
    return [NO_BATCH] * adata.n_obs if key is None else list(column(adata, key))


def _together(adatas: list[AnnData], layers: list[str | None], obs: dict[str, list[list[Any]]] | None) -> AnnData:
    """The cells of both data sets. obs: columns of both, as a list for each data set."""
    found = [locate_main(adata, layer) for adata, layer in zip(adatas, layers, strict=True)]
    n = sum(adata.n_obs for adata in adatas)
    columns = {key: [*first, *second] for key, (first, second) in (obs or {}).items()}
    known = pd.DataFrame(columns, index=pd.RangeIndex(n).astype(str))
    names = found[0].columns, found[1].columns
    return side_by_side(found[0].values, found[1].values, names, SPATIAL.partition("/")[2], known)


def _fitting(model: Model, adatas: list[AnnData]) -> AnnData:
    """The cells of both data sets, for a trained model.

    A data set that has one batch alone in the model needs no column of the batches.
    """
    key, layers = model.schema.fields.batch_key, [model.schema.fields.layer, None]
    if key is None:
        return _together(adatas, layers, None)
    batches = []
    for adata, code in zip(adatas, model.reference.arrays["batch_code"], strict=True):
        own = model.schema.values(key)[code >= 0]
        batches.append([own[0]] * adata.n_obs if len(own) == 1 else _batches(adata, key))
    return _together(adatas, layers, {key: batches})
