"""Pages of the command line, R's functions, errors and tutorials, each from what defines it."""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import typer
from docstrings import cell, escaped

from scduet import errors
from scduet.cli import build

ROOT = Path(__file__).resolve().parents[2]
ERRORS = ("DataError", "OptionError", "FormatError", "DeviceError", "TrainingError")
NOT_BY_USERS = ("r_to_py.Seurat", "scduet-package", "scduet")  # topics of R that are no functions to call


CLI_INTRO = """# Command line

`scduet COMMAND --help` prints the same. Commands that train take the options of the model named by `--model`; those of
scVI are shown here, the others on the page of each [model](models/index.md). Exit codes: 0 done, 1 failed, 2 wrong
usage, 130 interrupted.

| | |
|---|---|"""
ERRORS_INTRO = """# Errors and remedies

Every error of scduet names its cause and a remedy. Parts that depend on your data are written as ‹...›. In R the
conditions have the same text, with the remedy as a bullet.
"""


def cli_page() -> str:
    """The commands with their arguments and options."""
    commands = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    lines = [CLI_INTRO]
    for name, command in commands.items():
        lines.append(f"| [`scduet {name}`](#scduet-{name}) | {cell(_help(command).splitlines()[0])} |")
    for name, command in commands.items():
        lines += ["", f"(scduet-{name})=", f"## scduet {name}", "", escaped(_help(command)), ""]
        lines += _parameters(name, command)
    return "\n".join(lines) + "\n"


def r_page() -> str:
    """R's functions with titles and usage, from the help pages, in the order of the pkgdown site."""
    lines = ["# R functions", "", "`?RunSCVI` and the like show arguments and examples in R.", ""]
    for title, topics in _r_groups():
        lines += [f"## {title}", ""]
        done = set()
        for topic in topics:
            path = _help_page(topic)
            text = path.read_text(encoding="utf-8")
            lines += [f"(r-{topic})=", f"### {topic}", "", escaped(_plain(_braces(text, "title"))), ""]
            usage = _usage(text, topic)
            lines += ["```r", usage, "```", ""] if usage and path not in done else []
    return "\n".join(lines)


@lru_cache
def r_topics() -> list[str]:
    return [topic for _, topics in _r_groups() for topic in topics]


def errors_page() -> str:
    """Every error of the source with its remedy."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted((ROOT / "python" / "scduet").rglob("*.py")):
        for kind, message, hint in _errors_in(ast.parse(path.read_text(encoding="utf-8"))):
            found[kind].setdefault(message, hint)
    lines = [ERRORS_INTRO]
    for kind in ERRORS:
        lines += [f"## {kind}", "", escaped(getattr(errors, kind).__doc__), "", "| message | remedy |", "|---|---|"]
        lines += [f"| {cell(message)} | {cell(hint)} |" for message, hint in sorted(found[kind].items())]
        lines += [""]
    return "\n".join(lines)


def rmd_as_markdown(text: str) -> str:
    """An Rmd without its front matter and hidden chunks, its title as heading, its chunks as plain code."""
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, flags=re.DOTALL).groups()  # type: ignore[union-attr]
    title = re.search(r'^title: "?(.*?)"?$', front, flags=re.MULTILINE)[1]  # type: ignore[index]
    body = re.sub(r"```\{\w+[^}\n]*(?:include *= *FALSE|no-engine)[^}\n]*\}\n.*?```\n", "", body, flags=re.DOTALL)
    body = re.sub(r"```\{(\w+)[^}\n]*\}", r"```\1", body)
    body = re.sub(r"`r ([^`]*)`", r"`\1`", body)
    return f"# {title}\n\n{body.strip()}\n"


def tutorial_page(name: str) -> str:
    """Page of a tutorial: citeseq.ipynb and citeseq.Rmd have one each."""
    return Path(name).stem + ("_r" if name.endswith(".Rmd") else "")


def gallery(tutorials: dict[str, str]) -> str:
    """Cards of the tutorials. tutorials: name of the file -> Markdown, or a notebook's JSON."""
    lines = ["# Tutorials", "", "All of these are run by the tests. The files are in `vignettes/`.", ""]
    lines += ["::::{grid} 1 2 2 2", ":gutter: 3", ""]
    for name, text in tutorials.items():
        markdown = text if name.endswith(".Rmd") else "".join(json.loads(text)["cells"][0]["source"])
        title, _, rest = markdown.partition("\n")
        intro = re.split(r"\n\n|\n#", rest.strip())[0]
        language = "R" if name.endswith(".Rmd") else "Python"
        lines += [f":::{{grid-item-card}} {title.lstrip('# ')}", f":link: {tutorial_page(name)}", ":link-type: doc", ""]
        lines += [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", intro), "", f"{language}: `{name}`", ":::", ""]
    toc = [tutorial_page(name) for name in tutorials]
    return "\n".join([*lines, "::::", "", "```{toctree}", ":hidden:", "", *toc, "```", ""])


def _help(command) -> str:
    return (command.help or "").replace("\f", "").strip()


def _parameters(name: str, command) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(["scduet", name, *((p.name or "").upper() for p in arguments), "[OPTIONS]"])
    lines = ["```sh", usage, "```", "", "| option | default | |", "|---|---|---|"]
    lines += [f"| `{(p.name or '').upper()}` | | {cell(getattr(p, 'help', '') or '')} |" for p in arguments]
    return [*lines, *map(_option, options)]


def _option(parameter) -> str:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    shown = "" if default in (None, False, ()) or callable(default) else f"`{default}`"
    return f"| {names} | {'required' if parameter.required else shown} | {cell(parameter.help or '')} |"


def _r_groups() -> Iterator[tuple[str, list[str]]]:
    text = (ROOT / "r-package" / "_pkgdown.yml").read_text(encoding="utf-8")
    for part in re.split(r"^- title: ", text, flags=re.MULTILINE)[1:]:
        topics = [topic for topic in re.findall(r"^  - (\S+)", part, flags=re.MULTILINE) if topic not in NOT_BY_USERS]
        if topics:
            yield part.partition("\n")[0].strip(), topics


def _help_page(topic: str) -> Path:
    pages = (ROOT / "r-package" / "man").glob("*.Rd")
    return next(page for page in pages if f"\\alias{{{topic}}}" in page.read_text(encoding="utf-8"))


def _braces(text: str, name: str) -> str:
    """What stands in the braces of \\name{...}."""
    start = text.find(f"\\{name}{{")
    depth, begin = 0, start + len(name) + 2
    for i in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i].strip()
    return ""


def _usage(text: str, topic: str) -> str:
    calls = re.split(r"\n\n(?=\S)", _braces(text, "usage"))
    own = [call for call in calls if re.match(rf"(\\method\{{)?{re.escape(topic)}\b", call)]
    return "\n".join(own).replace("\\dots", "...")


def _plain(rd: str) -> str:
    return re.sub(r"\\\w+\{([^{}]*)\}", r"\1", rd).replace("\n", " ")


def _errors_in(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Class, message and remedy of each error of a file, where both are literals or names given to literals before."""
    nodes = list(ast.walk(tree))
    named = [(n.lineno, ast.unparse(n.targets[0]), n.value) for n in nodes if isinstance(n, ast.Assign)]
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS and len(node.args) == 2:
            before = {name: value for line, name, value in sorted(named, key=lambda n: n[0]) if line < node.lineno}
            texts = [_words(before.get(arg.id, arg) if isinstance(arg, ast.Name) else arg) for arg in node.args]
            if all(texts):
                yield node.func.id, *texts  # type: ignore[attr-defined, misc]


def _words(node: ast.expr) -> str:
    """The text of a literal or f-string, with what is filled in as ‹name›; "" for other expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.Constant) else f"‹{_name(p)}›" for p in node.values]
        return "".join(map(str, parts))
    return ""


def _name(part: ast.expr) -> str:
    code = ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else ""
    return code if re.fullmatch(r"\w+", code) else "..."
