"""The command that writes a network of genes, its programs, and a drawing."""

from pathlib import Path
from typing import Annotated

import typer

from scduet.cli.commands import Data, Overwrite, say
from scduet.errors import OptionError

TABLE, FIGURE = (".csv",), (".png", ".pdf", ".svg")


def network(
    data: Data,
    model: Annotated[Path, typer.Option("--model", "-m", help="Folder of a saved model, or of a transformer.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table of links to write (.csv).")],
    gene: Annotated[
        list[str] | None, typer.Option(help="Gene to take; once for each, default the variable ones.")
    ] = None,
    method: Annotated[str, typer.Option(help='"embedding", "contextual" or "attention".')] = "embedding",
    groupby: Annotated[str | None, typer.Option(help="Column of obs: a network for each of its values.")] = None,
    control: Annotated[str | None, typer.Option(help="Value of --groupby that the others are compared with.")] = None,
    n_neighbors: Annotated[int, typer.Option(help="Links kept of each gene.")] = 15,
    layer: Annotated[str | None, typer.Option(help="Layer with raw counts; default X.")] = None,
    gene_sets: Annotated[Path | None, typer.Option(help="GMT file: names the programs of --programs.")] = None,
    programs: Annotated[Path | None, typer.Option(help="Also write programs of genes here (.csv).")] = None,
    resolution: Annotated[float, typer.Option(help="Of the programs: more gives smaller ones.")] = 20.0,
    figure: Annotated[Path | None, typer.Option(help="Also draw the strongest links here (.png, .pdf, .svg).")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write which genes go together by a model, beside their co-expression.

    With --gene-sets it prints how often links join genes of a common set: by the model, by co-expression, by chance.
    """
    from scduet.io.cells import check_target, place_whole, read

    for path, endings in ((output, TABLE), (programs, TABLE), (figure, FIGURE)):
        if path:
            check_target(path, overwrite, endings=endings)
    if gene_sets and not programs:
        raise OptionError("--gene-sets names programs", "pass --programs too")
    import scduet

    sets = scduet.read_gmt(gene_sets) if gene_sets else None
    options = {"method": method, "groupby": groupby, "control": control, "n_neighbors": n_neighbors, "layer": layer}
    links = scduet.gene_network(scduet.load(model), read(data), genes=gene or None, **options)
    if programs or figure:
        found = scduet.gene_programs(links, sets, resolution=resolution)
        if programs:
            place_whole(programs.absolute(), lambda path: found.to_csv(path, index=False))
        if figure:
            _draw(links, found, figure)
        if sets:
            typer.echo(found.attrs["links"].to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    place_whole(output.absolute(), lambda path: links.to_csv(path, index=False))


def _draw(links, programs, figure: Path) -> None:
    import scduet

    group = links["group"].iloc[0]
    if links["group"].nunique() > 1:
        say(f"drawing the group {group!r}, the first of several")
    drawn = scduet.pl.gene_network(links, group=group, programs=programs[programs["group"] == group])
    scduet.pl.save_figure(drawn, figure)
