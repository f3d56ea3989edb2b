"""Published transformers: which family a folder is of, read it, and check a download against what was published."""

from __future__ import annotations

import scduet._torch  # noqa: F401

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import Tensor

from scduet.checkpoints import geneformer, scfoundation, scgpt, transformer_folder
from scduet.checkpoints.transformer_folder import Parts
from scduet.errors import FormatError, OptionError, some
from scduet.events import Listener
from scduet.io import hub, native
from scduet.transformer_model import Transformer

FAMILIES: dict[str, ModuleType] = {
    "geneformer": geneformer,
    "scgpt": scgpt,
    "scfoundation": scfoundation,
    "own": transformer_folder,
}
PUBLISHED = {  # family, blocks, width, tokens -> name, millions of weights without heads
    ("geneformer", 6, 256, 25_426): ("Geneformer-V1-10M", 10.2),
    ("geneformer", 12, 512, 25_426): ("Geneformer 12L-40M, V1", 39.3),
    ("geneformer", 12, 512, 20_275): ("Geneformer 12L-38M", 37.7),
    ("geneformer", 20, 896, 20_275): ("Geneformer 20L-151M", 150.5),
    ("geneformer", 12, 768, 20_275): ("Geneformer-V2-104M", 103.8),
    ("geneformer", 18, 1152, 20_275): ("Geneformer-V2-316M", 315.0),
    ("scgpt", 12, 512, 60_697): ("scGPT, e.g. whole-human", 50.3),
    ("scgpt", 12, 512, 36_574): ("scGPT, first blood or bone marrow", 37.9),
    ("scfoundation", 12, 768, 19_264): ("scFoundation", 119.4),
}


def recognize(folder: str | Path) -> bool:
    """Is this a folder (or "hf://" address) of a published transformer?"""
    return hub.is_address(folder) or any(family.recognize(Path(folder)) for family in FAMILIES.values())


def read(folder: str | Path, callback: Listener | None = None, **options) -> Transformer:
    """The transformer in a folder (published, or saved by us), or at "hf://owner/name@revision".

    callback: called with an Event for each file that was downloaded.
    options: the family's (`dictionaries` of Geneformer; `part` and `genes` of scFoundation).
    Raises FormatError when the folder is of no family, incomplete, damaged, or does not belong together.
    """
    path = hub.download(str(folder), callback) if hub.is_address(folder) else Path(folder)
    found = [family for family in FAMILIES.values() if family.recognize(path)]
    if len(found) != 1:
        message = f"{folder} is a folder of {len(found)} of {some(FAMILIES)}"
        raise FormatError(message, "give the folder with the weights and their configuration")
    return Transformer(**vars(found[0].read(path, **options)))


def given(model: Transformer | str | Path) -> Transformer:
    """The transformer itself, or the one in its folder. Raises OptionError for one that was fine-tuned already."""
    found = read(model) if isinstance(model, (str, Path)) else model
    if not isinstance(found, Transformer):
        raise OptionError(f"{getattr(found, 'name', found)!r} is no transformer", "take a Geneformer or a scGPT")
    if found.tuning is not None:
        remedy = "take the transformer that it was made from"
        raise OptionError(f"this {found.name} was fine-tuned on obs[{found.tuning.key!r}] already", remedy)
    return found


def read_tuned(folder: str | Path, base: Transformer | str | Path | None = None) -> Transformer:
    """The fine-tuned transformer in `folder`, on its `base`; None takes the base from where it was.

    Raises FormatError when the base is not there, or is another than the one that was tuned.
    """
    place = base or native.read(Path(folder))[0]["base"]
    if not place:
        raise FormatError(f"{folder} was tuned on a transformer that was in no folder", "pass it as base=")
    try:
        found = given(place)
    except FormatError as error:
        message = f"the transformer that {folder} was tuned on is not at {str(place)!r} ({error.message})"
        raise FormatError(message, "pass base= with the folder that it is in now") from error
    return Transformer(**vars(transformer_folder.read_tuned(Path(folder), Parts(**vars(found)))))


@dataclass(frozen=True)
class Check:
    """One thing looked at in a download."""

    what: str
    found: str
    passed: bool


def verify(folder: str | Path, **options) -> list[Check]:
    """Look over a download: is it whole, of the published size, and are its weights those of a trained model?

    Every check is returned; all passed means that embeddings can be trusted as far as numbers can tell. A transformer
    trained and saved here may have any size.
    """
    whole = "readable, whole, belongs together"
    try:
        model = read(folder, **options)
    except FormatError as error:
        return [Check(whole, str(error), False)]
    ours = not hub.is_address(folder) and transformer_folder.recognize(Path(folder))
    groups = [_check_group(group, weights) for group, weights in _groups(model.module.state_dict()).items()]
    told = Check(whole, f"{model.name}, licence {model.licence}", True)
    return [told, *([] if ours else _check_size(model)), *groups]


def _check_size(model: Transformer) -> Iterator[Check]:
    trunk, n_tokens = model.encoder.config.trunk, len(model.vocabulary)
    count = sum(weight.numel() for weight in model.module.state_dict().values()) / 1e6
    blocks = (model.name, trunk.n_layers, trunk.width)
    name, millions = PUBLISHED.get((*blocks, n_tokens), (None, None))
    alike = [f"{other} has {key[3]:,} tokens" for key, (other, _) in PUBLISHED.items() if key[:3] == blocks]
    verdict = name or "; ".join(["no published model", *alike])
    shape = f"{trunk.n_layers} blocks of width {trunk.width}, {n_tokens:,} tokens, {count:.1f} million weights"
    yield Check("size is a published one", f"{shape}: {verdict}", name is not None)
    if millions is not None:
        yield Check("number of weights", f"{count:.1f} million, published {millions}", abs(count / millions - 1) < 0.01)


def _groups(state: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """Matrices by kind: the table of genes, each kind of matrix of the blocks, ..."""
    groups: dict[str, list[Tensor]] = {}
    for name, weight in state.items():
        if weight.dim() == 2:
            kind = ".".join(part for part in name.split(".") if not part.isdigit())
            groups.setdefault(kind.removesuffix(".weight"), []).append(weight)
    return groups


def _check_group(group: str, weights: list[Tensor]) -> Check:
    """Trained matrices have a moderate spread, and no two blocks the same numbers."""
    spreads = [float(weight.float().std()) for weight in weights]
    norm = sum(float(weight.float().square().sum()) for weight in weights) ** 0.5
    moderate = all(1e-4 < spread < 10 for spread in spreads)
    distinct = len({float(weight.flatten()[:64].double().sum()) for weight in weights}) == len(weights)
    text = f"{len(weights)} of norm {norm:.4g}, spread {min(spreads):.3g} to {max(spreads):.3g}"
    return Check(f"weights {group}", text, moderate and distinct)
