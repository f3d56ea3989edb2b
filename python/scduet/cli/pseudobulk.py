"""The command that sums counts over the cells of samples."""

from typing import Annotated

import typer

from scduet.cli.commands import Data, Output, Overwrite


def pseudobulk(
    data: Data,
    output: Output,
    sample_key: Annotated[str, typer.Option(help="Column of obs with the sample of each cell, e.g. the donor.")],
    groupby: Annotated[str | None, typer.Option(help="Column of obs with cell types: a sum for each.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer that holds the counts; default X.")] = None,
    min_cells: Annotated[int, typer.Option(help="Leave out sums of fewer cells.")] = 10,
    overwrite: Overwrite = False,
) -> None:
    """Sum the counts of the cells of each sample, for DESeq2, edgeR or limma.

    Writes one row a sample and type, with the columns of obs that do not differ within it.
    """
    from scduet.io.cells import check_target, file_size, read, write

    check_target(output, overwrite, file_size(data))
    import scduet

    sums = scduet.pseudobulk(read(data), sample_key, groupby, layer=layer, min_cells=min_cells)
    write(sums, output, overwrite=overwrite)
    typer.echo(f"{sums.n_obs} sums of {int(sums.obs['n_cells'].sum())} cells.")
