"""Docstrings as Markdown. They are prose, `name: text` lines for arguments and errors, and indented formulas."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

FIELD = re.compile(r"(\*{0,2}\w+(?:, \w+)*): (.+)")
EMPHASIS = re.compile(r"(?<![\w*])\*(\w[^*\n]*\w)\*(?![\w*])")


@dataclass
class Block:
    kind: str  # "text", "field" or "code"
    lines: list[str] = field(default_factory=list)
    listed: bool = False  # a field below a line such as "Raises:"


def to_markdown(text: str | None, arguments: Mapping[str, str] = {}) -> str:
    """The docstring `text` as Markdown. Lines that begin with names of arguments become a list.

    arguments: name -> type, "" where it is not known.
    """
    blocks: list[Block] = [Block("text")]
    for line in inspect.cleandoc(text or "").splitlines():
        _add(blocks, line, arguments)
    blocks = [block for block in blocks if block.lines]
    text, before = "", ""
    for block in blocks:
        text += ("\n" if block.kind == before == "field" else "\n\n") + _written(block, arguments)
        before = block.kind
    return text.strip()


def escaped(text: str) -> str:
    """Prose in which Markdown must find code spans and emphasis, and nothing else."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _escaped_prose(part) for part in parts)


def cell(text: str) -> str:
    """`text` for a cell of a table."""
    return escaped(" ".join(str(text).split())).replace("|", "\\|")


def _add(blocks: list[Block], line: str, arguments: Mapping[str, str]) -> None:
    last, indented, content = blocks[-1], line.startswith("    "), line.strip()
    found = FIELD.fullmatch(content)
    if not content:
        blocks.append(Block("text"))
    elif found and not indented and {name.strip("*") for name in found[1].split(", ")} <= set(arguments):
        blocks.append(Block("field", [content]))
    elif indented and last.kind == "field" and not (last.listed and found and not line.startswith("     ")):
        last.lines.append(content)
    elif indented and found and (last.listed or (last.lines and last.lines[-1].startswith("Raises"))):
        blocks.append(Block("field", [content], listed=True))
    elif indented:
        if last.kind != "code":
            blocks.append(Block("code"))
        blocks[-1].lines.append(line)
    elif last.kind == "text":
        last.lines.append(content)
    else:
        blocks.append(Block("text", [content]))


def _written(block: Block, arguments: Mapping[str, str]) -> str:
    if block.kind == "code":
        return "\n".join(["```text", *inspect.cleandoc("\n" + "\n".join(block.lines)).splitlines(), "```"])
    if block.kind == "field":
        known = "|".join(map(re.escape, arguments)) or "$"
        parts = re.split(rf"(?<=[.;]) (?=(?:{known}): )", " ".join(block.lines))  # two arguments on a line
        return "\n".join(_item(*part.split(": ", 1), arguments) for part in parts)
    return escaped("\n".join(block.lines))


def _item(names: str, text: str, arguments: Mapping[str, str]) -> str:
    kind = arguments.get(names, "")
    return f"* **{escaped(names)}**{f' (`{kind}`)' if kind else ''}: {escaped(text)}"


def _escaped_prose(text: str) -> str:
    text = EMPHASIS.sub("\0\\1\0", text.replace("\\", "\\\\").replace("<", "&lt;"))
    return text.replace("*", "\\*").replace("\0", "*").replace("[", "\\[").replace("]", "\\]").replace("__", "\\_\\_")
