"""Published transformers: which family a folder is of, read it, and check a download against what was published."""

from __future__ import annotations

import scduet._torch  # noqa: F401

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import Tensor

from scduet.checkpoints import geneformer, hub, own, scfoundation, scgpt
from scduet.errors import FormatError, some
from scduet.transformers.pretrained import Pretrained

FAMILIES: dict[str, ModuleType] = {"geneformer": geneformer, "scgpt": scgpt, "scfoundation": scfoundation, "own": own}
PUBLISHED = {  # family, blocks, width -> name, millions of weights without heads, tokens
    ("geneformer", 6, 256): ("Geneformer-V1-10M", 10.2, 25_426),
    ("geneformer", 12, 512): ("Geneformer 12L-40M (V1) or 12L-38M", None, None),
    ("geneformer", 20, 896): ("Geneformer 20L-151M", 150.3, 20_275),
    ("geneformer", 12, 768): ("Geneformer-V2-104M", 103.8, 20_275),
    ("geneformer", 18, 1152): ("Geneformer-V2-316M", 315.1, 20_275),
    ("scgpt", 12, 512): ("scGPT", None, None),
    ("scfoundation", 12, 768): ("scFoundation", None, 19_264),
}


def recognise(folder: str | Path) -> bool:
    """Is this a folder (or "hf://" address) of a published transformer?"""
    return hub.is_address(folder) or any(family.recognise(Path(folder)) for family in FAMILIES.values())


def read(folder: str | Path, **options) -> Pretrained:
    """The transformer in a folder (published, or saved by us), or at "hf://owner/name@revision".

    options: the family's (`dictionaries` of Geneformer; `part` and `genes` of scFoundation).
    Raises FormatError when the folder is of no family, incomplete, damaged, or does not belong together.
    """
    path = hub.download(str(folder)) if hub.is_address(folder) else Path(folder)
    found = [family for family in FAMILIES.values() if family.recognise(path)]
    if len(found) != 1:
        message = f"{folder} is a folder of {len(found)} of {some(FAMILIES)}"
        raise FormatError(message, "give the folder with the weights and their configuration")
    return found[0].read(path, **options)


@dataclass(frozen=True)
class Check:
    """One thing looked at in a download."""

    what: str
    found: str
    passed: bool


def verify(folder: str | Path, **options) -> list[Check]:
    """Look over a download: is it whole, of the published size, and are its weights those of a trained model?

    Every check is returned; all passed means that embeddings can be trusted as far as numbers can tell.
    """
    try:
        model = read(folder, **options)
    except FormatError as error:
        return [Check("readable, whole, belongs together", str(error), False)]
    return [Check("readable, whole, belongs together", f"{model.name}, licence {model.licence}", True), *_checks(model)]


def _checks(model: Pretrained) -> Iterator[Check]:
    trunk, n_tokens = model.module.config.trunk, len(model.vocabulary)
    count = sum(weight.numel() for weight in model.module.state_dict().values()) / 1e6
    name, millions, tokens = PUBLISHED.get((model.name, trunk.n_layers, trunk.width), (None, None, None))
    shape = f"{trunk.n_layers} blocks of width {trunk.width}, {n_tokens:,} tokens, {count:.1f} million weights"
    yield Check("size is a published one", f"{shape}: {name or 'no published model'}", name is not None)
    if tokens is not None:
        yield Check("number of tokens", f"{n_tokens:,}, published {tokens:,}", n_tokens == tokens)
    if millions is not None:
        yield Check("number of weights", f"{count:.1f} million, published {millions}", abs(count / millions - 1) < 0.01)
    for group, weights in _groups(model.module.state_dict()).items():
        yield _check_group(group, weights)


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
