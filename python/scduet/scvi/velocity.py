"""scvi-tools' VELOVI: velocities, times, fits and states of genes, as means over draws or draw by draw."""

from __future__ import annotations

from scduet._torch import torch

from typing import Any, ClassVar

import numpy as np
import pandas as pd

from scduet.errors import OptionError
from scduet.models.velocity.velovi import STATES
from scduet.options import listed
from scduet.scvi import settings
from scduet.scvi.analyses import chosen_cells
from scduet.scvi.signatures import takes
from scduet.scvi.trained import ScviModel
from scduet.scvi.training import with_plan
from scduet.tasks.posterior.latent import seeded
from scduet.tasks.velocity import draws

COLUMNS = {  # theirs: ours
    "directional_variance": "angle_variance",
    "directional_difference": "angle_width",
    "directional_cosine_sim_variance": "cosine_variance",
    "directional_cosine_sim_difference": "cosine_width",
    "directional_cosine_sim_mean": "cosine_mean",
}
OVERALL = "n_samples_overall"
DRAWN = "adata, indices, gene_list, n_samples=1, batch_size, return_mean=True, return_numpy"


class VELOVI(ScviModel):
    _first: ClassVar[str] = "adata"
    _setup: ClassVar[str] = "spliced_layer!, unspliced_layer!"

    @classmethod
    def _fields_of(cls, adata, given: dict[str, Any]) -> dict[str, Any]:
        return {"layer": given["spliced_layer"], "unspliced": f"layers/{given['unspliced_layer']}"}

    @takes(
        "max_epochs=500, lr=1e-2, weight_decay=1e-2, accelerator='auto', devices='auto', train_size, validation_size,"
        "batch_size=256, early_stopping=True, gradient_clip_val=10, plan_kwargs, external_indexing, **"
    )
    def train(self, external_indexing, more, **given):
        """Train, until the evidence bound of held-out cells gets no better."""
        splitter = (
            {} if external_indexing is None else {"datasplitter_kwargs": {"external_indexing": external_indexing}}
        )
        self._train(with_plan({**given, **splitter, **more}))

    @takes(
        "adata, indices, gene_list, n_samples=1, n_samples_overall, batch_size, return_mean=True, return_numpy,"
        "velo_statistic='mean', velo_mode='spliced', clip=True"
    )
    def get_velocity(self, velo_statistic, velo_mode, clip, **given):
        """ds/dt or du/dt (cell x gene); with return_mean=False of several draws (draw, cell, gene)."""

        def asked(module, cells, at):
            found = module.velocity(at, velo_mode, velo_statistic)
            return torch.maximum(found, -cells.x) if clip else found

        return self._drawn(asked, **given)

    @takes(
        "adata, indices, gene_list, time_statistic='mean', n_samples=1, n_samples_overall, batch_size,"
        "return_mean=True, return_numpy"
    )
    def get_latent_time(self, time_statistic, **given):
        """Time of each gene, 0 to 20 (cell x gene)."""
        return self._drawn(lambda module, cells, at: module.latent_time(at, time_statistic), **given)

    @takes(f"{DRAWN}, restrict_to_latent_dim")
    def get_expression_fit(self, restrict_to_latent_dim, **given):
        """Expected spliced and unspliced values, two tables (cell x gene)."""
        if restrict_to_latent_dim is not None:
            _check_dimension(restrict_to_latent_dim, self._model.config.n_latent)
        given["latent_dim"] = restrict_to_latent_dim
        wanted = given.pop("gene_list"), given.pop("return_numpy")
        _, keep = self._genes(wanted[0])
        found = self._values(lambda m, c, at: torch.cat([part[:, keep] for part in m.expression_fit(at)], 1), **given)
        s, u = np.split(found, 2, axis=-1)
        return self._framed(s, *wanted, **given), self._framed(u, *wanted, **given)

    @takes("adata, indices, gene_list, n_samples=1, batch_size, return_mean=True, return_numpy")
    def get_gene_likelihood(self, return_numpy, **given):
        """Log density of each gene in each cell (cell, gene)."""
        return self._drawn(lambda m, c, at: m.gene_log_likelihood(c, at), return_numpy=True, **given)

    @takes("adata, indices, gene_list, hard_assignment=False, n_samples=20, batch_size, return_mean=True, return_numpy")
    def get_state_assignment(self, hard_assignment, return_numpy, gene_list, **given):
        """Probabilities of the states of each gene (cell, gene, state), or the likeliest; and their names."""
        names, keep = self._genes(gene_list)
        found = self._values(lambda m, c, at: at.pi[:, keep], **given)
        if hard_assignment and given["return_mean"]:
            cells = self._cells(given["adata"], given["indices"])
            return pd.DataFrame(np.array(STATES)[found.argmax(-1)], cells.obs_names, names), list(STATES)
        return found, list(STATES)

    def get_rates(self) -> dict[str, np.ndarray]:
        """Rates of each gene: beta, gamma, alpha, alpha_1, lambda_alpha."""
        with torch.inference_mode():
            rates = vars(draws.velovi_of(self._model).rates())
        order = ("beta", "gamma", "alpha", "alpha_1", "lambda_alpha")
        return {name: rates[name].cpu().numpy() for name in order}

    @takes("adata, n_samples=50, gene_list, n_jobs=-1")
    def get_directional_uncertainty(self, adata, n_samples, gene_list, n_jobs):
        """How much draws of a cell's velocity differ: a row a cell, and the cosines with their mean (cell, draw)."""
        found = self.get_velocity(adata, n_samples=n_samples, gene_list=gene_list, return_mean=False)
        cosines = draws.directional_cosines(found)
        table = draws.spread(cosines, self._cells(adata, None).obs_names)
        return table[list(COLUMNS.values())].set_axis(list(COLUMNS), axis=1), cosines.T

    @takes("labels_key!, adata")
    def get_permutation_scores(self, labels_key, adata):
        """How much better cells fit than shuffled ones (gene x type). There also the shuffled cells; here None."""
        seed = 0 if settings.seed is None else settings.seed
        return draws.permutation_scores(self._model, self._cells(adata, None), labels_key, seed=seed), None

    def _drawn(self, asked, gene_list, return_numpy, **given):
        _, keep = self._genes(gene_list)
        given["rows"] = chosen_cells(self._cells(given["adata"], given["indices"]).n_obs, given.pop(OVERALL, None))
        if given["rows"] is not None:
            given["n_samples"] = 1
        found = self._values(lambda m, c, at: asked(m, c, at)[:, keep], **given)
        return self._framed(found, gene_list, return_numpy, **given)

    def _framed(self, found: np.ndarray, gene_list, return_numpy, adata, indices, rows=None, **_):
        """A table of cells and genes, but for draws that were not averaged."""
        if found.ndim == 3 or return_numpy:
            return found
        names = self._cells(adata, indices).obs_names
        return pd.DataFrame(found, names if rows is None else names[rows], self._genes(gene_list)[0])

    def _values(
        self, asked, adata, indices, n_samples, batch_size, return_mean, rows=None, latent_dim=None
    ) -> np.ndarray:
        cells, size = self._cells(adata, indices), batch_size or settings.batch_size
        with seeded(settings.seed):
            parts = list(draws.draws(self._model, cells, asked, n_samples, size, rows, latent_dim))
        if return_mean or n_samples == 1:
            return np.concatenate([part.mean(0) for part in parts])
        return np.concatenate(parts, 1)

    def _genes(self, wanted) -> tuple[list[str], list[int]]:
        """Names and places of the genes asked for, in the order of the model."""
        known = self._model.genes
        names = known if wanted is None else [name for name in known if name in set(listed("gene_list", wanted))]
        return names, [known.index(name) for name in names] if wanted is not None else list(range(len(known)))


def _check_dimension(value: Any, n_latent: int) -> None:
    """Raise OptionError for what is no dimension of the latent space."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < n_latent:
        remedy = f"it is a dimension of the latent space, 0 to {n_latent - 1}"
        raise OptionError(f"option 'restrict_to_latent_dim' cannot be {value!r}", remedy)
