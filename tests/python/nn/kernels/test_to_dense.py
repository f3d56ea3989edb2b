"""Rows written out by the compiled pass are those written out by torch."""

import pytest
import torch

from scduet.contract import SparseRows
from scduet.nn.layers import to_dense


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_rows_are_to_dense_with_the_values_given(kind):
    x = torch.randint(0, 3, (6, 9), generator=torch.Generator().manual_seed(0)).to(kind)
    x[2] = 0  # a cell without counts
    row, column = x.nonzero(as_tuple=True)
    rows = SparseRows(x[row, column], column, torch.searchsorted(row, torch.arange(7)), (6, 9))
    assert torch.equal(to_dense(rows, rows.data), x)
    assert torch.equal(to_dense(rows, rows.data.log1p()), x.log1p())


def test_the_row_of_each_entry():
    rows = SparseRows(torch.ones(3), torch.tensor([1, 2, 0]), torch.tensor([0, 2, 2, 2, 3, 3]), (5, 4))
    assert rows.row.tolist() == [0, 0, 3]
