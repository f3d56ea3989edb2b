"""scvi-tools' models of its module `model`, with its signatures and return types; of each only what others lack."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import replace
from typing import Any

import pandas as pd

from scduet.scvi.multimodal import MULTIVI
from scduet.scvi.peaks import PEAKVI
from scduet.scvi.proteins import TOTALVI
from scduet.scvi.registry import instead_of, refuse
from scduet.scvi.setup import note, noted, untrained
from scduet.scvi.signatures import takes
from scduet.scvi.spots import CondSCVI, DestVI
from scduet.scvi.trained import ScviModel
from scduet.tasks.genes.gene_parameters import loadings
from scduet.tasks.workflows.annotate import predict

__all__ = ["AUTOZI", "MULTIVI", "PEAKVI", "SCANVI", "SCVI", "TOTALVI", "CondSCVI", "DestVI", "LinearSCVI"]


class SCVI(ScviModel):
    @takes("adata, indices, batch_size")
    def get_batch_representation(self, adata, indices, batch_size):
        """The vector of each cell's batch (cell, column), of a model with batch_representation="embedding"."""
        if self._model.config.batch_representation != "embedding":
            raise KeyError('this model has no batch embedding: make one with batch_representation="embedding"')
        batch = self._model.encode(self._cells(adata, indices)).batch
        return self._model.module.batch_embedding.weight.detach().cpu().numpy()[batch]  # type: ignore[union-attr]


class SCANVI(ScviModel):
    _setup = "labels_key!, unlabeled_category!"
    was_pretrained = False

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
        kept = {k: v for k, v in vars(fields).items() if k not in ("genes", "allow_non_integer", "allow_empty_cells")}
        note(cells, cls.__name__, {**kept, "labels_key": key, "unlabeled_category": str(unlabeled_category)})
        fixed = vars(base.config)
        options = {**fixed, **{name: value for name, value in kwargs.items() if name not in fixed}}
        made = cls._holding(
            untrained(cells, cls._name, noted(cells, cls.__name__, cls._name), options, base), cells, is_trained=False
        )
        made.was_pretrained = True
        return made

    @takes("max_epochs, n_samples_per_label, check_val_every_n_epoch, train_size=0.9, **")
    def train(self, max_epochs, n_samples_per_label, more, **given):
        """Train; after a SCVI for a third of its epochs, from 2 to 10."""
        refuse("train", adversarial_classifier=more.pop("adversarial_classifier", None))
        plan = dict(more.pop("plan_kwargs", None) or {})
        changed = {"n_samples_per_label": n_samples_per_label}
        if "classification_ratio" in plan:
            changed["classification_ratio"] = float(plan.pop("classification_ratio"))
        if self._registered is None:
            config = replace(self._model.config, **changed)
            self._model.module.config = config
            self._model = replace(self._model, config=config)
        else:
            registry, options = self._registered
            self._registered = registry, {**options, **changed}
        if max_epochs is None and self.was_pretrained:
            usual = min(round(20_000 / self.adata.n_obs * 400), 400)
            max_epochs = int(min(10, max(2, round(usual / 3.0))))
        super().train(max_epochs=max_epochs, plan_kwargs=plan, **given, **more)

    @takes("adata, indices, soft=False, batch_size, use_posterior_mean=True")
    def predict(self, adata, indices, soft, batch_size, use_posterior_mean):
        """Names of the types, or with soft=True their probabilities; at a draw of each state, or at its mean."""
        cells = self._cells(adata, indices)
        share = predict(self._model, cells)
        if not use_posterior_mean:
            z = torch.from_numpy(self.get_latent_representation(cells, give_mean=False)).to(self.device)
            with torch.inference_mode():
                share[:] = self._model.module.logits(z).softmax(-1).cpu().numpy()  # type: ignore[operator]
        return share if soft else share.columns.to_numpy()[share.to_numpy().argmax(1)]


class LinearSCVI(ScviModel):
    def get_loadings(self) -> pd.DataFrame:
        """Loadings (gene x latent)."""
        return loadings(self._model)


class AUTOZI(ScviModel):
    def get_alphas_betas(self, as_numpy=True) -> dict[str, Any]:
        """Parameters of the Beta posterior and prior of each gene's share of plain NB."""
        module = self._model.module
        pairs = {"posterior": module.posterior_of_genes(), "prior": module.prior_of_genes()}  # type: ignore[operator]
        found = {f"alpha_{name}": beta.concentration1.detach().t() for name, beta in pairs.items()}
        found |= {f"beta_{name}": beta.concentration0.detach().t() for name, beta in pairs.items()}
        return {name: value.cpu().numpy() if as_numpy else value for name, value in found.items()}


__getattr__ = instead_of(
    "scduet.scvi.model",
    {
        "AmortizedLDA": "use scduet.fit(adata, 'ldvae') for linear factors of genes",
        **dict.fromkeys(("JaxSCVI", "mlxSCVI"), "use SCVI"),
        "utils": "use scanpy.tl.umap in place of mde",
    },
)
