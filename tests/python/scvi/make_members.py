"""Writes members.json: the public members of scvi-tools' models that are here, by reading its sources.

python tests/python/scvi/make_members.py 1.4.2=site-packages/scvi 1.5.1=unpacked_wheel/scvi
"""

import ast
import json
import sys
from pathlib import Path

MODELS = ("SCVI", "SCANVI", "LinearSCVI", "AUTOZI", "TOTALVI", "PEAKVI", "POISSONVI", "MULTIVI")
SPOTS = ("CondSCVI", "DestVI", "RNAStereoscope", "SpatialStereoscope", "GIMVI")  # and of two data sets
PLACES = ("model", "external/poissonvi", "external/stereoscope", "external/gimvi")  # of their sources


def members(root: Path) -> dict:
    paths = [path for place in PLACES for path in sorted((root / place).rglob("*.py"))]
    trees = [ast.parse(path.read_text()) for path in paths]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    found = {name: members_of(name, classes) for name in MODELS + SPOTS}
    return found | {module: exported(root / module / "__init__.py") for module in ("data", "utils")}


def members_of(name: str, classes: dict) -> dict:
    """Arguments of each method, in order; "property" for others. Those of a subclass go before those of its bases."""
    found = {}
    for cls in (classes[known] for known in line_of(name, classes)):
        for node in cls.body:
            if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
                marks = " ".join(map(ast.unparse, node.decorator_list))
                is_property = "property" in marks or ".setter" in marks
                found.setdefault(node.name, "property" if is_property else arguments(node))
    return dict(sorted(found.items()))


def line_of(name: str, classes: dict) -> list[str]:
    bases = [ast.unparse(base) for base in classes[name].bases]
    return [name, *(one for base in bases if base in classes for one in line_of(base, classes))]


def arguments(node: ast.FunctionDef) -> list[str]:
    given = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    return [name for name in given if name not in ("self", "cls")]


def exported(path: Path) -> list[str]:
    values = [node.value for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    return sorted(ast.literal_eval(next(value for value in values if isinstance(value, ast.List))))


if __name__ == "__main__":
    versions = dict(argument.split("=", 1) for argument in sys.argv[1:])
    told = {version: members(Path(root)) for version, root in versions.items()}
    lines = []
    for version, found in told.items():
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(member)}" for name, member in found.items())
        lines.append(f" {json.dumps(version)}: {{\n{rows}}}")
    Path(__file__).with_name("members.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
