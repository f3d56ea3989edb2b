"""The command that writes a file for browsers of cells."""

from typing import Annotated

import typer

from scduet.cli.commands import Data, Output, Overwrite


def export_viewer(
    data: Data,
    output: Output,
    embedding: Annotated[
        str | None, typer.Option(help="Key of obsm to draw by UMAP; default the first embedding, else X_pca.")
    ] = None,
    columns: Annotated[list[str] | None, typer.Option("--column", help="Column of obs to keep; default all.")] = None,
    gene_symbols: Annotated[str | None, typer.Option(help="Column of var with the names of genes to show.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the expression; default X.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the UMAP.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write cells as cellxgene (.h5ad) and Vitessce (.zarr) open them: UMAP, categories with colors, expression."""
    from scduet.io.cells import check_target, file_size, read

    check_target(output, overwrite, file_size(data))
    import scduet

    given = {"embedding": embedding, "columns": columns or None, "gene_symbols": gene_symbols, "layer": layer}
    made = scduet.export_viewer(read(data), output, **given, seed=seed, overwrite=overwrite)
    typer.echo(f"{output}: {made.n_obs} cells, drawings {', '.join(made.obsm)}; colors of {len(made.uns)} columns")
