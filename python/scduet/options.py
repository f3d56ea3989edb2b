"""Documented options from dataclasses, read from source text so that help does not import torch.

An option is a field of `Fields` (data), `TrainConfig` (training) or a model's `Config`, with the string below it as its
help. Errors, command-line flags, R help and saved metadata are derived from it.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from scduet.errors import OptionError

Group = Literal["data", "training", "model"]
TRAINING: tuple[Group, str] = ("training", "scduet.train.config:TrainConfig")
SHARED: tuple[tuple[Group, str], ...] = (("data", "scduet.data.schema:Fields"), TRAINING)
_PARSING = threading.Lock()


@dataclass(frozen=True)
class Option:
    """A user option."""

    name: str
    type: str  # the annotation as written, e.g. "int | None"
    default: Any
    choices: tuple[str, ...]  # of a Literal; otherwise empty
    help: str
    group: Group


def options_of(model: str) -> list[Option]:
    """All options of `fit(adata, model, ...)`: data, training, model.

    Raises OptionError for a model that does not exist.
    """
    from scduet.models import OWN, path_of

    if model in OWN:
        return _options_of_class(OWN[model])
    module = path_of(model).partition(":")[0]
    own = any(isinstance(node, ast.ClassDef) and node.name == "Fields" for node in _tree(module).body)
    fields = f"{module}:Fields" if own else SHARED[0][1]
    return options_at(("data", fields), TRAINING, ("model", f"{module}:Config"))


def options_at(*places: tuple[Group, str]) -> list[Option]:
    """The fields of dataclasses, given as pairs of group and "module:Class"."""
    return [option for group, place in places for option in _options_in(group, place)]


def _options_of_class(cls: Any) -> list[Option]:
    """Those of a model of the user's own, which is in no file of scduet."""
    fields = _declared("data", cls.Fields) if hasattr(cls, "Fields") else options_at(SHARED[0])
    return [*fields, *options_at(TRAINING), *_declared("model", cls.Config)]


def _declared(group: Group, config: Any) -> list[Option]:
    """The fields of a dataclass; the help of each where its source can be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(config)))
        told = {name: text for name, _, text in _fields_in(tree.body[0])}  # pyright: ignore[reportArgumentType]
    except (OSError, TypeError, SyntaxError):
        told = {}
    hints, found = get_type_hints(config), list[Option]()
    for field in dataclasses.fields(config):
        hint, factory = hints[field.name], field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        kind = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
        literal = next((one for one in (hint, *get_args(hint)) if get_origin(one) is Literal), None)
        found.append(Option(field.name, kind, default, get_args(literal), told.get(field.name, ""), group))
    return found


def settings_at(place: str) -> dict[str, Any]:
    """The dict of literals assigned at "module:NAME", e.g. a recipe, without running code."""
    module, _, name = place.partition(":")
    nodes = [node for node in _tree(module).body if isinstance(node, ast.Assign)]
    value = next(v for node in nodes for target, v in _assigned(node) if target == name)
    if isinstance(value, ast.Call):  # dict(a=1)
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in value.keywords}
    return ast.literal_eval(value)


def _assigned(node: ast.Assign) -> list[tuple[str, ast.expr]]:
    return [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]


Config = TypeVar("Config")


def build(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """An instance of dataclass `cls` from those `values` that are its fields, checked against their annotations."""
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    return cls(**{name: _checked(name, values[name], hints[name]) for name in names if name in values})


def check_network(config: Any) -> None:
    """Raise OptionError for sizes below 1 (or 0, where that is the default), other dropout than shares below 1, and
    what is not among the choices.
    """
    hints = get_type_hints(type(config))  # pyright: ignore[reportUnknownArgumentType]
    for name, kind in hints.items():
        value, wrong = getattr(config, name), ""
        least = 0 if getattr(type(config), name, 1) == 0 else 1  # pyright: ignore[reportUnknownArgumentType]
        if name.startswith("n_") and value is not None and value < least:
            wrong = f"a whole number from {least} up"
        elif name.startswith("dropout_rate") and (value is None or not 0 <= value < 1):
            wrong = "from 0 up to, not including, 1"
        elif get_origin(kind) is Literal and value not in get_args(kind):
            wrong = f"one of {', '.join(get_args(kind))}"
        if wrong:
            raise OptionError(f"{name}={value!r}", f"{name} is {wrong}")


def seed_of(value: Any) -> int:
    """`value` as a seed. Raises OptionError for all but a whole number from 0 to 2**32 - 1, what all libraries take."""
    whole, seed = (False, 0) if isinstance(value, str) else _fits(value, int)
    if not whole or not 0 <= seed < 2**32:
        raise OptionError(f"option 'seed' cannot be {value!r}", "it takes a whole number from 0 to 2**32 - 1")
    return seed


ARGUMENTS: Mapping[str, tuple[type, Callable[[Any], bool], str]] = {  # of analyses: kind, range, and both in words
    "n": (int, lambda v: v >= 1, "a number of cells, from 1 up"),
    "min_cells": (int, lambda v: v >= 1, "a number of cells, from 1 up"),
    "n_samples": (int, lambda v: v >= 1, "a whole number from 1 up"),
    "batch_size": (int, lambda v: v >= 1, "a whole number from 1 up"),
    "n_draws": (int, lambda v: v >= 2, "a whole number from 2 up"),
    "n_splits": (int, lambda v: v >= 1, "a whole number from 1 up"),
    "n_folds": (int, lambda v: v >= 2, "a whole number from 2 up"),
    "n_random": (int, lambda v: v >= 0, "a whole number from 0 up"),
    "max_cells": (int, lambda v: v >= 1, "a whole number from 1 up"),
    "n_genes": (int, lambda v: v >= 1, "a whole number from 1 up"),
    "n_cells": (int, lambda v: v >= 1, "a whole number from 1 up"),
    "n_neighbors": (int, lambda v: v >= 1, "a whole number from 1 up, or None for all pairs"),
    "n_pcs": (int, lambda v: v >= 1, "a whole number from 1 up"),
    "n_top_genes": (int, lambda v: v >= 1, "a whole number from 1 up"),
    "n_candidates": (int, lambda v: v >= 1, "a whole number from 1 up"),
    "delta": (float, lambda v: v >= 0, "an absolute log2 fold change: 0 or more"),
    "lfc_threshold": (float, lambda v: v >= 0, "an absolute log2 fold change: 0 or more"),
    "pseudocounts": (float, lambda v: v >= 0, "0 or more"),
    "min_pct": (float, lambda v: 0 <= v <= 1, "a share of the cells: from 0 to 1"),
    "max_missing": (float, lambda v: 0 <= v <= 1, "a share of the genes: from 0 to 1"),
    "fdr_target": (float, lambda v: 0 <= v <= 1, "a share of the calls: from 0 to 1"),
    "unknown": (float, lambda v: 0 < v < 1, "a share of the largest entropy: between 0 and 1"),
    "dof": (float, lambda v: v > 0, "above 0"),
    "library_size": (float, lambda v: v > 0, 'a number above 0, or "latent"'),
    "rna_size_factor": (float, lambda v: v > 0, "above 0"),
}


def check_arguments(**given: Any) -> None:
    """Raise OptionError naming the first of the arguments (see ARGUMENTS) that has a wrong type or is out of range."""
    for name, value in given.items():
        kind, allowed, remedy = ARGUMENTS[name]
        number = not isinstance(value, bool) and isinstance(value, Integral if kind is int else Real)
        if not number or not allowed(value):
            raise OptionError(f"option {name!r} cannot be {value!r}", f"it is {remedy}")


def listed(name: str, value: Any) -> list[Any]:
    """One name, or several, as a list. Raises OptionError for what is neither."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable):
        raise OptionError(f"option {name!r} cannot be {value!r}", "it is a name, or a list of names")
    return list(value)  # pyright: ignore[reportUnknownArgumentType]


def refuse_unknown(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise OptionError naming unknown options and similar existing ones."""
    known = list(known)
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {sorted(known)}"
            raise OptionError(f"unknown option {name!r} for {what}", hint, unknown=name, known=known)


def _checked(name: str, value: Any, hint: Any) -> Any:
    """Convert `value` to the annotation `hint`: whole floats to int (R numbers are doubles), lists to tuples."""
    allowed = get_args(hint) if get_origin(hint) not in (tuple, Literal) and get_args(hint) else (hint,)
    for kind in allowed:
        ok, converted = _fits(value, kind)
        if ok:
            return converted
    wanted = " or ".join(_spelled(kind) for kind in allowed)
    raise OptionError(f"option {name!r} cannot be {value!r}", f"it takes {wanted}")


def _fits(value: Any, kind: Any) -> tuple[bool, Any]:
    if get_origin(kind) is Literal:
        return value in get_args(kind), value
    if get_origin(kind) is tuple:
        listed = isinstance(value, (list, tuple)) or (hasattr(value, "tolist") and not isinstance(value, str))
        inner = get_args(kind)[0]
        values: list[Any] = list(value) if listed else [value]  # pyright: ignore[reportUnknownArgumentType]
        members = [_fits(v, inner) for v in values]
        return all(ok for ok, _ in members), tuple(v for _, v in members)
    if kind is type(None):
        return value is None, None
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool, value
    if kind is int:
        whole = isinstance(value, (int, float)) or hasattr(value, "__index__")
        return whole and float(value).is_integer(), int(value) if whole and float(value).is_integer() else value
    if kind is float:
        number = isinstance(value, (int, float)) or hasattr(value, "__float__")
        return number and not isinstance(value, str), float(value) if number else value
    return isinstance(value, kind), value


def _spelled(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list of {_spelled(get_args(kind)[0])}"
    return {int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None"}.get(
        kind, str(kind)
    )


@lru_cache(maxsize=64)
def _options_in(group: Group, place: str) -> tuple[Option, ...]:
    """The fields of the dataclass at "module:Class", those of its base classes first."""
    module, _, cls = place.partition(":")
    tree = _tree(module)
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls)
    found: dict[str, Option] = {}
    for base in node.bases:
        found |= {option.name: option for option in _options_in(group, _resolve(base, tree, module))}
    for name, field, text in _fields_in(node):
        default = None if field.value is None else ast.literal_eval(field.value)
        kind, choices = ast.unparse(field.annotation), _choices(field.annotation)
        found[name] = Option(name, kind, default, choices, text, group)
    return tuple(found.values())


def _fields_in(node: ast.ClassDef) -> Iterator[tuple[str, ast.AnnAssign, str]]:
    """Name of each field of a dataclass, its line, and the text below it."""
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            yield field.target.id, field, " ".join(str(text).split())


def _choices(annotation: ast.expr) -> tuple[str, ...]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            values: Any = ast.literal_eval(node.slice)
            return tuple(values) if isinstance(values, tuple) else (values,)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return ()


def _resolve(base: ast.expr, tree: ast.Module, module: str) -> str:
    """The "module:Class" of a base class in the same file, or of `name.Class` with `name` imported there."""
    if isinstance(base, ast.Name) and base.id in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}:
        return f"{module}:{base.id}"
    if not (isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name)):
        raise OptionError(f"cannot find the base class {ast.unparse(base)}", "write it as module.Class")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and base.value.id in {alias.asname or alias.name for alias in node.names}:
            return f"{node.module}.{base.value.id}:{base.attr}"
    raise OptionError(f"{ast.unparse(base)} is not imported in its file", "import its module at the top")


def _tree(module: str) -> ast.Module:
    """The syntax tree of a module. Python 3.11 cannot parse in two threads at once."""
    with _PARSING:
        return _parsed(module)


@lru_cache(maxsize=64)
def _parsed(module: str) -> ast.Module:
    return ast.parse(_source(module))


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise OptionError(f"no source of {module}", "reinstall scduet")
    return Path(spec.origin).read_text(encoding="utf-8")
