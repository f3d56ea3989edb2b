"""Loops are compiled where nothing can be kept on disk too, and the user is told that this takes a while."""

import pytest

from scduet.nn.kernels.jit import compilation_announced, compiled


@pytest.mark.parametrize("signature", [None, "float64(float64)"])
def test_a_function_that_no_file_holds_is_compiled_all_the_same(signature):
    names = {}
    exec("def twice(x):\n    return 2 * x\n", names)
    twice = compiled(signature)(names["twice"])
    assert twice(1.5) == 3
    assert len(twice.signatures) == 1


def doubled(module):
    names = {"__name__": module}
    exec("def twice(x):\n    return 2 * x\n", names)
    return compiled()(names["twice"])


def test_the_first_compilation_is_announced_once_and_only_ours():
    said = []
    ours, other, theirs = doubled("scduet.nn.one"), doubled("scduet.nn.two"), doubled("umap.layouts")
    with compilation_announced(said.append):
        theirs(1.5)
        assert said == []
        ours(1.5)
        ours(2)
        other(1.5)
    assert len(said) == 1
    assert "compiling" in said[0]
    with compilation_announced(said.append):
        ours(2.5)
    assert len(said) == 1, "it was compiled already"
    theirs("text" * 2)
    assert len(said) == 1, "nobody listens any more"
