"""Commands for cells that were measured in several ways: predict what lacks, match cells, find neighbors by all."""

from pathlib import Path
from typing import Annotated

import typer

from scduet.cli.analyses import Seed
from scduet.cli.commands import Data, Folder, Output, Overwrite


def predict_modality(
    query: Data,
    model: Folder,
    reference: Annotated[Path, typer.Option("--reference", "-r", help="The cells that the model was trained on.")],
    output: Output,
    modality: Annotated[str, typer.Option(help="What to predict: one of what the model decodes.")] = "protein",
    use: Annotated[
        str, typer.Option(help="Whose predictions to write: model, knn, ridge, kernel_ridge, or best (by pearson).")
    ] = "model",
    key_added: Annotated[str | None, typer.Option(help="Key of obsm; default predicted_ and the modality.")] = None,
    n_samples: Annotated[int, typer.Option(help="Draws of each cell, averaged.")] = 50,
    table: Annotated[Path | None, typer.Option(help="Also write the table of correlations here (.csv).")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Predict proteins of cells from their RNA.

    Writes the cells with the expected log(1 + counts) in obsm, their standard deviations beside, and prints how well
    the model, 50 nearest neighbors, ridge and kernel ridge do on cells that were held out when the model was trained.
    """
    from scduet.io.cells import check_target, file_size, place_whole, read, write

    check_target(output, overwrite, file_size(query), (".h5mu",) if query.suffix == ".h5mu" else ())
    if table:
        check_target(table, overwrite, endings=(".csv",))
    import scduet

    cells, known = read(query, multimodal=True), read(reference, multimodal=True)
    options = {"use": use, "key_added": key_added, "n_samples": n_samples, "seed": seed}
    found = scduet.predict_modality(scduet.load(model), cells, modality, reference=known, **options)
    write(cells, output, overwrite=overwrite)
    typer.echo(found.to_string(float_format=lambda value: f"{value:.3f}"))
    typer.echo(f"The predictions are those of {found.attrs['used']}.")
    if table:
        place_whole(table.absolute(), found.to_csv)


def match_cells(
    a: Data,
    b: Annotated[Path, typer.Argument(help="Cells of the other modality.")],
    model: Folder,
    reference: Annotated[Path, typer.Option("--reference", "-r", help="The cells that the model was trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table of the best matches to write (.csv).")],
    modality: Annotated[
        list[str] | None,
        typer.Option(help="Modality of the first cells, and again of the others; default the first two."),
    ] = None,
    use: Annotated[str, typer.Option(help="Whose matches to write: model, cca, or best (by foscttm).")] = "model",
    method: Annotated[str, typer.Option(help="neighbors (in common), or bipartite (one to one).")] = "neighbors",
    n_neighbors: Annotated[int, typer.Option(help="Neighbors of a cell among the cells of each modality.")] = 10,
    overwrite: Overwrite = False,
) -> None:
    """Match cells of one modality with cells of another.

    Writes for each of the first cells the best match among the others and its weight, and prints how often the model
    and canonical correlation are right on cells with both that were held out when the model was trained.
    """
    from scduet.io.cells import check_target, place_whole, read

    check_target(output, overwrite, endings=(".csv",))
    import scduet

    first, second, known = (read(path, multimodal=True) for path in (a, b, reference))
    options = {"use": use, "method": method, "n_neighbors": n_neighbors, "modalities": modality or None}
    found = scduet.match_cells(first, second, scduet.load(model), reference=known, **options)
    place_whole(output.absolute(), found.best().to_csv)
    typer.echo(found.table.to_string(float_format=lambda value: f"{value:.3f}"))
    typer.echo(f"The matches are those of {found.used}.")


def weighted_neighbors(
    data: Data,
    output: Output,
    embedding: Annotated[
        list[str], typer.Option("--embedding", "--embeddings", "-e", help="Key of obsm; once for each, two or more.")
    ],
    n_neighbors: Annotated[int, typer.Option(help="Neighbors of a cell.")] = 20,
    n_candidates: Annotated[int, typer.Option(help="Cells by each embedding among which to look.")] = 200,
    key_added: Annotated[str, typer.Option(help="Prefix of the keys of obsp.")] = "wnn",
    overwrite: Overwrite = False,
) -> None:
    """Find neighbors by several embeddings (WNN).

    Writes the cells with the graph in obsp, for UMAP and clustering, and prints the mean weight of each embedding.
    """
    from scduet.io.cells import check_target, file_size, read, write

    check_target(output, overwrite, file_size(data), (".h5mu",) if data.suffix == ".h5mu" else ())
    import scduet

    cells, names = read(data, multimodal=True), [key.strip() for given in embedding for key in given.split(",")]
    options = {"n_neighbors": n_neighbors, "n_candidates": n_candidates, "key_added": key_added}
    weights = scduet.weighted_neighbors(cells, names, **options)
    write(cells, output, overwrite=overwrite)
    typer.echo(weights.mean().rename("mean weight").to_string(float_format=lambda value: f"{value:.3f}"))
