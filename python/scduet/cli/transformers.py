"""Commands that train transformers: on labeled cells, or without labels on the user's own."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from scduet.cli.commands import Checkpoint, Data, Overwrite, Quiet, check_model_folder, listener, say
from scduet.cli.flags import with_defaults
from scduet.options import SHARED, TRAINING, Option, options_at, settings_at

FAMILIES = {"geneformer": "MaskedConfig", "scgpt": "GenerativeConfig"}  # and the options of their objectives
FOUND = ("proteins", "peaks")  # options that the data decide on
TOKENS = [
    Option("gene_column", "str | None", None, (), "Column of var with the names of genes; default looked for.", "data"),
    Option("max_length", "int | None", None, (), "Most tokens of a cell.", "data"),
]

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to make; put in place only when complete.")]


def teaching(*more: str) -> list[Option]:
    """Options of fine-tuning a transformer to name cells; `more`: of where the data are."""
    own = options_at(("model", "scduet.transformers.objectives.finetune:Config"), TRAINING)
    rates = settings_at("scduet.tasks.foundation.finetune:RATES")
    lr = "; ".join(f"{tuning}: {rate:g}" for tuning, rate in rates.items())
    recipe = {**settings_at("scduet.tasks.foundation.finetune:RECIPE"), "lr": lr}
    return [*_places(*more, "unlabeled_category", "layer"), *TOKENS, *with_defaults(own, recipe)]


def integrating() -> list[Option]:
    """Options of fine-tuning a scGPT to embed several batches, or several modalities."""
    whole = "scduet.transformers.objectives.{}:Config"
    both = options_at(("model", whole.format("integration")), ("model", whole.format("multiomic")))
    own = {option.name: option for option in both if option.name not in FOUND}
    zeros = Option("zeros", "bool", True, (), "Of RNA alone: genes without counts are tokens, too.", "data")
    training = with_defaults(options_at(TRAINING), settings_at("scduet.tasks.foundation.finetune:RECIPE"))
    return [*_places("batch_key", "layer"), *TOKENS, zeros, *own.values(), *training]


def pretraining() -> list[Option]:
    """Options of pre-training, those of one family marked with its name."""
    shared = options_at(("model", "scduet.transformers.families.scratch:Size"), TRAINING)
    own = [
        replace(option, help=f"{family}: {option.help}")
        for family, config in FAMILIES.items()
        for option in options_at(("model", f"scduet.transformers.objectives.pretraining:{config}"))
    ]
    recipe = settings_at("scduet.tasks.foundation.pretrain:RECIPE")
    return [*_places("layer"), TOKENS[0], *own, *with_defaults(shared, recipe)]


def finetune(
    data: Data,
    output: Output,
    model: Annotated[str, typer.Option("--model", "-m", help='Folder of a transformer, or "hf://owner/name".')],
    labels_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")],
    checkpoint: Checkpoint = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options,
) -> None:
    """Teach a transformer the cell types of labeled cells.

    The folder gets what training changed, and the sha256 of the transformer, which stays where it is. Name cells by
    scduet annotate CELLS --reference FOLDER. How well that works beside kNN and logistic regression, on cells that
    none of them saw, is told by scduet annotate CELLS --reference LABELED --model TRANSFORMER.
    """
    from scduet.io.cells import read

    check_model_folder(output, overwrite)
    import scduet

    adata, callback = read(data), listener(quiet)
    tuned = scduet.finetune(adata, model, labels_key, callback=callback, checkpoint=checkpoint, **options)
    tuned.save(output, overwrite)
    if "accuracy_validation" in tuned.history and not quiet:
        say(f"accuracy on cells held out: {tuned.history['accuracy_validation'].dropna().iloc[-1]:.3f}")


def pretrain(
    data: Data,
    output: Output,
    model: Annotated[
        str, typer.Option("--model", "-m", help="geneformer or scgpt for a new one; or a folder, to train it further.")
    ] = "geneformer",
    checkpoint: Checkpoint = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options,
) -> None:
    """Train a transformer on cells without labels.

    A new one has the genes of the cells for its vocabulary, and the size that the options say. For several processes or
    machines: torchrun -m scduet pretrain.
    """
    from scduet.io.cells import read

    check_model_folder(output, overwrite)
    import scduet

    trained = scduet.pretrain(read(data), model, callback=listener(quiet), checkpoint=checkpoint, **options)
    trained.save(output, overwrite)


def _places(*names: str) -> list[Option]:
    """Options of where the user keeps things."""
    return [option for option in options_at(SHARED[0]) if option.name in names]
