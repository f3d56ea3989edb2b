"""What the R package calls: plain functions over numbers, text and bytes. `ask` runs one of them and never raises.

R sends vectors (`codec.Vector`), gets Python objects back that it cannot see into, and fetches from them what it needs.
"""

from __future__ import annotations

import ctypes
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import scduet
from scduet.errors import ScduetError, ScduetWarning
from scduet.interop import (
    codec,
    denoising,
    doublets,
    generation,
    models,
    multimodal,
    networks,
    objects,
    perturbation,
    pictures,
    programs,
    spatial,
    transformers,
    velocity,
)

PROTOCOL = 3  # raised whenever R and Python must change together; R refuses another number


@dataclass(frozen=True)
class Answer:
    """What a call gave: a value, or an error (type, message, hint, details, traceback), and the engine's warnings."""

    value: Any = None
    error: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)


def ask(name: str, arguments: dict[str, Any]) -> Answer:
    """Run the function `name` of the table below; errors come back as text, alike in every version of reticulate.

    KeyboardInterrupt passes: reticulate makes it R's interrupt.
    """
    models.noted.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            value, error = FUNCTIONS[name](**arguments), None
        except Exception as problem:
            value, error = None, _described(problem)
    ours = [str(w.message) for w in caught if issubclass(w.category, ScduetWarning)]
    return Answer(value, error, [*models.noted, *ours])


def versions() -> dict[str, str | bool]:
    """Of Python, the engine and what it stands on; "deepbind" says how torch was bound."""
    from scduet._torch import torch

    from importlib.metadata import version

    found = {name: version(name) for name in ("numpy", "scipy", "pandas", "anndata")}
    return {
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "scduet": scduet.__version__,
        **found,
        "torch": str(torch.__version__),
        "device": _device(torch),
        "deepbind": deepbind(),
    }


def deepbind() -> bool:
    """Whether torch sees its own BLAS first, not R's. On Linux this needs that scduet is what imports torch."""
    from scduet._torch import DEEPBIND

    return DEEPBIND or not sys.platform.startswith("linux")


def _mend_interrupts() -> None:
    """Let reticulate before 1.41 see Ctrl-C without running R code, which the same Ctrl-C may break off half-way.

    Its handler asks an R function whether an interrupt is pending; R's own flag says the same.
    """
    signals = sys.modules.get("rpytools.signals")
    if getattr(signals, "_callback", None) is None:
        return
    try:
        flag = ctypes.c_int.in_dll(ctypes.CDLL(None), "R_interrupts_pending")
    except (ValueError, OSError, TypeError):  # R is not a shared library, or Windows
        return

    def pending(clear: bool) -> bool:
        found = bool(flag.value)
        if clear:
            flag.value = 0
        return found

    signals._callback = pending  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


def _described(problem: Exception) -> dict[str, Any]:
    ours = isinstance(problem, ScduetError)
    return {
        "type": type(problem).__name__,
        "message": problem.message if ours else f"{type(problem).__name__}: {problem}",
        "hint": problem.hint if ours else "",
        "details": problem.details if ours else {},
        "traceback": "".join(traceback.format_exception(problem)),
    }


def _device(torch) -> str:
    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return "mps" if torch.backends.mps.is_available() else "cpu"


FUNCTIONS: dict[str, Callable] = {
    **{f.__name__: f for f in (versions, models.train, models.embed, models.describe, models.save, models.score)},
    **{f.__name__: f for f in (models.map_query, models.expression, models.annotate, models.markers, models.report)},
    **{f.__name__: f for f in (models.zero_inflation, denoising.denoise, denoising.compare_denoisers)},
    **{f.__name__: f for f in (doublets.find_doublets, programs.program_genes, programs.differential_programs)},
    **{f.__name__: f for f in (spatial.deconvolve, spatial.impute_genes)},
    "node_weights": programs.node_weights,
    "decode_states": models.decode_states,
    **{f.__name__: f for f in (multimodal.predict_modality, multimodal.match_cells)},
    **{f.__name__: f for f in (velocity.velocity, velocity.velocity_grid)},
    **{f.__name__: f for f in (transformers.embed_pretrained, transformers.embed_genes, transformers.perturb_genes)},
    **{f.__name__: f for f in (transformers.pretrain, transformers.finetune, transformers.predict_genes)},
    generation.generate_cells.__name__: generation.generate_cells,
    **{f.__name__: f for f in (networks.gene_network, networks.network_drawing)},
    **{f.__name__: f for f in (perturbation.predict_perturbation, perturbation.score_perturbation)},
    "rank_perturbations": perturbation.rank_perturbations,
    **{f.__name__: f for f in (codec.text, codec.csr, codec.dense, codec.column, codec.frame)},
    **{
        f.__name__: f
        for f in (objects.new, objects.put, objects.select, objects.whole, objects.contents, objects.names)
    },
    **{f.__name__: f for f in (objects.part, objects.table, objects.read_h5ad, objects.write_h5ad)},
    **{f.__name__: f for f in (pictures.put_picture, pictures.pictures)},
}

_mend_interrupts()
