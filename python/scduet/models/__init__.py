"""The models by name. A new model is one file here and one row in this table."""

from difflib import get_close_matches
from importlib import import_module

from scduet.errors import OptionError

MODELS = {
    "scvi": "scduet.models.scvi:SCVI",
}


def find(name: str) -> type:
    """The module class called `name`."""
    if name not in MODELS:
        near = get_close_matches(name.lower(), MODELS, n=1)
        raise OptionError(f"unknown model {name!r}", f"did you mean {near[0]!r}?" if near else f"choose from {sorted(MODELS)}")
    path, _, cls = MODELS[name].partition(":")
    return getattr(import_module(path), cls)
