"""Common style of all figures: font sizes, color-blind safe colors, and saving."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure
from matplotlib.colors import to_hex

from scduet.errors import OptionError
from scduet.io.atomic import place_whole

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "figure.dpi": 110,
}
NEUTRAL = "#c8c8c8"  # color for missing labels

# Okabe & Ito 2008 (without black and yellow, which are hard to see in small points), then Petroff 2021,
# arXiv:2107.02270.
_FEW = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_TEN = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip


class Figure(matplotlib.figure.Figure):
    """A matplotlib Figure that a notebook displays once if it is the value of a cell.

    IPython displays plain Figures only after `%matplotlib inline` or once pyplot has created one.
    """

    def _repr_png_(self) -> bytes:
        written = io.BytesIO()
        self.savefig(written, format="png", dpi=self.dpi, facecolor="white", bbox_inches="tight")
        return written.getvalue()


def categorical_colors(levels: Sequence[str], neutral: Sequence[str] = ("Unknown", "nan")) -> dict[str, str]:
    """A color for each level; gray for those in `neutral`.

    Up to 10 levels are distinguishable for color-blind readers; beyond that, hue and lightness both vary.
    """
    named = [level for level in levels if level not in neutral]
    palette = _FEW if len(named) <= len(_FEW) else _TEN if len(named) <= len(_TEN) else _many(len(named))
    return dict(zip(named, palette, strict=False)) | {level: NEUTRAL for level in levels if level in neutral}


def save_figure(figure: Figure, path: str | Path, dpi: int = 200) -> Path:
    """Write `figure` as PNG, PDF or SVG, by the suffix of `path`; text stays text, points are rasterized."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise OptionError(f"cannot write a figure to {path.name!r}", "use the suffix .png, .pdf or .svg")
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
        place_whole(path, lambda new: figure.savefig(new, dpi=dpi, facecolor="white"))
    return path


def _many(n: int) -> list[str]:
    """`n` colors: the golden angle around the circle of hues, in three lightnesses."""
    shades = [((0.04 + i * 0.618034) % 1, (0.40, 0.58, 0.74)[i % 3]) for i in range(n)]
    return [to_hex(colorsys.hls_to_rgb(hue, light, 0.65)) for hue, light in shades]
