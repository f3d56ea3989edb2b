"""A level is coded by its value, whatever type the column has, and comes back as the user's own value."""

import numpy as np
import pandas as pd
import pytest
from named import named

import scduet as sd
from scduet.data.levels import coded, kind_of, places_of, values_of
from scduet.errors import DataError

COLUMNS = {
    "int": pd.Series([2, 0, 1, 0]),
    "float": pd.Series([2.0, 0.0, 1.0, 0.0]),
    "text": pd.Series(["2", "0", "1", "0"]),
    "category of int": pd.Series([2, 0, 1, 0], dtype="category"),
    "category of float": pd.Series([2.0, 0.0, 1.0, 0.0], dtype="category"),
    "category of text": pd.Series(["2", "0", "1", "0"], dtype="category"),
    "nullable int": pd.Series([2, 0, 1, 0], dtype="Int64"),
    "nullable float": pd.Series([2, 0, 1, 0], dtype="Float64"),
    "nullable text": pd.Series(["2", "0", "1", "0"], dtype="string"),
    "objects": pd.Series([2, 0, 1.0, 0], dtype=object),
    "int and text": pd.Series([2, "0", 1, "0"], dtype=object),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_levels_are_the_same_whatever_the_type(kind):
    found = coded(COLUMNS[kind], "column")
    assert (found.names, found.code.tolist()) == (["0", "1", "2"], [2, 0, 1, 0])
    assert list(found.texts) == ["2", "0", "1", "0"]
    own = dict(zip(found.names, found.values, strict=True))
    assert [own[name] for name in found.texts] == COLUMNS[kind].tolist()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([2, 10, 1], "int64"), ([2.5, 10, 1], "float64"), ([True, False], "bool"), (["b", "a"], pd.Index(["a"]).dtype)],
)
def test_values_come_back_with_their_type(values, dtype):
    found = coded(pd.Series(values), "column")
    back = values_of(found.names, kind_of(found.values))
    assert list(back) == sorted(values)
    assert back.dtype == dtype


def test_missing_values_have_no_level():
    for values in (["a", None], pd.array(["a", None], dtype="string"), pd.Categorical(["a", None], ["b", "a"])):
        found = coded(pd.Series(values, index=["one", "two"]), "column")
        assert (found.names, found.code.tolist()) == (["a"], [0, -1])
        with pytest.raises(DataError, match=named("'column'", "'two'")):
            coded(pd.Series(values, index=["one", "two"]), "column", required=True)


@pytest.mark.parametrize("dtype", [object, "category"])
def test_a_number_and_a_text_that_look_alike_are_refused(dtype):
    with pytest.raises(DataError, match=named("obs['column']", "'1'")):
        coded(pd.Series([1, "1", 2], dtype=dtype), "column")
    with pytest.raises(DataError, match=named("obs['column']")):
        coded(pd.Series([[1], [2]]), "column")


def test_a_number_is_found_however_it_is_written():
    assert places_of([1, 1.0, "1", 2.5, "2.5", "3"], ["1", "2.5"]).tolist() == [0, 0, 0, 1, 1, -1]
    assert places_of(["1.0"], ["1", "2.5"]).tolist() == [0]
    assert places_of(["1"], ["1.0", "2.5"]).tolist() == [0]  # a model saved before levels were coded by value
    assert places_of(["1.0", "1"], ["1"]).tolist() == [-1, 0]  # two levels of the data are not one of the model
    assert places_of(["1.10"], ["1.1"]).tolist() == [-1]  # a version, or a donor


QUICK = {"max_epochs": 1, "n_hidden": 8, "callback": lambda event: None}


def test_a_model_of_numbers_knows_a_part_of_them_and_gives_numbers_back(counts):
    counts.obs["run"] = np.where(np.arange(200) % 2, 1.0, 2.5)
    counts.obs["kind"] = counts.obs["cell_type"].cat.codes.astype(float)
    model = sd.fit(counts, "scanvi", batch_key="run", labels_key="kind", **QUICK)
    ones = counts[counts.obs["run"] == 1.0].copy()
    whole = model.embed(counts)[counts.obs["run"] == 1.0]
    for run in (1.0, 1, "1", "1.0"):
        ones.obs["run"] = run
        assert np.array_equal(model.embed(ones), whole)
    assert sd.predict(model, ones).columns.tolist() == [0.0, 1.0, 2.0]
    assert sd.predict(model, ones).columns.dtype == float
    alone = sd.normalized_expression(model, ones, transform_batch=1)
    for batch in (1.0, "1", "1.0", [1]):
        assert sd.normalized_expression(model, ones, transform_batch=batch).equals(alone)


def test_values_survive_saving(counts, tmp_path):
    counts.obs["kind"] = counts.obs["cell_type"].cat.codes.astype(int)
    model = sd.fit(counts, "scanvi", labels_key="kind", **QUICK)
    model.save(tmp_path / "model")
    back = sd.predict(sd.load(tmp_path / "model"), counts)
    assert back.columns.dtype == np.int64
    assert back.equals(sd.predict(model, counts))


@pytest.mark.parametrize("dtype", [int, float, "category", "Int64", str])
def test_annotation_gives_the_labels_of_the_reference(counts, dtype):
    counts.obs["kind"] = counts.obs["cell_type"].cat.codes.astype(int).astype(dtype)
    query = counts[::2].copy()
    del query.obs["kind"]
    sd.annotate(query, counts, "kind", max_epochs=1, callback=lambda event: None)
    assert set(query.obs["predicted"]) <= set(counts.obs["kind"])
    assert list(query.obsm["predicted_probability"].columns) == ["0", "1", "2"]
    assert [type(v) for v in query.obs["predicted"].cat.categories] == [
        type(v) for v in pd.Index(sorted(counts.obs["kind"].unique()))
    ]


def test_a_query_with_new_numbers_is_mapped(counts):
    counts.obs["run"] = np.where(np.arange(200) % 2, 1, 2)
    model = sd.fit(counts, batch_key="run", **QUICK)
    query = counts[:50].copy()
    query.obs["run"] = [1.0, 7.0] * 25
    mapped = sd.map_query(query, model, train=False)
    assert mapped.schema.levels["run"] == ("1", "2", "7")
    assert mapped.schema.values("run").tolist() == [1, 2, 7]
