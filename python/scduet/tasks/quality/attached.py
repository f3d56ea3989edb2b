"""Tables that travel in the `attrs` of another table."""

from __future__ import annotations

import pandas as pd


class Attached(pd.DataFrame):
    """A DataFrame for `attrs`. pandas copies attrs whenever it makes a table, and compares them when it prints or joins
    tables: on plain DataFrames, of which == gives no single answer, it fails. Two of these are equal if they are one.
    """

    def __deepcopy__(self, memo=None) -> Attached:
        return self

    def __eq__(self, other):
        return self is other if isinstance(other, Attached) else super().__eq__(other)
