"""What files have no type for comes back as it was, or is named before a byte is written."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from named import assert_named, named

from scduet.cli import main
from scduet.errors import FormatError, ScduetWarning
from scduet.io.cells import read, write

TIMES = {
    "day": pd.to_datetime(["2024-02-29", None, "1960-05-05"]),
    "time": pd.to_datetime(["2024-03-31 01:30:00.5", None, "2024-10-27 00:30"], utc=True, format="ISO8601").tz_convert(
        "Europe/Paris"
    ),
}
OTHERS = {
    "text": np.array(["a", None, ""], object),
    "word": np.array(["b", "a", "b"], object),
    "maybe": pd.array([1, None, 3], dtype="Int64"),
    "flag": pd.array([True, None, False], dtype="boolean"),
    "kind": pd.Categorical(["u", None, "v"], ["v", "u"], ordered=True),
}


def cells(**columns) -> ad.AnnData:
    obs = pd.DataFrame(columns, index=["x", "y", "z"])
    return ad.AnnData(np.eye(3, 2, dtype=np.float32), obs, pd.DataFrame(index=["g", "h"]))


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:.*zarr v2")
def test_columns_come_back_as_they_were(tmp_path, ending):
    adata = cells(**TIMES, **OTHERS)
    adata.var["born"], adata.raw = TIMES["day"][:2], cells()
    with pytest.warns(ScduetWarning, match=named("obs['day']", "obs['time']", "var['born']")):
        write(adata, tmp_path / f"x.{ending}")
    assert adata.obs["day"].dtype.kind == "M"  # the cells in memory stay as they are
    back = read(tmp_path / f"x.{ending}")
    for name, values in {**TIMES, **OTHERS}.items():
        found, given = back.obs[name], pd.Series(values, index=back.obs_names)
        assert found.isna().tolist() == given.isna().tolist(), name
        assert found.dropna().tolist() == given.dropna().tolist(), name
    assert str(back.obs["time"].dt.tz) == "Europe/Paris"
    assert back.var["born"].tolist()[0] == TIMES["day"][0]
    assert back.raw.shape == (3, 2)
    assert list(back.uns) == []


def test_text_that_someone_else_changed_stays_text(tmp_path):
    with pytest.warns(ScduetWarning, match=named("obs['day']")):
        write(cells(day=TIMES["day"]), tmp_path / "x.h5ad")
    edited = ad.read_h5ad(tmp_path / "x.h5ad")
    assert edited.obs["day"].astype(object).tolist()[0] == "2024-02-29"
    edited.obs["day"] = ["Monday", "Friday", "never"]
    edited.write_h5ad(tmp_path / "x.h5ad")
    assert read(tmp_path / "x.h5ad").obs["day"].tolist() == ["Monday", "Friday", "never"]


BAD = {
    "obs['mixed']": lambda a: a.obs.__setitem__("mixed", pd.Series([1, "a", 2.5], index=a.obs_names, dtype=object)),
    "obs['list']": lambda a: a.obs.__setitem__("list", pd.Series([[1], [2], [3]], index=a.obs_names)),
    "obs['span']": lambda a: a.obs.__setitem__("span", pd.to_timedelta([1, 2, 3], "s")),
    "var['when']": lambda a: a.var.__setitem__("when", pd.period_range("2020", periods=2)),
    "uns['model']": lambda a: a.uns.__setitem__("model", object()),
    "uns['a/b']": lambda a: a.uns.__setitem__("a/b", 1),
    "uns[3]": lambda a: a.uns.__setitem__(3, 1),
    "obsm['table']": lambda a: a.obsm.__setitem__("table", pd.DataFrame({"t": [1, "b", 2]}, index=a.obs_names)),
}


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_everything_that_cannot_be_written_is_named_at_once(tmp_path, ending):
    adata = cells()
    for spoil in BAD.values():
        spoil(adata)
    with pytest.raises(FormatError, match=named("x." + ending, *BAD)):
        write(adata, tmp_path / f"x.{ending}")
    assert list(tmp_path.iterdir()) == []


def test_a_slash_in_the_name_of_a_column_is_kept_by_h5ad_alone(tmp_path):
    adata = cells(**{"T/NK": [1, 2, 3]})
    with ad.settings.override(disallow_forward_slash_in_h5ad=False):  # the default before anndata 0.13
        write(adata, tmp_path / "x.h5ad")
    assert read(tmp_path / "x.h5ad").obs["T/NK"].tolist() == [1, 2, 3]
    with (
        ad.settings.override(disallow_forward_slash_in_h5ad=True),
        pytest.raises(FormatError, match=named("obs['T/NK']", "y.h5ad")),
    ):
        write(adata, tmp_path / "y.h5ad")
    with pytest.raises(FormatError, match=named("obs['T/NK']")):
        write(adata, tmp_path / "x.zarr")


def test_names_that_differ_by_case_only_are_refused_for_zarr(tmp_path):
    adata = cells(Batch=[1, 2, 3], batch=["a", "b", "c"])
    with pytest.raises(FormatError, match=named("obs", "'Batch'", "'batch'", "x.zarr")):
        write(adata, tmp_path / "x.zarr")
    write(adata, tmp_path / "x.h5ad")
    assert read(tmp_path / "x.h5ad").obs["Batch"].tolist() == [1, 2, 3]


def test_the_command_says_what_it_could_not_write(tmp_path, capsys):
    adata = cells(word=["a", "b", "c"], Word=["a", "b", "c"])
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert main(["convert", str(tmp_path / "x.h5ad"), str(tmp_path / "x.zarr")]) == 1
    assert_named(capsys.readouterr().err, "'word'", "'Word'")
    assert not (tmp_path / "x.zarr").exists()
