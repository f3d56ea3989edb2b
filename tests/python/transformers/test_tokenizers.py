"""Each tokenizer against a plain loop over its definition, and what must not change its result."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scduet.data.loader import Rows
from scduet.nn.kernels.sorting import ascending
from scduet.nn.kernels.tokens import quantile_bins, uniform
from scduet.transformers.tokenizers import tokens as tokens_module
from scduet.transformers.tokenizers.binned_value import BinTokenizer
from scduet.transformers.tokenizers.continuous_value import DepthTokenizer
from scduet.transformers.tokenizers.rank_value import RankTokenizer

N_GENES = 60
RNG = np.random.default_rng(0)
TOKEN = np.where(RNG.random(N_GENES) < 0.2, -1, RNG.permutation(N_GENES) + 4)  # some genes have none
MEDIAN = RNG.lognormal(0, 1, N_GENES + 4)


def rows_of(counts: np.ndarray, first: int = 0) -> Rows:
    matrix = sp.csr_matrix(counts.astype(np.float32))
    index = np.arange(first, first + len(counts))
    return Rows(matrix.data, matrix.indices, matrix.indptr, counts.shape[1], index, np.zeros_like(index))


def counts(n=30, seed=1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.6, 2, (n, N_GENES)) * rng.choice([0.1, 1, 3], (n, 1))) + np.eye(n, N_GENES) * (
        TOKEN >= 0
    )


def cells(made) -> list[tuple[np.ndarray, np.ndarray | None]]:
    return [(made.gene[a:b], None if made.value is None else made.value[a:b]) for a, b in pairwise(made.indptr)]


RANK = RankTokenizer(TOKEN, MEDIAN, length=20, cls=2, eos=3)
BINS = BinTokenizer(TOKEN, np.arange(1000, dtype=np.uint64) * np.uint64(977), cls=2, pad=0, length=20)
DEPTH = DepthTokenizer(TOKEN, n_genes=100)


def test_ranks_are_their_definition():
    x = counts()
    for row, (gene, _) in zip(x, cells(RANK.tokens(rows_of(x))), strict=True):
        known = np.flatnonzero((row > 0) & (TOKEN >= 0))
        ranked = known[np.argsort(-row[known] / MEDIAN[TOKEN[known]], kind="stable")]
        np.testing.assert_array_equal(gene, [2, *TOKEN[ranked][:18], 3])


def test_ranks_do_not_see_the_total_of_a_cell():
    x = counts()
    np.testing.assert_array_equal(RANK.tokens(rows_of(x)).gene, RANK.tokens(rows_of(x * 7)).gene)


def test_ranks_without_special_tokens():
    x, plain = counts(), RankTokenizer(TOKEN, MEDIAN, length=20)
    for (gene, _), (framed, _) in zip(cells(plain.tokens(rows_of(x))), cells(RANK.tokens(rows_of(x))), strict=True):
        np.testing.assert_array_equal(gene[:18], framed[1:-1])
        assert len(gene) <= 20


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, allow_infinity=True) | st.integers(1, 5).map(float), min_size=1, max_size=80))
def test_ascending_is_a_stable_sort(values):
    """Also of keys of any range, where the leading bits tell nothing apart."""
    key = np.array(values).view(np.uint64)
    for bits in (key, ~key):
        np.testing.assert_array_equal(ascending(bits), np.argsort(bits, kind="stable"))


@pytest.mark.parametrize("far", [0, 2**63], ids=["dense", "one far from the rest"])
def test_ascending_sorts_many_keys_stably(far):
    key = np.random.default_rng(0).integers(0, 3_000_000, 20_000).astype(np.uint64)
    key[7] += np.uint64(far)
    np.testing.assert_array_equal(ascending(key), np.argsort(key, kind="stable"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["counts", "large counts", "real values"]), st.integers(1, 300))
def test_ranks_are_a_plain_sort_of_each_cell(seed, kind, n_genes):
    """Also of many more genes, of usual counts that many genes share, and of values next to each other."""
    rng = np.random.default_rng(seed)
    token = np.where(rng.random(n_genes) < 0.2, -1, rng.permutation(n_genes))
    median = rng.choice(
        [rng.lognormal(0, 2, n_genes), rng.integers(1, 4, n_genes) / 3, np.nextafter(np.ones(n_genes), 2)]
    )
    x = rng.poisson(rng.lognormal(-1, 5 if kind == "large counts" else 1, (6, n_genes)).clip(0, 1e6)).astype(np.float32)
    x = x * rng.random(x.shape, np.float32) if kind == "real values" else x
    made = RankTokenizer(token, median, length=n_genes + 1).tokens(rows_of(x))
    for row, (gene, _) in zip(x, cells(made), strict=True):
        known = np.flatnonzero((row > 0) & (token >= 0))
        order = np.argsort(-row[known] / median[token[known]], kind="stable")
        np.testing.assert_array_equal(gene, token[known[order]])


def _bins_by_search(row: np.ndarray, draw: np.ndarray, n_bins: int = 51) -> np.ndarray:
    edges = np.quantile(row, np.linspace(0, 1, n_bins - 1))
    left, right = np.searchsorted(edges, row, side="right"), np.searchsorted(edges, row, side="left")
    return np.ceil(draw * (right - left) + left)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6) | st.floats(0.0078125, 100, width=32), min_size=1, max_size=200),
    st.integers(3, 60),
    st.integers(0, 99),
)
def test_bins_are_their_definition(cell, n_bins, seed):
    value, draw = np.array(cell, np.float32), np.random.default_rng(seed).random(len(cell))
    made = quantile_bins(value, draw, np.linspace(0, 1, n_bins - 1))
    np.testing.assert_array_equal(made, _bins_by_search(value, draw, n_bins))


def test_tokens_of_a_cell_have_the_bins_of_its_draws():
    x, tokenizer = counts(), dataclasses.replace(BINS, length=999, seed=3)
    for i, (gene, value) in enumerate(cells(tokenizer.tokens(rows_of(x)))):
        known = np.flatnonzero((x[i] > 0) & (TOKEN >= 0))
        draw = uniform(3, BINS.cell[i], TOKEN[known])
        np.testing.assert_array_equal(gene, [2, *TOKEN[known]])
        np.testing.assert_array_equal(value, [-2, *_bins_by_search(x[i, known].astype(np.float32), draw)])


def test_genes_without_counts_come_last_in_bin_0():
    x, tokenizer = counts(), dataclasses.replace(BINS, length=999)
    every = np.sort(TOKEN[TOKEN >= 0])
    for (gene, value), (all_genes, all_values) in zip(
        cells(tokenizer.tokens(rows_of(x))),
        cells(dataclasses.replace(tokenizer, zeros=True).tokens(rows_of(x))),
        strict=True,
    ):
        np.testing.assert_array_equal(all_genes, [*gene, *np.setdiff1d(every, gene)])
        np.testing.assert_array_equal(all_values, np.pad(value, (0, len(all_genes) - len(gene))))


def test_bins_of_normalized_values_are_those_of_counts():
    x = counts()[:1]
    same = np.log1p(x / x.sum() * 1e4)
    tokenizer = dataclasses.replace(BINS, ties="midpoint", length=999)
    a, b = tokenizer.tokens(rows_of(x)), tokenizer.tokens(rows_of(same))
    np.testing.assert_array_equal(a.value[np.argsort(a.gene)], b.value[np.argsort(b.gene)])


def test_a_cell_has_its_own_draws_whatever_is_around_it():
    x = counts()
    all_cells = cells(BINS.tokens(rows_of(x)))
    for i in (0, 7, 29):
        (alone,) = cells(BINS.tokens(rows_of(x[i : i + 1], first=i)))
        np.testing.assert_array_equal(alone[0], all_cells[i][0])
        np.testing.assert_array_equal(alone[1], all_cells[i][1])


def test_order_of_genes_does_not_change_bins_or_choice():
    x, order = counts(), np.random.default_rng(5).permutation(N_GENES)
    moved = dataclasses.replace(BINS, token=TOKEN[order])
    for (gene, value), (other, moved_value) in zip(
        cells(BINS.tokens(rows_of(x))), cells(moved.tokens(rows_of(x[:, order]))), strict=True
    ):
        assert dict(zip(gene, value, strict=True)) == dict(zip(other, moved_value, strict=True))


def test_another_seed_gives_other_draws():
    x = counts()
    other = dataclasses.replace(BINS, seed=1)
    assert (BINS.tokens(rows_of(x)).value != other.tokens(rows_of(x)).value).mean() > 0.3
    assert (
        dataclasses.replace(BINS, ties="midpoint", seed=5).tokens(rows_of(x)).gene.size
        == BINS.tokens(rows_of(x)).gene.size
    )


def test_a_long_cell_keeps_each_gene_equally_often():
    x = np.ones((1, N_GENES))
    tokenizer = dataclasses.replace(BINS, length=11, cell=np.arange(1200, dtype=np.uint64))
    kept = np.concatenate([tokenizer.tokens(rows_of(x, first=i)).gene[1:] for i in range(1200)])
    expected = 1200 * 10 / (TOKEN >= 0).sum()
    counted = np.bincount(kept, minlength=N_GENES + 4)[TOKEN[TOKEN >= 0]]
    chi_square = ((counted - expected) ** 2 / expected).sum()
    assert chi_square < 110  # 47 degrees of freedom: beyond 1e-6


def test_draws_are_uniform():
    draw = np.concatenate([uniform(3, np.uint64(cell), np.arange(1000)) for cell in range(100)])
    assert np.abs(np.histogram(draw, 50, (0, 1))[0] / 2000 - 1).max() < 0.12
    assert abs(np.corrcoef(draw[:-1], draw[1:])[0, 1]) < 0.01


@pytest.mark.parametrize(
    ("depth", "amount", "wished"),
    [("total", 4.0, lambda s: 4), ("fold", 2.0, lambda s: np.log10(2 * s)), ("add", 5.0, lambda s: np.log10(s) + 5)],
)
def test_depth_tokens_are_their_definition(depth, amount, wished):
    x, tokenizer = counts(), dataclasses.replace(DEPTH, depth=depth, amount=amount)
    for row, (gene, value) in zip(x, cells(tokenizer.tokens(rows_of(x))), strict=True):
        known = np.flatnonzero((row > 0) & (TOKEN >= 0))
        total = row[known].sum()
        np.testing.assert_array_equal(gene, [*TOKEN[known], 100, 101])
        np.testing.assert_allclose(
            value, [*np.log1p(row[known] / total * 1e4), wished(total), np.log10(total)], rtol=1e-6
        )


@pytest.mark.parametrize("tokenizer", [RANK, BINS, DEPTH], ids=["rank", "bins", "depth"])
def test_counts_of_genes_with_one_token_are_added(tokenizer):
    x = counts()
    token = TOKEN.copy()
    token[1::2] = token[::2]  # each token twice
    twice = dataclasses.replace(tokenizer, token=token, repeated=True)
    added = np.zeros_like(x)
    added[:, ::2] = x[:, ::2] + x[:, 1::2]
    a, b = twice.tokens(rows_of(x)), dataclasses.replace(tokenizer, token=token).tokens(rows_of(added))
    np.testing.assert_array_equal(a.indptr, b.indptr)
    for (gene, value), (other, other_value) in zip(cells(a), cells(b), strict=True):
        assert set(gene) == set(other)
        if value is not None:
            np.testing.assert_allclose(value[np.argsort(gene)], other_value[np.argsort(other)], rtol=1e-6)


@pytest.mark.parametrize("tokenizer", [RANK, BINS, DEPTH], ids=["rank", "bins", "depth"])
def test_pieces_and_explicit_zeros_change_nothing(tokenizer, monkeypatch):
    x = counts()
    whole = tokenizer.tokens(rows_of(x))
    rows = rows_of(x + 1)
    with_zeros = dataclasses.replace(rows, data=rows.data - 1)
    monkeypatch.setattr(tokens_module, "SMALL", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert len(tokens_module.pieces(rows, 4)) == 4
    for other in (tokenizer.tokens(rows_of(x)), tokenizer.tokens(with_zeros)):
        np.testing.assert_array_equal(other.gene, whole.gene)
        np.testing.assert_array_equal(other.indptr, whole.indptr)
        if whole.value is not None:
            np.testing.assert_array_equal(other.value, whole.value)


@pytest.mark.parametrize("tokenizer", [RANK, BINS, DEPTH], ids=["rank", "bins", "depth"])
def test_called_it_makes_a_padded_minibatch(tokenizer):
    x = counts()
    made, batch = tokenizer.tokens(rows_of(x)), tokenizer(rows_of(x))
    np.testing.assert_array_equal((~batch.padding).sum(1), made.lengths)
    np.testing.assert_array_equal(batch.gene[~batch.padding], made.gene)
    assert batch.padding[:, 0].sum() == 0
    assert (batch.value is None) == (made.value is None)
    np.testing.assert_array_equal(batch.index, np.arange(30))
