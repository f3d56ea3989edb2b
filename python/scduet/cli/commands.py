"""The commands of `scduet`, one function each. What they need is imported inside, so that help costs nothing."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from scduet.cli.model_names import ModelName, ModelOrFolder
from scduet.errors import FormatError, OptionError
from scduet.train.progress import SilentOnError

DEFAULT_MODEL = "scvi"

Data = Annotated[
    Path, typer.Argument(help=".h5ad, .h5mu, .zarr, .loom, 10x .h5, or a folder: 10x, Visium, STARsolo, alevin-fry.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="What to write; put in place only when complete.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what --output names.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Suppress progress output.")]
Folder = Annotated[Path, typer.Option("--model", "-m", help="Folder of a saved model.")]
OnDisk = Annotated[
    bool, typer.Option("--on-disk", help="Leave the counts on disk (.h5ad, .zarr): for files larger than memory.")
]
Checkpoint = Annotated[Path | None, typer.Option(help="Folder that keeps the state of the run, to go on if cut off.")]
KeyAdded = Annotated[str | None, typer.Option(help="Name of the embedding in obsm (default: X_scVI for scvi).")]
BatchKey = Annotated[str | None, typer.Option(help="Column of obs with the technical batch.")]
LabelsKey = Annotated[str | None, typer.Option(help="Column of obs with the cell types.")]
Embeddings = Annotated[
    list[str] | None,
    typer.Option("--embedding", "--embeddings", "-e", help="Keys of obsm: with commas between, or once for each."),
]


def fit(
    data: Data,
    output: Output,
    model: ModelName = DEFAULT_MODEL,
    on_disk: OnDisk = False,
    checkpoint: Checkpoint = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options,
) -> None:
    """Train a model and save it.

    --output is the folder to make: weights as safetensors, all else as JSON.
    """
    from scduet.io.cells import read

    check_model_folder(output, overwrite)
    import scduet

    cells = data if on_disk else read(data, multimodal=True)
    trained = scduet.fit(cells, model, callback=listener(quiet), checkpoint=checkpoint, **options)
    trained.save(output, overwrite)


def integrate(
    data: Data,
    output: Output,
    model: ModelOrFolder = DEFAULT_MODEL,
    save_model: Annotated[Path | None, typer.Option(help="Also save the model in this folder.")] = None,
    n_top_genes: Annotated[
        int | None, typer.Option(help='Train on so many variable genes, chosen within batches (scanpy\'s "seurat").')
    ] = None,
    key_added: KeyAdded = None,
    on_disk: OnDisk = False,
    checkpoint: Checkpoint = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options,
) -> None:
    """Train a model, add its embedding.

    Writes the cells with the embedding in obsm, as .h5ad or .zarr.
    """
    from scduet.io.cells import check_target, file_size, read, write

    check_target(output, overwrite, file_size(data), (".h5mu",) if data.suffix == ".h5mu" else ())
    if save_model:
        check_model_folder(save_model, overwrite)
    import scduet
    from scduet.train.group import is_first

    options |= {"key_added": key_added, "callback": listener(quiet), "checkpoint": checkpoint}
    options |= {"n_top_genes": n_top_genes}
    if on_disk:
        trained = scduet.integrate(data, model, output=output, overwrite=overwrite, **options)
    else:
        adata = read(data, multimodal=True)
        trained = scduet.integrate(adata, model, **options)
        if is_first():
            write(adata, output, overwrite=overwrite)
    if save_model:
        trained.save(save_model, overwrite)


def embed(
    data: Data,
    model: Folder,
    output: Output,
    key_added: KeyAdded = None,
    accelerator: Annotated[str, typer.Option(help='"auto", "cpu", "gpu" or "mps".')] = "auto",
    modality: Annotated[str | None, typer.Option(help="Of MultiVI: by one modality, e.g. peaks.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Apply a saved model to cells.

    --output .h5ad or .zarr: the cells with the embedding in obsm; .csv or .npy: the embedding alone.
    """
    from scduet.io.cells import check_target, file_size, read, write, write_embedding
    from scduet.tasks.quality.provenance import made_by, note

    endings = (".h5mu" if data.suffix == ".h5mu" else ".h5ad", ".zarr", ".csv", ".npy")
    check_target(output, overwrite, file_size(data), endings)
    import scduet

    trained, adata = scduet.load(model), read(data, multimodal=True)
    by_modality = {} if modality is None else {"modality": modality}
    if by_modality and not isinstance(trained, scduet.Model):
        raise OptionError(f"{trained.name!r} does not embed modalities apart", "leave --modality out")
    latent = trained.embed(adata, accelerator=accelerator, **by_modality)
    if output.suffix.lower() in (".csv", ".npy"):
        write_embedding(latent, adata.obs_names, output)
        return
    key = key_added or "_".join((trained.key, *by_modality.values()))
    adata.obsm[key] = latent
    note(adata, key, made_by(trained))
    write(adata, output, overwrite=overwrite)


def recommend(
    data: Data,
    task: Annotated[str | None, typer.Option(help="One task, e.g. integration; default all.")] = None,
    batch_key: BatchKey = None,
    labels_key: LabelsKey = None,
    layer: Annotated[str | None, typer.Option(help="Layer that holds the counts; default X.")] = None,
) -> None:
    """Say which method suits the data.

    For each task: what to use, why, who found so, and whether a deep model is needed at all.
    """
    from scduet.io.cells import read
    from scduet.tasks.workflows.recommend import recommend

    on_disk = data.suffix.lower() in (".h5ad", ".zarr")
    table = recommend(data if on_disk else read(data), task, batch_key=batch_key, labels_key=labels_key, layer=layer)
    typer.echo(repr(table))


def score(
    data: Data,
    batch_key: BatchKey = None,
    labels_key: LabelsKey = None,
    embedding: Embeddings = None,
    metrics: Annotated[
        str, typer.Option(help='"default", "scib", "census", "all", or names with commas between.')
    ] = "default",
    layer: Annotated[str | None, typer.Option(help="Layer for the unintegrated PCA; default X.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the table here (.csv).")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write a page with pictures and meanings (.html).")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score embeddings beside the PCA.

    How well batches mix, and how well cell types stay apart; higher is better. The unintegrated PCA, and Harmony where
    it is installed, are always scored too.
    """
    from scduet.io.cells import check_target, place_whole, read

    if batch_key is None and labels_key is None:
        raise OptionError("score needs to know the batches or the cell types", "pass --batch-key, --labels-key or both")
    for path, ending in ((output, ".csv"), (report, ".html")):
        if path:
            check_target(path, overwrite, endings=(ending,))
    import scduet

    names, keys = metrics.split(",") if "," in metrics else metrics, _without_commas(embedding)
    adata = read(data)
    progress = None if quiet else _once_an_embedding()
    table = scduet.score(adata, keys, batch_key, labels_key, metrics=names, layer=layer, callback=progress)
    typer.echo(repr(table))
    if output:
        place_whole(output.absolute(), table.to_csv)
    if report:
        drawn = keys and [key for key in keys if key in adata.obsm]  # Harmony may have been made for the table only
        where = {"batch_key": batch_key, "labels_key": labels_key, "embeddings": drawn, "layer": layer}
        scduet.report(adata, report, scores=table, title=f"Scores of {data.name}", overwrite=overwrite, **where)


def report(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", "-m", help="Folder of the saved model, for its curves; repeat for several."),
    ] = None,
    batch_key: BatchKey = None,
    labels_key: LabelsKey = None,
    embedding: Embeddings = None,
    color_by: Annotated[
        list[str] | None, typer.Option(help="Further column of obs to color the map by; repeat for several.")
    ] = None,
    gene: Annotated[list[str] | None, typer.Option(help="Gene to color the map by; repeat for several.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one self-contained HTML page.

    The data, the training, pictures before and after, scores and what they mean.
    """
    from scduet.io.cells import check_target, read

    check_target(output, overwrite, endings=(".html",))
    import scduet

    scduet.report(
        read(data),
        output,
        model=[scduet.load(folder) for folder in model or ()],
        embeddings=_without_commas(embedding),
        batch_key=batch_key,
        labels_key=labels_key,
        color_by=color_by or [],
        genes=gene or [],
        overwrite=overwrite,
    )


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help=".h5ad, .h5mu, .zarr, .loom, 10x .h5; a folder: 10x, Visium, STARsolo, alevin-fry; .rds, .rda, .RData."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="What to write: .h5ad, .h5mu, .zarr, or .rds and .rda (needs R).")],
    name: Annotated[str | None, typer.Option(help="Name of the object in an .rda.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read one format, write another.

    Seurat objects and SingleCellExperiments in .rds and .rda files are read without R, and written by R. In .h5mu,
    counts in obsm that have names are modalities; elsewhere modalities other than rna are in obsm.
    """
    from scduet.interop.r_files import convert as run

    adata = run(source, target, name=name, overwrite=overwrite)
    kinds = {f"features in {name}": part.n_vars for name, part in getattr(adata, "mod", {}).items()}
    found = ", ".join(f"{n} {what}" for what, n in (kinds or {"genes": adata.n_vars}).items())
    typer.echo(f"{target}: {adata.n_obs} cells, {found}")


def doctor(
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Also examine this saved model.")] = None,
    folder: Annotated[Path, typer.Option(help="Where you mean to write.")] = Path(),
) -> None:
    """Examine this installation.

    Versions, devices, the speed of torch, R, permission to write. Exit code 1 if something is bad.
    """
    from scduet.tasks.workflows.doctor import examine

    findings = examine(model, folder)
    for finding in findings:
        mark = {True: "ok  ", False: "BAD ", None: "-   "}[finding.ok]
        remedy = f"\n     -> {finding.remedy}" if finding.remedy else ""
        typer.echo(f"{mark} {finding.what}: {finding.found}{remedy}")
    raise typer.Exit(1 if any(finding.ok is False for finding in findings) else 0)


def _without_commas(keys: list[str] | None) -> list[str] | None:
    return [key.strip() for given in keys for key in given.split(",")] if keys else None


def _once_an_embedding() -> Callable[[Any], None]:
    said: list[str] = []

    def tell(event: Any) -> None:
        embedding = event.message.partition(":")[0]
        if embedding not in said:
            said.append(embedding)
            say(f"scoring {embedding}")

    return tell


def listener(quiet: bool) -> SilentOnError | None:
    """None (the progress bar) in a terminal; elsewhere a line every tenth of the way."""
    if not quiet and sys.stderr.isatty():
        return None

    tenth = 0

    def tell(event: Any) -> None:
        nonlocal tenth
        counts = event.kind == "progress"
        before, tenth = tenth, 10 * event.done // max(event.total, 1) if counts else tenth
        if event.kind == "warning" or (not quiet and (not counts or tenth != before)):
            say(f"{event.unit} {event.done}/{event.total}: {event.message}" if counts else event.message)

    return SilentOnError(tell)


def check_model_folder(folder: Path, overwrite: bool) -> None:
    from scduet.io.cells import check_folder

    check_folder(folder.absolute().parent)
    if folder.exists() and not overwrite:
        raise FormatError(f"{folder} exists", "choose another folder, or pass --overwrite to replace a model there")


def say(line: str) -> None:
    print(f"scduet: {line}", file=sys.stderr)
