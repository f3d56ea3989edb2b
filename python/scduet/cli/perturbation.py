"""Commands that predict perturbed cells, and score predictions of them."""

from pathlib import Path
from typing import Annotated

import typer

from scduet.cli.analyses import Seed
from scduet.cli.commands import Data, Overwrite, Quiet, listener, say

PerturbationKey = Annotated[str, typer.Option(help="Column of obs with the perturbation of each cell.")]
Control = Annotated[str | None, typer.Option(help="Its level of control cells; default ctrl, control, NT, DMSO, ...")]
ContextKey = Annotated[str | None, typer.Option(help="Column of obs with the cell types, donors or other contexts.")]
BatchKey = Annotated[str | None, typer.Option(help="Column of obs within which controls are matched.")]
Layer = Annotated[str | None, typer.Option(help="Layer with counts or log-normalized values; default X.")]
TotalKey = Annotated[str | None, typer.Option(help="Column of obs with the total count, if genes are a selection.")]
GeneEmbedding = Annotated[
    Path | None,
    typer.Option(help="What is known of genes: gene sets (.gmt), or dimensions by gene (.csv, .tsv)."),
]
Splits = Annotated[int, typer.Option("--n-splits", help="Splits of the control cells that scores are averaged over.")]
Table = Annotated[Path | None, typer.Option(help="Also write the table of scores here (.csv).")]


def perturb(
    data: Data,
    perturbation_key: PerturbationKey,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Perturbation to predict, e.g. CEBPA+KLF1; once for each. Default: those unseen in a context."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Predicted means (.csv), or a cell for each control (.h5ad).")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="auto, mean, additive, weighted, matching mean, linear, neighbors, interpolation, no change, or "
            "one that is trained: scgen, trvae, cvae, scgpt."
        ),
    ] = "auto",
    compare: Annotated[list[str] | None, typer.Option(help="Trained model to compare with; once for each.")] = None,
    control: Control = None,
    context_key: ContextKey = None,
    context: Annotated[list[str] | None, typer.Option(help="Context to predict for; once for each.")] = None,
    batch_key: BatchKey = None,
    dose_key: Annotated[str | None, typer.Option(help="Column of obs with doses; targets are drug@0.5.")] = None,
    gene_embedding: GeneEmbedding = None,
    drop_escaped: Annotated[str | None, typer.Option(help='Column of obs in which Mixscape says "NP".')] = None,
    layer: Layer = None,
    total_key: TotalKey = None,
    evaluate: Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="Predict observed ones to score.")] = True,
    n_splits: Splits = 5,
    transformer: Annotated[Path | None, typer.Option(help="Folder of a scGPT, for --model scgpt.")] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Of a trained model: passes over the cells at most.")] = None,
    table: Table = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Predict perturbed cells, and say how far to trust it.

    Prints how well observed perturbations are predicted from the others, by simple rules first, and the best that noise
    allows.
    """
    from scduet.io.cells import check_target, file_size, place_whole, read, write

    if output:
        check_target(output, overwrite, file_size(data), (".csv", ".h5ad"))
    if table:
        check_target(table, overwrite, endings=(".csv",))
    import scduet

    cells = "cells" if output and output.suffix == ".h5ad" else "mean"
    given = {"max_epochs": max_epochs, "transformer": transformer}
    options = {name: value for name, value in given.items() if value is not None}
    found = scduet.predict_perturbation(
        read(data), perturbation_key, target or None, model=model, compare=compare or (), control=control,
        context_key=context_key, contexts=context or None, batch_key=batch_key, dose_key=dose_key,
        gene_embedding=gene_embedding, drop_escaped=drop_escaped, layer=layer, total_key=total_key, cells=cells,
        evaluate="held-out" if evaluate else None, n_splits=n_splits, seed=seed, callback=listener(quiet), **options,
    )  # fmt: skip
    typer.echo(repr(found))
    if table:
        place_whole(table.absolute(), found.table.to_csv)
    if output and found.mean.empty:
        say(f"nothing to predict: {output} is not written; pass --target, or --context-key with contexts that lack one")
    elif output and found.cells is not None:
        write(found.cells, output, overwrite=overwrite)
    elif output:
        place_whole(output.absolute(), found.mean.to_csv)


def score_perturbation(
    data: Data,
    predictions: Annotated[
        Path, typer.Argument(help="Predicted means (.csv, targets by genes; with contexts first) or cells (.h5ad).")
    ],
    perturbation_key: PerturbationKey,
    control: Control = None,
    context_key: ContextKey = None,
    batch_key: BatchKey = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(help="Perturbation that the predictor saw; once for each. Default: all others."),
    ] = None,
    change: Annotated[bool, typer.Option("--change/--mean", help="Predictions are changes, not means.")] = False,
    gene_embedding: GeneEmbedding = None,
    layer: Layer = None,
    total_key: TotalKey = None,
    n_splits: Splits = 5,
    table: Table = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score predicted perturbations.

    Of any method, beside simple rules and the best that noise allows.
    """
    from scduet.io.cells import check_target, place_whole, read

    if table:
        check_target(table, overwrite, endings=(".csv",))
    import scduet
    from scduet.data.tables import read_predictions

    given = (
        read(predictions) if predictions.suffix == ".h5ad" else read_predictions(predictions, context_key is not None)
    )
    found = scduet.score_perturbation(
        given, read(data), perturbation_key, control=control, context_key=context_key, batch_key=batch_key,
        trained_on=trained_on or None, kind="change" if change else "mean", gene_embedding=gene_embedding, layer=layer,
        total_key=total_key, n_splits=n_splits, seed=seed, callback=listener(quiet),
    )  # fmt: skip
    typer.echo(repr(found))
    if table:
        place_whole(table.absolute(), found.table.to_csv)


def rank_perturbations(
    data: Data,
    profile: Annotated[
        Path, typer.Argument(help="Observed change of each gene (.csv, .tsv: gene, change), or cells (.h5ad).")
    ],
    perturbation_key: PerturbationKey,
    control: Control = None,
    batch_key: BatchKey = None,
    mechanisms: Annotated[
        Path | None, typer.Option(help="Mechanism of each perturbation (.csv, .tsv: perturbation, mechanism).")
    ] = None,
    layer: Layer = None,
    total_key: TotalKey = None,
    n_splits: Splits = 5,
    table: Annotated[Path | None, typer.Option(help="Also write the table here (.csv).")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Rank known perturbations by how well they explain an observed change.

    Prints the correlation of the changes, and how far the change of each perturbation repeats itself.
    """
    from scduet.io.cells import check_target, place_whole, read

    if table:
        check_target(table, overwrite, endings=(".csv",))
    import scduet
    from scduet.data.tables import read_column

    given = read(profile) if profile.suffix == ".h5ad" else read_column(profile)
    kinds = None if mechanisms is None else read_column(mechanisms).dropna().to_dict()
    found = scduet.rank_perturbations(
        given, read(data), perturbation_key, control=control, batch_key=batch_key, mechanisms=kinds, n_splits=n_splits,
        seed=seed, layer=layer, total_key=total_key,
    )  # fmt: skip
    typer.echo(found.round(3).to_string())
    typer.echo(f"By chance the right perturbation has rank {found.attrs['chance_rank']:g}.")
    if mechanisms is not None:
        typer.echo(found.attrs["mechanisms"].round(3).to_string())
    if table:
        place_whole(table.absolute(), found.to_csv)
