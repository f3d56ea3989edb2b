"""The commands of gene programs and of knowledge-primed networks."""

from pathlib import Path
from typing import Annotated

import typer

from scduet.cli.analyses import Seed
from scduet.cli.commands import Data, Folder, Overwrite


def programs(
    data: Data,
    model: Folder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write (.csv).")],
    groupby: Annotated[str, typer.Option(help="Column of obs with the groups.")],
    group1: Annotated[list[str] | None, typer.Option(help="Group to compare; once for each, default all.")] = None,
    group2: Annotated[str | None, typer.Option(help="What to compare with; default all other cells.")] = None,
    genes: Annotated[Path | None, typer.Option(help="Also write the genes of the programs here (.csv).")] = None,
    n_samples: Annotated[int, typer.Option(help="Random pairs of cells.")] = 5000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Find gene programs that differ between groups.

    By an expiMap (scduet fit --model expimap --gene-sets FILE.gmt), with a plain score of each gene set beside it.
    """
    from scduet.io.cells import check_target, place_whole, read

    for path in [output, *([genes] if genes else [])]:
        check_target(path, overwrite, endings=(".csv",))
    import scduet

    trained = scduet.load(model)
    compared = groupby, group1 or None, group2
    found = scduet.differential_programs(trained, read(data), *compared, n_samples=n_samples, seed=seed)
    place_whole(output.absolute(), lambda path: found.to_csv(path, index=False))
    if genes:
        table = scduet.program_genes(trained)
        place_whole(genes.absolute(), lambda path: table.to_csv(path, index=False))


def node_weights(
    data: Data,
    model: Folder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write (.csv).")],
    replicates: Annotated[int, typer.Option(help="Networks to train, the model the first of them.")] = 10,
    control: Annotated[bool, typer.Option(help="Also train networks on simulated counts.")] = True,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write what each node of a KPNN is worth for the labels, over replicates and beside a control.

    DATA holds the cells that the model was trained on (scduet fit --model kpnn --gene-graph FILE.csv).
    """
    from scduet.io.cells import check_target, place_whole, read

    check_target(output, overwrite, endings=(".csv",))
    import scduet

    options = {"replicates": replicates, "control": control, "seed": seed}
    found = scduet.node_weights(scduet.load(model), read(data), **options)
    place_whole(output.absolute(), lambda path: found.to_csv(path, index=False))
    for name, value in found.attrs.items():
        typer.echo(f"{name}: {value:.3f}")
