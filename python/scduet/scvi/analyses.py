"""The methods that all models of the façade share: each hands its arguments to one of our functions."""

from __future__ import annotations

from scduet._torch import torch

from typing import Any

import numpy as np
from anndata import AnnData

from scduet.api import Model
from scduet.data.selection import selected
from scduet.errors import OptionError
from scduet.nn.layers import rsample
from scduet.scvi import settings
from scduet.scvi.registry import no_more, refuse
from scduet.tasks.comparison import abundance
from scduet.tasks.comparison.differential_expression import differential_expression
from scduet.tasks.comparison.importance import Importance
from scduet.tasks.posterior import expression, latent, likelihoods, sampling
from scduet.tasks.workflows import minify


class Analyses:
    """What can be asked of a trained model; `_model` is ours, `adata` the user's."""

    _model: Model
    adata: AnnData

    def get_latent_representation(
        self, adata=None, indices=None, give_mean=True, mc_samples=5000, batch_size=None, return_dist=False, **more
    ):
        no_more("get_latent_representation", more)
        cells, size = self._cells(adata, indices), batch_size or settings.batch_size
        if give_mean and not return_dist and not latent.is_minified(cells):
            return self._model.embed(cells, batch_size=size)
        with torch.inference_mode(), latent.seeded(settings.seed):
            parts = list(latent.states(self._model, cells, batch_size=size))
            mean, variance = torch.cat([p.mean for p in parts]), torch.cat([p.variance for p in parts])
            if return_dist:
                return mean.cpu().numpy(), variance.cpu().numpy()
            encoder = latent.encoder_of(self._model)
            return encoder.transform_latent(mean if give_mean else rsample(mean, variance)).cpu().numpy()

    def get_normalized_expression(
        self,
        adata=None,
        indices=None,
        transform_batch=None,
        gene_list=None,
        library_size=1,
        n_samples=1,
        n_samples_overall=None,
        weights=None,
        batch_size=None,
        return_mean=True,
        return_numpy=None,
        silent=True,
        **more,
    ):
        no_more("get_normalized_expression", more)
        _refuse_weights(weights)
        cells = self._cells(adata, indices)
        rows = None
        if n_samples_overall is not None:
            rows = np.random.default_rng(settings.seed).choice(cells.n_obs, n_samples_overall)
        found = expression.normalized_expression(
            self._model,
            cells,
            transform_batch=transform_batch,
            gene_list=self._in_order(gene_list),
            library_size=library_size,
            n_samples=n_samples,
            return_mean=return_mean,
            rows=rows,
            batch_size=batch_size or settings.batch_size,
            seed=settings.seed,
        )
        as_numpy = return_numpy or rows is not None
        return np.asarray(found) if as_numpy else found

    def differential_expression(
        self,
        adata=None,
        groupby=None,
        group1=None,
        group2=None,
        idx1=None,
        idx2=None,
        mode="vanilla",
        delta=0.25,
        batch_size=None,
        all_stats=True,
        batch_correction=False,
        batchid1=None,
        batchid2=None,
        fdr_target=0.05,
        silent=False,
        weights="uniform",
        filter_outlier_cells=False,
        importance_weighting_kwargs=None,
        **kwargs,
    ):
        refuse("differential_expression", dataloader=kwargs.pop("dataloader", None))
        if filter_outlier_cells:
            raise OptionError(
                "filter_outlier_cells=True has no counterpart here", "pass idx1 and idx2 without outliers"
            )
        found = differential_expression(
            self._model,
            self._cells(adata, None),
            groupby,
            group1,
            group2,
            idx1=idx1,
            idx2=idx2,
            allow_overlap=True,  # as there
            mode=mode,  # type: ignore[arg-type]
            delta=delta,
            batch_size=batch_size or settings.batch_size,
            all_stats=all_stats,
            batch_correction=batch_correction,
            batchid1=batchid1,
            batchid2=batchid2,
            fdr_target=fdr_target,
            verbose=not silent,
            seed=settings.seed,
            weights=weights or "uniform",  # type: ignore[arg-type]
            importance=_importance(importance_weighting_kwargs),
            **({"n_draws": kwargs.pop("n_samples_overall")} if "n_samples_overall" in kwargs else {}),
            **{"min_pct": 0.0, **kwargs},  # scvi-tools tests all genes
        )
        return found.drop(columns=["tested", "raw_lfc"], errors="ignore")

    def posterior_predictive_sample(
        self, adata=None, indices=None, transform_batch=None, n_samples=1, gene_list=None, batch_size=None, **more
    ):
        """(cell, gene[, sample]) as sparse.GCXS where `sparse` is installed, else as CSR matrix or array."""
        no_more("posterior_predictive_sample", more)
        drawn = sampling.posterior_predictive_sample(
            self._model,
            self._cells(adata, indices),
            n_samples=n_samples,
            gene_list=self._in_order(gene_list),
            transform_batch=transform_batch,
            batch_size=batch_size or settings.batch_size,
            seed=settings.seed,
        )
        whole = np.stack([d.toarray() for d in drawn], -1) if isinstance(drawn, list) else drawn
        try:
            import sparse
        except ImportError:
            return whole
        return sparse.GCXS(whole)

    def get_feature_correlation_matrix(
        self,
        adata=None,
        indices=None,
        n_samples=10,
        batch_size=64,
        rna_size_factor=1000,
        transform_batch=None,
        correlation_type="spearman",
        silent=True,
    ):
        return sampling.feature_correlation(
            self._model,
            self._cells(adata, indices),
            n_samples=n_samples,
            rna_size_factor=rna_size_factor,
            transform_batch=transform_batch,
            correlation_type=correlation_type,  # type: ignore[arg-type]
            batch_size=batch_size,
            seed=settings.seed,
        )

    def get_likelihood_parameters(
        self, adata=None, indices=None, n_samples=1, give_mean=False, batch_size=None, **more
    ):
        no_more("get_likelihood_parameters", more)
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

    def get_latent_library_size(self, adata=None, indices=None, give_mean=True, batch_size=None, **more):
        no_more("get_latent_library_size", more)
        return likelihoods.latent_library_size(
            self._model, self._cells(adata, indices), give_mean=give_mean, seed=settings.seed
        )

    def get_elbo(self, adata=None, indices=None, batch_size=None, dataloader=None, return_mean=True, **more):
        no_more("get_elbo", {"dataloader": dataloader, **more})
        found = likelihoods.elbo(
            self._model, self._cells(adata, indices), return_mean=return_mean, **self._sized(batch_size)
        )
        return torch.as_tensor(found)

    def get_reconstruction_error(
        self, adata=None, indices=None, batch_size=None, dataloader=None, return_mean=True, **more
    ) -> dict[str, Any]:
        """-log p(x | z); for SCANVI with log q(z | x) - log p(z | y), as there."""
        no_more("get_reconstruction_error", {"dataloader": dataloader, **more})
        terms = likelihoods.terms_of_cells(self._model, self._cells(adata, indices), **self._sized(batch_size))
        error = terms["reconstruction"] + terms.get("state", 0.0)
        return {"reconstruction_loss": torch.as_tensor(error.mean() if return_mean else error)}

    def get_marginal_ll(
        self, adata=None, indices=None, n_mc_samples=1000, batch_size=None, return_mean=True, dataloader=None, **more
    ):
        more.pop("n_mc_samples_per_pass", None)  # of memory, which needs none here
        no_more("get_marginal_ll", {"dataloader": dataloader, **more})
        found = likelihoods.marginal_log_likelihood(
            self._model, self._cells(adata, indices), n_samples=n_mc_samples, **self._sized(batch_size)
        )
        return torch.as_tensor(found.mean() if return_mean else found)

    def get_aggregated_posterior(self, adata=None, indices=None, batch_size=None, dof=3.0):
        """A torch mixture; its scales are standard deviations, where scvi-tools takes variances."""
        return abundance.aggregated_posterior(self._model, self._cells(adata, indices), dof=dof)

    def differential_abundance(
        self, adata=None, sample_key=None, batch_size=128, num_cells_posterior=None, dof=None, **more
    ):
        no_more("differential_abundance", more)
        abundance.differential_abundance(
            self._model,
            self._cells(adata, None),
            sample_key,  # type: ignore[arg-type]
            n_cells=num_cells_posterior,
            dof=dof,
            seed=settings.seed or 0,
        )

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

    def _in_order(self, genes):
        """The genes asked for, in the order of the model, as there."""
        return None if genes is None else [gene for gene in self._model.genes if gene in set(genes)]

    def _cells(self, adata: AnnData | None, indices) -> AnnData:
        cells = self.adata if adata is None else adata
        if cells is None:
            raise OptionError("this model was loaded without cells", "pass adata, here or to load()")
        return cells if indices is None else cells[selected(indices, cells.obs_names, cells.obs, "indices")]


def _refuse_weights(weights) -> None:
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
