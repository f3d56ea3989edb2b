"""The command about a model of the user's own."""

from pathlib import Path
from typing import Annotated

import typer


def check_model(
    model: Annotated[str, typer.Argument(help="A model of your own: file.py:Class.")],
    data: Annotated[Path | None, typer.Option(help="Cells to try it on; default: simulated counts.")] = None,
) -> None:
    """Try whether your own model keeps the contract.

    A line for each check; exit code 1 if one failed. Runs the file.
    """
    from scduet.io.cells import read
    from scduet.tasks.quality.check_model import check_model

    found = check_model(model, None if data is None else read(data, multimodal=True))
    typer.echo(repr(found))
    raise typer.Exit(0 if found.passed else 1)
