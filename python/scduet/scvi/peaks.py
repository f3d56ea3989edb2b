"""scvi-tools' PEAKVI and POISSONVI: what they have beside other models, accessibility of peaks."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.errors import OptionError
from scduet.scvi.analyses import View, as_theirs, chosen_cells, refuse_weights
from scduet.scvi.registry import unavailable
from scduet.scvi.signatures import takes
from scduet.scvi.trained import ScviModel
from scduet.scvi.training import with_plan
from scduet.tasks.multimodal.accessibility import (
    accessibility_of,
    cell_factors,
    normalized_accessibility,
    region_factors,
)
from scduet.tasks.posterior.expression import Wanted, expected_values
from scduet.tasks.posterior.latent import batch_codes, modality_of

EMPIRICAL = {f"non_zeros_proportion{i}": f"emp_prob{i}" for i in (1, 2)}
GROUPS = "adata, groupby, group1, group2, idx1, idx2, mode='change', delta=0.05, batch_size, all_stats=True,"
GROUPS += "batch_correction=False, batchid1, batchid2, fdr_target=0.05, silent=False"


class PEAKVI(ScviModel):
    _layers: ClassVar[dict[str, str]] = {"atac_layer": "layer"}
    get_normalized_function_name = "get_normalized_accessibility"

    @takes(
        "max_epochs=500, lr=1e-4, accelerator='auto', devices='auto', train_size, validation_size,"
        "shuffle_set_split=True, batch_size=128, weight_decay=1e-3, eps=1e-8, early_stopping=True,"
        "early_stopping_patience=50, check_val_every_n_epoch, n_steps_kl_warmup, n_epochs_kl_warmup=50,"
        "datasplitter_kwargs, plan_kwargs, datamodule, **"
    )
    def train(self, more, **given):
        """Train, until the reconstruction of held-out cells gets no better."""
        watched = {"early_stopping_monitor": "reconstruction_loss_validation"}
        self._train(with_plan({**watched, **given, **more}))

    @takes("adata, indices, batch_size=128")
    def get_library_size_factors(self, adata, indices, batch_size):
        """How much is seen of each cell (cell): its depth, or of POISSONVI its number of fragments."""
        return cell_factors(self._model, self._cells(adata, indices)).to_numpy()

    def get_region_factors(self) -> np.ndarray:
        """How well each peak is seen (peak): 0 to 1, or of POISSONVI the logit that it adds to its share."""
        if not getattr(self._model.config, "region_factors", True):
            raise RuntimeError("region factors were not included in this model")
        return region_factors(self._model).to_numpy()

    @takes(
        "adata, indices, n_samples_overall, region_list, transform_batch, use_z_mean=True, threshold,"
        "normalize_cells=False, normalize_regions=False, batch_size=128, return_numpy=False"
    )
    def get_normalized_accessibility(
        self, adata, indices, n_samples_overall, region_list, threshold, batch_size, return_numpy, **same
    ):
        """Probability that each peak is open (cell x peak); with a threshold sparse, and zero below it."""
        cells = self._cells(adata, indices)
        same |= {"rows": chosen_cells(cells.n_obs, n_samples_overall), **self._sized(batch_size)}
        names = self._in_order(region_list, "peaks")
        found = normalized_accessibility(self._model, cells, region_list=names, threshold=threshold or None, **same)
        if return_numpy:
            return found if sp.issparse(found) else found.to_numpy()  # type: ignore[union-attr]
        if not sp.issparse(found):
            return found
        index = cells.obs_names if same["rows"] is None else cells.obs_names[same["rows"]]
        return pd.DataFrame.sparse.from_spmatrix(
            found, index=index, columns=names or modality_of(self._model, "peaks").features
        )

    @takes(f"{GROUPS}, **")
    def differential_accessibility(self, **given):
        """Compare groups of cells: a row a comparison and peak. By the log2 fold change, as there since 1.3."""
        return self._accessibility_compared(**given)

    def _accessibility_compared(self, **given) -> pd.DataFrame:
        table, vanilla = self._compared(**given), given["mode"] == "vanilla"
        found = {
            "prob_da": table["proba_m1" if vanilla else "proba_de"],
            "is_da_fdr": None if vanilla else table[f"is_de_fdr_{given['fdr_target']}"],
            "bayes_factor": table["bayes_factor"],
            "effect_size": table["scale2"] - table["scale1"],
            "emp_effect": table["emp_prob2"] - table["emp_prob1"],
            **{f"est_prob{i}": table[f"scale{i}"] for i in (1, 2)},
            **{f"emp_prob{i}": table[f"emp_prob{i}"] for i in (1, 2)},
        }
        if (
            "comparison" in table and table["comparison"].nunique() > 1
        ):  # where nothing there says which row is of which
            found |= {name: table[name] for name in ("comparison", "group1", "group2")}
        made = pd.DataFrame(found, index=table.index)
        made.attrs = table.attrs
        return made

    def _compared(self, all_stats, **given) -> pd.DataFrame:
        """Their differential expression of the accessibility of peaks, with how often each is open."""
        table = self._compare(all_stats=True, **{"modality": "peaks", **given}).rename(columns=EMPIRICAL)
        table = table.drop(columns=[name for name in table if str(name).startswith("raw_")])
        place = list(table).index("emp_prob2") + 1
        table.insert(place, "emp_effect", table["emp_prob1"] - table["emp_prob2"])
        return as_theirs(table, given["idx1"] is not None)


class POISSONVI(PEAKVI):
    _first: ClassVar[str] = "adata"
    differential_expression = unavailable("differential_expression", "use differential_accessibility")

    @takes(
        "adata, indices, transform_batch, region_list, library_size=1, normalize_regions=False, n_samples=1,"
        "n_samples_overall, weights, batch_size=128, return_mean=True, return_numpy=False"
    )
    def get_normalized_accessibility(
        self, adata, indices, transform_batch, region_list, library_size, normalize_regions, **given
    ):
        """Shares of peaks (cell x peak), of draws not averaged (draw, cell, peak)."""
        refuse_weights(given["weights"])
        cells, view = self._cells(adata, indices), self._shares(normalize_regions)
        rows = chosen_cells(cells.n_obs, given["n_samples_overall"])
        wanted = Wanted(view, *view.places(self._in_order(region_list)), library_size)
        draws = {name: given[name] for name in ("n_samples", "return_mean")} | self._sized(given["batch_size"])
        (found,) = expected_values(
            self._model, cells, [wanted], batch_codes(self._model, transform_batch), rows, **draws
        )
        if given["n_samples"] > 1 and not given["return_mean"]:
            return found
        if given["return_numpy"] or rows is not None:
            return found[0]
        return pd.DataFrame(found[0], index=cells.obs_names, columns=pd.Index(wanted.names))

    @takes(f"{GROUPS}, two_sided=True, weights='uniform', filter_outlier_cells=False, importance_weighting_kwargs, **")
    def differential_accessibility(self, two_sided, **given):
        """Compare groups of cells by the log2 fold change of shares: a row a comparison and peak."""
        if not two_sided:
            raise OptionError("two_sided=False has no counterpart here", "keep the rows with lfc_median above 0")
        return self._compared(modality=self._shares(False), **given)

    def _shares(self, normalize_regions: bool) -> View:
        module: Any = accessibility_of(self._model)

        def shares(z, cells, batch):
            return module.accessibility(z, cells, batch, normalize_regions)

        return View.of_modality(modality_of(self._model, "peaks"), shares)
