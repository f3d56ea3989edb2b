"""Commands for spots of a tissue: their cell types, and genes that they lack."""

from pathlib import Path
from typing import Annotated

import typer

from scduet.cli.analyses import Seed
from scduet.cli.commands import Overwrite, Quiet, listener
from scduet.errors import OptionError


def deconvolve(
    data: Annotated[
        Path, typer.Argument(help="Spots: .h5ad, .zarr, 10x .h5, or a folder of Space Ranger; or samples.")
    ],
    reference: Annotated[Path, typer.Argument(help="Single cells with raw counts and cell types.")],
    labels_key: Annotated[str, typer.Option(help="Column of the reference's obs with the cell types.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Proportions (.csv), or the spots with them in obsm (.h5ad, .zarr).")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="poisson, weighted_nnls, nnls, destvi, stereoscope; default poisson. With --bulk weighted_nnls "
            "(default), nnls, scaden."
        ),
    ] = None,
    bulk: Annotated[bool, typer.Option("--bulk", help="These are bulk samples, not spots.")] = False,
    per: Annotated[str, typer.Option(help="cell: shares of cells; rna: of RNA.")] = "cell",
    layer: Annotated[str | None, typer.Option(help="Layer of the spots with raw counts; default X.")] = None,
    reference_layer: Annotated[str | None, typer.Option(help="That of the reference.")] = None,
    genes: Annotated[str | None, typer.Option(help="variable or markers; default by model.")] = None,
    n_genes: Annotated[int | None, typer.Option(help="How many; of markers for each type.")] = None,
    platform_effect: Annotated[
        bool | None,
        typer.Option("--platform-effect/--no-platform-effect", help="A factor for each gene; default for spots only."),
    ] = None,
    spread: Annotated[Path | None, typer.Option(help="Also write standard deviations here (.csv).")] = None,
    table: Annotated[Path | None, typer.Option(help="Also write the table of methods here (.csv).")] = None,
    expression: Annotated[
        str | None, typer.Option(help="Cell type whose counts in each spot to write to --expression-output.")
    ] = None,
    expression_output: Annotated[Path | None, typer.Option(help="Where to write them (.csv), spots x genes.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Estimate the proportions of cell types in spots.

    Prints how well these agree with simple methods, and what to know before reading the map.
    """
    from scduet.io.cells import check_target, file_size, place_whole, read, write

    check_target(output, overwrite, file_size(data), (".csv",) if bulk else (".csv", ".h5ad", ".zarr"))
    if (expression is None) != (expression_output is None):
        raise OptionError("--expression and --expression-output belong together", "give both, or neither")
    for path in filter(None, (spread, table, expression_output)):
        check_target(path, overwrite, endings=(".csv",))
    import scduet

    where = {"labels_key": labels_key, "per": per, "layer": layer, "reference_layer": reference_layer, "seed": seed}
    given = {"model": model, "genes": genes, "n_genes": n_genes, "platform_effect": platform_effect}
    options = {**where, **{name: value for name, value in given.items() if value is not None}}
    options["callback"] = listener(quiet)
    mixtures, cells = read(data), read(reference)
    if expression:
        from scduet.tasks.spatial.reference import check_known

        check_known(cells, labels_key, [expression])
    if bulk:
        found = scduet.deconvolve_bulk(mixtures, cells, **options)
    else:
        found = scduet.deconvolve(mixtures, cells, **options)
    typer.echo(repr(found))
    if output.suffix == ".csv":
        place_whole(output.absolute(), found.proportions.to_csv)
    else:
        write(mixtures, output, overwrite=overwrite)
    if spread and found.spread is not None:
        place_whole(spread.absolute(), found.spread.to_csv)
    if table:
        place_whole(table.absolute(), found.agreement.to_csv)
    if expression and expression_output:
        place_whole(expression_output.absolute(), found.expression(expression).to_csv)


def impute_genes(
    spatial: Annotated[
        Path, typer.Argument(help="Cells or spots with raw counts of few genes: .h5ad, .zarr, 10x .h5, or a folder.")
    ],
    reference: Annotated[Path, typer.Argument(help="Single cells with raw counts of these genes and of others.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Imputed log-normalized expression (.h5ad, .zarr or .csv).")
    ],
    gene: Annotated[
        list[str] | None, typer.Option(help="Gene to impute; once for each, default the most variable ones.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="ridge, knn, knn_10, auto: the best of them on held-out genes; or gimvi, a deep model.")
    ] = "auto",
    layer: Annotated[str | None, typer.Option(help="Layer of the spatial data with raw counts; default X.")] = None,
    reference_layer: Annotated[str | None, typer.Option(help="That of the reference.")] = None,
    n_genes: Annotated[int, typer.Option(help="How many, where none are named.")] = 2000,
    n_folds: Annotated[int, typer.Option(help="Parts in which shared genes are held out.")] = 5,
    max_epochs: Annotated[int | None, typer.Option(help="Of gimvi: epochs of each training.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Also write scores by method and gene here (.csv).")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Predict genes that spatial data lack.

    Prints how well methods predict genes that are measured, and what to know before reading the values.
    """
    from scduet.io.cells import check_target, file_size, place_whole, read, write

    check_target(output, overwrite, file_size(spatial), (".csv", ".h5ad", ".zarr"))
    if scores:
        check_target(scores, overwrite, endings=(".csv",))
    import scduet

    where = {"layer": layer, "reference_layer": reference_layer, "n_genes": n_genes, "n_folds": n_folds, "seed": seed}
    deep = {"callback": listener(quiet)} if model == "gimvi" else {}
    deep |= {} if max_epochs is None else {"max_epochs": max_epochs}
    found = scduet.impute_genes(read(spatial), read(reference), gene or None, model=model, **where, **deep)
    typer.echo(repr(found))
    if output.suffix == ".csv":
        place_whole(output.absolute(), found.values.to_df().to_csv)
    else:
        write(found.values, output, overwrite=overwrite)
    if scores:
        place_whole(scores.absolute(), found.scores.to_csv)
