"""Loops are compiled where nothing can be kept on disk too."""

import pytest

from scduet.nn.kernels.jit import compiled


@pytest.mark.parametrize("signature", [None, "float64(float64)"])
def test_a_function_that_no_file_holds_is_compiled_all_the_same(signature):
    names = {}
    exec("def twice(x):\n    return 2 * x\n", names)
    twice = compiled(signature)(names["twice"])
    assert twice(1.5) == 3
    assert len(twice.signatures) == 1
