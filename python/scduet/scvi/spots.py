"""scvi-tools' models of spots and of their references: CondSCVI and DestVI, RNAStereoscope and SpatialStereoscope."""

from __future__ import annotations

from scduet._torch import torch

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix
from torch import Tensor

from scduet.contract import has_cells
from scduet.data.selection import selected
from scduet.errors import OptionError
from scduet.models.spatial.components import prior_components, vamp_components
from scduet.nn.layers import rsample
from scduet.options import listed
from scduet.scvi import settings
from scduet.scvi.registry import unavailable
from scduet.scvi.setup import KEY, note, noted, untrained
from scduet.scvi.signatures import takes
from scduet.scvi.trained import ScviModel, built
from scduet.scvi.training import with_plan
from scduet.tasks.posterior.latent import seeded
from scduet.tasks.spatial.deep import proportions_of, types_of

ON_SPLIT = "accelerator='auto', devices='auto', train_size=1, validation_size, shuffle_set_split=True, batch_size=128,"
ON_ALL = "accelerator='auto', devices='auto', shuffle_set_split=True, batch_size=128,"
LAST = "datasplitter_kwargs, plan_kwargs, **"
NOISE = "noise_term"  # column of what is of no type
WEIGHTS = (  # of terms of DestVI's loss, there among plan_kwargs
    *("ct_sparsity_weight", "weighting_augmentation", "weighting_smoothing", "eta_reg", "beta_reg"),
    *("weighting_kl_latent", "reconst_weight"),
)
COMPONENTS = ("mean_vprior", "var_vprior", "weights_vprior")


class CondSCVI(ScviModel):
    @classmethod
    @takes("adata!, batch_key, labels_key, fine_labels_key, layer, unlabeled_category='unlabeled', size_factor_key")
    def setup_anndata(cls, adata, fine_labels_key, **given):
        """Remember in `adata` where the model finds what it reads."""
        fine = None if fine_labels_key is None else f"obs/{fine_labels_key}"
        note(adata, cls.__name__, {**given, "fine_labels_key": fine}, cls._name)  # type: ignore[attr-defined]

    def _given(self, adata: AnnData, options: dict[str, Any]) -> dict[str, Any]:
        return {"prior": "normal", **options}  # their default

    @takes(f"max_epochs=300, lr=1e-3, {ON_SPLIT} {LAST}")
    def train(self, more, **given):
        """Train on all cells, or hold out the rest of train_size."""
        self._train(self._weighted(with_plan({**given, **more}), "classification_ratio"))

    @takes("adata, p=10")
    def get_vamp_prior(self, adata, p):
        """Means, variances (label, component, latent) and weights (label, component) of the states of each type.

        Those of its prior where that is a mixture; else of `p` clusters of the cells of each type.
        """
        if self._model.config.prior == "mog":
            found = prior_components(self._model)
        else:
            found = vamp_components(self._model, self._cells(adata, None), p)
        return dict(zip(COMPONENTS, found, strict=True))

    @takes("adata, indices, soft=False, batch_size, use_posterior_mean=True")
    def predict(self, adata, indices, soft, batch_size, use_posterior_mean):
        """Names of the fine types, or with soft=True their probabilities (cell x type).

        Raises OptionError for a model that was set up without fine_labels_key.
        """
        module: Any = self._model.module
        cells, size = self._cells(adata, indices), batch_size or settings.batch_size

        def share(batch) -> Tensor:
            mean, variance = module.posterior(batch)
            z = mean if use_posterior_mean else rsample(mean, variance)
            return module.fine_logits(z, batch.label).softmax(-1)

        with seeded(settings.seed):
            found = self._model.map(share, cells, size).cpu().numpy()
        table = pd.DataFrame(found, cells.obs_names, pd.Index(_fine_types(self)))
        return table if soft else table.columns.to_numpy()[found.argmax(1)]

    confusion_coarse_celltypes = unavailable(
        "confusion_coarse_celltypes", "use get_reconstruction_error with cells whose types you have exchanged"
    )


class RNAStereoscope(ScviModel):
    get_latent_representation = unavailable("get_latent_representation", "Stereoscope has no states: use CondSCVI")

    @takes("sc_adata!, **", "__init__")
    def __init__(self, sc_adata, more):
        built(self, sc_adata, more=more)

    def _given(self, adata: AnnData, options: dict[str, Any]) -> dict[str, Any]:
        return {"initialization": "random", **options}  # their start

    @takes(f"max_epochs=400, lr=1e-2, {ON_SPLIT} {LAST}")
    def train(self, more, **given):
        """Train on all cells, or hold out the rest of train_size."""
        self._train(with_plan({**given, **more}))


class _Spots(ScviModel):
    """What both models of spots share; they are made by `from_rna_model`."""

    _name = ""

    @property
    def cell_type_mapping(self) -> np.ndarray:
        """The types of the reference, in the order of the columns."""
        return np.array(types_of(self._model), dtype=object)

    @classmethod
    def _on(cls, spots: AnnData, reference: Any, wanted: type, options: dict[str, Any]):
        """An untrained model of spots that stands on the reference."""
        if not isinstance(reference, wanted):
            given = type(reference).__name__
            raise OptionError(f"{cls.__name__} stands on a {wanted.__name__}, not on a {given}", "pass sc_model")
        fields = noted(spots, cls.__name__, cls._name)
        return cls._holding(untrained(spots, cls._name, fields, options, on=reference._model), spots, is_trained=False)


class DestVI(_Spots):
    __init__ = unavailable("DestVI.__init__", "use DestVI.from_rna_model(st_adata, sc_model)")

    @classmethod
    @takes("adata!, layer, smoothed_layer, batch_key")
    def setup_anndata(cls, adata, **given):
        """Remember in `adata` where the model finds what it reads."""
        note(adata, cls.__name__, given, cls._name)  # type: ignore[attr-defined]

    @classmethod
    def from_rna_model(
        cls,
        st_adata: AnnData,
        sc_model: CondSCVI,
        vamp_prior_p: int = 15,
        anndata_setup_kwargs: dict[str, Any] | None = None,
        **module_kwargs,
    ) -> DestVI:
        """A DestVI of spots on the decoder of a trained CondSCVI of either prior.

        Spots that were not set up have their counts and batches where the cells of the reference have them.
        anndata_setup_kwargs: arguments of setup_anndata, in place of both. module_kwargs: options of the model.
        Raises DataError for spots that lack genes of the reference.
        """
        if anndata_setup_kwargs is not None or json.loads(st_adata.uns.get(KEY, "{}")).get("model") != cls.__name__:
            fields = sc_model._model.schema.fields
            cls.setup_anndata(
                st_adata, **{"layer": fields.layer, "batch_key": fields.batch_key, **(anndata_setup_kwargs or {})}
            )
        return cls._on(st_adata, sc_model, CondSCVI, {"vamp_prior_p": vamp_prior_p, **module_kwargs})

    @takes(f"max_epochs=2000, lr=3e-3, {ON_SPLIT} n_epochs_kl_warmup=200, {LAST}")
    def train(self, more, **given):
        """Train on all spots, or hold out the rest of train_size."""
        self._train(self._weighted(with_plan({**given, **more}), *WEIGHTS))

    @property
    def cell_type_mapping_extended(self) -> list[Any]:
        """The types of the reference, then the further ones, "additional_0" etc."""
        further = [f"additional_{i}" for i in range(self._model.config.add_celltypes)]
        return [*self.cell_type_mapping, *further]

    @takes("keep_additional=False, normalize=True, indices, batch_size")
    def get_proportions(self, keep_additional, normalize, indices, batch_size):
        """Share of each type in the RNA of the spots (spot x type)."""
        module: Any = self._model.module
        found, names = self._of_spots(lambda s: module.mixture(s.x.dense(), s).proportions, indices, batch_size)
        types = self.cell_type_mapping_extended if keep_additional else list(self.cell_type_mapping)
        found = found[:, : len(types)]
        return pd.DataFrame(found / found.sum(1, keepdims=True) if normalize else found, names, pd.Index(types))

    @takes("indices, batch_size, return_numpy=False")
    def get_gamma(self, indices, batch_size, return_numpy):
        """State of the cells of each type in the spots: a table (spot x latent) a type, or (spot, latent, type)."""
        module: Any = self._model.module
        found, names = self._of_spots(lambda s: module.states(s).transpose(1, 2), indices, batch_size)
        if return_numpy:
            return found
        columns = [str(i) for i in range(found.shape[1])]
        return {kind: pd.DataFrame(found[:, :, i], names, columns) for i, kind in enumerate(self.cell_type_mapping)}

    @takes("sc_model!, indices, batch_size")
    def get_fine_celltypes(self, sc_model, indices, batch_size):
        """Share of each fine type in the RNA of the spots (spot x fine type); of a spot they sum to that of all types.

        sc_model: the CondSCVI that this model was made from. Raises OptionError where it was set up without
        fine_labels_key.
        """
        module, known = self._model.module, sc_model._model.module
        columns = pd.Index(_fine_types(sc_model))

        def share(spots) -> Tensor:
            mixture = module.mixture(spots.x.dense(), spots)  # type: ignore[operator]
            label = torch.arange(module.n_labels, device=mixture.states.device)  # type: ignore[arg-type]
            label = label.expand(mixture.weights.shape).flatten()
            fine = known.fine_logits(mixture.states.flatten(0, 2), label).softmax(-1)  # type: ignore[operator]
            amount = mixture.weights * mixture.proportions[:, None, : module.n_labels]
            return torch.einsum("pmc,pmcf->pf", amount, fine.view(*amount.shape, -1))

        return pd.DataFrame(*self._of_spots(share, indices, batch_size), columns)

    @takes("adata, indices, give_mean=True, mc_samples=5000, batch_size, return_dist=False")
    def get_latent_representation(self, adata, indices, give_mean, batch_size, return_dist, **_):
        """The latent space that the networks read from (spot, latent), of a model with n_latent_amortization."""
        module: Any = self._model.module
        if not hasattr(module, "encoder"):
            raise OptionError("this DestVI has no latent space", "make one with n_latent_amortization=")
        both, _ = self._of_spots(
            lambda s: torch.stack(module.code_posterior(s.x.dense().log1p(), s), 1), indices, batch_size, adata
        )
        mean, variance = torch.from_numpy(both).unbind(1)
        if return_dist:
            return mean.numpy(), variance.numpy()
        with seeded(settings.seed):
            return (mean if give_mean else rsample(mean, variance)).numpy()

    @takes("label!, indices, batch_size")
    def get_scale_for_ct(self, label, indices, batch_size):
        """Expected share of each gene in the cells of a type in the spots (spot x gene)."""
        module, code = self._model.module, self._code(label)
        found = self._of_spots(lambda spots: module.type_shares(spots, code), indices, batch_size)  # type: ignore[operator]
        return pd.DataFrame(*found, pd.Index(self._model.genes))

    @takes("label!, indices, batch_size, return_sparse_array=False")
    def get_expression_for_ct(self, label, indices, batch_size, return_sparse_array):
        """The counts that a type is expected to have given (spot x gene); as a sparse matrix (gene, spot), as there."""
        module, code = self._model.module, self._code(label)
        found, names = self._of_spots(lambda spots: module.type_counts(spots, code), indices, batch_size)  # type: ignore[operator]
        return csr_matrix(found.T) if return_sparse_array else pd.DataFrame(found, names, pd.Index(self._model.genes))

    def _code(self, label: Any) -> int:
        known = self.cell_type_mapping_extended
        if label not in known:
            raise OptionError(f"label={label!r} is no cell type of this model", f"it knows {known}")
        return known.index(label)

    def _of_spots(self, asked: Callable[[Any], Tensor], indices, batch_size, adata=None) -> tuple[np.ndarray, pd.Index]:
        """What is asked of spots, and their names. Free parameters are found by place, so of all spots at once."""
        spots, size = self._cells(adata, None), batch_size or settings.batch_size
        if indices is None:
            return self._model.map(asked, spots, size).cpu().numpy(), spots.obs_names
        rows = selected(indices, spots.obs_names, spots.obs, "indices")
        if has_cells(type(self._model.module), self._model.config):
            found = self._model.map(asked, spots, size).cpu().numpy()[rows]
        else:
            found = self._model.map(asked, spots[rows], size).cpu().numpy()
        return found, spots.obs_names[rows]


class SpatialStereoscope(_Spots):
    __init__ = unavailable("SpatialStereoscope.__init__", "use SpatialStereoscope.from_rna_model(st_adata, sc_model)")
    get_latent_representation = unavailable("get_latent_representation", "use get_proportions")

    @classmethod
    def from_rna_model(
        cls, st_adata: AnnData, sc_model: RNAStereoscope, prior_weight: str = "n_obs", **model_kwargs
    ) -> SpatialStereoscope:
        """A SpatialStereoscope of spots on the profiles of a trained RNAStereoscope.

        prior_weight: "n_obs", or "minibatch" as in the original. initialization="closed" starts at non-negative least
        squares. Raises DataError for spots that lack genes of the reference.
        """
        options = {"prior_weight": prior_weight, "initialization": "random", **model_kwargs}
        return cls._on(st_adata, sc_model, RNAStereoscope, options)

    @takes(f"max_epochs=400, lr=1e-2, {ON_ALL} {LAST}")
    def train(self, more, **given):
        """Train on all spots."""
        self._train(with_plan({"train_size": 1.0, **given, **more}))

    @takes("keep_noise=False")
    def get_proportions(self, keep_noise):
        """Share of each type in the RNA of the spots (spot x type); with keep_noise also of what is of none."""
        found = proportions_of(self._model, self._cells(None, None), keep_additional=keep_noise)
        return found.rename(columns={"additional_0": NOISE})

    @takes("y!")
    def get_scale_for_ct(self, y):
        """Expected counts of each gene of the types named in `y` (type, gene)."""
        known, wanted = list(self.cell_type_mapping), listed("y", y)
        strange = [kind for kind in wanted if kind not in known]
        if strange:
            raise OptionError(f"y has {strange[0]!r}, which is no cell type of this model", f"it knows {known}")
        rates = self._model.module.type_rates().detach().cpu().numpy()  # type: ignore[operator]
        return rates[[known.index(kind) for kind in wanted]]


def _fine_types(model: CondSCVI) -> list[str]:
    """Names of the fine types. Raises OptionError for a model that learned none."""
    features: Any = model._model.schema.features
    if "fine" not in features:
        raise OptionError("this CondSCVI learned no fine types", "pass fine_labels_key= to CondSCVI.setup_anndata")
    return list(features["fine"])
