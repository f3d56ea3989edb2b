"""How much of real human data sets the vocabularies of the published transformers know, and how many tokens cells have.

    python transformers_coverage.py [--cells 1000]

Prints one row a vocabulary and data set, and writes results/transformers_coverage.csv. No weights are needed.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import pandas as pd
import torch

from scduet.checkpoints import geneformer, scfoundation, scgpt
from scduet.errors import ScduetError
from scduet.transformer_model import Transformer
from scduet.transformers.families import geneformer as gf
from scduet.transformers.families import scfoundation as sf
from scduet.transformers.families import scgpt as sg

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ASSETS = DATA / "files" / "foundation"
SETS = (
    "pbmc3k_seurat_labels",
    "kang_ifnb_2800",
    "pbmc_purified_facs10",
    "pbmc_3chem_10x",
    "pbmc_atlas_5studies_15k_2000g",
    "cellbench_3cl_celseq2_dropseq",
    "cite_pbmc5k_10k_400",
    "pancreas_baron_human_mouse_350",
    "seqfishplus_cortex_cells",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1000)
    options = parser.parse_args()
    rows = [row(name, model, data, options.cells) for data in SETS for name, model in models().items()]
    table = pd.DataFrame(rows).set_index(["data", "vocabulary"])
    print(table.to_string())
    target = Path(__file__).parent / "results" / "transformers_coverage.csv"
    target.parent.mkdir(exist_ok=True)
    table.to_csv(target)


def row(name: str, model: Transformer, data: str, n_cells: int) -> dict:
    adata = ad.read_h5ad(DATA / f"{data}.h5ad")
    adata = adata[:: max(1, adata.n_obs // n_cells)].copy()
    try:
        told = model.token_statistics(adata)
        usable = told["share_of_counts"] >= 0.5
    except ScduetError as error:
        return {"data": data, "vocabulary": name, "usable": False, "place": str(error)[:40]}
    return {"data": data, "vocabulary": name, "cells": adata.n_obs, "usable": usable, **told}


def models() -> dict[str, Transformer]:
    """The official vocabularies, each with a module that has no weights."""
    known = {
        "geneformer V1": geneformer.read_vocabulary([ASSETS / "geneformer"], 25_426),
        "scgpt 48k": scgpt.vocabulary_of(
            json.loads((ASSETS / "scgpt" / "default_gene_vocab.json").read_text()), "<pad>"
        ),
        "scfoundation": scfoundation.vocabulary_of(ASSETS, ASSETS / "scfoundation" / scfoundation.GENES, 19_264),
    }
    if (spec := find_spec("scgpt")) is not None:
        census = Path(spec.origin).parent / "tokenizer" / "default_census_vocab.json"
        known["scgpt whole-human"] = scgpt.vocabulary_of(json.loads(census.read_text()), "<pad>")
    with torch.device("meta"):
        return {name: Transformer(name.split()[0], _module(name, vocabulary), "") for name, vocabulary in known.items()}


def _module(name: str, vocabulary):
    if name.startswith("geneformer"):
        return gf.Geneformer(gf.Config(), vocabulary)
    if name.startswith("scgpt"):
        return sg.ScGPT(sg.Config(n_tokens=len(vocabulary)), vocabulary)
    return sf.ScFoundation(sf.Config(), vocabulary)


if __name__ == "__main__":
    main()
