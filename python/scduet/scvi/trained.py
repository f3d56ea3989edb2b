"""What all models of the façade share: set-up, training, files and query mapping."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from anndata import AnnData, read_h5ad

from scduet import api
from scduet.api import Model
from scduet.checkpoints import scvi_export, scvi_files, scvi_tools
from scduet.contract import has_cells
from scduet.errors import FormatError, OptionError
from scduet.io import native
from scduet.io.atomic import place_whole
from scduet.models import MODELS
from scduet.scvi import callbacks, settings
from scduet.scvi.analyses import Analyses
from scduet.scvi.members import Members
from scduet.scvi.registry import refuse, registry_of, unavailable
from scduet.scvi.setup import in_mudata, note, noted, untrained
from scduet.scvi.signatures import takes, with_defaults
from scduet.scvi.streaming import Streaming
from scduet.scvi.training import Steps, chosen_rows, last_row, training_config
from scduet.tasks.posterior.latent import is_minified
from scduet.tasks.workflows import map_query
from scduet.train.config import on_all_cells
from scduet.train.loop import TrainingResult

FILES = ("adata.h5ad", "mdata.h5mu")  # cells saved beside a model
MAX_MISSING = 0.999  # of the genes of a query: as there, only a query without any is refused
FROZEN = {  # arguments of load_query_data whose other values would move the reference
    "unfrozen": False,
    "freeze_expression": True,
    "freeze_decoder_first_layer": True,
    "freeze_batchnorm_encoder": True,
    "freeze_classifier": True,
}


class ScviModel(Members, Analyses, Streaming):
    """What the models share: set-up, training, files and query mapping."""

    _name: ClassVar[str]  # ours
    _first: ClassVar[str] = "adata, registry"  # arguments of the constructor before the options
    _setup: ClassVar[str] = ""  # arguments of setup_anndata before those of the table
    _layers: ClassVar[dict[str, str]] = {"rna_layer": "layer"}  # arguments of setup_mudata: our fields for the places
    _may_miss: ClassVar[tuple[str, ...]] = ()  # of these, those that data need not have
    setup_anndata: ClassVar[Callable[..., None]]
    setup_mudata: ClassVar[Callable[..., None]]

    def __init_subclass__(cls) -> None:
        """Arguments and help of a class of theirs, from the rows of our models and the tables of their files."""
        if "_name" in vars(cls):  # of another package: it says them itself
            return
        cls._name, row = next((name, row) for name, row in MODELS.items() if row.scvi_tools == cls.__name__)
        cls.__doc__ = f"{row.r.removeprefix('Run')}: see `{row.path.partition(':')[0]}`."
        table, before = scvi_export.SETUP[cls._name], [part.strip() for part in cls._setup.split(",") if part]
        keys = [key for key in table if f"{key}!" not in before]
        options = with_defaults(cls._name, scvi_export.NON_KWARGS[cls._name])
        if "__init__" not in vars(cls):
            cls.__init__ = takes(f"{cls._first}, {options}, datamodule, **", "__init__")(built)
        arguments = ["adata!", *before, *keys]
        if "setup_anndata" not in vars(cls):
            cls.setup_anndata = classmethod(takes(", ".join(arguments), "setup_anndata")(_noted))  # type: ignore[assignment]
        named = [part for part in before if part.removesuffix("!") in table]
        arguments = ["mdata!", *named, *cls._layers, *(key for key in keys if key != "layer"), "modalities"]
        cls.setup_mudata = classmethod(takes(", ".join(arguments), "setup_mudata")(_noted_mudata))  # type: ignore[assignment]

    @classmethod
    def _fields_of(cls, adata: AnnData, given: dict[str, Any]) -> dict[str, Any]:
        """Our fields for the arguments of setup_anndata."""
        return given

    def _given(self, adata: AnnData, options: dict[str, Any]) -> dict[str, Any]:
        """Our options for those of the constructor."""
        return options

    def _hold(self, model: Model, adata: AnnData | None, is_trained: bool) -> None:
        self._model, self._adata, self.is_trained_ = model, adata, is_trained
        self._reference: Model | None = None  # what a query was mapped onto
        self._steps: Steps | None = None
        self._registered: tuple[dict[str, Any], dict[str, Any]] | None = None  # a data module's registry, and options

    @classmethod
    def _holding(cls, model: Model, adata: AnnData | None, is_trained: bool = True):
        made = cls.__new__(cls)
        made._hold(model, adata, is_trained)
        return made

    @takes(
        "max_epochs, accelerator='auto', devices='auto', train_size, validation_size, shuffle_set_split=True,"
        "load_sparse_tensor=False, batch_size, early_stopping=False, datasplitter_kwargs, plan_config, plan_kwargs,"
        "datamodule, trainer_config, **"
    )
    def train(self, more, **given) -> None:
        """Train; the model holds the result."""
        self._train({**given, **more})

    def _train(self, given: dict[str, Any]) -> None:
        """Train with their arguments: of the trainer, of the plan, and of the split."""
        datamodule = given.pop("datamodule", None)
        if datamodule is None and self._registered is not None:
            raise OptionError("this model was made of a registry", "pass train(datamodule=)")
        given = {**dict(given.pop("trainer_config", None) or {}), **given}
        plan = {**dict(given.pop("plan_config", None) or {}), **dict(given.pop("plan_kwargs", None) or {})}
        if len(self._errors) > 1 and given.get("early_stopping_monitor") == "reconstruction_loss_validation":
            text = "early_stopping_monitor='reconstruction_loss_validation' is one of each modality here"
            raise OptionError(text, "use 'elbo_validation'")
        split = [given.pop(name, None) for name in ("validation_size", "shuffle_set_split", "datasplitter_kwargs")]
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)
        if datamodule is not None:
            self._train_on(datamodule, given, plan, split)
            return
        called, cells = given.pop("callbacks", None), self._model.cells or self._model.encode(self.adata)
        training = training_config(given, plan)
        rows = chosen_rows(len(cells), training.seed, given.get("train_size"), *split)
        if not len(rows[1]) or training.train_size == 1:
            training = replace(training, train_size=len(rows[0]) / len(cells) if len(rows[1]) else 1.0)
        if has_cells(type(self._model.module), self._model.config):
            training = on_all_cells(replace(training, train_size=len(rows[0]) / len(cells)))
        shown, before = bool(given.get("enable_progress_bar", True)), self._model.outcome.history
        listener = callbacks.listener(called, self, last_row, shown)
        self._steps = Steps(given.get("log_every_n_steps") or 10) if plan.get("on_step") else None
        with nullcontext() if self._steps is None else self._steps.of(self._model.module):
            if self._reference is None:
                trained = api.train(self._model, cells, training, listener, rows)
            else:
                trained = map_query.train_new_rows(self._reference, self._model, training, listener, rows)
        if trained is not self._model:  # a query with known batches alone has nothing to train
            self._model = replace(trained, outcome=_after(before, trained.outcome))
        self.is_trained_ = True
        if isinstance(listener, callbacks.Callbacks):
            listener.ended()

    def save(self, dir_path, prefix=None, overwrite=False, save_anndata=False, **_) -> None:
        """Write a folder of ours (safetensors and JSON); `export_scvi_tools` writes one that scvi-tools reads."""
        folder = _folder(dir_path, prefix)
        for name in FILES if overwrite and native.is_ours(folder) else ():
            (folder / name).unlink(missing_ok=True)
        self._model.save(folder, overwrite)
        if save_anndata:
            is_mudata = hasattr(self.adata, "mod")
            write = self.adata.write if is_mudata else self.adata.write_h5ad  # type: ignore[attr-defined]
            place_whole(folder / FILES[is_mudata], write)

    def export_scvi_tools(self, dir_path, overwrite=False) -> None:
        self._model.export_scvi_tools(dir_path, overwrite)

    @classmethod
    @takes(
        "dir_path!, adata, accelerator='auto', device='auto', prefix, backup_url, datamodule,allowed_classes_names_list"
    )
    def load(cls, dir_path, adata, prefix, backup_url, datamodule, **_):
        """Read a folder of ours or of scvi-tools; nothing in it is run. Raises DataError for cells that do not fit."""
        if backup_url is not None and not Path(dir_path).exists():
            refuse("load", backup_url=backup_url)
        folder, model = _folder(dir_path, prefix), model_in(dir_path, prefix)
        if model.name != cls._name:
            raise FormatError(f"{dir_path} holds a {model.name!r}, not a {cls.__name__}", "load it with its own class")
        if adata is None:
            places = [place for name in FILES for place in (folder / name, Path(dir_path) / f"{prefix or ''}{name}")]
            adata = next((_cells_in(place) for place in places if place.exists()), None)
        if adata is None or adata is False:
            made = cls._holding(model, None)
            made._registered = None if datamodule is None else (dict(datamodule.registry), {})
            return made
        return cls._holding(model if is_minified(adata) else replace(model, cells=model.encode(adata)), adata)

    @classmethod
    def convert_legacy_save(cls, dir_path, output_dir_path, overwrite=False, prefix=None, **_) -> None:
        """Write a model from before 0.15 as a folder that scvi-tools 1.4, and we, load."""
        target = Path(output_dir_path)
        if target.exists() and not overwrite:
            raise FormatError(f"{target} exists", "choose another folder, or pass overwrite=True")
        legacy = Path(dir_path) / f"{prefix or ''}{scvi_files.THREE_FILES[0]}"
        _loaded(legacy).export_scvi_tools(target, overwrite)
        if prefix:
            (target / scvi_files.ONE_FILE).replace(target / f"{prefix}{scvi_files.ONE_FILE}")

    @staticmethod
    def load_registry(dir_path, prefix=None) -> dict[str, Any]:
        """What a saved model knows of its data."""
        folder = _folder(dir_path, prefix)
        if not native.is_ours(folder):
            return scvi_tools.registry(_foreign(Path(dir_path), prefix))
        return registry_of(_loaded(folder))

    @classmethod
    def prepare_query_anndata(cls, adata, reference_model, return_reference_var_names=False, inplace=True):
        """Give `adata` the genes of the model, in its order; missing ones are zero."""
        model = model_of(reference_model)
        if return_reference_var_names:
            return pd.Index(model.genes)
        prepared = map_query.prepare_query(adata, model, max_missing=MAX_MISSING)
        prepared.uns, prepared.obsm = dict(adata.uns), dict(adata.obsm)  # type: ignore[assignment]
        if not inplace:
            return prepared
        adata._init_as_actual(prepared)
        return None

    prepare_query_mudata = classmethod(
        unavailable("prepare_query_mudata", "use prepare_query_anndata with the modality of the genes")
    )

    @classmethod
    @takes(
        "adata!, reference_model!, registry, inplace_subset_query_vars=False, accelerator='auto', device='auto',"
        "unfrozen=False, freeze_dropout=False, freeze_expression=True, freeze_decoder_first_layer=True,"
        "freeze_batchnorm_encoder=True, freeze_batchnorm_decoder=False, freeze_classifier=True, transfer_batch=True,"
        "datamodule"
    )
    def load_query_data(cls, adata, reference_model, datamodule, **given):
        """Map a query onto a trained model; `train` then learns its new batches. All known weights stay frozen."""
        moving = [name for name, value in FROZEN.items() if given[name] is not value]
        if moving:
            remedy = "leave it out, or train a new model on both data sets"
            raise OptionError(f"{moving[0]}={given[moving[0]]!r} would move the reference", remedy)
        refuse("load_query_data", datamodule=datamodule)
        model = model_of(reference_model)
        mapped = map_query.map_query(adata.copy(), model, train=False, max_missing=MAX_MISSING)
        made = cls._holding(replace(mapped, outcome=TrainingResult()), adata, is_trained=False)
        made._reference = model
        return made


def built(self: ScviModel, adata, registry=None, datamodule=None, *, more, **options) -> None:
    """Make an untrained model of cells that were set up; options left at None are ours."""
    options = {key: value for key, value in {**options, **more}.items() if value is not None}
    if adata is None and registry is None and datamodule is None:
        raise OptionError("a model needs cells", "pass adata, or the registry of a data module")
    if adata is None:
        self._hold(None, None, is_trained=False)  # pyright: ignore[reportArgumentType]
        told: Any = registry if datamodule is None or registry is not None else datamodule.registry
        self._registered = dict(told), options
        return
    refuse(type(self)._name, registry=registry, datamodule=datamodule)
    fields, options = noted(adata, type(self).__name__, self._name), self._given(adata, options)
    self._hold(untrained(adata, self._name, fields, options), adata, is_trained=False)


def _noted(cls: type[ScviModel], adata, **given) -> None:
    """Remember in `adata` where the model finds what it reads."""
    note(adata, cls.__name__, cls._fields_of(adata, given), cls._name)


def _noted_mudata(cls: type[ScviModel], mdata, modalities, **given) -> None:
    """Remember in `mdata` where the model finds what it reads. modalities: argument: name of a modality."""
    note(mdata, cls.__name__, in_mudata(mdata, given, cls._layers, modalities, cls._may_miss), cls._name)


def _cells_in(path: Path):
    """The cells beside a saved model: an AnnData or a MuData."""
    if path.suffix == ".h5ad":
        return read_h5ad(path)
    from mudata import read_h5mu

    return read_h5mu(path)


def _after(before: list, outcome: TrainingResult) -> TrainingResult:
    """`outcome` with the epochs of earlier trainings before its own, as there."""
    n = 1 + before[-1]["epoch"] if before else 0
    rows = [{**row, "epoch": row["epoch"] + n} for row in outcome.history]
    best = None if outcome.best_epoch is None else outcome.best_epoch + n
    return replace(outcome, history=[*before, *rows], best_epoch=best)


def model_of(reference) -> Model:
    return reference._model if isinstance(reference, ScviModel) else _loaded(reference)


def _loaded(folder) -> Model:
    model: Any = api.load(folder)
    if model.name not in MODELS:
        raise FormatError(f"{folder} holds a published transformer", "load it with scduet.load")
    return model


def model_in(dir_path, prefix: str | None) -> Model:
    """The model in a folder of ours or of scvi-tools."""
    folder = _folder(dir_path, prefix)
    return _loaded(folder if native.is_ours(folder) else _foreign(Path(dir_path), prefix))


def _folder(dir_path, prefix: str | None) -> Path:
    return Path(dir_path) / prefix if prefix else Path(dir_path)


def _foreign(folder: Path, prefix: str | None) -> Path:
    """A folder of scvi-tools, or the one of its files that has the prefix."""
    named = folder / f"{prefix or ''}model.pt"
    return named if named.is_file() and prefix else folder
