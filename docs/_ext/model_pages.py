"""A page for each model: the text of docs/models, then its file's docstring, options and papers."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from docstrings import cell, to_markdown

from scduet.models import MODELS, TRANSFORMERS, Row
from scduet.models.papers import PAPERS
from scduet.options import SHARED, Option, options_at, options_of
from scduet.train.defaults import default_text

R_FUNCTIONS = {"geneformer": "RunGeneformer", "scgpt": "RunScGPT", "scfoundation": "RunScFoundation"}


def model_pages(by_hand: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Path and text of the page of each model. by_hand: name -> Markdown that begins with a title."""
    shared = {(option.group, option.name) for option in options_at(*SHARED)}
    for name, row in MODELS.items():
        text = by_hand.get(name, f"# {_name(name)}")
        own = [option for option in options_of(name) if (option.group, option.name) not in shared]
        parts = [text.strip(), _uses(name, row), _definition(_module(name)), _options(own), _papers(name)]
        yield f"models/{name}.md", "\n\n".join(filter(None, parts)) + "\n"
    for name, key in TRANSFORMERS.items():
        text = by_hand.get(name, f"# {_name(name)}")
        parts = [text.strip(), _transformer_uses(name, key), _definition(_module(name))]
        yield f"models/{name}.md", "\n\n".join([*parts, _papers(name)]) + "\n"
    others = [name for name in by_hand if name not in MODELS and name not in TRANSFORMERS]
    yield from ((f"models/{name}.md", by_hand[name]) for name in others)
    yield "models/index.md", _index(by_hand, others)
    yield "options.md", _shared_options()


def title_of(markdown: str) -> str:
    return markdown.lstrip().splitlines()[0].lstrip("# ")


def _uses(name: str, row: Row) -> str:
    modalities = _literal(row.path, "modalities") or ("rna",)
    lines = [
        "## In short",
        "",
        "| | |",
        "|---|---|",
        f'| Python | `sd.fit(adata, "{name}", ...)`, `sd.integrate(adata, "{name}", ...)` |',
        f"| R | `{row.r}(obj, ...)` |",
        f"| Shell | `scduet fit cells.h5ad --model {name} --output model` |",
        f'| Embedding | `obsm["{row.obsm}"]`; in R the reduction `{row.reduction}` |',
        f"| Reads | {', '.join({'rna': 'RNA', 'atac': 'ATAC'}.get(m, m) for m in modalities)} |",
    ]
    if row.scvi_tools:
        lines.append(f"| In scvi-tools | `{row.scvi_tools}`: the same options, and saved models can be exchanged |")
    return "\n".join(lines)


def _transformer_uses(name: str, key: str) -> str:
    lines = [
        "## In short",
        "",
        "| | |",
        "|---|---|",
        "| Python | `sd.embed_pretrained(adata, folder)`, `sd.finetune(...)`, `sd.pretrain(...)` |",
        f"| R | `{R_FUNCTIONS[name]}(obj, ...)` |",
        "| Shell | `scduet embed`, `scduet finetune`, `scduet pretrain` |",
        f'| Embedding | `obsm["{key}"]` |',
    ]
    return "\n".join(lines)


def _definition(module: str) -> str:
    return f"## Definition\n\n{to_markdown(_docstring(module))}"


def _options(options: list[Option]) -> str:
    if not options:
        return ""
    note = "Options of [data and training](../options.md) are common to all models."
    return "\n".join(["## Options", "", note, "", *_table(options)])


def _shared_options() -> str:
    lines = ["# Options of data and training", ""]
    lines += ["Every model takes these beside its own options, with the same names in Python, R and the shell."]
    for place, title in zip(SHARED, ("Data", "Training"), strict=True):
        lines += ["", f"## {title}", "", *_table(options_at(place))]
    return "\n".join(lines) + "\n"


def _table(options: list[Option]) -> list[str]:
    rows = [f"| `{o.name}` | {_type(o)} | {_default(o)} | {cell(o.help)} |" for o in options]
    return ["| option | type | default | meaning |", "|---|---|---|---|", *rows]


def _type(option: Option) -> str:
    kinds = ", ".join(f'`"{choice}"`' for choice in option.choices)
    return kinds or "`" + option.type.replace("|", "\\|") + "`"


def _default(option: Option) -> str:
    text = f'"{option.default}"' if isinstance(option.default, str) else default_text(option)
    return f"`{text}`" if text and ";" not in text else cell(text) or "none"


def _papers(name: str) -> str:
    papers = "\n".join(f"* {paper.markdown()}" for paper in PAPERS.get(name, ()))
    return f"## References\n\n{papers}\n\n`sd.cite(model)` prints them for a trained model." if papers else ""


def _index(by_hand: dict[str, str], others: list[str]) -> str:
    lines = ["# Models", "", "| model | name | task | embedding | R |", "|---|---|---|---|---|"]
    for name, row in MODELS.items():
        title = title_of(by_hand.get(name, _name(name)))
        lines.append(f"| [{title}]({name}.md) | `{name}` | {row.task} | `{row.obsm}` | `{row.r}()` |")
    for name, key in TRANSFORMERS.items():
        title = title_of(by_hand.get(name, _name(name)))
        lines.append(f"| [{title}]({name}.md) | `{name}` | pretrained | `{key}` | `{R_FUNCTIONS[name]}()` |")
    if others:
        lines += ["", "## By task", "", *(f"* [{title_of(by_hand[name])}]({name}.md)" for name in others)]
    toc = [*MODELS, *TRANSFORMERS, *others]
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *toc, "```", ""])


def _module(name: str) -> str:
    return MODELS[name].path.partition(":")[0] if name in MODELS else f"scduet.transformers.families.{name}"


def _name(name: str) -> str:
    """The model's name as its docstring writes it: "totalVI"."""
    return re.match(r"[\w-]+", _docstring(_module(name)))[0]  # type: ignore[index]


def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))  # type: ignore[union-attr, arg-type]


def _docstring(module: str) -> str:
    return ast.get_docstring(_tree(module)) or ""


def _literal(path: str, name: str) -> tuple[str, ...] | None:
    """The literal that the class at "module:Class" assigns to `name`."""
    module, _, cls = path.partition(":")
    body = next(n.body for n in _tree(module).body if isinstance(n, ast.ClassDef) and n.name == cls)
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    return None
