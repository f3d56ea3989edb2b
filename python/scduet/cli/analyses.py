"""Commands that apply a model to cells: name them, map them, compare groups of them, give their expression."""

from pathlib import Path
from typing import Annotated

import typer

from scduet.cli.commands import (
    Data,
    Folder,
    KeyAdded,
    Output,
    Overwrite,
    Quiet,
    check_model_folder,
    listener,
)
from scduet.cli.model_names import is_transformer
from scduet.errors import OptionError
from scduet.models import MODELS

Seed = Annotated[int, typer.Option(help="Random seed.")]


def _known(model: str) -> str:
    if model in MODELS or is_transformer(model):
        return model
    raise typer.BadParameter(f"{model!r} is neither one of {', '.join(MODELS)} nor a folder")


Modality = Annotated[
    str | None, typer.Option(help="Another matrix that the model decodes, e.g. protein; default the main one.")
]


def annotate(
    query: Data,
    reference: Annotated[
        Path,
        typer.Option("--reference", "-r", help="Labeled cells, or a folder of a scANVI or of a tuned transformer."),
    ],
    output: Output,
    model: Annotated[
        str, typer.Option("--model", callback=_known, help="scanvi, or the folder of a transformer to fine-tune.")
    ] = "scanvi",
    use: Annotated[
        str,
        typer.Option(
            help="Whose labels to write: model, knn, logistic_regression, linear_svm, or best (highest macro_f1)."
        ),
    ] = "model",
    unknown: Annotated[
        float | None, typer.Option(help='Call cells above this share of the largest entropy "unknown" (0 to 1).')
    ] = None,
    key_added: Annotated[str, typer.Option(help="Column of obs for the cell types.")] = "predicted",
    table: Annotated[Path | None, typer.Option(help="Also write the table of accuracies here (.csv).")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options,
) -> None:
    """Name cells by a labeled reference.

    Writes the cells with the types and their probabilities, and prints how well the model, kNN on PCA, logistic
    regression and a linear SVM do on labeled cells that none of them was shown; --use takes the labels of another row.
    Options are those of the scVI that is trained; with --model FOLDER those of fine-tuning, which --help then lists.
    """
    from scduet.io.cells import check_target, file_size, place_whole, read, write

    check_target(output, overwrite, file_size(query))
    if table:
        check_target(table, overwrite, endings=(".csv",))
    import scduet
    from scduet.checkpoints import scvi_tools
    from scduet.io import native

    trained = native.is_ours(reference) or scvi_tools.recognize(reference)
    known = scduet.load(reference) if trained else read(reference)
    adata = read(query)
    options |= {"model": model, "use": use, "unknown": unknown, "key_added": key_added, "callback": listener(quiet)}
    found = scduet.annotate(adata, known, **options)
    write(adata, output, overwrite=overwrite)
    typer.echo(found.to_string(float_format=lambda value: f"{value:.3f}"))
    typer.echo(f"The labels are those of {found.attrs['used']}.")
    if table:
        place_whole(table.absolute(), found.to_csv)


def map_(
    query: Data,
    model: Folder,
    output: Output,
    save_model: Annotated[Path | None, typer.Option(help="Also save the model that knows the query's batches.")] = None,
    train: Annotated[bool, typer.Option("--train/--no-train", help="Learn the rows of new batches.")] = True,
    max_missing: Annotated[float, typer.Option(help="Share of the model's genes that may be missing.")] = 0.2,
    key_added: KeyAdded = None,
    n_new_terms: Annotated[int, typer.Option(help="Of expimap: terms for what is new in the query.")] = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options,
) -> None:
    """Place new cells in a model's space.

    Batches that the model has not seen get rows of their own; cells of the reference keep their place to the last bit.
    """
    from scduet.io.cells import check_target, file_size, read, write

    check_target(output, overwrite, file_size(query), (".h5mu",) if query.suffix == ".h5mu" else ())
    if save_model:
        check_model_folder(save_model, overwrite)
    import scduet

    adata = read(query, multimodal=True)
    settings = {"train": train, "max_missing": max_missing, "key_added": key_added}
    settings |= {"n_new_terms": n_new_terms}
    mapped = scduet.map_query(adata, scduet.load(model), callback=listener(quiet), **settings, **options)
    write(adata, output, overwrite=overwrite)
    if save_model:
        mapped.save(save_model, overwrite)


def de(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write (.csv).")],
    groupby: Annotated[str, typer.Option(help="Column of obs with the groups.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Folder of a saved model; none for --method pydeseq2.")
    ] = None,
    method: Annotated[
        str, typer.Option(help='"model", or "pydeseq2" (DESeq2 on sums of the counts of each sample).')
    ] = "model",
    sample_key: Annotated[str | None, typer.Option(help="Of pydeseq2: column of obs with the sample.")] = None,
    group1: Annotated[list[str] | None, typer.Option(help="Group to compare; once for each, default all.")] = None,
    group2: Annotated[str | None, typer.Option(help="What to compare with; default all other cells.")] = None,
    mode: Annotated[str, typer.Option(help='"change" (tests for a fold change above delta) or "vanilla".')] = "change",
    delta: Annotated[float, typer.Option(help="Smallest log2 fold change that matters.")] = 0.25,
    fdr_target: Annotated[float, typer.Option(help="Share of false calls to aim at.")] = 0.05,
    min_pct: Annotated[
        float, typer.Option(help="Test genes with counts in this share of the cells of either group; 0 for all.")
    ] = 0.1,
    lfc_threshold: Annotated[
        float, typer.Option(help="Test genes whose log2 fold change in the counts is at least this, up or down.")
    ] = 0.0,
    only_pos: Annotated[bool, typer.Option("--only-pos", help="Only genes that are higher in group1.")] = False,
    total_key: Annotated[
        str | None, typer.Option(help="Column of obs with total counts, where the file holds some of the genes.")
    ] = None,
    batch_correction: Annotated[bool, typer.Option("--batch-correction", help="Compare as if in every batch.")] = False,
    modality: Modality = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Find genes that differ between groups.

    Writes one row a comparison and gene (column tested: does it pass --min-pct and --lfc-threshold), and prints how
    many calls remain when the labels are permuted: the noise of sampling cells, not errors of the model or differences
    between donors.
    """
    from scduet.io.cells import check_target, place_whole, read

    check_target(output, overwrite, endings=(".csv",))
    import scduet

    options = {"mode": mode, "delta": delta, "fdr_target": fdr_target, "batch_correction": batch_correction}
    options |= {"min_pct": min_pct, "lfc_threshold": lfc_threshold, "only_pos": only_pos}
    options |= {"total_key": total_key, "modality": modality, "method": method, "sample_key": sample_key}
    trained = None if model is None else scduet.load(model)
    found = scduet.differential_expression(trained, read(data), groupby, group1 or None, group2, seed=seed, **options)
    place_whole(output.absolute(), found.rename_axis("gene").to_csv)


def expression(
    data: Data,
    model: Folder,
    output: Output,
    gene: Annotated[list[str] | None, typer.Option(help="Gene to give; once for each, default all.")] = None,
    transform_batch: Annotated[
        list[str] | None, typer.Option(help="Decode as if measured in this batch; several are averaged.")
    ] = None,
    library_size: Annotated[str, typer.Option(help='Total of a cell, or "latent" for that of the data.')] = "1",
    n_samples: Annotated[int, typer.Option(help="Draws of a cell's state to average.")] = 1,
    modality: Modality = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write denoised expression.

    --output .h5ad or .zarr: cells x genes of the model, with obs and obsm of the cells; .csv: a table.
    """
    from scduet.io.cells import check_target, file_size, read, write_expression

    check_target(output, overwrite, file_size(data), (".h5ad", ".zarr", ".csv"))
    size = _library(library_size)
    import scduet

    adata, options = read(data), {"library_size": size, "n_samples": n_samples, "seed": seed, "modality": modality}
    options |= {"gene_list": gene or None, "transform_batch": transform_batch or None}
    found = scduet.normalized_expression(scduet.load(model), adata, **options)
    write_expression(found, adata, output, overwrite=overwrite)


def _library(text: str) -> float | str:
    try:
        return text if text == "latent" else float(text)
    except ValueError as error:
        raise OptionError(f"--library-size cannot be {text!r}", 'give a number, or "latent"') from error


def generate_cells(
    data: Data,
    model: Folder,
    output: Output,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of cells.")] = 1000,
    label: Annotated[
        list[str] | None, typer.Option(help="Cell type to make; once for each, default all in their shares.")
    ] = None,
    labels_key: Annotated[str | None, typer.Option(help="Column of obs with the types; default the model's.")] = None,
    library: Annotated[float | None, typer.Option(help="Total count of each cell; default as in the data.")] = None,
    batch: Annotated[str | None, typer.Option(help="Batch to decode as; default that of the source cell.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make cells with a model, from the states of real cells, e.g. those it was trained on.

    Writes counts with the type, the batch and the source cell of each. They add no information about the data, and are
    not anonymous.
    """
    from scduet.io.cells import check_target, read, write

    check_target(output, overwrite)
    import scduet

    options = {"label": label or None, "labels_key": labels_key, "library": library, "batch": batch, "seed": seed}
    made = scduet.generate_cells(scduet.load(model), n, adata=read(data), **options)
    write(made, output, overwrite=overwrite)
