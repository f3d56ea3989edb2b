"""scvi-tools' MULTIVI: RNA, peaks and proteins, which it gives as PEAKVI and TOTALVI do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from scduet.data.locate import locate_main
from scduet.errors import OptionError
from scduet.nn.random import own_random_numbers
from scduet.scvi.analyses import View, as_theirs, chosen_cells
from scduet.scvi.peaks import GROUPS, PEAKVI
from scduet.scvi.proteins import PROTEIN, TOTALVI
from scduet.scvi.registry import unavailable
from scduet.scvi.setup import noted, seed
from scduet.scvi.signatures import takes
from scduet.scvi.training import with_plan
from scduet.tasks.multimodal.accessibility import cell_factors
from scduet.tasks.posterior.expression import Wanted, expected_values
from scduet.tasks.posterior.latent import Modality, batch_codes, modality_of

PARTS = {"expression": "rna", "accessibility": "peaks", "protein": PROTEIN}  # their names of modalities


class MULTIVI(PEAKVI):
    _first = "adata"
    _layers: ClassVar[dict[str, str]] = {
        "rna_layer": "layer",
        "atac_layer": "peaks_key",
        "protein_layer": "protein_key",
    }
    _may_miss = ("protein_layer",)
    _errors: ClassVar[dict[str, str]] = {
        "reconstruction": "reconstruction_loss_expression",
        "reconstruction_peaks": "reconstruction_loss_accessibility",
        "reconstruction_protein": "reconstruction_loss_protein",
    }
    get_normalized_function_name = "get_normalized_expression"
    setup_anndata = classmethod(unavailable("setup_anndata", "use setup_mudata, as there since 1.4"))  # type: ignore[assignment]
    prepare_query_mudata, minify_mudata = (vars(TOTALVI)[name] for name in ("prepare_query_mudata", "minify_mudata"))

    def _given(self, adata, options: dict[str, Any]) -> dict[str, Any]:
        """Options of ours; as in scvi-tools unless told otherwise. Raises OptionError for other numbers of features."""
        fields: Any = noted(adata, type(self).__name__, self._name)
        for name, place in (("n_genes", fields.layer), ("n_regions", fields.peaks_key)):
            n, there = options.pop(name, None), len(locate_main(adata, place).columns)
            if n is not None and n != there:
                raise OptionError(f"{name}={n!r}, and the MuData has {there}", "leave it out")
        return {"as_in_scvi_tools": True, **options}

    @takes(
        "max_epochs=500, lr=1e-4, accelerator='auto', devices='auto', train_size, validation_size,"
        "shuffle_set_split=True, batch_size=128, weight_decay=1e-3, eps=1e-8, early_stopping=True,"
        "check_val_every_n_epoch, n_steps_kl_warmup, n_epochs_kl_warmup=50, adversarial_mixing=True,"
        "datasplitter_kwargs, plan_kwargs, **"
    )
    def train(self, adversarial_mixing, more, **given):
        """Train, until the loss of held-out cells gets no better (there: its reconstruction); with an adversary."""
        module: Any = self._model.module
        if self._reference is None and adversarial_mixing != module.config.adversarial_mixing:
            module.config = config = replace(self._model.config, adversarial_mixing=adversarial_mixing)
            with own_random_numbers(seed()):
                module.add_adversary()
            self._model = replace(self._model, module=module.to(self._model.device), config=config)
        self._train(with_plan({"early_stopping_patience": 50, **given, **more}))

    @takes("adata, modality='joint', indices, give_mean=True, batch_size, return_dist=False")
    def get_latent_representation(self, adata, modality, indices, give_mean, batch_size, return_dist):
        """States (cell, latent) by all that was measured in a cell, or by one modality; NaN where that was not."""
        if modality == "joint":
            return super().get_latent_representation(adata, indices, give_mean, 5000, batch_size, return_dist)
        if modality not in PARTS:
            raise OptionError(f"modality={modality!r}", f"it is joint, {', '.join(PARTS)}")
        if return_dist or not give_mean:
            raise OptionError(f"modality={modality!r} gives means", "leave give_mean and return_dist out, or use joint")
        size = self._sized(batch_size)["batch_size"]
        return self._model.embed(self._cells(adata, indices), batch_size=size, modality=PARTS[modality])

    @takes("adata, indices, batch_size=128")
    def get_library_size_factors(self, adata, indices, batch_size):
        """Of the genes of each cell the logarithm of a library size, of its peaks the depth, 0 to 1; (cell) each."""
        module, cells = self._model.module, self._cells(adata, indices)
        sizes = self._model.map(module.log_library, cells)  # type: ignore[arg-type]
        return {"expression": sizes.cpu().numpy()[:, 0], "accessibility": cell_factors(self._model, cells).to_numpy()}

    @takes(
        "adata, indices, n_samples_overall, transform_batch, gene_list, use_z_mean=True, n_samples=1, batch_size,"
        "return_mean=False, return_numpy=False, silent=True"
    )
    def get_normalized_expression(self, gene_list, silent, **same):
        """Expected share of each gene (cell x gene), measured or not; of draws not averaged (draw, cell, gene)."""
        return self._expected(modality_of(self._model), gene_list, **same)

    @takes(
        "adata, indices, transform_batch, protein_list, n_samples=1, batch_size, use_z_mean=True, return_mean=True,"
        "return_numpy, silent=True"
    )
    def get_protein_foreground_probability(self, protein_list, silent, **same):
        """Probability that a protein is beyond background (cell x protein), measured or not."""
        module: Any = self._model.module

        def foreground(z, cells, batch):
            return module.foreground_probability(z, cells, batch)

        return self._expected(View.of_modality(modality_of(self._model, PROTEIN), foreground), protein_list, **same)

    @takes(f"{GROUPS.replace('delta=0.05', 'delta=0.25')}, pseudocounts=1e-6, **")
    def differential_expression(self, **given):
        """Compare the expression of groups of cells: a row a comparison and gene. By draws of states."""
        return as_theirs(self._compare(**given), given["idx1"] is not None)

    @takes(f"{GROUPS}, pseudocounts=1e-6, **")
    def differential_accessibility(self, **given):
        """As PEAKVI's."""
        return self._accessibility_compared(**given)

    def _expected(
        self, modality: Modality, names, adata, indices, transform_batch, return_numpy, n_samples_overall=None, **given
    ):
        """Expected values of the features of a modality, as a table, or of draws not averaged as an array."""
        cells = self._cells(adata, indices)
        rows, draws = chosen_cells(cells.n_obs, n_samples_overall), self._sized(given["batch_size"])
        draws |= {"n_samples": given["n_samples"], "return_mean": given["return_mean"], "at_mean": given["use_z_mean"]}
        wanted = [Wanted(modality, *modality.places(self._in_order(names, modality.name)))]
        (found,) = expected_values(self._model, cells, wanted, batch_codes(self._model, transform_batch), rows, **draws)
        if len(found) > 1 or return_numpy:
            return found if len(found) > 1 else found[0]
        index = cells.obs_names if rows is None else cells.obs_names[np.asarray(rows)]
        return pd.DataFrame(found[0], index=index, columns=pd.Index(wanted[0].names))
