"""scvi-tools' TOTALVI: what it has beside other models, or gives of proteins beside genes."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from scduet.data.locate import main_part
from scduet.errors import OptionError
from scduet.models.multimodal.proteins import draw_as_theirs
from scduet.nn.random import own_random_numbers
from scduet.scvi import settings
from scduet.scvi.analyses import View, as_theirs, chosen_cells
from scduet.scvi.setup import name_proteins, seed
from scduet.scvi.signatures import takes
from scduet.scvi.trained import MAX_MISSING, ScviModel, model_of
from scduet.scvi.training import with_plan
from scduet.tasks.comparison.calibration import calibration, summary
from scduet.tasks.comparison.fold_changes import called
from scduet.tasks.multimodal.protein_foreground import protein_foreground
from scduet.tasks.posterior import sampling
from scduet.tasks.posterior.expression import Wanted, expected_values
from scduet.tasks.posterior.latent import Modality, batch_codes, modality_of
from scduet.tasks.workflows import map_query

PROTEIN = "protein"
OF_PROTEINS = ("sample_protein_mixing", "scale_protein", "include_protein_background")


class TOTALVI(ScviModel):
    _first: ClassVar[str] = "adata"
    _setup: ClassVar[str] = "protein_expression_obsm_key!, protein_names_uns_key"
    _layers: ClassVar[dict[str, str]] = {"rna_layer": "layer", "protein_layer": "protein_key"}
    _errors: ClassVar[dict[str, str]] = {
        "reconstruction": "reconst_loss_gene",
        "reconstruction_protein": "reconst_loss_protein",
    }

    @classmethod
    def _fields_of(cls, adata, given: dict[str, Any]) -> dict[str, Any]:
        key = given.pop("protein_expression_obsm_key")
        name_proteins(adata, key, given.pop("protein_names_uns_key"))
        return {**given, "protein_key": f"obsm/{key}"}

    @takes(
        "max_epochs, lr=4e-3, accelerator='auto', devices='auto', train_size, validation_size, shuffle_set_split=True,"
        "batch_size=256, early_stopping=True, check_val_every_n_epoch, reduce_lr_on_plateau=True, n_steps_kl_warmup,"
        "n_epochs_kl_warmup, adversarial_classifier, datasplitter_kwargs, plan_kwargs, external_indexing, **"
    )
    def train(self, adversarial_classifier, external_indexing, more, **given):
        """Train; with an adversary where proteins are missing in a batch, unless adversarial_classifier says."""
        self._set_adversary(adversarial_classifier)
        if external_indexing is not None:
            splitter = given["datasplitter_kwargs"] or {}
            given["datasplitter_kwargs"] = {**splitter, "external_indexing": external_indexing}
        if given["n_steps_kl_warmup"] is None and given["n_epochs_kl_warmup"] is None:
            given["n_steps_kl_warmup"] = max(1, int(0.75 * self.adata.n_obs))
        self._train(with_plan({**given, **more}))

    def _set_adversary(self, wanted: bool | None) -> None:
        """Give the module an adversary, or take it away; None leaves it as it is."""
        module: Any = self._model.module
        if wanted is None or wanted == (module.adversary is not None):
            return
        if self._reference is not None:
            raise OptionError("adversarial_classifier=True would move the reference", "leave it out for a query")
        module.config = config = replace(self._model.config, adversarial_classifier=wanted)
        with own_random_numbers(seed()):
            module.add_adversary()
        module.to(self._model.device)
        self._model = replace(self._model, config=config)

    @takes(
        "adata, indices, n_samples_overall, transform_batch, gene_list, protein_list, library_size=1, n_samples=1,"
        "sample_protein_mixing=False, scale_protein=False, include_protein_background=False, batch_size,"
        "return_mean=True, return_numpy, silent=True"
    )
    def get_normalized_expression(
        self, adata, indices, n_samples_overall, transform_batch, gene_list, protein_list, library_size, **given
    ):
        """Shares of genes and counts of proteins, (cell x feature) each; draws not averaged are (cell, feature, draw).

        Of the same draws of states.
        """
        options, cells = {name: given[name] for name in OF_PROTEINS}, self._cells(adata, indices)
        rows, (genes, proteins) = chosen_cells(cells.n_obs, n_samples_overall), self._both(gene_list, protein_list)
        wanted = [Wanted(*genes, library_size), Wanted(*proteins, options=options)]
        draws = {name: given[name] for name in ("n_samples", "return_mean")} | self._sized(given["batch_size"])
        found = expected_values(self._model, cells, wanted, batch_codes(self._model, transform_batch), rows, **draws)
        if given["n_samples"] > 1 and not given["return_mean"]:
            return tuple(np.moveaxis(values, 0, -1) for values in found)
        if given["return_numpy"]:
            return tuple(values[0] for values in found)
        index = cells.obs_names if rows is None else cells.obs_names[rows]
        tables = zip(found, wanted, strict=True)
        return tuple(pd.DataFrame(values[0], index=index, columns=pd.Index(one.names)) for values, one in tables)

    @takes(
        "adata, indices, transform_batch, protein_list, n_samples=1, batch_size, return_mean=True, return_numpy,"
        "silent=True"
    )
    def get_protein_foreground_probability(
        self, adata, indices, protein_list, batch_size, return_numpy, silent, **same
    ):
        """Probability that a protein is beyond background (cell x protein); not averaged (cell, protein, draw)."""
        same |= {"protein_list": self._in_order(protein_list, PROTEIN), **self._sized(batch_size)}
        found = protein_foreground(self._model, self._cells(adata, indices), **same)
        if isinstance(found, np.ndarray):
            return np.moveaxis(found, 0, -1)
        return found.to_numpy() if return_numpy else found

    @takes("adata, indices, batch_size")
    def get_protein_background_mean(self, adata, indices, batch_size):
        """A draw of the background of each protein (cell, protein)."""
        module: Any = self._model.module

        def background(z, cells, batch):
            draw_as_theirs(z)
            return module.proteins(*module._state(z, cells, batch)).background

        cells, view = self._cells(adata, indices), View.of_modality(modality_of(self._model, PROTEIN), background)
        draws = {"n_samples": 1, "return_mean": True, **self._sized(batch_size)}
        return expected_values(self._model, cells, [Wanted(view, *view.places(None))], [None], None, **draws)[0][0]

    @takes(
        "adata, groupby, group1, group2, idx1, idx2, mode='change', delta=0.25, batch_size, all_stats=True,"
        "batch_correction=False, batchid1, batchid2, fdr_target=0.05, silent=False, protein_prior_count=0.1,"
        "scale_protein=False, sample_protein_mixing=False, include_protein_background=False, use_field,"
        "pseudocounts=1e-5, **"
    )
    def differential_expression(self, protein_prior_count, use_field, silent, **given):
        """Compare groups of cells: a row a comparison and gene or protein, proteins as "<name>_protein"."""
        fields = ["rna", PROTEIN] if use_field is None else list(use_field)
        if not fields or {*fields} - {"rna", PROTEIN}:
            raise OptionError(f"use_field={use_field!r}", "it is a list of 'rna', 'protein', or both")
        options, tables = {name: given.pop(name) for name in OF_PROTEINS}, []
        if "rna" in fields:
            tables.append(self._compare(silent=True, **given))
        if PROTEIN in fields:
            known = modality_of(self._model, PROTEIN)

            def with_prior_count(z, cells, batch):
                return known.normalized(z, cells, batch, **options) + protein_prior_count

            view = View.of_modality(known, with_prior_count)
            table = self._compare(silent=True, modality=view, **given).rename(index=lambda name: f"{name}_protein")
            table[[name for name in table if str(name).startswith("raw_normalized_mean")]] = np.nan
            tables.append(table)
        joined = _joined(tables, "bayes_factor" if given["mode"] == "vanilla" else "proba_de", given["fdr_target"])
        if not silent:
            print(summary(calibration(joined), "genes and proteins"))
        return as_theirs(joined, given["idx1"] is not None)

    @takes("adata, indices, n_samples=1, batch_size, gene_list, protein_list")
    def posterior_predictive_sample(self, adata, indices, n_samples, batch_size, gene_list, protein_list):
        """Counts drawn of genes and proteins, by modality: arrays (cell, feature[, draw]), of the same states."""
        cells, sized = self._cells(adata, indices), self._sized(batch_size)
        wanted = [(modality, place) for modality, place, _ in self._both(gene_list, protein_list)]
        drawn = sampling.draw_counts(self._model, cells, wanted, None, n_samples, None, **sized)
        arrays = [np.stack([draw.toarray() for draw in draws], -1) for draws in drawn]
        return dict(zip(self._names(), (a[..., 0] if n_samples == 1 else a for a in arrays), strict=True))

    @takes(
        "adata, indices, n_samples=10, batch_size=64, rna_size_factor=1000, transform_batch,"
        "correlation_type='spearman', log_transform=False, silent=True"
    )
    def get_feature_correlation_matrix(self, adata, indices, log_transform, silent, **same):
        """Correlation of genes and proteins in draws without counting noise and background (feature x feature)."""
        if log_transform and same["correlation_type"] != "spearman":
            remedy = "use correlation_type='spearman', of ranks, which a logarithm does not change"
            raise OptionError("log_transform=True has no counterpart here", remedy)
        both = [modality_of(self._model), Foreground(**vars(modality_of(self._model, PROTEIN)))]
        cells = self._cells(adata, indices)
        return sampling.feature_correlation(self._model, cells, modality=both, seed=settings.seed, **same)

    @takes(
        "minified_data_type='latent_posterior_parameters', use_latent_qzm_key='X_latent_qzm',"
        "use_latent_qzv_key='X_latent_qzv'"
    )
    def minify_mudata(self, **same):
        """As minify_adata."""
        self.minify_adata(**same)

    @classmethod
    def prepare_query_mudata(cls, mdata, reference_model, return_reference_var_names=False, inplace=True):
        """Give the modality of `mdata` with the genes those of the model, in its order; missing ones are zero.

        Proteins stay as they are: those that the model has and `mdata` lacks count as not measured.
        """
        model = model_of(reference_model)
        if return_reference_var_names:
            main, _ = main_part(mdata, model.schema.fields.layer)
            return {main: pd.Index(model.genes), **{name: pd.Index(v) for name, v in model.schema.features.items()}}
        prepared = map_query.prepare_query(mdata, model, max_missing=MAX_MISSING)
        if not inplace:
            return prepared
        mdata.mod.update(prepared.mod)
        mdata.update()
        return None

    def _both(self, gene_list, protein_list) -> list[tuple[Modality, np.ndarray, list[str]]]:
        """Genes and proteins: the modality, and places and names of those that are asked for, in the model's order."""
        asked = (
            (modality_of(self._model, name), wanted) for name, wanted in ((None, gene_list), (PROTEIN, protein_list))
        )
        return [(one, *one.places(self._in_order(wanted, one.name))) for one, wanted in asked]

    def _names(self) -> list[str]:
        """Names of the modalities of a MuData, or "rna" and "protein"."""
        fields: Any = self._model.schema.fields
        parts = [str(place).split("/") for place in (fields.layer, fields.protein_key)]
        return [p[1] if p[0] == "mod" else name for p, name in zip(parts, ("rna", PROTEIN), strict=True)]


@dataclass(frozen=True)
class Foreground(Modality):
    """Proteins without their background."""

    def of(self, z, cells, batch, log_library):
        mixture: Any = super().of(z, cells, batch, log_library)
        return replace(mixture, background=torch.zeros_like(mixture.background))


def _joined(tables: list[pd.DataFrame], key: str, fdr_target: float) -> pd.DataFrame:
    """One table of the same comparisons of several modalities, whose false calls are controlled together."""
    parts, whole = [], pd.concat(tables)
    for name in tables[0]["comparison"].unique():
        part = whole[whole["comparison"] == name].sort_values(key, ascending=False, kind="stable")
        for calls in [column for column in part if str(column).startswith("is_de_fdr_")]:
            tested = part["tested"].to_numpy()
            found = np.zeros(len(part), bool)
            found[tested] = called(part[key].to_numpy()[tested], fdr_target)
            part[calls] = found
        parts.append(part)
    joined = pd.concat(parts)
    joined.attrs["calibration"] = [check for table in tables for check in table.attrs["calibration"]]
    return joined
