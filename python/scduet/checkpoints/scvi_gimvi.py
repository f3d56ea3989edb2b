"""scvi-tools' files of gimVI, which know two data sets: a registry and names of genes for each."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from scduet.checkpoints.scvi_names import Names, from_scvi_tools, to_scvi_tools
from scduet.contract import Reference
from scduet.data.levels import kind_of, text
from scduet.data.schema import Schema
from scduet.errors import FormatError
from scduet.models.spatial.gimvi import Fields, GimVI
from scduet.models.spatial.gimvi_networks import DATA_SETS

GENES = {"rna": "seq_var_names", "spatial": "spatial_var_names"}  # in their files
GENE_FILES = {"rna": "var_names_seq.csv", "spatial": "var_names_spatial.csv"}  # before 0.15
SPATIAL = "obsm/spatial_counts"  # place of the counts of the spatial data, beside single cells
BATCH = "batch"  # column of the batches, where only one data set names one
NUMBERS = {"rna": 0, "spatial": 1}
MOMENTS = {
    "mean": ("library_log_mean", "library_log_means", 0.0),
    "variance": ("library_log_variance", "library_log_vars", 1.0),
}
PAIRS = {  # their lists of an entry for each data set: our options
    "generative_distributions": ("gene_likelihood", "spatial_likelihood"),
    "model_library_size": ("learn_library", "learn_spatial_library"),
}
GIMVI = Names(
    stacks={
        "encoder.shared.body": "z_encoder.encoder_shared",
        "decoder.own_layers": "decoder.px_decoder_conditioned",
        "decoder.shared_layers": "decoder.px_decoder_final",
        **{f"encoder.own_layers.{name}": f"z_encoder.encoders.{i}" for name, i in NUMBERS.items()},
        **{f"encoder.library.{name}.body": f"l_encoders.{i}.encoder" for name, i in NUMBERS.items()},
    },
    linear={
        "encoder.shared.mean": "z_encoder.mean_encoder",
        "encoder.shared.log_variance": "z_encoder.var_encoder",
        "decoder.share": "decoder.px_scale_decoder.0",
        "decoder.dropout_logits": "decoder.px_dropout_decoder",
        "decoder.log_dispersion_of_cell": "decoder.px_r_decoder",
        **{f"encoder.library.{name}.mean": f"l_encoders.{i}.mean_encoder" for name, i in NUMBERS.items()},
        **{f"encoder.library.{name}.log_variance": f"l_encoders.{i}.var_encoder" for name, i in NUMBERS.items()},
    },
    turned={"decoder.log_dispersion": "px_r"},
    may_be_unused=("decoder.px_r_decoder.", "decoder.px_dropout_decoder.", "px_r", "pyro_param_store"),
    same={ours: theirs for ours, theirs, _ in MOMENTS.values()},
)


class Two(NamedTuple):
    """What their file knows of a column of both data sets: its key in each, and the levels there."""

    keys: tuple[str | None, ...]
    levels: tuple[list[Any], ...]

    @classmethod
    def of(cls, registries: Sequence[Mapping[str, Any]], kind: str) -> Two:
        states = [one["field_registries"][kind]["state_registry"] for one in registries]
        keys = tuple(None if one["original_key"] == f"_scvi_{kind}" else str(one["original_key"]) for one in states)
        return cls(keys, tuple(list(one["categorical_mapping"]) for one in states))

    @property
    def key(self) -> str | None:
        """The column of both, None where neither has one."""
        return next((key for key in self.keys if key is not None), None)

    @property
    def together(self) -> list[Any]:
        """The levels of both, those of the first before those that only the second has."""
        first, second = self.levels
        known = {text(level) for level in first}
        return [*first, *(level for level in second if text(level) not in known)]

    def codes(self) -> np.ndarray:
        """Their code of each of these levels (data set, level), -1 where a data set lacks it: they number on."""
        names, first = [text(level) for level in self.together], 0
        found = np.full((len(self.levels), len(names)), -1)
        for row, known in zip(found, self.levels, strict=True):
            row[[names.index(text(level)) for level in known]] = first + np.arange(len(known))
            first += len(known)
        return found


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for their lists of an entry for each data set."""
    found: dict[str, Any] = dict.fromkeys(PAIRS)
    for theirs, ours in PAIRS.items():
        found |= dict(zip(ours, given.get(theirs) or (), strict=False))
    return found


def init(given: dict[str, Any]) -> dict[str, Any]:
    """Their arguments for our options."""
    pairs = {theirs: [given.pop(name) for name in ours] for theirs, ours in PAIRS.items()}
    return {**pairs, **{name: value for name, value in given.items() if name != "kappa"}}


def described(
    genes: Mapping[str, tuple[str, ...]], registries: Sequence[Mapping[str, Any]], weights: Mapping[str, Tensor]
) -> tuple[Schema, Reference]:
    """The schema and the reference of both data sets together."""
    batch, layer = Two.of(registries, "batch"), registries[0].get("setup_args", {}).get("layer")
    levels, code = batch.together, batch.codes()
    key = batch.key or (BATCH if len(levels) > 1 else None)
    panel = np.isin(genes["rna"], genes["spatial"])
    if panel.sum() != len(genes["spatial"]):
        raise FormatError("the spatial data of this GIMVI have genes that the single cells lack", "train it again")
    arrays = {"panel": panel, "batch_code": code, **_moments(code, weights)}
    sizes = [one["field_registries"].get("X", {}).get("summary_stats", {}) for one in registries]
    fields = Fields(layer=layer, batch_key=key, spatial_key=SPATIAL)
    kinds = {} if key is None or kind_of(levels) == "text" else {key: kind_of(levels)}
    return (
        Schema(
            fields,
            genes["rna"],
            {} if key is None else {key: tuple(map(text, levels))},
            inputs=GimVI.inputs,
            features={"spatial": genes["rna"]},
            kinds=kinds,
        ),
        Reference(
            n_genes=len(genes["rna"]),
            n_batches=len(levels),
            n_cells=int(sum(size.get("n_cells", 0) for size in sizes)),
            n_extra={"spatial": len(genes["rna"])},
            arrays={name: values.astype(np.float32) for name, values in arrays.items()},
        ),
    )


def _moments(code: np.ndarray, weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Moments of the library by code, of the data set that each belongs to."""
    found = {ours: np.full(code.max() + 1, default) for ours, _, default in MOMENTS.values()}
    for i, row in enumerate(code):
        for ours, theirs, _ in MOMENTS.values():
            if f"{theirs}_{i}" in weights:
                found[ours][row[row >= 0]] = weights[f"{theirs}_{i}"].numpy().ravel()[row[row >= 0]]
    return found


def panel_order(genes: Mapping[str, tuple[str, ...]]) -> np.ndarray:
    """Place of each gene of the panel, in the order of the single cells, among those of the spatial data."""
    place = {gene: i for i, gene in enumerate(genes["spatial"])}
    return np.array([place[gene] for gene in genes["rna"] if gene in place])


def read_weights(
    theirs: Mapping[str, Tensor], module: nn.Module, genes: Mapping[str, tuple[str, ...]]
) -> dict[str, Tensor]:
    """A state dict for `module`, whose panel is in the order of the single cells."""
    found = {name: value for name, value in theirs.items() if not name.startswith("library_log_")}
    order = panel_order(genes)
    for name in ("z_encoder.encoders.1", "l_encoders.1.encoder"):
        first = f"{name}.fc_layers.Layer 0.0.weight"
        if first in found:
            found[first] = found[first][:, order]
    reference: Any = module.reference
    found |= {theirs: torch.tensor(reference.arrays[ours]) for ours, theirs, _ in MOMENTS.values()}
    own = {name: value for name, value in module.state_dict().items() if name.startswith("adversary.")}
    return own | from_scvi_tools(found, module, GIMVI)


def written_weights(module: Any) -> dict[str, Tensor]:
    """The state dict of their module; the weights that it never uses are zero."""
    found = to_scvi_tools(module, GIMVI)
    width = module.decoder.share.weight.shape[1]
    n_genes, n_codes = module.reference.n_genes, module.n_codes
    own = module.reference.arrays["batch_code"]
    for _, theirs, default in MOMENTS.values():
        values = found.pop(theirs)
        for name, i in NUMBERS.items():
            if name in module.encoder.library:
                there = torch.tensor(own[i][own[i] >= 0].astype(int))
                row = torch.full((1, n_codes), default)
                row[0, there] = values.cpu()[there]
                found[f"{theirs}_{i}"] = row
    unused = {"decoder.px_dropout_decoder": n_genes, "decoder.px_r_decoder": n_genes}
    for name, n in unused.items():
        if f"{name}.weight" not in found:
            found |= {f"{name}.weight": torch.zeros(n, width), f"{name}.bias": torch.zeros(n)}
    if "px_r" not in found and module.config.dispersion != "gene-cell":
        found["px_r"] = torch.zeros(n_genes, *((n_codes,) if module.config.dispersion == "gene-batch" else ()))
    return found


def parted(schema: Schema, reference: Reference) -> list[tuple[Schema, Reference]]:
    """What is known of each data set by itself: its genes and its batches."""
    key, found = schema.fields.batch_key, []
    for i, name in enumerate(DATA_SETS):
        panel = reference.arrays["panel"] > 0
        genes = schema.genes if name == "rna" else tuple(np.array(schema.genes, object)[panel])
        there = np.flatnonzero(reference.arrays["batch_code"][i] >= 0)
        levels = {} if key is None else {key: tuple(schema.levels[key][j] for j in there)}
        fields = schema.fields if name == "rna" else replace(schema.fields, layer=None)
        own = replace(schema, fields=fields, genes=genes, levels={**schema.levels, **levels})
        found.append((own, replace(reference, n_genes=len(genes))))
    return found


def write_two(attributes: dict[str, Any], registries: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Put the `registries` of both data sets in the place of that of one; returns their entries for names of genes."""
    attributes["registries_"] = registries
    del attributes["registry_"]
    for indices in ("train", "validation", "test"):
        attributes[f"{indices}_indices_"] = [attributes[f"{indices}_indices_"]] * len(DATA_SETS)
    known = zip(GENES.values(), registries, strict=True)
    return {theirs: one["field_registries"]["X"]["state_registry"]["column_names"] for theirs, one in known}
