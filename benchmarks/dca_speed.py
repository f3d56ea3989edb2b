"""Training speed of DCA beside plain torch: 10,000 cells x 2,000 genes, nb, dispersion of gene and cell, batch 128.

python benchmarks/dca_speed.py [rounds] [threads] [cells] [median count]

The plain network is that of the published formulas: dense layers, log(1 + x / s) scaled once beforehand, the negative
binomial with lgamma on dense minibatches, Adam, gradients clipped. Both train in one process, in turn, on all cells;
the first epoch of each round is not counted. Cells per CPU second, and per second; on a machine that is not idle the
first is the better guide.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch
from torch import nn
from torch.nn import functional as F

import scduet as sd

WIDTHS, BATCH, EPOCHS = (64, 32, 64), 128, 3


def simulated(n: int, median: int, n_genes: int = 2000) -> sp.csr_matrix:
    draw = np.random.default_rng(0)
    share = draw.gamma(0.2, 1, (8, n_genes))
    share /= share.sum(1, keepdims=True)
    kind, depth = draw.integers(0, 8, n), median * np.exp(0.4 * draw.normal(size=n))
    parts = [
        sp.csr_matrix(draw.poisson(share[kind[i : i + 1000]] * depth[i : i + 1000, None]).astype(np.float32))
        for i in range(0, n, 1000)
    ]
    return sp.vstack(parts).tocsr()


class Plain(nn.Module):
    def __init__(self, n_genes: int):
        super().__init__()
        sizes = (n_genes, *WIDTHS)
        layers = []
        for n_in, n_out in zip(sizes, WIDTHS, strict=False):
            layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out, eps=1e-3, momentum=0.01), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.mean, self.dispersion = nn.Linear(WIDTHS[-1], n_genes), nn.Linear(WIDTHS[-1], n_genes)

    def forward(self, z, size, y):
        hidden, eps = self.body(z), 1e-10
        mean = self.mean(hidden).exp().clamp(1e-5, 1e6) * size
        theta = F.softplus(self.dispersion(hidden)).clamp(1e-4, 1e4)
        loss = torch.lgamma(theta + eps) + torch.lgamma(y + 1) - torch.lgamma(y + theta + eps)
        loss += (theta + y) * torch.log1p(mean / (theta + eps)) + y * (torch.log(theta + eps) - torch.log(mean + eps))
        return loss.sum(1).mean()


def plain(counts: sp.csr_matrix) -> list[tuple[float, float]]:
    """Times, CPU and clock, at the ends of the epochs."""
    torch.manual_seed(0)
    y = torch.from_numpy(counts.toarray())
    size = y.sum(1, keepdim=True)
    size /= size.median()
    z = (y / size).log1p()
    z = (z - z.mean(0)) / z.std(0).clamp(min=1e-6)
    net, ends = Plain(y.shape[1]), []
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS + 1):
        for rows in torch.randperm(len(y)).split(BATCH):
            optimizer.zero_grad()
            net(z[rows], size[rows], y[rows]).backward()
            nn.utils.clip_grad_value_(net.parameters(), 5.0)
            optimizer.step()
        ends.append((time.process_time(), time.perf_counter()))
    return ends


def scduet(counts: sp.csr_matrix) -> list[tuple[float, float]]:
    ends: list[tuple[float, float]] = []

    def tick(event) -> None:
        if event.kind == "progress" and event.done:
            ends.append((time.process_time(), time.perf_counter()))

    options = {"max_epochs": EPOCHS + 1, "batch_size": BATCH, "train_size": 1.0, "early_stopping": False}
    sd.fit(ad.AnnData(counts), "dca", callback=tick, **options)
    return ends[-EPOCHS - 1 :]


def main(rounds: int, threads: int, n: int, median: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    counts = simulated(n, median)
    print(f"{n} cells, {counts.nnz / np.prod(counts.shape):.0%} of the counts above zero, {threads} threads")
    found: dict[str, list[list[float]]] = {"plain torch": [], "scduet": []}
    for _ in range(rounds):
        for name, train in {"plain torch": plain, "scduet": scduet}.items():
            ends = train(counts)
            rates = [n * EPOCHS / (last - first) for first, last in zip(ends[0], ends[-1], strict=True)]
            found[name].append(rates)
            print(f"{name:12s} {rates[0]:8,.0f} cells per CPU second, {rates[1]:8,.0f} per second", flush=True)
    for i, what in enumerate(("CPU second", "second")):
        middle = {name: statistics.median(run[i] for run in runs) for name, runs in found.items()}
        print(f"cells per {what}: {middle['scduet'] / middle['plain torch']:.2f} times plain torch")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*given, *(3, 2, 10_000, 400)[len(given) :])
