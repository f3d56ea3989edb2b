"""What an error or a warning must name: tests match its class and these names, never its sentences."""

import re

PROSE = re.compile(r"\b[a-z]{2,}\s+[a-z]{2,}\b")  # two words of a sentence, which are free to change


def named(*names) -> str:
    """For `match=`: each of `names` stands in the message, in any order and not as a part of a longer word or number.

    A name is what the message is about: a column, gene, option, value, path or number.
    """
    for name in names:
        assert not PROSE.search(str(name)), f"{name!r} is prose: tests check what a message names"
    return "(?s)^" + "".join(f"(?=.*{_delimited(str(name))})" for name in names)


def _delimited(name: str) -> str:
    before = r"(?<![\w.])" if name[0].isdigit() else r"(?<!\w)" if name[0].isidentifier() else ""
    after = r"(?!\w|\.\d)" if name[-1].isdigit() else r"(?!\w)" if name[-1].isidentifier() else ""
    return before + re.escape(name) + after


def assert_named(text: str, *names) -> None:
    """The same for a text that a command printed."""
    lacking = [name for name in names if not re.search(named(name), text)]
    assert not lacking, f"{lacking} are not named in: {text}"
