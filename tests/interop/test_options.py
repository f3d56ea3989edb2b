"""Options that R passes on are checked by name before a function runs: no TypeError of Python reaches R."""

import pytest

import scduet as sd
from scduet.errors import OptionError
from scduet.interop.options import call
from scduet.interop.reticulate import ask


def test_an_option_that_a_function_lacks_is_an_option_error_with_all_it_has():
    def task(model, adata, *, delta=0.25, n_draws=5): ...

    with pytest.raises(OptionError, match="n_draws") as caught:
        call(task, "model", "cells", options={"n_draw": 3.0})
    assert caught.value.details == {"unknown": "n_draw", "known": ["delta", "n_draws"]}
    with pytest.raises(OptionError, match="adata"):
        call(task, "model", "cells", options={"adata": 1})


def test_a_function_of_any_options_gets_them_all_but_those_that_are_set():
    def task(adata, *, seed=0, **options):
        return seed, options

    assert call(task, "cells", seed=3, options={"n_latent": 20.0, "lr": 0.5}) == (3, {"n_latent": 20, "lr": 0.5})
    assert isinstance(call(task, "cells", options={"n_latent": 20.0})[1]["n_latent"], int)
    assert call(task, "cells", options=()) == (0, {})
    with pytest.raises(OptionError, match="seed"):
        call(task, "cells", seed=3, options={"seed": 4})


def test_cells_without_counts_are_told_by_name():
    cells = sd.datasets.simulate(120, 30, seed=0)
    cells.X[[4, 7, 9, 11]] = 0
    answer = ask("train", dict(adata=cells, model="scvi", options=(), folder="nowhere"))
    assert answer.error is not None
    assert answer.error["details"] == {"cells": [str(cells.obs_names[place]) for place in (4, 7, 9, 11)]}
