"""The interface between data, models and training: minibatches in, a loss or an embedding out. Read this file first.

Axes are named ``cell``, ``gene``, ``latent``, ``entry`` (a stored count), ...
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

Expects = Literal["counts", "lognormal", "binary", "nonnegative", "any"]
Axis = Literal["cell", "feature", "feature-feature", "cell-cell", "table"]
Table = Mapping[str, tuple[Any, ...]]  # columns of equal length


@dataclass(frozen=True)
class SparseRows:
    """Rows of a sparse matrix in CSR format. Read-only, since it may share memory with the user's data."""

    data: Float[Tensor, " entry"]
    indices: Int[Tensor, " entry"]
    indptr: Int[Tensor, " pointer"]  # start of each row's entries, and end of the last row
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def flat_index(self) -> Int[Tensor, " entry"]:
        """Position of each entry in the flattened dense matrix."""
        return self.row * self.shape[1] + self.indices

    @cached_property
    def row(self) -> Int[Tensor, " entry"]:
        """Row of each entry, within these rows."""
        rows = torch.arange(len(self), device=self.indptr.device)
        return torch.repeat_interleave(rows, self.indptr.diff(), output_size=len(self.data))

    def dense(self, values: Float[Tensor, " entry"] | None = None) -> Float[Tensor, "row column"]:
        """The dense rows, with `values` (e.g. a function of the stored values) or the stored values."""
        given = self.data if values is None else values
        flat = torch.zeros(self.shape[0] * self.shape[1], dtype=given.dtype, device=given.device)
        return flat.put_(self.flat_index, given).view(self.shape)

    def sum(self) -> Float[Tensor, " row"]:
        """Total of each row."""
        if self.data.device.type == "cpu":  # several times as fast there
            return torch.segment_reduce(self.data, "sum", offsets=self.indptr, initial=0)
        return self.data.new_zeros(len(self)).index_add_(0, self.row, self.data)

    def take(self, rows: Int[Tensor, " taken"]) -> SparseRows:
        """Some of the rows, in this order."""
        length = self.indptr.diff()[rows]
        indptr = torch.cat([self.indptr[:1] * 0, length.cumsum(0)])
        entry = torch.repeat_interleave(self.indptr[rows] - indptr[:-1], length)
        entry += torch.arange(len(entry), device=entry.device)
        return SparseRows(self.data[entry], self.indices[entry], indptr, (len(rows), self.shape[1]))

    def to(self, device: torch.device | str) -> SparseRows:
        return _moved(self, device)


@dataclass(frozen=True)
class Covariates:
    """Covariates of cells other than batch and label, all optional."""

    categorical: Int[Tensor, "cell covariate"] | None = None  # codes
    continuous: Float[Tensor, "cell covariate"] | None = None
    size_factor: Float[Tensor, " cell"] | None = None

    def take(self, rows: Int[Tensor, " taken"]) -> Covariates:
        """Those of some of the cells."""
        known = (self.categorical, self.continuous, self.size_factor)
        return Covariates(*(None if values is None else values[rows] for values in known))

    def to(self, device: torch.device | str) -> Covariates:
        return _moved(self, device)


@dataclass(frozen=True)
class CellBatch:
    """A minibatch of cells, on one device."""

    x: Any  # the main matrix (cell, gene): SparseRows, or a Tensor if the model declares it as not sparse
    index: Int[Tensor, " cell"]  # row in the data set
    batch: Int[Tensor, " cell"]  # code of the technical batch
    label: Int[Tensor, " cell"] | None = None  # code of the cell type, -1 = unlabeled
    covariates: Covariates = field(default_factory=Covariates)
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])  # further inputs: SparseRows or Tensor
    measured: Mapping[str, Bool[Tensor, " cell"]] = field(default_factory=dict[str, "Tensor"])
    # for inputs ("x": the main matrix) not measured in every cell: which cells
    strata: tuple[CellBatch, ...] = ()  # additional cells, for separate loss terms: see `Stratified`

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> CellBatch:
        return _moved(self, device)


@dataclass(frozen=True)
class TokenBatch:
    """A minibatch of cells as sequences of gene tokens, on one device."""

    gene: Int[Tensor, "cell token"]
    padding: Bool[Tensor, "cell token"]  # True where there is no token
    index: Int[Tensor, " cell"]  # row in the data set
    value: Float[Tensor, "cell token"] | Int[Tensor, "cell token"] | None = None
    target: Tensor | None = None  # targets of a pre-training objective
    label: Int[Tensor, " cell"] | None = None
    batch: Int[Tensor, " cell"] | None = None

    def __len__(self) -> int:
        return len(self.gene)

    def to(self, device: torch.device | str) -> TokenBatch:
        return _moved(self, device)


@dataclass(frozen=True)
class Input:
    """A matrix or table that a model reads, declared in its `inputs`; "x" is the main matrix."""

    option: str  # field of the model's `Fields` with its location
    axis: Axis = "cell"
    # cell: rows in each minibatch, `CellBatch.extra`; cell-cell: likewise, with a column for each cell
    # feature, feature-feature: rows (and columns) in the order of the genes, in `Reference.arrays`
    # table: gene sets, edge lists, ... whose names need not be genes, in `Reference.tables`
    values: Expects = "counts"  # checked before training
    sparse: bool = False  # minibatches hold SparseRows, not a Tensor
    may_miss: bool = False  # missing values are NaN (dense), or cells that are False in `CellBatch.measured`, such as
    # those without any count in a sparse one
    required: bool = True  # False: the model also works without; it is then in neither `extra` nor `n_extra`
    names_of: Mapping[str, str] = field(default_factory=dict[str, str])  # of a table: columns with names of the columns
    # of an input, "x" for the genes used; each adds "<column>_row", their places there, -1 for what is none of them
    look_in: tuple[str, ...] = ()  # where plain names are looked up, in this order; empty: by the axis
    of_genes: bool = False  # cell: its columns are those of the main matrix, in their order


@dataclass(frozen=True)
class Player:
    """A part of a module with its own optimizer. The loss of the first player is the loss of the model."""

    name: str = "model"
    steps: int = 1  # consecutive minibatches before the next player's turn; if all have 1, each minibatch updates all
    lr: float = 1.0  # factor of the run's learning rate
    betas: tuple[float, float] = (0.9, 0.999)
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    weight_decay: float | None = None  # None for that of the run


class Measured(NamedTuple):
    """An array measured by a model, and the meaning of its rows: mapping a query adds rows for new batches."""

    values: NDArray[np.float32]
    axis: Literal["batch"] | None = None


@dataclass(frozen=True)
class Reference:
    """Data available to a module's constructor: sizes and named arrays."""

    n_genes: int
    n_batches: int = 1
    n_labels: int = 0
    n_categories: tuple[int, ...] = ()  # levels of each categorical covariate
    n_continuous: int = 0
    size_factor: bool = False  # whether the data have size factors
    n_cells: int = 0
    n_extra: Mapping[str, int] = field(default_factory=dict[str, int])  # columns of each further input
    arrays: Mapping[str, NDArray[np.float32]] = field(default_factory=dict[str, NDArray[np.float32]])
    # inputs about features, and what the model's `measure` returns
    axes: Mapping[str, str] = field(default_factory=dict[str, str])  # axes of measured arrays that have one
    tables: Mapping[str, Table] = field(default_factory=dict[str, "Table"])


@dataclass(frozen=True)
class Step:
    """The current training step."""

    epoch: int = 0
    kl_weight: float | Float[Tensor, ""] = 1.0
    player: str = "model"
    number: int = 0  # completed steps since training began
    progress: float = 0.0  # completed fraction of training: 0 at the first step, below 1 at the last
    lr: float = 0.0  # of the player
    generator: torch.Generator | None = None  # for random numbers outside the model, e.g. augmentation


def players_of(module: Any) -> tuple[Player, ...]:
    """The players of a module; a plain name is a player with default options."""
    return tuple(player if isinstance(player, Player) else Player(player) for player in module.players)


@dataclass(frozen=True)
class Loss:
    """The scalar to minimize (a mean over cells), and named terms to log, weighted by `n_cells`."""

    total: Float[Tensor, ""]
    terms: Mapping[str, Float[Tensor, ""]]
    n_cells: int


@runtime_checkable
class Module(Protocol):
    """A model is a plain `torch.nn.Module`, built as `Model(reference, config)`, with these members."""

    Config: ClassVar[type]
    players: ClassVar[tuple[str | Player, ...]]  # ("model",), or e.g. Player("generator"), Player("critic", steps=5)
    expects: ClassVar[Expects]  # of the main matrix; checked at fit
    # Optional members:
    # Fields: ClassVar[type]               scduet.data.schema.Fields with further options, one for each input
    # inputs: ClassVar[Mapping[str, Input]]
    # needs: ClassVar[Mapping[str, str]]   {argument of __init__: model}, a trained model to stand on: start= of fit
    # begin(cells: Cells)    sets the parameters from all cells before training, without gradients
    # measure_held(held: Model, config) -> dict[str, NDArray]    static; of that model, while it still has its cells
    # recipes: ClassVar[Mapping[str, Recipe]]    what the model decides of a recipe, see scduet.train.config
    # measure(cells: Cells, reference: Reference) -> dict[str, NDArray | Measured]    static; before it is built
    # parameters_of(player: str)          the weights of each of several players
    # after_step(step: Step)              called without gradients when a player has moved, e.g. to clip weights
    # per_cell: bool, or (Config) -> bool  True: parameters have a row for each of `Reference.n_cells` cells, picked by
    #                                      `CellBatch.index`; all of these cells are trained on, others are refused
    # strata: ClassVar["batch" | "label" | "labeled"]    minibatches hold equal numbers of each; or see `Stratified`.
    #                                                    The name of an input: of the cells with it and of those without

    def forward(self, cells: Any, step: Step) -> Loss: ...

    def embed(self, cells: Any) -> Float[Tensor, "cell latent"]: ...


@runtime_checkable
class Stratified(Protocol):
    """A module that trains on additional cells of certain strata, e.g. labeled ones, in each minibatch."""

    def strata(self, label: NDArray[np.int64], draw: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
        """Indices, among cells with these labels, of the cells of each stratum in an epoch.

        Each minibatch adds as many cells of a stratum as it has itself, or all if there are fewer, cycling through the
        stratum. Empty strata are skipped.
        """
        ...


def has_cells(cls: type, config: Any) -> bool:
    """Whether a model of this class has parameters for each cell, and so knows the cells trained on alone."""
    per_cell: Any = getattr(cls, "per_cell", False)
    return bool(per_cell(config) if callable(per_cell) else per_cell)


Part = TypeVar("Part", SparseRows, Covariates, CellBatch, TokenBatch)


def _moved(part: Part, device: torch.device | str) -> Part:
    """Move all tensors of the dataclass to `device`; returns itself if they are there already."""
    here = getattr(part, "index", None)
    if isinstance(here, Tensor) and here.device == torch.device(device):
        return part
    return replace(part, **{f.name: _to(getattr(part, f.name), device) for f in fields(part)})


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, (SparseRows, Covariates, CellBatch)):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_to(part, device) for part in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, Mapping):
        return {k: _to(v, device) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return value


MakeBatch = Callable[[Any], "CellBatch | TokenBatch"]  # rows of the data set -> minibatch
