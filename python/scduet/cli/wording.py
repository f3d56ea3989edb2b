"""Messages about arguments of functions, as they are typed on the command line: labels_key= is --labels-key."""

import re
from collections.abc import Mapping
from typing import Any

VALUE = r"None|True|False|'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[\w.+-]*\w"
ASSIGNED = re.compile(rf"(?<![\w.\[\"'-])(\w+)=(?!=)({VALUE})?")
QUOTED = re.compile(r"\boption '(\w+)'")


def as_typed(text: str, flags: Mapping[str, str]) -> str:
    """`text` with the arguments that are options of the command, by name, as these options."""

    def option(match: re.Match[str]) -> str:
        name, value = match.groups()
        flag = flags.get(name)
        if flag is None:
            return match[0]
        if value == "None":
            return f"no {flag}"
        if value == "False":
            return f"--no-{flag.removeprefix('--')}"
        return flag if value in (None, "True") else f"{flag} {value.strip(chr(39) + chr(34))}"

    text = ASSIGNED.sub(option, text)
    return QUOTED.sub(lambda match: f"option {flags.get(match[1], repr(match[1]))}", text)


def flags_of(command: Any, arguments: list[str]) -> dict[str, str]:
    """The options of the subcommand that `arguments` name: argument -> flag."""
    known = getattr(command, "commands", {})
    chosen = next((known[word] for word in arguments if word in known), None)
    params = [] if chosen is None else chosen.params
    return {p.name: p.opts[0] for p in params if p.param_type_name == "option" and p.name is not None}
