"""Writes fixtures/scfoundation.npz: weights and results of the official code of scFoundation, for a tiny model.

    python make_scfoundation_fixture.py <folder "model" of github.com/biomap-research/scFoundation>

It needs einops and local-attention. Kept as numbers, so that the test needs neither that code nor its packages.
"""

import sys
from pathlib import Path

import numpy as np
import torch

N_GENES = 60
CONFIG = {
    "mask_gene_name": False, "gene_num": N_GENES + 2, "seq_len": N_GENES + 2, "n_class": 104, "pad_token_id": 103,
    "mask_token_id": 102, "bin_num": 10, "bin_alpha": 1.0, "rawcount": True, "model": "mae_autobin",
    "encoder": {"hidden_dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "seq_len": N_GENES + 2,
                "module_type": "transformer", "norm_first": False},
    "decoder": {"hidden_dim": 12, "depth": 2, "heads": 2, "dim_head": 6, "seq_len": N_GENES + 2,
                "module_type": "performer", "norm_first": False},
}  # fmt: skip


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    torch.nn.Module.cuda = lambda self, *_: self
    from load import gatherData, getEncoerDecoderData
    from pretrainmodels import select_model

    torch.manual_seed(0)
    model = select_model(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.25)
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.4, 2.5, (5, N_GENES))).astype(np.float32)
    counts[:, 0] += 2
    total = counts.sum(1, keepdims=True)
    scaled = np.log1p(counts / total * 1e4)
    results = {}
    for name, wished in (("t4", 0 * total + 4.0), ("f2", np.log10(total * 2)), ("a5", np.log10(total) + 5)):
        x = torch.from_numpy(np.concatenate([scaled, wished, np.log10(total)], 1)).float()
        with torch.no_grad():
            cells = [_cell(model, row[None], gatherData) for row in x]
            results[f"{name}_all"] = torch.cat([cell[0] for cell in cells]).numpy()
            results[f"{name}_max"] = torch.cat([cell[1] for cell in cells]).numpy()
            results[f"{name}_expression"] = np.concatenate(
                [_decoded(model, row[None], getEncoerDecoderData) for row in x]
            )
    head, model.to_final = model.to_final, None
    x = torch.from_numpy(np.concatenate([scaled, 0 * total + 4.0, np.log10(total)], 1)).float()
    with torch.no_grad():
        results["t4_genes"] = np.concatenate([_decoded(model, row[None], getEncoerDecoderData) for row in x])
    model.to_final = head
    weights = {f"model.{name}": weight.numpy() for name, weight in model.state_dict().items()}
    path = Path(__file__).parent / "fixtures" / "scfoundation.npz"
    np.savez_compressed(
        path, counts=counts, **weights, **{f"result.{k}": v.astype(np.float32) for k, v in results.items()}
    )
    print(path, path.stat().st_size)


def _cell(model, x, gather):
    expressed = x > 0
    values, padding = gather(x, expressed, 103)
    places, _ = gather(torch.arange(N_GENES + 2)[None], expressed, 103)
    states = model.encoder(model.token_emb(values.unsqueeze(2)) + model.pos_emb(places), padding)
    parts = [states[:, -1], states[:, -2], states[:, :-2].max(1)[0], states[:, :-2].mean(1)]
    return torch.cat(parts, 1), states.max(1)[0]


def _decoded(model, x, prepare):
    encoded, places, padding, labels, decoded, decoder_padding, _, _, decoder_places = prepare(
        x.clone(), x.clone(), CONFIG
    )
    out = model(
        x=encoded, padding_label=padding, encoder_position_gene_ids=places, encoder_labels=labels, decoder_data=decoded,
        mask_gene_name=False, mask_labels=None, decoder_position_gene_ids=decoder_places,
        decoder_data_padding_labels=decoder_padding,
    )  # fmt: skip
    return out[:, :N_GENES].numpy()


if __name__ == "__main__":
    main()
