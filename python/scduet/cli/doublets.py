"""The command that finds doublets."""

from typing import Annotated

import typer

from scduet.cli.analyses import Seed
from scduet.cli.commands import Data, LabelsKey, Output, Overwrite, Quiet, listener


def doublets(
    data: Data,
    output: Output,
    method: Annotated[str, typer.Option(help="neighbors, solo or scrublet.")] = "neighbors",
    batch_key: Annotated[
        str | None, typer.Option(help="Column of obs with the capture of each cell; captures are judged apart.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Share of the cells that are doublets; default 0.8% for each 1,000 cells of a capture."),
    ] = None,
    labels_key: LabelsKey = None,
    layer: Annotated[str | None, typer.Option(help="Layer that holds the counts; default X.")] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Of solo: passes of its scVI over the cells at most.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score how much each cell looks like two, and call doublets.

    Writes the columns doublet_score and predicted_doublet. The default rate is that of a whole 10x capture: give the
    rate of your capture where the file is a sample of it.
    """
    from scduet.io.cells import check_target, file_size, read, write

    check_target(output, overwrite, file_size(data))
    import scduet

    adata, options = read(data), {} if max_epochs is None else {"max_epochs": max_epochs}
    where = {"batch_key": batch_key, "rate": rate, "labels_key": labels_key, "layer": layer, "seed": seed}
    found = scduet.find_doublets(adata, method, callback=listener(quiet), **where, **options)
    typer.echo(found.to_string(float_format=lambda value: f"{value:.3f}"))
    write(adata, output, overwrite=overwrite)
