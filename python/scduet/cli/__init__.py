"""The command `scduet`. A command is a function below; options of models and training come from their dataclasses."""

import os
import sys
import warnings
from collections.abc import Callable
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from scduet._version import __version__
from scduet.cli.flags import with_options
from scduet.errors import FormatError, OptionError
from scduet.models import MODELS

DEFAULT_MODEL = "scvi"

Data = Annotated[Path, typer.Argument(help=".h5ad, .zarr, 10x .h5, or a 10x folder with matrix.mtx.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="What to write; put in place only when complete.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what --output names.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while training.")]
Folder = Annotated[Path, typer.Option("--model", "-m", help="Folder of a saved model.")]
ModelName = Annotated[Enum("ModelName", {name: name for name in MODELS}), typer.Option("--model", help="Which model.")]
KeyAdded = Annotated[str | None, typer.Option(help="Name of the embedding in obsm (default: X_scVI for scvi).")]
BatchKey = Annotated[str | None, typer.Option(help="Column of obs with the technical batch.")]
LabelsKey = Annotated[str | None, typer.Option(help="Column of obs with the cell types.")]
Embeddings = Annotated[list[str] | None, typer.Option("--embedding", "-e", help="Key of obsm; give it once for each.")]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 1 failed (one line says why), 2 wrong usage."""
    arguments = [_with_dashes(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        try:
            build(_model_named_in(arguments))(args=arguments, prog_name="scduet")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt:
            return _failed("interrupted")
        except Exception as error:
            if os.environ.get("SCDUET_TRACEBACK"):
                raise
            return _failed(str(error) or type(error).__name__, 2 if isinstance(error, OptionError) else 1)
    return 0


def build(model: str = DEFAULT_MODEL) -> typer.Typer:
    """The command line, with the options of `model` on the commands that train."""
    app = typer.Typer(
        help="Deep models for single-cell counts: train, apply, score, report.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # tables cut the names of options off
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_common)
    for command in (fit, integrate):
        app.command()(with_options(command, model))
    for command in (embed, score, report, convert, doctor):
        app.command()(command)
    return app


def fit(
    data: Data,
    output: Output,
    model: ModelName = DEFAULT_MODEL,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options,
) -> None:
    """Train a model and save it.

    --output is the folder to make: weights as safetensors, all else as JSON.
    """
    from scduet.tasks.convert import check_folder, read

    check_folder(output.absolute().parent)
    _refuse_existing(output, overwrite)
    import scduet

    scduet.fit(read(data), model.value, callback=_listener(quiet), **options).save(output, overwrite)


def integrate(
    data: Data,
    output: Output,
    model: ModelName = DEFAULT_MODEL,
    save_model: Annotated[Path | None, typer.Option(help="Also save the model in this folder.")] = None,
    key_added: KeyAdded = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options,
) -> None:
    """Train a model, add its embedding.

    Writes the cells with the embedding in obsm, as .h5ad or .zarr.
    """
    from scduet.tasks.convert import check_folder, check_target, file_size, read, write

    check_target(output, overwrite, file_size(data))
    if save_model:
        check_folder(save_model.absolute().parent)
        _refuse_existing(save_model, overwrite)
    import scduet

    adata = read(data)
    trained = scduet.integrate(adata, model.value, key_added=key_added, callback=_listener(quiet), **options)
    if save_model:
        trained.save(save_model, overwrite)
    write(adata, output, overwrite=overwrite)


def embed(
    data: Data,
    model: Folder,
    output: Output,
    key_added: KeyAdded = None,
    overwrite: Overwrite = False,
) -> None:
    """Apply a saved model to cells.

    --output .h5ad or .zarr: the cells with the embedding in obsm; .csv or .npy: the embedding alone.
    """
    from scduet.tasks.convert import check_target, file_size, read, write, write_embedding

    endings = (".h5ad", ".zarr", ".csv", ".npy")
    check_target(output, overwrite, file_size(data), endings)
    import scduet
    from scduet.tasks.integrate import key_of

    trained, adata = scduet.load(model), read(data)
    latent = trained.embed(adata)
    if output.suffix.lower() in (".csv", ".npy"):
        write_embedding(latent, adata.obs_names, output)
        return
    adata.obsm[key_added or key_of(trained.name)] = latent
    write(adata, output, overwrite=overwrite)


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
    overwrite: Overwrite = False,
) -> None:
    """Score embeddings beside the PCA.

    How well batches mix, and how well cell types stay apart; higher is better. The unintegrated PCA, and Harmony where
    it is installed, are always scored too.
    """
    from scduet.tasks.convert import check_target, place_whole, read

    if output:
        check_target(output, overwrite, endings=(".csv",))
    import scduet

    names = metrics.split(",") if "," in metrics else metrics
    table = scduet.score(read(data), embedding, batch_key, labels_key, metrics=names, layer=layer)
    typer.echo(table.T.to_string(float_format=lambda value: f"{value:.3f}"))
    if output:
        place_whole(output.absolute(), table.to_csv)


def report(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Folder of the saved model, for its curves.")
    ] = None,
    batch_key: BatchKey = None,
    labels_key: LabelsKey = None,
    embedding: Embeddings = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one self-contained HTML page.

    The data, the training, pictures before and after, scores and what they mean.
    """
    from scduet.tasks.convert import check_target, read

    check_target(output, overwrite, endings=(".html",))
    import scduet

    trained = scduet.load(model) if model else None
    scduet.report(
        read(data),
        output,
        model=trained,
        embeddings=embedding,
        batch_key=batch_key,
        labels_key=labels_key,
        overwrite=overwrite,
    )


def convert(
    source: Data,
    target: Annotated[Path, typer.Argument(help="What to write: .h5ad or .zarr.")],
    overwrite: Overwrite = False,
) -> None:
    """Read one format, write another."""
    from scduet.tasks.convert import convert as run

    adata = run(source, target, overwrite=overwrite)
    typer.echo(f"{target}: {adata.n_obs} cells, {adata.n_vars} genes")


def doctor(
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Also examine this saved model.")] = None,
    folder: Annotated[Path, typer.Option(help="Where you mean to write.")] = Path(),
) -> None:
    """Examine this installation.

    Versions, devices, the speed of torch, R, permission to write. Exit code 1 if something is bad.
    """
    from scduet.tasks.doctor import examine

    findings = examine(model, folder)
    for finding in findings:
        mark = {True: "ok  ", False: "BAD ", None: "-   "}[finding.ok]
        typer.echo(
            f"{mark} {finding.what}: {finding.found}" + (f"\n     -> {finding.remedy}" if finding.remedy else "")
        )
    raise typer.Exit(1 if any(finding.ok is False for finding in findings) else 0)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass  # options that go before any command


def _with_dashes(word: str) -> str:
    """--batch_key, as in Python, is --batch-key."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _model_named_in(arguments: list[str]) -> str:
    """The model whose options the help must show: looked up before the arguments are parsed."""
    for word, after in pairwise([*arguments, ""]):
        name = after if word == "--model" else word.removeprefix("--model=")
        if name in MODELS:
            return name
    return DEFAULT_MODEL


def _listener(quiet: bool) -> Callable[[Any], None] | None:
    """None (the progress bar) in a terminal; elsewhere a line every tenth of the way."""
    if not quiet and sys.stderr.isatty():
        return None

    def tell(event: Any) -> None:
        due = event.kind != "epoch" or event.epoch % max(event.max_epochs // 10, 1) == 0
        if event.kind == "warning" or (due and not quiet):
            _say(f"epoch {event.epoch}/{event.max_epochs}: {event.message}" if event.kind == "epoch" else event.message)

    return tell


def _refuse_existing(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise FormatError(f"{folder} exists", "choose another folder, or pass --overwrite to replace a model there")


def _failed(why: str, code: int = 1) -> int:
    _say("error: " + " ".join(why.split()))
    return code


def _say(line: str) -> None:
    print(f"scduet: {line}", file=sys.stderr)
