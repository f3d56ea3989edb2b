"""Weights of others under our names: tables of patterns, and a module filled from exactly the weights it needs."""

from __future__ import annotations

from scduet._torch import torch

import re
from collections.abc import Mapping

from torch import Tensor, nn

from scduet.errors import FormatError, some

Table = Mapping[str, "str | None"]  # pattern of a foreign name -> our name; None = known, and not needed here


def rename(weights: Mapping[str, Tensor], table: Table, source: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights under our names, and those that the table sets aside. Each name must match exactly one row.

    A new name that ends in "#0", "#1", ... is a part: parts are joined along their first axis.
    Raises FormatError naming the weights that match no row.
    """
    renamed: dict[str, Tensor] = {}
    aside: dict[str, Tensor] = {}
    unknown = []
    for name, weight in weights.items():
        rows = [(match, new) for pattern, new in table.items() if (match := re.fullmatch(pattern, name))]
        if len(rows) != 1 or not isinstance(weight, Tensor):
            unknown.append(name)
        elif rows[0][1] is None:
            aside[name] = weight
        else:
            renamed[rows[0][0].expand(rows[0][1])] = weight
    if unknown:
        raise FormatError(f"{source} has {len(unknown)} weights of no known kind: {some(unknown)}", "is it a variant?")
    return _joined(renamed), aside


def fill(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Give `module` these weights, without a copy where they are float32.

    Raises FormatError when one is missing, left over, or of another shape: nothing stays random in silence.
    """
    needed = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    given = {name: tuple(weight.shape) for name, weight in weights.items()}
    faults = {
        "missing": [name for name in needed if name not in given],
        "left over": [name for name in given if name not in needed],
        "of another shape": [f"{n} {given[n]} not {needed[n]}" for n in needed if n in given and given[n] != needed[n]],
    }
    told = [f"{len(names)} {fault}: {some(names)}" for fault, names in faults.items() if names]
    if told:
        raise FormatError(f"the weights of {source} do not fit: {'; '.join(told)}", "is the configuration another's?")
    unusable = [name for name, weight in weights.items() if weight.is_floating_point() and not weight.isfinite().all()]
    if unusable:
        raise FormatError(f"{source} holds NaN or infinite weights: {some(unusable)}", "download it again")
    single = {n: w.float() if w.is_floating_point() else w for n, w in weights.items()}
    module.load_state_dict(single, assign=True)
    module.eval()


def _joined(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    whole = {name: weight for name, weight in weights.items() if "#" not in name}
    parts = sorted(name for name in weights if "#" in name)
    for name in dict.fromkeys(part.rsplit("#", 1)[0] for part in parts):
        whole[name] = torch.cat([weights[part] for part in parts if part.rsplit("#", 1)[0] == name])
    return whole
