"""The publishers' own dictionaries tokenize real human cells. No weights are public enough to be beside the project."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

from scduet.checkpoints import geneformer
from scduet.checkpoints.scfoundation import GENES, vocabulary_of
from scduet.checkpoints.scgpt import vocabulary_of as scgpt_vocabulary
from scduet.transformer_model import Transformer
from scduet.transformers.families import geneformer as gf
from scduet.transformers.families import scfoundation as sf
from scduet.transformers.families import scgpt as sg

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
ASSETS = DATA / "files" / "foundation"
pytestmark = pytest.mark.skipif(not ASSETS.exists(), reason="there is no ../shared/data")


@pytest.fixture(scope="module")
def models() -> dict[str, Transformer]:
    """The official vocabularies, with modules that have no weights: only the tokenizers are used."""
    vocabularies = {
        "geneformer": geneformer.read_vocabulary([ASSETS / "geneformer"], 25_426),
        "scgpt": scgpt_vocabulary(json.loads((ASSETS / "scgpt" / "default_gene_vocab.json").read_text()), "<pad>"),
        "scfoundation": vocabulary_of(ASSETS, ASSETS / "scfoundation" / GENES, 19_264),
    }
    with torch.device("meta"):
        modules = {
            "geneformer": gf.Geneformer(gf.Config(), vocabularies["geneformer"]),
            "scgpt": sg.ScGPT(sg.Config(n_tokens=len(vocabularies["scgpt"])), vocabularies["scgpt"]),
            "scfoundation": sf.ScFoundation(sf.Config(), vocabularies["scfoundation"]),
        }
    return {name: Transformer(name, module, "") for name, module in modules.items()}


@pytest.mark.parametrize("family", ["geneformer", "scgpt", "scfoundation"])
@pytest.mark.parametrize("data", ["pbmc3k_seurat_labels", "kang_ifnb_2800", "pbmc_purified_facs10"])
def test_most_counts_of_real_cells_are_on_known_genes(models, family, data):
    adata = ad.read_h5ad(DATA / f"{data}.h5ad")[:300].copy()
    told = models[family].token_statistics(adata)
    assert told["share_of_counts"] > 0.5
    assert 100 < told["tokens_median"] < 2000


def test_the_sizes_are_the_published_ones(models):
    assert len(models["geneformer"].vocabulary) == 25_426
    assert len(models["scfoundation"].vocabulary) == 19_264
    assert len(models["scgpt"].vocabulary) == 48_292 + 3
    counted = {name: sum(p.numel() for p in model.module.parameters()) for name, model in models.items()}
    assert counted["geneformer"] == pytest.approx(10.3e6, rel=0.02)  # without the head for masked genes


def test_the_first_genes_of_a_t_cell_are_not_the_most_counted(models):
    """Ranks are relative to the usual count: ribosomal genes and MALAT1, counted most, do not lead."""
    adata = ad.read_h5ad(DATA / "pbmc3k_seurat_labels.h5ad")[:200].copy()
    model = models["geneformer"]
    cells, tokenizer = model.prepared(adata)
    from scduet.transformers.inference.embedding import in_order

    batch = tokenizer(in_order(cells.counts, 0, 200))
    names = {token: gene for gene, token in model.vocabulary.token.items()}
    malat1 = "ENSG00000251562"
    counted_most = adata.X.toarray().argmax(1)
    assert (adata.var["gene_id"].to_numpy()[counted_most] == malat1).mean() > 0.3
    first = [names[int(token)] for token in batch.gene[:, 0]]
    assert np.mean([gene == malat1 for gene in first]) < 0.05
