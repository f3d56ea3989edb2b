"""Rows of sparse counts times a dense matrix on a CPU: the first layer of an encoder, and its gradient.

Each stored entry adds a row of the matrix. If the matrix exceeds the inner caches, genes are processed in blocks: the
entries of all cells in a block are added while its rows are cached. Sums are kept in registers, which the compiler does
not do by itself.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable
from typing import Any

import numba
from jaxtyping import Float
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from scduet.contract import SparseRows
from scduet.nn.kernels.jit import address, compiled, floats, integers, threads_for
from scduet.nn.kernels.math import widest
from scduet.nn.second_order import once_differentiable

WIDE, NARROW = 64, 16  # numbers of a row that are summed together: four registers of 512 bits, or one
BLOCK = 512  # genes per block, whose rows fit into the L2 cache: 256 kB for 128 hidden units
NEAR = 2**20  # size of a matrix up to which torch's own loop is used, which needs no numba
MIN_PER_THREAD = 2**11  # entries that are worth a thread of their own


def padded(matrix: Float[Tensor, "indices out"]) -> Float[Tensor, "indices width"]:
    """The matrix with columns of zeros added, as `product` wants it."""
    return F.pad(matrix, (0, -matrix.shape[1] % NARROW)).contiguous()


def product(
    x: SparseRows, matrix: Float[Tensor, "indices width"], start: Float[Tensor, " out"]
) -> Float[Tensor, "row out"]:
    """`x.dense() @ matrix + start`, float32. Entries may be in any order; ascending and a `padded` matrix are fast."""
    first = F.pad(start, (0, matrix.shape[1] - len(start)))
    if matrix.numel() <= NEAR:
        bags = F.embedding_bag(x.indices, matrix, x.indptr[:-1], mode="sum", per_sample_weights=x.data)
        return (bags + first)[:, : len(start)]
    return _product(x, matrix, first)[:, : len(start)]


class SparseLinear(Function):
    """`product(x, weight.t(), bias)` with gradients by weight and bias; the weight is stored by columns."""

    @staticmethod
    def forward(ctx: Any, x: SparseRows, weight: Tensor, bias: Tensor) -> Float[Tensor, "row out"]:
        ctx.x = x
        return product(x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grads[0].contiguous()
        turned = _product(transposed(ctx.x), grad, torch.zeros(grad.shape[1]))
        return None, turned.t(), grad.sum(0)


def transposed(x: SparseRows) -> SparseRows:
    """The same matrix with its columns as rows."""
    indices, indptr, values = (torch.empty_like(a) for a in (x.indices, x.indptr.new_empty(x.shape[1] + 1), x.data))
    arrays = (a.numpy() for a in (x.data, x.indices, x.indptr, values, indices, indptr))
    _transpose(*arrays)
    return SparseRows(values, indices, indptr, (x.shape[1], x.shape[0]))


def _product(
    x: SparseRows, matrix: Float[Tensor, "indices width"], first: Float[Tensor, " width"]
) -> Float[Tensor, "row width"]:
    """`x.dense() @ matrix + first`, always in our own loop."""
    sizes, out = (*x.shape, len(x.data), matrix.shape[1]), torch.empty(len(x), matrix.shape[1])
    columns = address(x.indices, torch.int64), address(x.indptr, torch.int64)
    addresses = address(x.data), *columns, address(matrix), address(first.contiguous()), address(out)
    with threads_for(len(x.data), MIN_PER_THREAD) as threads:
        if threads > 1:
            _parallel(threads, sizes, addresses)
        else:
            _add(0, len(x), sizes, addresses)
    return out


def _adder(lanes: int) -> Callable:
    """A function for kernels that adds to `lanes` numbers those of some rows of a matrix, each times its value.

    total, matrix: addresses of the first number of the sum, and of row 0. stride: bytes from row to row. value,
    indices: addresses of the `n` entries.
    """
    number, integer, numbers = ir.FloatType(), ir.IntType(64), ir.VectorType(ir.FloatType(), lanes)
    same = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)

    def code(context, builder, signature, args):
        total, matrix, stride, value, indices, n = args

        def at(address, kind):
            return builder.inttoptr(address, kind.as_pointer())

        def nth(address, index, kind, size):
            return builder.load(at(builder.add(address, builder.mul(index, integer(size))), kind))

        out, sums = at(total, numbers), cgutils.alloca_once(builder, numbers)
        builder.store(builder.load(out, align=4), sums)
        with cgutils.for_range(builder, n) as loop:
            place = builder.mul(nth(indices, loop.index, integer, 8), stride)
            row = builder.load(at(builder.add(matrix, place), numbers), align=4)
            first = builder.insert_element(
                ir.Constant(numbers, ir.Undefined), nth(value, loop.index, number, 4), ir.IntType(32)(0)
            )
            product = builder.fmul(builder.shuffle_vector(first, first, same), row, flags=("contract",))
            builder.store(builder.fadd(product, builder.load(sums), flags=("contract",)), sums)
        builder.store(builder.load(sums), out, align=4)
        return context.get_dummy_value()

    def add_rows(_, total, matrix, stride, value, indices, n):
        return types.void(*[types.int64] * 6), code

    return intrinsic(add_rows)


_add_wide, _add_narrow = _adder(WIDE), _adder(NARROW)


@compiled(parallel=True)
def _parallel(threads, sizes, addresses):
    """Split the rows over threads."""
    for k in numba.prange(threads):
        _add(k * sizes[0] // threads, (k + 1) * sizes[0] // threads, sizes, addresses)


@compiled()
def _add(first, last, sizes, addresses):
    """The products of rows `first` to `last`."""
    widest()
    (rows, columns, entries, width), (values, to_indices, to_indptr, matrix, to_first, out) = sizes, addresses
    indices, indptr = integers(to_indices, entries), integers(to_indptr, rows + 1)
    value, rows_of_matrix, sums = floats(values, entries), floats(matrix, (columns, width)), floats(out, (rows, width))
    start_of_sums = floats(to_first, width)
    next_entry, whole, most = indptr[first:last].copy(), width // WIDE * WIDE, width // NARROW * NARROW
    for stop in range(BLOCK, columns + BLOCK, BLOCK):
        for row in range(first, last):
            if stop == BLOCK:
                sums[row] = start_of_sums
            start = end = next_entry[row - first]
            while end < indptr[row + 1] and indices[end] < stop:
                end += 1
            next_entry[row - first] = end
            some = values + 4 * start, to_indices + 8 * start, end - start
            for lane in range(0, whole, WIDE):
                _add_wide(out + 4 * (row * width + lane), matrix + 4 * lane, 4 * width, *some)
            for lane in range(whole, most, NARROW):
                _add_narrow(out + 4 * (row * width + lane), matrix + 4 * lane, 4 * width, *some)
            for entry in range(start, end if most < width else start):
                for lane in range(most, width):
                    sums[row, lane] += value[entry] * rows_of_matrix[indices[entry], lane]


@compiled()
def write_rows(values, indices, indptr, out):
    """Write entries into rows of zeros."""
    for row in range(len(out)):
        out[row] = 0
        for entry in range(indptr[row], indptr[row + 1]):
            out[row, indices[entry]] = values[entry]


@compiled()
def _transpose(values, indices, indptr, to_values, to_row, to_indptr):
    """A counting sort: the entries of each indices stay in the order of their rows."""
    to_indptr[:] = 0
    for entry in range(len(indices)):
        to_indptr[indices[entry] + 1] += 1
    for place in range(1, len(to_indptr)):
        to_indptr[place] += to_indptr[place - 1]
    place = to_indptr[:-1].copy()
    for row in range(len(indptr) - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            to = place[indices[entry]]
            to_values[to], to_row[to] = values[entry], row
            place[indices[entry]] += 1
