"""Pages of the Python API and of the metrics, from signatures and docstrings."""

import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from docstrings import cell, escaped, to_markdown

import scduet
from scduet import metrics, plots
from scduet.interop import datasets
from scduet.metrics import METRICS, Metric

SUBMODULES = {"datasets": datasets, "metrics": metrics, "pl": plots}
TITLES = {  # folder of a public function -> title of its page, in the order of the reference
    "api": "Train, save and load",
    "workflows": "Workflows",
    "posterior": "Look into a model",
    "comparison": "Compare groups of cells",
    "genes": "Genes, networks and programs",
    "multimodal": "Proteins and peaks",
    "spatial": "Spots and bulk samples",
    "perturbation": "Perturbations",
    "foundation": "Transformers",
    "quality": "Scores and reports",
    "data": "Data and files",
}
PLACES = {"reports": "quality", "interop": "data"}  # top folders that share the page of another
SUITES = {
    "default": "the default suite",
    "scib": 'scIB\'s suite (`metrics="scib"`)',
    "census": 'the Census\' suite (`metrics="census"`)',
}


def api_pages() -> Iterator[tuple[str, str]]:
    """Path and text of each page of the reference of Python."""
    pages = _pages()
    for place, names in pages.items():
        yield f"api/{place}.md", _api_page(TITLES.get(place, place.capitalize()), "scduet", _objects(names))
    yield "api/datasets.md", _api_page("Data sets", "scduet.datasets", _members(datasets))
    yield "api/plots.md", _api_page("Figures", "scduet.pl", _members(plots))
    yield "api/index.md", _api_index(pages)


def metric_pages() -> Iterator[tuple[str, str]]:
    """Path and text of a page for each metric of an integration, and for each module of other metrics."""
    described: set[str] = set()
    for name, row in METRICS.items():
        yield f"metrics/{name}.md", _metric_page(name, row, described)
    for place, names in metrics._OTHER.items():
        functions = {name: getattr(metrics, name) for name in names}
        module = import_module(f"scduet.metrics.{place}")
        title, intro = _other_title(place), to_markdown(inspect.getdoc(module))
        yield f"metrics/{_other_page(place)}.md", _api_page(title, "scduet.metrics", functions, intro)
    yield "metrics/index.md", _metric_index()


def first_sentence(obj: Any) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(obj) or "").split("\n\n")[0].split())
    found = re.match(r"(.+?[.:;])(\s|$)(?<!e\.g\. )", text)
    return (found[1] if found else text).rstrip(":;")


def documented(name: str, obj: Any, *, index: bool = True) -> str:
    """A directive that describes a function or class, with the members of a class."""
    kind = "class" if inspect.isclass(obj) else "function"
    head = name if inspect.isclass(obj) else f"{name}{_signature(obj)}"
    arguments = {} if inspect.isclass(obj) else _types(inspect.signature(obj).parameters)
    text, options = _without_options(obj, arguments)
    body = [to_markdown(text, arguments), options, *(_member(name, *m) for m in _public_members(obj))]
    return "\n".join(
        [f":::::{{py:{kind}}} {head}", *([] if index else [":no-index:"]), "", "\n\n".join(filter(None, body)), ":::::"]
    )


def _pages() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {place: [] for place in TITLES}
    for name, module in scduet._PUBLIC.items():
        if name not in SUBMODULES:
            _, top, *rest = module.split(".")
            place = rest[0] if top == "tasks" else PLACES.get(top, top)
            found.setdefault(place, []).append(name)
    return {place: names for place, names in found.items() if names}


def _objects(names: list[str]) -> dict[str, Any]:
    return {name: getattr(scduet, name) for name in names}


def _members(module: Any) -> dict[str, Any]:
    return {name: getattr(module, name) for name in module.__all__}


def _api_page(title: str, prefix: str, objects: Mapping[str, Any], intro: str = "") -> str:
    parts = [f"# {title}", intro]
    for name, obj in objects.items():
        if inspect.isroutine(obj) or inspect.isclass(obj):
            parts += [f"## {name}", documented(f"{prefix}.{name}", obj)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _api_index(pages: Mapping[str, list[str]]) -> str:
    lines = ["# Python API", "", "`import scduet as sd`. Names are imported on first use.", ""]
    for place, names in pages.items():
        lines += [f"## [{TITLES.get(place, place.capitalize())}]({place}.md)", ""]
        lines += [*_rows("scduet", _objects(names)), ""]
    lines += ["## [Data sets](datasets.md)", "", *_rows("scduet.datasets", _members(datasets)), ""]
    lines += ["## [Figures](plots.md)", "", *_rows("scduet.pl", _members(plots)), ""]
    lines += ["## Metrics", "", "`sd.metrics` holds the [metrics](../metrics/index.md) as functions of arrays.", ""]
    toc = [*pages, "datasets", "plots"]
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", *toc, "```", ""])


def _rows(prefix: str, objects: Mapping[str, Any]) -> list[str]:
    short = prefix.replace("scduet", "sd", 1)
    rows = [
        f"| {{py:obj}}`{short}.{name} <{prefix}.{name}>` | {cell(first_sentence(obj))} |"
        for name, obj in objects.items()
    ]
    return ["| | |", "|---|---|", *rows]


def _signature(obj: Any) -> str:
    return _of(inspect.signature(obj).parameters)


def _of(parameters: Mapping[str, inspect.Parameter]) -> str:
    """Names and defaults; the types stand in the list of arguments."""
    text = str(inspect.Signature([p.replace(annotation=p.empty) for p in parameters.values()]))
    return re.sub(r"<[^>]*>", "...", text)


def _types(parameters: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    return {name: _type(p.annotation) for name, p in parameters.items()}


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _without_options(obj: Any, arguments: Mapping[str, str]) -> tuple[str, str]:
    """The docstring without the list of all options of all models, and a pointer to their pages."""
    text, found, _ = (inspect.getdoc(obj) or "").partition("\nData options:")
    if not found or "options" not in arguments:
        return inspect.getdoc(obj) or "", ""
    link = "The options are listed in [](../options.md) and on the page of each [model](../models/index.md)."
    return text, link


def _public_members(cls: Any) -> Iterator[tuple[str, Any]]:
    if inspect.isclass(cls):
        for name, member in vars(cls).items():
            if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                yield name, member


def _member(owner: str, name: str, member: Any) -> str:
    if isinstance(member, property):
        head, arguments, kind = f"{owner}.{name}", {}, "property"
    else:
        function = getattr(member, "__func__", member)
        parameters = dict(inspect.signature(function).parameters)
        parameters.pop("self", None)
        arguments, kind = _types(parameters), "method"
        head = f"{owner}.{name}{_of(parameters)}"
    body = to_markdown(inspect.getdoc(member), arguments)
    given = getattr(getattr(member, "fget", None), "__annotations__", {}).get("return")
    return "\n".join([f"::::{{py:{kind}}} {head}", *([f":type: {_type(given)}"] if given else []), "", body, "::::"])


def _metric_page(name: str, row: Metric, described: set[str]) -> str:
    function = row.function.rpartition(".")[2]
    first = function not in described
    described.add(function)
    suites = "; ".join(SUITES.get(suite, suite) for suite in row.suites) or f'by name: `metrics=["{name}"]`'
    group = {"bio": "conservation of biology", "batch": "removal of batch effects"}[row.group]
    table = [
        "| | |",
        "|---|---|",
        f"| Measures | {group} |",
        f"| Range | {row.low:g} to {row.high:g}, {'higher' if row.higher_is_better else 'lower'} is better |",
        f"| Computed in | {suites} |",
        f"| In the mean of its group | {'yes' if row.mean else 'no'} |",
    ]
    use = f'sd.score(adata, batch_key="batch", labels_key="cell_type", metrics=["{name}"])'
    doc = documented(f"scduet.metrics.{function}", getattr(metrics, function), index=first)
    return "\n".join([f"# {row.label}", "", *table, "", "```python", use, "```", "", doc, ""])


def _metric_index() -> str:
    lines = [
        "# Metrics",
        "",
        "`sd.score` computes the metrics of an integration for each embedding and always beside those of unintegrated",
        "PCA. A metric that is not defined for the data is NaN, with the reason in `.attrs`.",
    ]
    for group, title in {"bio": "Conservation of biology", "batch": "Removal of batch effects"}.items():
        lines += ["", f"## {title}", "", "| metric | name | default | what it measures |", "|---|---|---|---|"]
        for name, row in METRICS.items():
            if row.group == group:
                function = getattr(metrics, row.function.rpartition(".")[2])
                default = "yes" if "default" in row.suites else ""
                text = cell(first_sentence(function))
                lines.append(f"| [{row.label}]({name}.md) | `{name}` | {default} | {text} |")
    lines += ["", "## Other metrics", "", "| | |", "|---|---|"]
    for place, names in metrics._OTHER.items():
        functions = ", ".join(f"{{py:obj}}`{name} <scduet.metrics.{name}>`" for name in names)
        lines.append(f"| [{_other_title(place)}]({_other_page(place)}.md) | {functions} |")
    toc = [*METRICS, *map(_other_page, metrics._OTHER)]
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *toc, "```", ""])


def _other_page(place: str) -> str:
    return "module_" + place.rpartition(".")[2]


def _other_title(place: str) -> str:
    return escaped(place.rpartition(".")[2].replace("_", " ").capitalize())
