"""What is known of the genes of `raw`, which may be more than those of X."""

from __future__ import annotations

from typing import Any

import pandas as pd

from scduet.data.on_disk import CellsOnDisk
from scduet.errors import DataError


def var_of_raw(data: Any) -> pd.DataFrame:
    """What is known of the genes of raw; also what var knows of some of them, as whether they are highly variable."""
    on_disk = isinstance(data, CellsOnDisk)
    if not (data.has_raw if on_disk else getattr(data, "raw", None) is not None):
        raise DataError("the data have no raw", "pass layer= with another place, or None for X")
    var = data.stored("raw/var") if on_disk else data.raw.var
    more = data.var[data.var.columns.difference(var.columns, sort=False)].reindex(var.index)
    flags = [name for name in more if data.var[name].dtype == bool]
    return var.join(more.assign(**{name: more[name].eq(True) for name in flags}))
