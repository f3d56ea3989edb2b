"""The methods that all models of the façade share: each hands its arguments to one of our functions."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData

from scduet.api import Model
from scduet.data.selection import selected
from scduet.errors import OptionError
from scduet.nn.layers import rsample
from scduet.options import refuse_unknown
from scduet.scvi import settings
from scduet.scvi.datamodules import loader_of
from scduet.scvi.registry import refuse, registry_of
from scduet.scvi.signatures import takes
from scduet.tasks.comparison import abundance
from scduet.tasks.comparison.differential_expression import differential_expression
from scduet.tasks.comparison.importance import Importance
from scduet.tasks.posterior import expression, latent, likelihoods, sampling
from scduet.tasks.workflows import minify


class Analyses:
    """What can be asked of a trained model; `_model` is ours, `adata` the user's."""

    _model: Model
    _registered: tuple[dict[str, Any], dict[str, Any]] | None
    adata: AnnData

    @takes("adata, indices, give_mean=True, mc_samples=5000, batch_size, return_dist=False, dataloader")
    def get_latent_representation(self, adata, indices, give_mean, batch_size, return_dist, dataloader, **_):
        """States (cell, latent); with return_dist means and variances of their posteriors.

        dataloader: of a data module, in place of cells: means, in the order in which it gives them.
        """
        size = batch_size or settings.batch_size
        if dataloader is not None:
            if not give_mean or return_dist:
                raise OptionError(
                    "with dataloader= the mean of each state is given", "leave give_mean and return_dist out"
                )
            known = registry_of(self._model) if self._registered is None else self._registered[0]
            return self._model.embed(loader_of(known, lambda: dataloader), batch_size=size)
        cells = self._cells(adata, indices)
        if give_mean and not return_dist and not latent.is_minified(cells):
            return self._model.embed(cells, batch_size=size)
        with torch.inference_mode(), latent.seeded(settings.seed):
            parts = list(latent.states(self._model, cells, batch_size=size))
            mean, variance = torch.cat([p.mean for p in parts]), torch.cat([p.variance for p in parts])
            if return_dist:
                return mean.cpu().numpy(), variance.cpu().numpy()
            encoder = latent.encoder_of(self._model)
            return encoder.transform_latent(mean if give_mean else rsample(mean, variance)).cpu().numpy()

    @takes(
        "adata, indices, transform_batch, gene_list, library_size=1, n_samples=1, n_samples_overall, weights,"
        "batch_size, return_mean=True, return_numpy, silent=True"
    )
    def get_normalized_expression(
        self, adata, indices, gene_list, n_samples_overall, weights, batch_size, return_numpy, silent, **same
    ):
        """Expected share of each gene (cell x gene), of draws not averaged (draw, cell, gene)."""
        refuse_weights(weights)
        cells = self._cells(adata, indices)
        rows = chosen_cells(cells.n_obs, n_samples_overall)
        same |= {"gene_list": self._in_order(gene_list), "rows": rows, **self._sized(batch_size)}
        found = expression.normalized_expression(self._model, cells, **same)
        return np.asarray(found) if return_numpy or rows is not None else found

    @takes(
        "adata, groupby, group1, group2, idx1, idx2, mode='vanilla', delta=0.25, batch_size, all_stats=True,"
        "batch_correction=False, batchid1, batchid2, fdr_target=0.05, silent=False, weights='uniform',"
        "filter_outlier_cells=False, importance_weighting_kwargs, **"
    )
    def differential_expression(self, **given):
        """Compare groups of cells: a row a comparison and gene."""
        return as_theirs(self._compare(**given), given["idx1"] is not None)

    def _compare(self, adata, batch_size, silent, more, **same) -> pd.DataFrame:
        """`differential_expression` of ours with their arguments."""
        refuse("differential_expression", dataloader=more.pop("dataloader", None))
        if same.pop("filter_outlier_cells", False):
            remedy = "pass idx1 and idx2 without outliers"
            raise OptionError("filter_outlier_cells=True has no counterpart here", remedy)
        same |= {"weights": same.get("weights") or "uniform", "verbose": not silent, **self._sized(batch_size)}
        same["importance"] = _importance(same.pop("importance_weighting_kwargs", None))
        same |= {"n_draws": more.pop("n_samples_overall")} if "n_samples_overall" in more else {}
        refuse_unknown(more, signature(differential_expression).parameters, "differential_expression")
        same |= {"allow_overlap": True, "min_pct": 0.0, **more}  # scvi-tools tests all genes, of any groups
        return differential_expression(self._model, self._cells(adata, None), **same)

    @takes("adata, indices, transform_batch, n_samples=1, gene_list, batch_size")
    def posterior_predictive_sample(self, adata, indices, gene_list, batch_size, **same):
        """(cell, gene[, sample]) as sparse.GCXS where `sparse` is installed, else as CSR matrix or array."""
        same |= {"gene_list": self._in_order(gene_list), **self._sized(batch_size)}
        drawn = sampling.posterior_predictive_sample(self._model, self._cells(adata, indices), **same)
        whole = np.stack([d.toarray() for d in drawn], -1) if isinstance(drawn, list) else drawn
        try:
            import sparse
        except ImportError:
            return whole
        return sparse.GCXS(whole)

    @takes(
        "adata, indices, n_samples=10, batch_size=64, rna_size_factor=1000, transform_batch,"
        "correlation_type='spearman', silent=True"
    )
    def get_feature_correlation_matrix(self, adata, indices, silent, **same):
        """Correlation of genes in expression without counting noise (gene x gene)."""
        return sampling.feature_correlation(self._model, self._cells(adata, indices), seed=settings.seed, **same)

    @takes("adata, indices, n_samples=1, give_mean=False, batch_size")
    def get_likelihood_parameters(self, adata, indices, n_samples, give_mean, batch_size):
        """Parameters of the distribution of counts, ([draw,] cell, gene) each."""
        cells, size = self._cells(adata, indices), batch_size or settings.batch_size
        if n_samples == 1 or give_mean:
            return likelihoods.likelihood_parameters(
                self._model, cells, n_samples=n_samples, batch_size=size, seed=settings.seed
            )
        with latent.seeded(settings.seed):
            draws = [
                likelihoods.likelihood_parameters(self._model, cells, batch_size=size, seed=None)
                for _ in range(n_samples)
            ]
        return {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}

    @takes("adata, indices, give_mean=True, batch_size")
    def get_latent_library_size(self, adata, indices, give_mean, batch_size):
        """(cell, 1): the posterior mean, or a draw; the total where it is observed."""
        cells = self._cells(adata, indices)
        return likelihoods.latent_library_size(self._model, cells, give_mean=give_mean, **self._sized(batch_size))

    @takes("adata, indices, batch_size, dataloader, return_mean=True")
    def get_elbo(self, adata, indices, batch_size, dataloader, return_mean):
        """Evidence lower bound, a mean over cells or of each; higher is better."""
        refuse("get_elbo", dataloader=dataloader)
        cells = self._cells(adata, indices)
        found = likelihoods.elbo(self._model, cells, return_mean=return_mean, **self._sized(batch_size))
        return torch.as_tensor(found, dtype=torch.float32)

    @takes("adata, indices, batch_size, dataloader, return_mean=True")
    def get_reconstruction_error(self, adata, indices, batch_size, dataloader, return_mean) -> dict[str, Any]:
        """-log p(x | z); for SCANVI with log q(z | x) - log p(z | y), as there."""
        refuse("get_reconstruction_error", dataloader=dataloader)
        terms = likelihoods.terms_of_cells(self._model, self._cells(adata, indices), **self._sized(batch_size))
        errors = {n: terms[term] + terms.get("state", 0.0) for term, n in self._errors.items() if term in terms}
        errors = {name: error.mean() if return_mean else error for name, error in errors.items()}
        return {name: torch.as_tensor(error, dtype=torch.float32) for name, error in errors.items()}

    _errors: ClassVar[dict[str, str]] = {"reconstruction": "reconstruction_loss"}  # our terms: theirs

    @takes("adata, indices, n_mc_samples=1000, batch_size, return_mean=True, dataloader, n_mc_samples_per_pass=1")
    def get_marginal_ll(self, adata, indices, n_mc_samples, batch_size, return_mean, dataloader, **_):
        """log p(x), a mean over cells or of each. n_mc_samples_per_pass is of memory, which needs none here."""
        refuse("get_marginal_ll", dataloader=dataloader)
        found = likelihoods.marginal_log_likelihood(
            self._model, self._cells(adata, indices), n_samples=n_mc_samples, **self._sized(batch_size)
        )
        return torch.as_tensor(found.mean() if return_mean else found)

    def get_aggregated_posterior(self, adata=None, indices=None, batch_size=None, dof=3.0):
        """A torch mixture; its scales are standard deviations, where scvi-tools takes variances."""
        return abundance.aggregated_posterior(self._model, self._cells(adata, indices), dof=dof)

    @takes("adata, sample_key, batch_size=128, num_cells_posterior, dof")
    def differential_abundance(self, adata, sample_key, batch_size, num_cells_posterior, dof):
        """Log density of each cell in each sample: adata.obsm["da_log_probs"]."""
        given = {"n_cells": num_cells_posterior, "dof": dof, "seed": settings.seed or 0}
        abundance.differential_abundance(self._model, self._cells(adata, None), sample_key, **given)

    def minify_adata(
        self,
        minified_data_type="latent_posterior_parameters",
        use_latent_qzm_key="X_latent_qzm",
        use_latent_qzv_key="X_latent_qzv",
    ):
        """Replace `adata` by a copy that holds posteriors in place of counts; these are computed, so no key is read."""
        if minified_data_type != "latent_posterior_parameters":
            raise OptionError(f"minified_data_type={minified_data_type!r}", "only latent_posterior_parameters is there")
        self.adata = minify.minify(self._model, self.adata)  # type: ignore[misc]

    @property
    def minified_data_type(self) -> str | None:
        return self.adata.uns[latent.MINIFIED] if self.is_minified else None

    @property
    def is_minified(self) -> bool:
        return latent.is_minified(self.adata)

    def _sized(self, batch_size: int | None) -> dict[str, Any]:
        return {"batch_size": batch_size or settings.batch_size, "seed": settings.seed}

    def _in_order(self, wanted, modality: str | None = None):
        """The features asked for, in the order of the model, as there."""
        known = latent.modality_of(self._model, modality).features
        return None if wanted is None else [name for name in known if name in set(wanted)]

    def _cells(self, adata: AnnData | None, indices) -> AnnData:
        cells = self.adata if adata is None else adata
        if cells is None:
            raise OptionError("this model was loaded without cells", "pass adata, here or to load()")
        return cells if indices is None else cells[selected(indices, cells.obs_names, cells.obs, "indices")]


@dataclass(frozen=True)
class View(latent.Modality):
    """A modality whose expected values are others than those of the model: `values` of states, cells and batches."""

    values: Callable[..., torch.Tensor]

    @classmethod
    def of_modality(cls, known: latent.Modality, values: Callable[..., torch.Tensor]) -> View:
        return cls(**vars(known), values=values)

    def normalized(self, z, cells, batch=None, out=None, **options):
        found = self.values(z, cells, batch)
        return found if out is None else out.copy_(found)


def as_theirs(table: pd.DataFrame, of_cells: bool) -> pd.DataFrame:
    """The columns that a table of theirs has, in its order; none with the names of groups that idx1 gave."""
    groups = ["comparison", "group1", "group2"]
    calls = [name for name in table if str(name).startswith("is_de_fdr_")]
    last = [*calls, *([] if of_cells else groups)]
    return table[[name for name in table if name not in (*calls, *groups, "tested", "raw_lfc")] + last]


def chosen_cells(n_cells: int, n_samples_overall: int | None) -> np.ndarray | None:
    """Places of cells drawn at random; None for all cells."""
    return (
        None if n_samples_overall is None else np.random.default_rng(settings.seed).choice(n_cells, n_samples_overall)
    )


def refuse_weights(weights) -> None:
    if weights not in (None, "uniform"):
        remedy = "leave it out, or use differential_expression(weights='importance')"
        raise OptionError(f"weights={weights!r} has no counterpart here", remedy)


def _importance(given: dict[str, Any] | None) -> Importance:
    """Their importance_weighting_kwargs as ours."""
    names = {"max_cells": "max_cells", "n_mc_samples": "n_samples", "truncation": "truncation"}
    known = {name: value for name, value in (given or {}).items() if name != "n_mc_samples_per_pass"}
    strange = sorted(known.keys() - names.keys())
    if strange:
        raise OptionError(f"importance_weighting_kwargs has no {strange[0]!r}", f"it takes {sorted(names)}")
    return Importance(**{names[name]: value for name, value in known.items()})
