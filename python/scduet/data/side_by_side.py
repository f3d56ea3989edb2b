"""Two data sets as one AnnData, one below the other, for models that read each from a place of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData


def side_by_side(
    first: Any, second: Any, genes: tuple[pd.Index, pd.Index], key: str, obs: pd.DataFrame | None = None
) -> AnnData:
    """The rows of `first`, then those of `second`: counts of the first in X, of the second in obsm[key].

    genes: names of the columns of each. obs: of all rows, by default none. Nothing is copied twice.
    """
    n, m = first.shape[0], second.shape[0]
    x = sp.vstack([sp.csr_matrix(first), sp.csr_matrix((m, first.shape[1]), dtype=np.float32)], format="csr")
    beside = sp.vstack([sp.csr_matrix((n, second.shape[1]), dtype=np.float32), sp.csr_matrix(second)], format="csr")
    obs = pd.DataFrame(index=pd.RangeIndex(n + m).astype(str)) if obs is None else obs
    names = {f"{key}_names": np.asarray(genes[1].astype(str), dtype=object)}
    return AnnData(x, obs=obs, var=pd.DataFrame(index=genes[0].astype(str)), obsm={key: beside}, uns=names)
