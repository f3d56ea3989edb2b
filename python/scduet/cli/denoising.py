"""Commands that denoise counts, and judge how well that goes."""

from pathlib import Path
from typing import Annotated

import typer

from scduet.cli.analyses import Seed
from scduet.cli.commands import Data, LabelsKey, Output, Overwrite, Quiet, listener

Layer = Annotated[str | None, typer.Option(help="Layer that holds the counts; default X.")]


def denoise(
    data: Data,
    output: Output,
    method: Annotated[
        str | None,
        typer.Option(
            help="walk, scvi, dca, alra, deepimpute, scimpute or magic; default walk up to 50,000 cells, scvi above."
        ),
    ] = None,
    layer: Layer = None,
    key_added: Annotated[str, typer.Option(help="Layer for the expected counts.")] = "denoised",
    max_epochs: Annotated[int | None, typer.Option(help="Of a network: passes over the cells at most.")] = None,
    t: Annotated[int | None, typer.Option("--t", help="Of walk and magic: steps.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a layer of expected counts.

    For looking at genes, not for testing them. Compare methods on your cells first: scduet compare-denoisers.
    """
    from scduet.io.cells import check_target, file_size, read, write

    check_target(output, overwrite, file_size(data))
    import scduet

    adata = read(data)
    options = {name: value for name, value in {"max_epochs": max_epochs, "t": t}.items() if value is not None}
    tell = listener(quiet)
    scduet.denoise(adata, method, layer=layer, key_added=key_added, seed=seed, callback=tell, **options)
    write(adata, output, overwrite=overwrite)


def compare_denoisers(
    data: Data,
    method: Annotated[
        list[str] | None, typer.Option(help="Method to compare; once for each, default walk, scvi and dca.")
    ] = None,
    labels_key: LabelsKey = None,
    layer: Layer = None,
    false_signals: Annotated[
        bool, typer.Option("--false-signals/--no-false-signals", help="Also look for what is invented.")
    ] = True,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the table here (.csv).")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Judge denoisers on your cells.

    By molecules that they were not shown, and by correlations and differences that they invent.
    """
    from scduet.io.cells import check_target, place_whole, read

    if output:
        check_target(output, overwrite, endings=(".csv",))
    import scduet

    options = {"layer": layer, "labels_key": labels_key, "false_signals": false_signals, "seed": seed}
    found = scduet.compare_denoisers(read(data), **({"methods": method} if method else {}), **options)
    typer.echo(found.to_string(float_format=lambda value: f"{value:.3f}"))
    if output:
        place_whole(output.absolute(), found.to_csv)
