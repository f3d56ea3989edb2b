"""Tests match what an error names, not how it says it: a sentence in `match=` would fix the wording of a message."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest
from named import PROSE, assert_named, named

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))
ALLOWED = set()  # texts that look like prose but are names, e.g. of a row
READ = re.compile(r"\.(err|stderr|hint|message|value|text)\b|\bstr\(")  # where the text of an error or a log is read
SENTENCES = {  # each would fix the wording of a message
    "a literal": 'pytest.raises(DataError, match="no column here")',
    "an escaped pattern": r"pytest.raises(DataError, match=r'is\ missing\.')",
    "the parts of a pattern": "pytest.warns(UserWarning, match=r'X.*is not whole')",
    "an f-string": "pytest.raises(DataError, match=f'{key} has changed')",
    "escaping": "pytest.raises(DataError, match=re.escape('has changed'))",
    "named()": "pytest.raises(DataError, match=named('has changed'))",
    "a loop": "for said in ('a b', 'is gone'):\n    pytest.raises(DataError, match=said)",
    "parameters": "@pytest.mark.parametrize(('key', 'said'), [(1, 'is gone')])\ndef test(key, said):\n"
    "    pytest.raises(DataError, match=said)",
    "a name from elsewhere": "pytest.raises(DataError, match=MESSAGES[key])",
    "standard error": "assert 'is gone' in capsys.readouterr().err",
    "standard error, kept": "told = capsys.readouterr().err\nassert 'is gone' in told",
    "an error's text": "assert 'is gone' in str(caught.value)",
    "an error's text that is equal": "assert caught.value.message == 'it is gone'",
}
NAMES = {
    "a name": "pytest.raises(DataError, match='donor')",
    "names": "pytest.raises(DataError, match=named('donor', 'obs', 3))",
    "a variable that is escaped": "pytest.raises(DataError, match=re.escape(str(path)))",
    "parameters": "@pytest.mark.parametrize('said', ['donor', 'site'])\ndef test(said):\n"
    "    pytest.raises(DataError, match=said)",
    "a text that the test itself raises": "pytest.raises(OSError, match='disk full')\nraise OSError('disk full')",
    "the text of a table": "assert 'random pairs' in set(table['method'])",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_errors_are_matched_by_what_they_name(path):
    assert list(sentences(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("case", SENTENCES)
def test_a_sentence_is_found(case):
    assert list(sentences(SENTENCES[case]))


@pytest.mark.parametrize("case", NAMES)
def test_a_name_is_no_sentence(case):
    assert not list(sentences(NAMES[case]))


def test_named_asks_for_every_name_and_for_the_whole_of_it():
    text = "no column 'donor' in adata.obs, line\n1 of 10.5; pass batch_key="
    assert re.search(named("batch_key=", "'donor'", "obs", 1, 10.5), text)
    for absent in ("don", "batch", 10, 5, 0, "obs.", "'donors'"):
        assert not re.search(named("'donor'", absent), text), absent
    with pytest.raises(AssertionError, match=named("['x']", "donor")):
        assert_named(text, "obs", "x")


def sentences(source: str):
    """The prose that errors, warnings and standard error are compared with, and its line; not what the test raises."""
    tree = ast.parse(source)
    own = {text for node in ast.walk(tree) if isinstance(node, ast.Raise) for text in _texts(node)}
    values = {}
    for name, given in _listed(tree):
        values.setdefault(name, []).extend(given)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for part in [*functions, ast.Module([node for node in tree.body if node not in functions], [])]:
        bound = {target.id: node.value for node in ast.walk(part) for target in _targets(node)}
        for text in (text for node in ast.walk(part) for text in _matched(node, bound)):
            if isinstance(text, ast.Name | ast.Subscript) and getattr(text, "id", None) not in values:
                yield f"line {text.lineno}: {ast.unparse(text)} is not checked; use named()"
            for place in [text, *(v for n in ast.walk(text) for v in values.get(getattr(n, "id", None), []))]:
                for found in _texts(place) - own - ALLOWED:
                    yield from (f"line {place.lineno}: {prose}" for prose in PROSE.findall(found.replace("\\", "")))


def _targets(node):
    return [target for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else []


def _listed(tree):
    """The values that a name takes in a loop over literals, or as a parameter of a test."""
    for node in ast.walk(tree):
        if isinstance(node, ast.For):
            names, rows = node.target, node.iter
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("parametrize"):
            names, rows = node.args[:2]
        else:
            continue
        if not isinstance(rows, ast.List | ast.Tuple):
            continue
        if not isinstance(names, ast.List | ast.Tuple):
            yield _name(names), list(rows.elts)
        else:
            columns = zip(*(row.elts for row in rows.elts if isinstance(row, ast.Tuple)), strict=False)
            yield from ((_name(name), list(column)) for name, column in zip(names.elts, columns, strict=False))


def _name(node) -> str | None:
    return node.id if isinstance(node, ast.Name) else getattr(node, "value", None)


def _matched(node, bound):
    """The expressions that `node` compares the text of an error with."""
    if isinstance(node, ast.Call):
        yield from (keyword.value for keyword in node.keywords if keyword.arg == "match")
    elif isinstance(node, ast.Compare):
        for one, other in pairwise([node.left, *node.comparators]):
            for text, place in ((one, other), (other, one)):
                if isinstance(text, ast.Constant) and READ.search(ast.unparse(bound.get(_name(place), place))):
                    yield text


def _texts(place) -> set[str]:
    return {node.value for node in ast.walk(place) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
