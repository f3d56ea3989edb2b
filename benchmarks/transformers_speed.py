"""Tokenizing and embedding, here and by the official code, with the same random weights on the same real cells.

    python transformers_speed.py [--cells 64] [--threads 2] [--repeats 3] [--device cpu]

Each repeat runs the peers in turn, in this process; the table has the median and the spread. The official sides:
Geneformer: its tokenizer's loop over cells, and BertForMaskedLM on batches padded and sorted by length, all hidden
states kept, as EmbExtractor calls it. scGPT: data set and collator of `embed_data`, and `get_batch_cell_embeddings`.
Needs the packages `transformers` and `scgpt` 0.2.4 (pip install --no-deps).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
import time
import warnings
from collections import defaultdict
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch
from scgpt_reference import import_scgpt

from scduet.checkpoints import pretrained
from scduet.transformers.inference.embedding import windows

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
ASSETS = SHARED / "files" / "foundation"
GENEFORMER = {
    "vocab_size": 25_426,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "hidden_act": "relu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
SCGPT = {
    "embsize": 512,
    "nheads": 8,
    "d_hid": 512,
    "nlayers": 12,
    "n_layers_cls": 3,
    "dropout": 0.2,
    "pad_token": "<pad>",
    "pad_value": -2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", default="pbmc3k_seurat_labels.h5ad")
    parser.add_argument("--only", default="", help="run only rows whose name contains this, e.g. Geneformer")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    adata = ad.read_h5ad(SHARED / options.data)
    with tempfile.TemporaryDirectory() as folder:
        rows = {}
        for family, prepare in (("Geneformer", geneformer_rows), ("scGPT", scgpt_rows)):
            if family in options.only or not options.only.startswith(("Geneformer", "scGPT")):
                rows |= prepare(adata, Path(folder), options)
        report({name: row for name, row in rows.items() if options.only in name}, options)


def report(rows, options) -> None:
    """Run every row in turn, several times, and print cells per second."""
    speeds, agreement = defaultdict(list), {}
    for _ in range(options.repeats):
        for name, (n_cells, ours, official) in rows.items():
            results = []
            for who, run in (("ours", ours), ("official", official)):
                start = time.perf_counter()
                results.append(run() if run is not None else None)
                speeds[name, who].append(n_cells / (time.perf_counter() - start))
            agreement[name] = _agreement(*results)
    setting = f"{options.data}, {options.threads} threads, {options.device}"
    print(f"{setting}: cells per second, median (least-most) of {options.repeats}")
    for name, (_, _, official) in rows.items():
        ours = speeds[name, "ours"]
        text = f"{name:34s} ours {np.median(ours):9.1f} ({min(ours):.1f}-{max(ours):.1f})"
        if official is not None:
            theirs = speeds[name, "official"]
            ratio = np.median(ours) / np.median(theirs)
            text += f"   official {np.median(theirs):8.1f} ({min(theirs):.1f}-{max(theirs):.1f})   ratio {ratio:5.1f}"
        print(text, agreement[name])


def _agreement(ours, official) -> str:
    if not isinstance(ours, np.ndarray) or not isinstance(official, np.ndarray):
        return ""
    cosine = (ours * official).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(official, axis=1)
    return f"  least cosine {cosine.min():.5f}"


# ------------------------------------------------------------------------------------------------------ Geneformer


def geneformer_rows(adata, folder: Path, options) -> dict:
    from transformers import BertConfig, BertForMaskedLM

    folder = folder / "geneformer"
    torch.manual_seed(0)
    reference = BertForMaskedLM(BertConfig(**GENEFORMER)).eval().to(options.device)
    reference.save_pretrained(folder)
    model = pretrained.read(folder, dictionaries=ASSETS / "geneformer")
    some_cells = adata[: options.cells].copy()
    match, (cells, tokenizer) = model.match(adata), model.prepared(adata)
    few_cells, _ = model.prepared(some_cells)
    tokens = next(iter(windows(tokenizer, few_cells.counts)))
    rows = [tokens.gene[a:b] for a, b in zip(tokens.indptr[:-1], tokens.indptr[1:], strict=True)]
    embed = partial(model.embed, some_cells, pooling="mean", accelerator=options.device)
    official = partial(bert_embedding, reference, rows, options.device)
    return {
        "Geneformer tokens": (
            len(cells),
            lambda: list(windows(tokenizer, cells.counts)),
            lambda: official_ranks(adata, match, model),
        ),
        "Geneformer 6 layers, fp32": (options.cells, partial(embed, precision="32"), official),
        "Geneformer 6 layers, bf16": (options.cells, partial(embed, precision="bf16"), None),
    }


def official_ranks(adata, match, model, chunk: int = 512) -> list[np.ndarray]:
    """What the official tokenizer does with an AnnData, chunk by chunk, before it builds a data set."""
    known = np.flatnonzero(match.token >= 0)
    tokens, medians = match.token[known], model.vocabulary.medians(25_426)[match.token[known]]
    total, ranked = np.asarray(adata.X.sum(1)).ravel(), []
    for start in range(0, adata.n_obs, chunk):
        rows = np.arange(start, min(start + chunk, adata.n_obs))
        scaled = sp.csr_matrix(adata[rows, :][:, known].X / total[rows][:, None] * 10_000 / medians)
        ranked += [tokens[scaled[i].indices][np.argsort(-scaled[i].data)] for i in range(scaled.shape[0])]
    return ranked


@torch.no_grad()
def bert_embedding(reference, rows, device: str, batch_size: int = 100) -> np.ndarray:
    """As EmbExtractor: sorted by length, padded, whole model with its head, all hidden states kept, mean over genes."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    out = np.empty((len(rows), reference.config.hidden_size), np.float32)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        length = torch.tensor([len(rows[i]) for i in batch])
        gene = torch.zeros(len(batch), int(length.max()), dtype=torch.long)
        for place, i in enumerate(batch):
            gene[place, : len(rows[i])] = torch.from_numpy(rows[i].astype(np.int64))
        mask = torch.arange(gene.shape[1])[None] < length[:, None]
        states = reference(
            input_ids=gene.to(device), attention_mask=mask.long().to(device), output_hidden_states=True
        ).hidden_states[-2]
        weight = mask.to(device)[..., None]
        out[batch] = ((states * weight).sum(1) / weight.sum(1)).cpu().numpy()
    return out


# ------------------------------------------------------------------------------------------------------------ scGPT


def scgpt_rows(adata, folder: Path, options) -> dict:
    official_package = import_scgpt()
    folder = folder / "scgpt"
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps(SCGPT))
    names = json.loads((ASSETS / "scgpt" / "default_gene_vocab.json").read_text())
    for special in ("<pad>", "<cls>", "<eoc>"):
        names.setdefault(special, len(names))
    (folder / "vocab.json").write_text(json.dumps(names))
    vocab = official_package.tokenizer.GeneVocab.from_file(folder / "vocab.json")
    torch.manual_seed(0)
    reference = official_package.model.TransformerModel(
        len(vocab), 512, 8, 512, 12, nlayers_cls=3, n_cls=1, vocab=vocab, dropout=0.2, pad_token="<pad>", pad_value=-2,
        do_mvc=True, use_fast_transformer=False,
    ).eval()  # fmt: skip
    torch.save(reference.state_dict(), folder / "best_model.pt")
    reference.to(options.device)
    model = pretrained.read(folder)
    match, (cells, tokenizer) = model.match(adata), model.prepared(adata)
    some_cells, kept = adata[: options.cells].copy(), np.flatnonzero(match.token >= 0)
    known_cells = some_cells[:, kept].copy()
    embed = partial(model.embed, some_cells, accelerator=options.device)
    os.sched_getaffinity = lambda _pid: []  # no worker processes for so few cells
    embedding = importlib.import_module("scgpt.tasks.cell_emb").get_batch_cell_embeddings
    official = partial(
        embedding, known_cells, model=reference, vocab=vocab, model_configs=SCGPT, gene_ids=match.token[kept]
    )
    to_tokenize = adata[:, kept].X.toarray()
    return {
        "scGPT tokens": (
            len(cells),
            lambda: list(windows(tokenizer, cells.counts)),
            lambda: official_collation(official_package, to_tokenize, match.token[kept], vocab),
        ),
        "scGPT 12 layers, fp32": (options.cells, partial(embed, precision="32"), official),
        "scGPT 12 layers, bf16": (options.cells, partial(embed, precision="bf16"), None),
    }


def official_collation(package, dense, gene_ids, vocab) -> None:
    """The data set and the collator of `embed_data`, in one process."""
    collate = package.data_collator.DataCollator(
        do_padding=True, pad_token_id=vocab["<pad>"], pad_value=-2, do_mlm=False, do_binning=True, max_length=1200,
        sampling=True, keep_first_n_tokens=1,
    )  # fmt: skip
    for start in range(0, len(dense), 64):
        examples = []
        for i, row in enumerate(dense[start : start + 64]):
            found = np.nonzero(row)[0]
            genes, values = np.insert(gene_ids[found], 0, vocab["<cls>"]), np.insert(row[found], 0, -2)
            examples.append(
                {"id": i, "genes": torch.from_numpy(genes).long(), "expressions": torch.from_numpy(values).float()}
            )
        collate(examples)


if __name__ == "__main__":
    main()
