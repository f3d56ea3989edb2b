"""A stable radix sort for compiled loops; its plain form is `np.argsort(key, kind="stable")`."""

from __future__ import annotations

import numpy as np

from scduet.nn.kernels.jit import compiled

DIGIT = 9  # bits


@compiled()
def ascending(key):
    """Positions that sort whole numbers (uint64); equal ones keep their order.

    A radix sort by the 18 bits that lead in their differences from the least. Few keys are alike in these: the larger
    of them step on one by one. With positive floats, take their bits for `key`.
    """
    lead, mask = _leading(key), np.uint32((1 << DIGIT) - 1)
    ends, upper_ends = np.zeros(1 << DIGIT, np.uint32), np.zeros(1 << DIGIT, np.uint32)
    for x in lead:
        ends[x & mask] += np.uint32(1)
        upper_ends[x >> np.uint32(DIGIT)] += np.uint32(1)
    _starts(ends)
    _starts(upper_ends)
    made, order = np.empty(len(key), np.uint32), np.empty(len(key), np.uint32)
    for i in range(len(key)):
        digit = lead[i] & mask
        end = ends[digit]
        made[end], ends[digit] = i, end + np.uint32(1)
    for j in range(len(key)):
        i = made[j]
        digit = lead[i] >> np.uint32(DIGIT)
        end = upper_ends[digit]
        order[end], upper_ends[digit] = i, end + np.uint32(1)
    return order if _settled(key, order) else np.argsort(key, kind="mergesort").astype(np.uint32)


@compiled()
def _leading(key):
    """The 2 DIGIT bits that lead in the differences of the keys from the least."""
    low, high = key[0], key[0]
    for k in key:
        low = min(low, k)
    for k in key:  # two loops, each of which is a vector instruction
        high = max(high, k)
    shift, lead = np.uint64(0), np.empty(len(key), np.uint32)
    while (high - low) >> shift >= np.uint64(1 << 2 * DIGIT):
        shift += np.uint64(1)
    for i in range(len(key)):
        lead[i] = (key[i] - low) >> shift
    return lead


@compiled()
def _starts(counts):
    """Turns how many have each digit into where they begin."""
    total = np.uint32(0)
    for digit in range(len(counts)):
        number = counts[digit]
        counts[digit] = total
        total += number


@compiled()
def _settled(key, order):
    """Sort what is nearly sorted, in place. False if it takes too many steps, as when one key is far from the rest."""
    one, steps = np.uint64(1), 8 * len(order)
    for j in range(1, len(order)):
        place = np.uint64(j)
        i = order[place]
        own = key[i]
        if key[order[place - one]] <= own:
            continue
        while place > 0 and key[order[place - one]] > own:
            order[place] = order[place - one]
            place -= one
            steps -= 1
        order[place] = i
        if steps < 0:
            return False
    return True
