"""The command for RNA velocity."""

from pathlib import Path
from typing import Annotated

import typer

from scduet.cli.analyses import Seed
from scduet.cli.commands import Data, LabelsKey, Output, Overwrite, Quiet, listener, say


def velocity(
    data: Data,
    output: Output,
    model: Annotated[str, typer.Option(help="steady_state, stochastic, dynamical or velovi.")] = "steady_state",
    spliced: Annotated[str, typer.Option(help="Layer of spliced counts, or X.")] = "spliced",
    unspliced: Annotated[str, typer.Option(help="Layer of unspliced counts.")] = "unspliced",
    labels_key: LabelsKey = None,
    transition: Annotated[
        list[str] | None, typer.Option(help="A known transition FROM:TO between types; once for each.")
    ] = None,
    basis: Annotated[str | None, typer.Option(help="Key of obsm to draw on; default X_umap, else X_pca.")] = None,
    key_added: Annotated[str, typer.Option(help="Layer for the velocities.")] = "velocity",
    figure: Annotated[Path | None, typer.Option(help="Also draw the streams here (.png, .pdf, .svg).")] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Of velovi: passes over the cells at most.")] = None,
    save_model: Annotated[Path | None, typer.Option(help="Of velovi: also write the model to this folder.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Estimate where cells are going, and say whether the data support it.

    From raw spliced and unspliced counts, as in the files of velocyto, STARsolo and alevin-fry.
    """
    from scduet.errors import OptionError
    from scduet.io.cells import check_target, file_size, read, write

    check_target(output, overwrite, 3 * file_size(data))
    if figure:
        check_target(figure, overwrite, endings=(".png", ".pdf", ".svg"))
    if save_model and model != "velovi":
        raise OptionError("--save-model is for --model velovi", f"{model} has no model to save")
    pairs = [tuple(pair.split(":")) for pair in transition or ()]
    import scduet

    adata = read(data)
    found = scduet.velocity(
        adata,
        model,
        spliced=spliced,
        unspliced=unspliced,
        labels_key=labels_key,
        transitions=pairs,  # type: ignore[arg-type]
        basis=basis,
        key_added=key_added,
        seed=seed,
        callback=listener(quiet),
        **({} if max_epochs is None else {"max_epochs": max_epochs}),
    )
    typer.echo(found.scores.to_string(float_format=lambda value: f"{value:.3f}"))
    say(found.verdict)
    if save_model and found.model is not None:
        found.model.save(save_model, overwrite)
    if figure:
        _draw(adata, basis, labels_key, figure)
    write(adata, output, overwrite=overwrite)


def _draw(adata, basis: str | None, labels_key: str | None, path: Path) -> None:
    import scduet

    basis = basis or ("X_umap" if "X_umap" in adata.obsm else "X_pca")
    key = labels_key or "velocity_confidence"
    places, arrows = adata.obsm[basis][:, :2], adata.obsm[f"velocity_{basis.removeprefix('X_')}"][:, :2]
    axes = basis.removeprefix("X_").upper()
    scduet.pl.save_figure(scduet.pl.velocity(places, arrows, adata.obs[key], name=key, axes_name=axes), path)
