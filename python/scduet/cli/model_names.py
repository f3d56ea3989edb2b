"""Which model --model names: one of the table, a class of the user's own, or the folder of a transformer."""

from pathlib import Path
from typing import Annotated

import typer

from scduet.models import MODELS, is_own


def is_transformer(model: str) -> bool:
    """Whether it names the folder of a transformer, here or on a hub."""
    return model.startswith("hf://") or (model not in MODELS and Path(model).is_dir())


def _known(model: str) -> str:
    if model not in MODELS and not is_own(model):
        raise typer.BadParameter(f"{model!r} is not one of {', '.join(MODELS)}, nor file.py:Class")
    return model


def _known_or_folder(model: str) -> str:
    return model if is_transformer(model) else _known(model)


ModelName = Annotated[
    str, typer.Option("--model", callback=_known, help=f"One of {', '.join(MODELS)}; or file.py:Class.")
]
ModelOrFolder = Annotated[
    str,
    typer.Option(
        "--model",
        callback=_known_or_folder,
        help=f"One of {', '.join(MODELS)}; file.py:Class; or the folder of a scGPT, which is fine-tuned.",
    ),
]
