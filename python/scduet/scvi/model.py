"""scvi-tools' models: SCVI, SCANVI, LinearSCVI and AUTOZI, with its signatures and return types."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import replace
from typing import Any

import pandas as pd
from anndata import AnnData

from scduet.data.schema import Fields
from scduet.errors import OptionError
from scduet.scvi.registry import no_more, refuse
from scduet.scvi.setup import note, noted, untrained
from scduet.scvi.trained import ScviModel
from scduet.tasks.genes.gene_parameters import loadings
from scduet.tasks.workflows.annotate import predict


class SCVI(ScviModel):
    """scVI: see `scduet.models.rna.scvi`."""

    _name = "scvi"

    def __init__(
        self,
        adata=None,
        registry=None,
        n_hidden=128,
        n_latent=10,
        n_layers=1,
        dropout_rate=0.1,
        dispersion="gene",
        gene_likelihood="zinb",
        use_observed_lib_size=True,
        latent_distribution="normal",
        **kwargs,
    ):
        super().__init__(*_options(locals()))

    @classmethod
    def setup_anndata(
        cls,
        adata,
        layer=None,
        batch_key=None,
        labels_key=None,
        size_factor_key=None,
        categorical_covariate_keys=None,
        continuous_covariate_keys=None,
        **_,
    ) -> None:
        note(*_setup(locals()))

    def get_batch_representation(self, adata=None, indices=None, batch_size=None):
        """The vector of each cell's batch (cell, column), of a model with batch_representation="embedding"."""
        if self._model.config.batch_representation != "embedding":
            raise KeyError('this model has no batch embedding: make one with batch_representation="embedding"')
        batch = self._model.encode(self._cells(adata, indices)).batch
        return self._model.module.batch_embedding.weight.detach().cpu().numpy()[batch]  # type: ignore[union-attr]


class SCANVI(ScviModel):
    """scANVI: see `scduet.models.rna.scanvi`."""

    _name = "scanvi"
    was_pretrained = False

    def __init__(
        self,
        adata=None,
        registry=None,
        n_hidden=128,
        n_latent=10,
        n_layers=1,
        dropout_rate=0.1,
        dispersion="gene",
        gene_likelihood="zinb",
        use_observed_lib_size=True,
        linear_classifier=False,
        datamodule=None,
        **model_kwargs,
    ):
        super().__init__(*_options(locals()))

    @classmethod
    def setup_anndata(
        cls,
        adata,
        labels_key,
        unlabeled_category,
        layer=None,
        batch_key=None,
        size_factor_key=None,
        categorical_covariate_keys=None,
        continuous_covariate_keys=None,
        use_minified=True,
        **_,
    ) -> None:
        note(*_setup(locals()))

    @classmethod
    def from_scvi_model(
        cls, scvi_model: SCVI, unlabeled_category, labels_key=None, adata=None, registry=None, **kwargs
    ):
        """A scANVI that starts from the weights of a trained SCVI."""
        base, cells = scvi_model._model, scvi_model.adata if adata is None else adata
        fields = base.schema.fields
        key = fields.labels_key if labels_key is None else labels_key
        if key is None:
            raise ValueError("A `labels_key` is necessary as the scVI model was initialized without one.")
        note(cells, cls.__name__, {**_plain(fields), "labels_key": key, "unlabeled_category": str(unlabeled_category)})
        fixed = vars(base.config)
        options = {**fixed, **{name: value for name, value in kwargs.items() if name not in fixed}}
        made = cls._holding(
            untrained(cells, cls._name, noted(cells, cls.__name__, cls._name), options, base), cells, is_trained=False
        )
        made.was_pretrained = True
        return made

    def train(  # type: ignore[override]  # as there, its arguments come in another order
        self, max_epochs=None, n_samples_per_label=None, check_val_every_n_epoch=None, train_size=0.9, **kwargs
    ):
        """Train; after a SCVI for a third of its epochs, from 2 to 10."""
        plan = dict(kwargs.pop("plan_kwargs", None) or {})
        ratio = plan.pop("classification_ratio", self._model.config.classification_ratio)
        config = replace(self._model.config, n_samples_per_label=n_samples_per_label, classification_ratio=float(ratio))
        self._model.module.config = config
        self._model = replace(self._model, config=config)
        if max_epochs is None and self.was_pretrained:
            usual = min(round(20_000 / self.adata.n_obs * 400), 400)
            max_epochs = int(min(10, max(2, round(usual / 3.0))))
        refuse("train", adversarial_classifier=kwargs.pop("adversarial_classifier", None))
        kwargs |= dict(plan_kwargs=plan, check_val_every_n_epoch=check_val_every_n_epoch)
        super().train(max_epochs=max_epochs, train_size=train_size, **kwargs)

    def predict(self, adata=None, indices=None, soft=False, batch_size=None, use_posterior_mean=True, **more):
        """Names of the types, or with soft=True their probabilities; at a draw of each state, or at its mean."""
        no_more("predict", more)
        cells = self._cells(adata, indices)
        share = predict(self._model, cells)
        if not use_posterior_mean:
            z = torch.from_numpy(self.get_latent_representation(cells, give_mean=False)).to(self.device)
            with torch.inference_mode():
                share[:] = self._model.module.logits(z).softmax(-1).cpu().numpy()  # type: ignore[operator]
        return share if soft else share.columns.to_numpy()[share.to_numpy().argmax(1)]


class LinearSCVI(ScviModel):
    """LDVAE: see `scduet.models.rna.ldvae`."""

    _name = "ldvae"

    def __init__(
        self,
        adata=None,
        registry=None,
        n_hidden=128,
        n_latent=10,
        n_layers=1,
        dropout_rate=0.1,
        dispersion="gene",
        gene_likelihood="nb",
        use_observed_lib_size=False,
        latent_distribution="normal",
        **model_kwargs,
    ):
        super().__init__(*_options(locals()))

    @classmethod
    def setup_anndata(cls, adata, batch_key=None, labels_key=None, layer=None, **_) -> None:
        note(*_setup(locals()))

    def get_loadings(self) -> pd.DataFrame:
        """Loadings (gene x latent)."""
        return loadings(self._model)


class AUTOZI(ScviModel):
    """AutoZI: see `scduet.models.rna.autozi`."""

    _name = "autozi"

    def __init__(
        self,
        adata=None,
        registry=None,
        n_hidden=128,
        n_latent=10,
        n_layers=1,
        dropout_rate=0.1,
        dispersion="gene",
        latent_distribution="normal",
        alpha_prior=0.5,
        beta_prior=0.5,
        minimal_dropout=0.01,
        zero_inflation="gene",
        use_observed_lib_size=True,
        **model_kwargs,
    ):
        super().__init__(*_options(locals()))

    @classmethod
    def setup_anndata(cls, adata, batch_key=None, labels_key=None, layer=None, **_) -> None:
        note(*_setup(locals()))

    def get_alphas_betas(self, as_numpy=True) -> dict[str, Any]:
        """Parameters of the Beta posterior and prior of each gene's share of plain NB."""
        module = self._model.module
        pairs = {"posterior": module.posterior_of_genes(), "prior": module.prior_of_genes()}  # type: ignore[operator]
        found = {f"alpha_{name}": beta.concentration1.detach().t() for name, beta in pairs.items()}
        found |= {f"beta_{name}": beta.concentration0.detach().t() for name, beta in pairs.items()}
        return {name: value.cpu().numpy() if as_numpy else value for name, value in found.items()}


def _options(arguments: dict[str, Any]) -> tuple[AnnData, dict[str, Any]]:
    """The AnnData and the options among the arguments of a constructor."""
    refuse(arguments["self"]._name, registry=arguments.get("registry"), datamodule=arguments.get("datamodule"))
    if arguments["adata"] is None:
        raise OptionError("a model needs cells", "pass adata")
    more = next((value for name, value in arguments.items() if name in ("kwargs", "model_kwargs")), {})
    outside = ("self", "adata", "registry", "datamodule", "kwargs", "model_kwargs", "__class__")
    return arguments["adata"], {**{k: v for k, v in arguments.items() if k not in outside}, **more}


def _setup(arguments: dict[str, Any]) -> tuple[AnnData, str, dict[str, Any], str]:
    """The AnnData, the class, the fields among the arguments of setup_anndata, and our name of the model."""
    no_more("setup_anndata", arguments["_"])
    fields = {name: value for name, value in arguments.items() if name not in ("cls", "adata", "_", "use_minified")}
    if fields.get("unlabeled_category") is not None:
        fields["unlabeled_category"] = str(fields["unlabeled_category"])
    return arguments["adata"], arguments["cls"].__name__, fields, arguments["cls"]._name


def _plain(fields: Fields) -> dict[str, Any]:
    own = ("genes", "allow_non_integer", "allow_empty_cells")
    return {name: value for name, value in vars(fields).items() if name not in own}
