"""scvi-tools' public names over our engine: `from scduet import scvi` in place of `import scvi`.

What differs, all on purpose: bad data are refused with a message that names them, genes are matched by name, unused
categories are no classes, early stopping keeps the best weights, query mapping moves no reference cell, and the mean of
a logistic-normal state is taken over fixed draws (theirs over new ones at each call: up to 1e-2 apart).
"""

from scduet._version import __version__
from scduet.scvi import data, model, settings

__all__ = ["__version__", "data", "model", "settings"]
