"""Renders sections as an HTML page. The template engine escapes all text from the data."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from scduet._version import __version__

if TYPE_CHECKING:
    from scduet.plots.style import Figure
    from scduet.reports.explorer import Explorer


@dataclass(frozen=True)
class Cell:
    """One cell of a table; `share` (0 to 1) is drawn as a bar behind it."""

    text: str
    share: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first cell of a row names it. `groups`: row number -> heading above it."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    groups: dict[int, str] = field(default_factory=dict)
    folded: str = ""  # if given, the table is collapsed under this text
    prose: bool = False  # the last column is prose


@dataclass(frozen=True)
class Picture:
    """A figure, with its legend (level -> color) as text."""

    png: str  # base64
    alt: str

    @classmethod
    def of(cls, figure: Figure, alt: str) -> Picture:
        """Render `figure` as PNG at twice its display size."""
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=160, facecolor="white")
        return cls(base64.b64encode(file.getvalue()).decode("ascii"), alt)


@dataclass(frozen=True)
class Gallery:
    """Figures side by side if space permits, with a common legend."""

    pictures: Sequence[Picture]
    title: str = ""
    legend: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A section: heading, paragraphs, then tables, galleries and code."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    galleries: Sequence[Gallery] = ()
    terms: dict[str, str] = field(default_factory=dict)  # term -> what it means
    code: str = ""
    explorer: Explorer | None = None


def render(title: str, sections: Sequence[Section]) -> str:
    """Render the complete page, with embedded figures and style; the one script is that of an explorer.

    Its hash in the page's policy lets browsers run this script and no other.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    made = f"scduet {__version__}, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    script = ""
    if any(section.explorer for section in sections):
        script = (Path(__file__).parent / "explorer.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    given = {"script": script, "script_hash": f"sha256-{digest}"}
    return environment.get_template("page.html").render(title=title, sections=sections, made=made, **given)
