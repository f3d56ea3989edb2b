"""Proportions of cell types by the deep models: the reference is trained first, then the spots on it."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scduet.api import Model, fit
from scduet.contract import has_cells
from scduet.data.locate import column
from scduet.data.schema import Fields
from scduet.errors import DataError, OptionError
from scduet.models import MODELS, find
from scduet.options import options_of, refuse_unknown
from scduet.tasks.spatial.fitting import DeepFit

OF_REFERENCE = "reference_"  # how options of the reference's training begin
OF_BOTH = ("seed", "accelerator", "callback", "allow_non_integer")


def deep_proportions(
    model: str,
    spots: Any,
    reference: Any,
    *,
    labels_key: str | None = None,
    layer: str | None = None,
    genes: Any = None,
    **options: Any,
) -> tuple[pd.DataFrame, list[Model]]:
    """Train `model` on spots, on a reference of single cells; return proportions and the trained models.

    model: "destvi" or "stereoscope".
    reference: AnnData with raw counts of single cells, and cell types in obs[labels_key]; or a trained model of such
        cells ("condscvi", "stereoscope_cells"), whose genes are then used. Cells without a type are left out.
    layer: of the counts, in both. genes: names of those to use, None for those of the reference that the spots have.
    options: of the training on spots and of the model; `reference_max_epochs` etc. of that on the reference. `seed`,
        `accelerator`, `callback` and `allow_non_integer` are for both.

    Returns the proportions (spot x type), which are shares of RNA and sum to 1, and both models, the reference first.
    Raises DataError where spots and reference share no gene, and OptionError for models that have no proportions.
    """
    needed = next(iter(getattr(find(model), "needs", {}).values()), None)
    if needed is None or not hasattr(find(model), "proportions"):
        known = [name for name in MODELS if hasattr(find(name), "proportions")]
        raise OptionError(f"{model!r} gives no proportions of spots", f"choose from {known}")
    own, shared = _separated(options, model, needed)
    if isinstance(reference, Model):
        known = reference
    else:
        genes = _shared_genes(spots, reference) if genes is None else genes
        where = {"labels_key": labels_key, "layer": layer, "genes": genes}
        known = fit(_labeled(reference, labels_key), needed, **where, **shared)
    trained = fit(spots, model, start=known, layer=layer, **own)
    return proportions_of(trained), [known, trained]


def fit_spots(model: str, spots: AnnData, reference: AnnData, **options: Any) -> DeepFit:
    """`deep_proportions` for `deconvolve`, with a function that gives the proportions from other counts of the spots.

    A network reads these as they are; a model with parameters of each spot is trained on them, on the same reference.
    """
    found, models = deep_proportions(model, spots, reference, **options)
    trained = models[-1]

    def again(counts: sp.csr_matrix) -> pd.DataFrame:
        seen = np.flatnonzero(np.asarray(counts.sum(1)).ravel() > 0)
        part = spots[seen].copy()
        part.X = counts[seen]
        if has_cells(find(model), trained.config):
            table = deep_proportions(model, part, models[0], **options)[0]
        else:
            table = proportions_of(trained, part)
        share = np.zeros(found.shape)
        share[seen] = table[found.columns]
        return pd.DataFrame(share, found.index, found.columns)

    return DeepFit(found, models, again=again)


def fit_ensemble(model: str, samples: AnnData, reference: AnnData, labels_key: str, **options: Any) -> DeepFit:
    """Train `model` ("scaden") on mixtures of the reference's cells, and let its networks read the samples."""
    known = [option.name for option in options_of(model) if option.name != "per"]
    refuse_unknown(options, [*known, "callback"], f"model {model!r}")
    trained = fit(
        _labeled(reference, labels_key), model, labels_key=labels_key, per="rna", allow_non_integer=True, **options
    )
    module: Any = trained.module
    types = list(trained.schema.values(labels_key))
    found = trained.map(module.members, samples).cpu().numpy().transpose(1, 0, 2)
    mean, *members = (pd.DataFrame(share, samples.obs_names, types) for share in (found.mean(0), *found))
    return DeepFit(mean, [trained], tuple(members))


def proportions_of(model: Model, adata: Any = None, keep_additional: bool = False) -> pd.DataFrame:
    """Proportions (spot x type) of a trained deep model: shares of RNA, which sum to 1.

    adata: None for the spots trained on. keep_additional: also of what is of none of the types, in the last columns.
    """
    module: Any = model.module
    if not hasattr(module, "proportions"):
        raise OptionError(f"{model.name!r} gives no proportions of spots", "use destvi or stereoscope")
    found = model.map(lambda cells: module.proportions(cells, keep_additional), adata).cpu().numpy()
    types = types_of(model)
    types += [f"additional_{i}" for i in range(found.shape[1] - len(types))]
    return pd.DataFrame(found, index=None if adata is None else adata.obs_names, columns=pd.Index(types))


def types_of(model: Model) -> list[Any]:
    """The cell types of the reference that the model stands on, in the order of its columns."""
    schema = next(iter(model.holds.values())).schema
    return list(schema.values(str(schema.fields.labels_key)))


def _separated(options: dict[str, Any], model: str, needed: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the model of spots, and of that of the reference."""
    of_reference = {k.removeprefix(OF_REFERENCE): v for k, v in options.items() if k.startswith(OF_REFERENCE)}
    own = {name: value for name, value in options.items() if not name.startswith(OF_REFERENCE)}
    both = {name: value for name, value in own.items() if name in OF_BOTH}
    for given, name in ((own, model), (of_reference, needed)):
        refuse_unknown(given, [*OF_BOTH, *(option.name for option in options_of(name))], f"model {name!r}")
    return own, {**both, **of_reference}


def _labeled(reference: Any, labels_key: str | None) -> Any:
    """The cells whose type is known."""
    kind = None if labels_key is None else column(reference, labels_key)
    known = True if kind is None else (kind.notna() & (kind.astype(str) != Fields.unlabeled_category)).to_numpy()
    return reference if np.all(known) else reference[known]


def _shared_genes(spots: Any, reference: Any) -> tuple[str, ...]:
    genes = reference.var_names[reference.var_names.isin(spots.var_names)]
    if len(genes) == 0:
        remedy = "are they symbols in one and Ensembl ids in the other?"
        raise DataError("the spots share no gene with the reference", remedy)
    return tuple(genes)
