"""Linear heads on gene embeddings, to classify genes or predict a number for each.

    class:   p(class | gene) = softmax(W x + b), least cross-entropy + penalty / 2 |W|^2
    number:  y = w x + b, least squares + penalty |w|^2

x: the vector, each dimension standardized over the genes trained on. Both have one best solution, which is found to
numerical accuracy, so neither a learning rate nor a seed decides the result.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

PENALTIES = (1.0, 10.0, 100.0, 1000.0)  # tried on genes held out of those trained on
INNER = 0.25  # share of these genes


@dataclass(frozen=True)
class LinearProbe:
    """A linear map of standardized vectors."""

    mean: Float[Tensor, " width"]
    spread: Float[Tensor, " width"]
    weight: Float[Tensor, "width out"]
    bias: Float[Tensor, " out"]

    def __call__(self, x: Float[Tensor, "gene width"]) -> Float[Tensor, "gene out"]:
        return ((x - self.mean) / self.spread) @ self.weight + self.bias


@dataclass(frozen=True)
class Goal:
    """The task of a head: how to fit it, and its error (lower is better)."""

    fit: Callable[[Tensor, Tensor, float], LinearProbe]
    loss: Callable[[Tensor, Tensor], Tensor]


def classes(n: int) -> Goal:
    """Predicts `n` classes; the target is a code."""
    return Goal(lambda x, y, penalty: _classifier(x, y, penalty, n), F.cross_entropy)


NUMBER = Goal(lambda x, y, penalty: _regressor(x, y, penalty), lambda out, y: F.mse_loss(out[:, 0], y))


def cross_validated(
    x: Float[np.ndarray, "gene width"], y: np.ndarray, fold: Int[np.ndarray, " gene"], goal: Goal, seed: int = 0
) -> Float[np.ndarray, "gene out"]:
    """Cross-validated predictions for each gene; the penalty is also chosen on the other folds."""
    vectors, target = _tensors(x, y)
    out: list[tuple[np.ndarray, Tensor]] = []
    for number in np.unique(fold):
        inside = np.flatnonzero(fold == number)
        others = np.flatnonzero(fold != number)
        out.append((inside, fitted(vectors[others], target[others], goal, seed)(vectors[inside])))
    found = np.empty((len(x), out[0][1].shape[1]))
    for inside, said in out:
        found[inside] = said.numpy()
    return found


def fitted(x: Tensor, y: Tensor, goal: Goal, seed: int = 0) -> LinearProbe:
    """Fit a head on all genes, with the penalty that performs best on a held-out quarter of them."""
    order = np.random.default_rng(seed).permutation(len(x))
    held, shown = np.split(order, [max(1, int(INNER * len(x)))])
    losses = [float(goal.loss(goal.fit(x[shown], y[shown], p)(x[held]), y[held])) for p in PENALTIES]
    return goal.fit(x, y, PENALTIES[int(np.argmin(losses))])


def _classifier(x: Tensor, y: Tensor, penalty: float, n: int) -> LinearProbe:
    standard, mean, spread = _standardized(x)
    weight = torch.zeros(x.shape[1], n, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(n, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(standard @ weight + bias, y, reduction="sum") + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return LinearProbe(mean, spread, weight.detach(), bias.detach())


def _regressor(x: Tensor, y: Tensor, penalty: float) -> LinearProbe:
    """Solve the smaller of the primal and dual normal equations."""
    standard, mean, spread = _standardized(x)
    centre, n, width = y.mean(), *standard.shape
    if width <= n:
        eye = torch.eye(width, dtype=x.dtype)
        weight = torch.linalg.solve(standard.T @ standard + penalty * eye, standard.T @ (y - centre))
    else:
        eye = torch.eye(n, dtype=x.dtype)
        weight = standard.T @ torch.linalg.solve(standard @ standard.T + penalty * eye, y - centre)
    return LinearProbe(mean, spread, weight[:, None], centre[None])


def _standardized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, spread = x.mean(0), x.std(0, correction=0)
    spread = torch.where(spread > 1e-12, spread, torch.ones_like(spread))
    return (x - mean) / spread, mean, spread


def _tensors(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
    target = torch.from_numpy(np.asarray(y))
    return torch.from_numpy(np.asarray(x, np.float64)), target if target.dtype == torch.int64 else target.double()
