"""What AnnData may hold since scipy's sparse arrays, pandas' nullable types and anndata 0.13."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import named

import scduet as sd
from scduet.data.schema import Fields, Schema
from scduet.errors import DataError
from scduet.interop import objects
from scduet.io.storable import refuse_unwritable

KINDS = {"matrix": sp.csr_matrix, "array": sp.csr_array, "csc array": sp.csc_array, "dense": lambda x: x.toarray()}
COLUMNS = {
    "text": lambda codes: pd.array([f"d{code}" for code in codes], dtype="string"),
    "whole": lambda codes: pd.array(codes, dtype="Int64"),
    "flag": lambda codes: pd.array(codes > 0, dtype="boolean"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [None, "counts"])
def test_counts_of_every_kind_are_the_same_cells(counts, kind, place):
    given = anndata.AnnData(KINDS[kind](counts.X), obs=counts.obs, var=counts.var)
    if place is not None:
        given.layers[place], given.X = given.X, KINDS[kind](counts.X * 0.5)
    cells = Schema.learn(given, Fields(layer=place)).encode(given)
    np.testing.assert_array_equal(cells.counts.rows(np.arange(200)).toarray(), counts.X.toarray())


@pytest.mark.parametrize("kind", COLUMNS)
def test_nullable_columns_are_batches(counts, kind, tmp_path):
    codes = counts.obs["batch"].cat.codes.to_numpy(np.int64)
    counts.obs["donor"] = pd.Series(COLUMNS[kind](codes), index=counts.obs_names)
    with anndata.settings.override(allow_write_nullable_strings=True):
        counts.write_h5ad(tmp_path / "cells.h5ad")
    for given in (counts, anndata.read_h5ad(tmp_path / "cells.h5ad"), tmp_path / "cells.h5ad"):
        np.testing.assert_array_equal(Schema.learn(given, Fields(batch_key="donor")).encode(given).batch, codes)
    counts.obs.loc["cell3", "donor"] = pd.NA
    with pytest.raises(DataError, match=named("'donor'", "cell3")):
        Schema.learn(counts, Fields(batch_key="donor")).encode(counts)


def test_a_layer_that_is_not_there_is_named_beside_those_that_are(counts, tmp_path):
    counts.layers["umis"] = counts.X.copy()
    counts.write_h5ad(tmp_path / "cells.h5ad")
    for given in (counts, tmp_path / "cells.h5ad", anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")):
        with pytest.raises(DataError, match=named("'umi'", "'umis'")) as error:
            sd.fit(given, "scvi", layer="umi", max_epochs=1)
        assert "None" not in str(error.value)


def test_x_is_no_layer_of_its_own(counts, tmp_path):
    assert objects.contents(counts)["layers"] == []
    counts.layers["umis"] = counts.X.copy()
    assert objects.contents(counts)["layers"] == ["umis"]
    refuse_unwritable(counts, tmp_path / "cells.zarr")
