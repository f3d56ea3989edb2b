"""The models by name. A new model is one file here and one row in this table."""

from difflib import get_close_matches
from importlib import import_module

from scduet.errors import OptionError

MODELS = {
    "scvi": "scduet.models.scvi:SCVI",
    "scanvi": "scduet.models.scanvi:SCANVI",
    "ldvae": "scduet.models.ldvae:LDVAE",
    "autozi": "scduet.models.autozi:AutoZI",
}
KEYS = {"scvi": "X_scVI", "scanvi": "X_scANVI"}  # obsm keys of the field; the rest are "X_" and the model's name
TRANSFORMERS = ("geneformer", "scgpt", "scfoundation")  # come from a folder, or from pre-training


def path_of(name: str) -> str:
    """Where the model called `name` is written, as "module:Class"."""
    if name not in MODELS:
        near = get_close_matches(str(name).lower(), MODELS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {sorted(MODELS)}"
        if str(name).lower() in TRANSFORMERS:
            hint = "a transformer is read with load() from its folder, made with pretrain(), and taught with finetune()"
        raise OptionError(f"unknown model {name!r}", hint)
    return MODELS[name]


def find(name: str) -> type:
    """The module class called `name`."""
    path, _, cls = path_of(name).partition(":")
    return getattr(import_module(path), cls)


def key_of(name: str) -> str:
    """Where the embedding of the model called `name` goes in obsm."""
    return KEYS.get(name, f"X_{name}")
