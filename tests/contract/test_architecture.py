"""Who may import whom, and other shapes of the code that DESIGN asks for, executable."""

import ast
import graphlib
from pathlib import Path

import pytest

import scduet

ROOT = Path(scduet.__file__).parent
LAYERS = [
    {"contract", "capabilities", "shapes", "events", "options", "errors", "_torch", "_version"},
    {"nn", "data", "metrics"},
    {"io"},
    {"models", "transformers"},
    {"train", "checkpoints", "count_model", "transformer_model"},
    {"api"},
    {"tasks", "plots"},
    {"interop", "reports", "scvi", "scgen"},
    {"cli"},
    {"__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
ROOMS = {  # the folders of a package: each may import the ones before it
    "metrics": ("core", "integration"),
    "models": ("rna", "multimodal", "perturbation", "spatial", "velocity", "reference"),
    "nn": ("kernels",),
    "tasks": (
        *("quality", "posterior", "comparison", "genes", "perturbation", "generation", "multimodal"),
        *("spatial", "velocity", "foundation", "workflows"),
    ),
    "transformers": ("tokenizers", "encoder", "families", "objectives", "inference"),
}
ONLY_IN = {  # a package and the parts that may know it
    "anndata": {"data", "io", "tasks", "interop", "scvi", "scgen"},
    "scanpy": {"data", "io", "tasks", "interop", "scvi"},
    "matplotlib": {"plots"},
    "typer": {"cli"},
    "jinja2": {"reports"},
}
EXCUSED = {  # lookups by name at run time, not dependencies of the code
    ("options.py", "models"),  # the path of a model's file, to read its options
    ("__init__.py", "_version"),
}
FILES = sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ([f"{node.module}.{a.name}" for a in node.names] if node.module == "scduet" else [node.module])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def wrong_imports(path: Path):
    own, here = part_of(path), path.relative_to(ROOT).as_posix()
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "scduet" and rest and rest[0] != own and (here, rest[0]) not in EXCUSED:
            same_level = LEVEL[rest[0]] == LEVEL[own] and LEVEL[own] not in (0, 4, 6, 7)
            if LEVEL[rest[0]] > LEVEL[own] or same_level:
                yield f"{here} imports {name}"
        if own == "metrics" and top == "scduet" and rest[:1] != ["metrics"]:
            yield f"{here} imports {name}: metrics take arrays and know nothing of ours"
        if top in ONLY_IN and own not in ONLY_IN[top]:
            yield f"{here} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_downward(path):
    assert list(wrong_imports(path)) == []


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_the_rooms_before_them(package):
    rooms, wrong = ROOMS[package], []
    assert {path.parent.name for path in FILES if path.parent.parent == ROOT / package} == set(rooms)
    for path in (ROOT / package).glob("*/*.py"):
        for name in imports(path):
            _, *rest = name.split(".")
            if rest[:1] == [package] and len(rest) > 2 and rooms.index(rest[1]) > rooms.index(path.parent.name):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_torch_comes_from_one_place(path):
    """Inside R torch must be imported with RTLD_DEEPBIND, which `_torch` does: so it must come first in each file."""
    source = path.read_text(encoding="utf-8")
    names = [name for name in imports(path) if name == "torch" or name.startswith("torch.")]
    if names and path.name != "_torch.py":
        assert "import torch\n" not in source.replace("from scduet._torch import torch\n", "")
        first = ("from scduet._torch import torch", "import scduet._torch")
        assert any(line in source for line in first), f"begin with `{first[0]}`"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def runtime_imports(path: Path) -> set[str]:
    """Files of scduet that a file imports, inside of functions too, but not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node)]:
        node.body = []
    known = {module_of(other) for other in FILES}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= names or ({node.module} & known)
    here = path.relative_to(ROOT).as_posix()
    return {name for name in found - {module_of(path)} if (here, name.split(".")[1]) not in EXCUSED}


def test_no_files_import_each_other_in_a_circle():
    imported = {module_of(path): runtime_imports(path) for path in FILES if path.name != "__init__.py"}
    try:
        graphlib.TopologicalSorter(imported).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_modules_inherit_from_nn_module_alone():
    """A model may hold another, never inherit from it. What is a tuple or a protocol is no module."""
    allowed = [], ["nn.Module"], ["Protocol"], ["NamedTuple"]
    classes = {
        f"{path.stem}.{node.name}": [ast.unparse(base) for base in node.bases]
        for folder in ("models", "transformers")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not any("dataclass" in ast.unparse(d) for d in node.decorator_list)
    }
    assert {name: bases for name, bases in classes.items() if bases not in allowed} == {}


def test_no_drawers():
    names = {path.name for path in FILES}
    assert names.isdisjoint({"utils.py", "common.py", "helpers.py", "base.py", "misc.py"})


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_file_says_what_it_is_and_can_be_read_in_one_sitting(path):
    source = path.read_text(encoding="utf-8")
    assert not source.strip() or ast.get_docstring(ast.parse(source)), "open with one sentence that says what it is"
    assert len(source.splitlines()) <= 330
