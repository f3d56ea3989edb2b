"""The compiled product of sparse rows is the product of the rows written out, however it is shared out."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scduet.contract import SparseRows
from scduet.nn.kernels import sparse
from scduet.nn.kernels.sparse import BLOCK, padded, product, transposed
from scduet.nn.layers import CovariateLinear
from scduet.nn.second_order import uncompiled


@pytest.fixture(autouse=True)
def however_small(monkeypatch):
    monkeypatch.setattr(sparse, "NEAR", 0)


def rows(n: int, genes: int, seed: int = 0) -> tuple[SparseRows, torch.Tensor]:
    x = sp.random(n, genes, 0.2, format="csr", dtype=np.float32, random_state=seed)
    x[0] = 0  # a cell without counts
    x.eliminate_zeros()
    x.sort_indices()
    arrays = torch.tensor(x.data), torch.tensor(x.indices, dtype=torch.int64), torch.tensor(x.indptr, dtype=torch.int64)
    return SparseRows(*arrays, (n, genes)), torch.tensor(x.toarray())


@pytest.mark.parametrize("width", [1, 10, 16, 64, 90, 128])
@pytest.mark.parametrize("genes", [3, BLOCK, 3 * BLOCK + 7])
def test_the_product_is_that_of_the_rows_written_out(width, genes, monkeypatch):
    x, dense = rows(9, genes)
    matrix, start = torch.randn(genes, width), torch.randn(width)
    expected = (dense.double() @ matrix.double() + start).float()
    torch.testing.assert_close(product(x, padded(matrix), start), expected, rtol=1e-5, atol=1e-4)
    monkeypatch.setattr(sparse, "NEAR", matrix.numel() + 15 * genes)
    torch.testing.assert_close(product(x, padded(matrix), start), expected, rtol=1e-5, atol=1e-4)


def test_entries_may_be_in_any_order():
    x, dense = rows(5, 4 * BLOCK)
    order = torch.cat([start + torch.randperm(end - start) for start, end in zip(*_ends(x), strict=True)])
    matrix = torch.randn(4 * BLOCK, 70)
    turned = SparseRows(x.data[order], x.indices[order], x.indptr, x.shape)
    torch.testing.assert_close(product(turned, padded(matrix), torch.zeros(70)), dense @ matrix, rtol=1e-5, atol=1e-5)


def _ends(x: SparseRows) -> tuple[list[int], list[int]]:
    return x.indptr[:-1].tolist(), x.indptr[1:].tolist()


def test_threads_and_neighbors_do_not_change_a_bit_of_a_row(monkeypatch):
    x, _ = rows(8, 3 * BLOCK)
    matrix, start = padded(torch.randn(3 * BLOCK, 128)), torch.randn(128)
    alone = product(x, matrix, start)
    monkeypatch.setattr(sparse, "MIN_PER_THREAD", 1)
    allowed = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        shared = product(x, matrix, start)
    finally:
        torch.set_num_threads(allowed)
    assert torch.equal(shared, alone)
    first, last = int(x.indptr[6]), int(x.indptr[7])
    single = SparseRows(x.data[first:last], x.indices[first:last], torch.tensor([0, last - first]), (1, 3 * BLOCK))
    assert torch.equal(product(single, matrix, start)[0], alone[6])


@pytest.mark.parametrize("width", [1, 5, 23, 70])
def test_without_padding_it_is_the_same(width):
    x, dense = rows(9, 2 * BLOCK + 7)
    matrix, start = torch.randn(2 * BLOCK + 7, width), torch.randn(width)
    torch.testing.assert_close(product(x, matrix, start), dense @ matrix + start, rtol=1e-5, atol=1e-4)


def test_transposed_twice_is_the_same():
    x, dense = rows(9, 40)
    turned = transposed(x)
    assert torch.equal(turned.dense(), dense.t())
    again = transposed(turned)
    assert all(torch.equal(getattr(again, name), getattr(x, name)) for name in ("data", "indices", "indptr"))


def test_a_layer_of_sparse_rows_trains_like_one_of_dense_rows():
    """Value and gradients, and after steps of AdamW the weights, whatever the memory layout."""
    x, dense = rows(9, 3 * BLOCK)
    code, upstream, ends = [torch.arange(9) % 3], torch.randn(9, 23), []
    for make in (lambda layer: layer(x, code), lambda layer: layer(dense, code)):
        torch.manual_seed(0)
        layer = CovariateLinear(3 * BLOCK, 23, levels=(3,), sparse=True)
        step = torch.optim.AdamW(layer.parameters(), fused=True)
        for _ in range(3):
            step.zero_grad()
            (make(layer) * upstream).sum().backward()
            step.step()
        ends.append([p.detach() for p in layer.parameters()] + [p.grad for p in layer.parameters()])
        assert layer.weight.t().is_contiguous()
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_layer_of_sparse_rows_starts_like_any_other():
    layers = []
    for sparse_rows in (True, False):
        torch.manual_seed(0)
        layers.append(CovariateLinear(50, 7, levels=(3,), sparse=sparse_rows))
    assert torch.equal(layers[0].weight, layers[1].weight)
    x, dense = rows(9, 50)
    with uncompiled():
        torch.testing.assert_close(
            layers[0](x, [torch.zeros(9, dtype=torch.long)]), layers[1](dense, [torch.zeros(9, dtype=torch.long)])
        )
