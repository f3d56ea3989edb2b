"""The MMD between groups of a minibatch."""

import numpy as np
import torch

from scduet.nn.discrepancy import VARIANCES, mmd_between


def by_hand(a, b):
    """trVAE's: mean K(a, a) + mean K(b, b) - 2 mean K(a, b), with the mean of 19 Gaussian kernels."""

    def mean_kernel(x, y):
        squared = np.array([[((p - q) ** 2).sum() for q in y] for p in x])
        return np.mean([np.exp(-squared / (2 * s)).mean() for s in VARIANCES])

    return mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)


def test_the_mmd_is_that_of_a_loop_and_a_mean_over_pairs():
    draw = np.random.default_rng(0)
    x, group = draw.normal(size=(40, 3)) + np.arange(40)[:, None] % 4, np.arange(40) % 4
    a, b, c = (x[group == k] for k in (0, 1, 3))
    found = mmd_between(torch.tensor(x[group < 2]), torch.tensor(group[group < 2]), 4)
    assert np.isclose(found.item(), by_hand(a, b), atol=1e-9)
    there = group != 2  # a condition without cells in the minibatch
    found = mmd_between(torch.tensor(x[there]), torch.tensor(group[there]), 4)
    assert np.isclose(found.item(), np.mean([by_hand(a, b), by_hand(a, c), by_hand(b, c)]), atol=1e-9)


def test_the_mmd_is_zero_for_equal_samples_and_for_one_group_and_falls_as_distributions_meet():
    draw = np.random.default_rng(1)
    x = torch.tensor(draw.normal(size=(30, 4)))
    twice, group = torch.cat([x, x]), torch.arange(60) // 30
    assert abs(mmd_between(twice, group, 2).item()) < 1e-12
    assert mmd_between(x, torch.zeros(30, dtype=torch.long), 2).item() == 0
    of_equal = []  # of independent samples of one distribution: of the order of 1 / cells
    for n in (50, 800):
        two = torch.tensor(draw.normal(size=(2 * n, 4)))
        of_equal.append(mmd_between(two, torch.arange(2 * n) // n, 2).item())
    assert 0 <= of_equal[1] < of_equal[0] / 8 < 2 / 50 / 8
    apart = mmd_between(torch.cat([x, x + 3]), group, 2).item()
    assert apart > 10 * of_equal[0]
