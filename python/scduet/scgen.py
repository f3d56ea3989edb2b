"""scgen's public names over our engine: `from scduet.scgen import SCGEN` in place of `from scgen import SCGEN`.

What differs, all on purpose: the shift is a mean over cell types that have cells of both conditions, computed without
random sampling, so that `predict` gives the same cells each time and does not mix the difference between types into
the effect; cells keep their names and order in `batch_removal`; types with one batch are decoded where they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scduet.errors import DataError, OptionError, some
from scduet.metrics.perturbation import squared_pearson
from scduet.scvi.registry import no_more
from scduet.scvi.setup import note, noted, untrained
from scduet.scvi.trained import ScviModel
from scduet.tasks.perturbation.arithmetic import decoded, predict_by_arithmetic, remove_batches

__all__ = ["SCGEN"]


class SCGEN(ScviModel):
    """scGen: see `scduet.models.perturbation.scgen`. X holds log-normalized values."""

    _name = "scgen"

    def __init__(self, adata, n_hidden=800, n_latent=100, n_layers=2, dropout_rate=0.2, **model_kwargs):
        sizes = {"n_hidden": n_hidden, "n_latent": n_latent, "n_layers": n_layers, "dropout_rate": dropout_rate}
        fields = noted(adata, "SCGEN", self._name)
        self._hold(untrained(adata, self._name, fields, {**sizes, **model_kwargs}), adata, is_trained=False)

    @classmethod
    def setup_anndata(cls, adata, batch_key=None, labels_key=None, layer=None, **kwargs) -> None:
        """batch_key: the column of the condition (or, for `batch_removal`, of the batch). labels_key: cell types."""
        no_more("setup_anndata", kwargs)
        fields = {"batch_key": batch_key, "labels_key": labels_key, "layer": layer}
        note(adata, cls.__name__, fields, cls._name)

    def train(self, max_epochs=100, *args, batch_size=128, **kwargs) -> None:  # type: ignore[override]
        """Train; options as of scvi-tools, e.g. early_stopping=True, early_stopping_patience=25."""
        super().train(max_epochs, *args, batch_size=batch_size, **kwargs)

    def predict(
        self,
        ctrl_key=None,
        stim_key=None,
        adata_to_predict=None,
        celltype_to_predict=None,
        restrict_arithmetic_to="all",
    ) -> tuple[AnnData, np.ndarray]:
        """Control cells as they would be under `stim_key`, and the shift of their states (latent,).

        adata_to_predict: control cells; or celltype_to_predict: those of this type among the model's cells.
        restrict_arithmetic_to: {column: values} of the cells that tell the shift, e.g. {"cell_type": ["B"]}.
        """
        condition, types = self._columns()
        if (adata_to_predict is None) == (celltype_to_predict is None):
            raise OptionError("predict needs cells", "pass either adata_to_predict or celltype_to_predict")
        for option, value in (("ctrl_key", ctrl_key), ("stim_key", stim_key)):
            if value is None:
                raise OptionError(f"{option} is missing", f"name a value of obs[{condition!r}]")
        cells, control = self.adata, adata_to_predict
        if control is None:
            of_type = (cells.obs[types].astype(str) == str(celltype_to_predict)).to_numpy()
            rows = of_type & (cells.obs[condition].astype(str) == str(ctrl_key)).to_numpy()
            if not rows.any():
                there = f"obs[{types!r}] has {some(pd.unique(cells.obs[types]), 12)}"
                raise DataError(f"no cell of {celltype_to_predict!r} is {ctrl_key!r} in obs[{condition!r}]", there)
            control = cells[rows]
        used = cells if isinstance(restrict_arithmetic_to, str) else cells[_restricted(cells, restrict_arithmetic_to)]
        keys = condition, str(ctrl_key), str(stim_key), types
        found, shift = predict_by_arithmetic(self._model, used, control, *keys, clip=False)
        return AnnData(found, obs=control.obs.copy(), var=pd.DataFrame(index=pd.Index(self._model.genes))), shift

    def batch_removal(self, adata=None) -> AnnData:
        """Cells without the differences between batches within a type; obsm has "latent" and "corrected_latent"."""
        batch, types = self._columns()
        cells = self.adata if adata is None else adata
        found, moved = remove_batches(self._model, cells, batch, types)
        corrected = AnnData(found, obs=cells.obs.copy(), var=pd.DataFrame(index=pd.Index(self._model.genes)))
        corrected.obsm["latent"], corrected.obsm["corrected_latent"] = self._model.embed(cells), moved
        return corrected

    def get_decoded_expression(self, adata=None, indices=None, batch_size=None) -> np.ndarray:
        """Reconstructed expression (cell, gene)."""
        return decoded(self._model, self._model.embed(self._cells(adata, indices)))

    def reg_mean_plot(self, adata, axis_keys, labels, **options) -> float | tuple[float, float]:
        """Mean expression of one group of cells against that of another, with R² (squared Pearson correlation).

        axis_keys: {"x": , "y": } values of the condition. labels: of the axes. gene_list: genes to name.
        top_100_genes: genes whose R² is given too. path_to_save: of the figure. "No change" has a high R² as well:
        compare with that of control against stimulated cells.
        """
        return self._regression("mean", adata, axis_keys, labels, **options)

    def reg_var_plot(self, adata, axis_keys, labels, **options) -> float | tuple[float, float]:
        """The same of variances."""
        return self._regression("var", adata, axis_keys, labels, **options)

    def _regression(
        self,
        what,
        adata,
        axis_keys,
        labels,
        path_to_save=None,
        save=True,
        gene_list=None,
        show=False,
        top_100_genes=None,
        verbose=False,
        legend=True,
        title=None,
        x_coeff=None,
        y_coeff=None,
        fontsize=14,
        **kwargs,
    ) -> float | tuple[float, float]:
        no_more(f"reg_{what}_plot", kwargs)
        from scduet.plots.means import mean_scatter
        from scduet.plots.style import save_figure

        condition, _ = self._columns()
        groups = []
        for axis in ("x", "y"):
            rows = (adata.obs[condition].astype(str) == str(axis_keys[axis])).to_numpy()
            if not rows.any():
                there = f"it has {some(pd.unique(adata.obs[condition]), 12)}"
                raise DataError(f"obs[{condition!r}] has no {axis_keys[axis]!r}", there)
            groups.append(_statistic(adata.X[rows], what))
        found = [squared_pearson(*groups)]
        if top_100_genes is not None:
            place = adata.var_names.get_indexer(top_100_genes)
            found.append(squared_pearson(*(group[place[place >= 0]] for group in groups)))
        names = None if gene_list is None else list(gene_list)
        figure = mean_scatter(
            groups[0], groups[1], list(adata.var_names), names, labels=(labels["x"], labels["y"]), title=title
        )
        if path_to_save is not None and save:
            save_figure(figure, path_to_save)
        return found[0] if len(found) == 1 else (found[0], found[1])

    def _columns(self) -> tuple[str, str]:
        """The columns of the condition and of the types. Raises OptionError where `setup_anndata` was not told."""
        fields = self._model.schema.fields
        for option, key in (("batch_key", fields.batch_key), ("labels_key", fields.labels_key)):
            if key is None:
                raise OptionError(f"the model was set up without {option}", f"pass {option}= to SCGEN.setup_anndata")
        return str(fields.batch_key), str(fields.labels_key)


def _restricted(cells: AnnData, wanted: Any) -> np.ndarray:
    rows = np.ones(cells.n_obs, bool)
    for column, values in dict(wanted).items():
        if column not in cells.obs:
            raise DataError(f"no column {column!r} in adata.obs", f"it has {some(cells.obs.columns, 9)}")
        names = [values] if isinstance(values, str) else values
        rows &= cells.obs[column].astype(str).isin([str(name) for name in names]).to_numpy()
    return rows


def _statistic(x: Any, what: str) -> np.ndarray:
    dense = np.asarray(x.todense() if hasattr(x, "todense") else x, dtype=np.float64)
    return dense.mean(0) if what == "mean" else dense.var(0)
