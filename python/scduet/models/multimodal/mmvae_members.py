"""Members of the family of multimodal autoencoders: the options that each paper's name stands for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import chain, combinations
from typing import Any

from scduet.errors import OptionError


@dataclass(frozen=True)
class Member:
    """How the experts of a cell are used; see the options of the same names in `mmvae`."""

    experts: str = "each"
    views: str = "all"
    fusion: str = "mean"
    targets: str = "measured"
    latent_distribution: str = "normal"
    decoder: str = "mlp"
    gene_likelihood: str = "nb"
    peak_likelihood: str = "poisson"
    align: str = "jeffreys"
    subspaces: bool = False
    supervised: bool = False


PRESETS: dict[str, dict[str, Any]] = {
    "average": {"views": "all", "fusion": "mean", "targets": "measured", "align": "jeffreys"},
    "mvae": {"views": "single+all", "fusion": "product", "targets": "own", "align": "none"},
    "mopoe": {"views": "subsets", "fusion": "product", "targets": "measured", "align": "none"},
    "scmm": {"views": "single", "targets": "measured", "latent_distribution": "laplace", "align": "none"},
    "cobolt": {
        "views": "subsets",
        "fusion": "product",
        "targets": "own",
        "latent_distribution": "ln",
        "decoder": "linear",
        "gene_likelihood": "poisson",
        "peak_likelihood": "poisson",
        "align": "none",
    },
    "clue": {
        "views": "single+all",
        "fusion": "mean",
        "targets": "own",
        "latent_distribution": "sphere",
        "subspaces": True,
        "align": "cosine",
    },
    "contrastive": {"views": "all", "fusion": "mean", "targets": "measured", "align": "contrastive"},
    "translation": {"views": "single", "targets": "own", "align": "adversary"},
    "jae": {"experts": "joint", "latent_distribution": "point", "supervised": True, "align": "none"},
}


def member_of(config: Any) -> Member:
    """What the options of `config` come to. Raises OptionError for two that contradict each other."""
    names = [field.name for field in fields(Member)]
    fixed = {} if config.preset is None else PRESETS[config.preset]
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    for name, value in given.items():
        if fixed.get(name, value) != value:
            said = f"preset={config.preset!r} means {name}={fixed[name]!r}, and {name}={value!r} was given"
            raise OptionError(said, "leave one of the two out")
    chosen = {**fixed, **given}
    joint, point = chosen.get("experts") == "joint", chosen.get("latent_distribution") == "point"
    chosen.setdefault("align", "none" if joint or point else "jeffreys")
    member = Member(**chosen)
    _check(member, chosen)
    return member


def views_of(modalities: tuple[str, ...], kind: str) -> list[tuple[str, ...]]:
    """The subsets of the modalities that `kind` names."""
    n = len(modalities)
    sizes = {"single": (1,), "all": (n,), "single+all": (1, n), "subsets": range(1, n + 1)}[kind]
    return list(chain.from_iterable(combinations(modalities, size) for size in sizes))


def _check(member: Member, given: dict[str, Any]) -> None:
    if member.experts == "joint":
        more = {"views": "all", "align": "none", "subspaces": False}
        wrong = [name for name, value in more.items() if getattr(member, name) != value]
        wrong += [name for name in ("fusion",) if name in given]
        if wrong:
            said = f"{wrong[0]}={getattr(member, wrong[0])!r}: with experts='joint' there is one expert of a cell"
            raise OptionError(said, f"leave {wrong[0]} out, or take experts='each'")
    if member.fusion == "product" and member.latent_distribution in ("laplace", "point"):
        said = f"latent_distribution={member.latent_distribution!r} has no product of experts"
        raise OptionError(said, "take fusion='mean'")
    if member.align == "jeffreys" and member.latent_distribution == "point":
        said = "align='jeffreys' compares distributions, and latent_distribution='point' has none"
        raise OptionError(said, "take another align=")
