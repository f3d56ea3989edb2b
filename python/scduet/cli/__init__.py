"""The command `scduet`: exit codes, and one line that says why."""

import os
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

import typer

from scduet._version import __version__
from scduet.cli.analyses import annotate, de, expression, generate_cells, map_
from scduet.cli.commands import (
    DEFAULT_MODEL,
    convert,
    doctor,
    embed,
    fit,
    integrate,
    recommend,
    report,
    say,
    score,
)
from scduet.cli.denoising import compare_denoisers, denoise
from scduet.cli.doublets import doublets
from scduet.cli.flags import with_defaults, with_options
from scduet.cli.interrupt import EXIT_CODE, Interrupted, interruptible
from scduet.cli.model_names import is_transformer
from scduet.cli.multimodal import match_cells, predict_modality, weighted_neighbors
from scduet.cli.network import network
from scduet.cli.own_model import check_model
from scduet.cli.perturbation import perturb, rank_perturbations, score_perturbation
from scduet.cli.programs import node_weights, programs
from scduet.cli.pseudobulk import pseudobulk
from scduet.cli.spatial import deconvolve, impute_genes
from scduet.cli.transformers import finetune, integrating, pretrain, pretraining, teaching
from scduet.cli.velocity import velocity
from scduet.cli.viewer import export_viewer
from scduet.cli.wording import as_typed, flags_of
from scduet.errors import OptionError
from scduet.models import MODELS, OWN, is_own, name_of
from scduet.options import TRAINING, Option, options_at, options_of


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 1 failed (one line says why), 2 wrong usage, 130 interrupted (and says what is kept)."""
    arguments = [_with_dashes(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    flags: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {as_typed(str(message), flags)}")
        try:
            command = typer.main.get_command(build(_model_named_in(arguments)))
            flags |= flags_of(command, arguments)
            command(args=arguments, prog_name="scduet")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        except (Interrupted, KeyboardInterrupt) as end:
            say(str(end) or "interrupted")
            return EXIT_CODE
        except Exception as error:
            if os.environ.get("SCDUET_TRACEBACK"):
                raise
            why = as_typed(str(error) or type(error).__name__, flags)
            return _failed(why, 2 if isinstance(error, OptionError) else 1)
    return 0


def build(model: str = DEFAULT_MODEL) -> typer.Typer:
    """The command line, with the options of `model` on the commands that train; of another name, a transformer's."""
    app = typer.Typer(
        help="Deep models for single-cell counts: train, apply, score, report.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # tables cut the names of options off
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_common)
    if is_own(model):
        model = name_of(model)
    options = options_of(model if model in {*MODELS, *OWN} else DEFAULT_MODEL)
    app.command()(_training(fit, options))
    app.command()(_training(integrate, integrating() if is_transformer(model) else options))
    own = options if model in MODELS else teaching("labels_key")
    app.command()(with_options(interruptible(annotate), own))
    app.command("map")(_training(map_, with_defaults(options_at(TRAINING), {"weight_decay": 0.0})))
    app.command()(_training(finetune, teaching()))
    app.command()(_training(pretrain, pretraining()))
    analyses = (embed, de, deconvolve, expression, denoise, doublets, network, perturb, programs, pseudobulk, velocity)
    for command in (*analyses, recommend, score, report, convert, doctor):
        app.command()(interruptible(command))
    app.command("check-model")(interruptible(check_model))
    app.command("compare-denoisers")(interruptible(compare_denoisers))
    app.command("export-viewer")(interruptible(export_viewer))
    app.command("impute-genes")(interruptible(impute_genes))
    app.command("generate-cells")(interruptible(generate_cells))
    app.command("node-weights")(interruptible(node_weights))
    app.command("predict-modality")(interruptible(predict_modality))
    app.command("match-cells")(interruptible(match_cells))
    app.command("weighted-neighbors")(interruptible(weighted_neighbors))
    app.command("rank-perturbations")(interruptible(rank_perturbations))
    app.command("score-perturbation")(interruptible(score_perturbation))
    return app


def _training(command: Callable, options: list[Option]) -> Callable:
    return with_options(interruptible(command, keeps_model=True), options)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _read_class(spec: str | None) -> None:
    if spec is not None:
        name_of(spec)


def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    model_class: Annotated[
        str | None,
        typer.Option("--model-class", callback=_read_class, help="file.py:Class of a saved model of your own."),
    ] = None,
) -> None:
    pass  # options that go before any command


def _with_dashes(word: str) -> str:
    """--batch_key, as in Python, is --batch-key."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _model_named_in(arguments: list[str]) -> str:
    """The model whose options the help must show: looked up before the arguments are parsed."""
    for word, after in pairwise([*arguments, ""]):
        if word == "--model":
            return after
        if word.startswith("--model="):
            return word.removeprefix("--model=")
    return DEFAULT_MODEL


def _failed(why: str, code: int = 1) -> int:
    say("error: " + " ".join(why.split()))
    return code
