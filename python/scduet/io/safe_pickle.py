"""Reads data from untrusted pickles without executing anything.

A pickle is a program for a small stack machine, two of whose instructions import and call anything. This module
implements the machine without them: names can only refer to rows of a literal table of constructors of plain data.
Names of pandas become inert `Record`s. Python's unpickler is never used.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scduet.errors import FormatError

MAX_BYTES = 1 << 28  # maximum size of a pickle: real ones have a few megabytes


@dataclass
class Record:
    """An object whose class was not imported: its name, what it was built from, and its state."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True)
class Name:
    """A name used in a pickle, and its constructor here."""

    name: str
    make: Callable[..., Any] = field(repr=False)


def read_pickle(path: str | Path) -> Any:
    """Read the data in a pickle file: numbers, text, containers, numpy arrays.

    Raises `FormatError` for anything else, e.g. for a pickle that would call a function.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise FormatError(f"{path.name!r} has {path.stat().st_size:,} bytes", "a gene dictionary has a few million")
    return unpickle(path.read_bytes(), source=path.name)


def unpickle(
    data: bytes,
    source: str = "pickle",
    names: Mapping[str, Callable[..., Any]] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Interpret `data`. `names` extends the table of names, `persistent` resolves external objects."""
    machine = _Machine(source, {**NAMES, **(names or {})}, persistent)
    try:
        return machine.run(data)
    except FormatError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise FormatError(f"{source!r} is damaged ({type(error).__name__}: {error})", "download it again") from None


# ---------------------------------------------------------------------------------------------------- what names make


class _DType:
    """numpy.dtype under construction: the byte order arrives after the type."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not re.fullmatch(r"[<>|=]?([biufc]\d{1,2}|[SU]\d{1,6}|V0|[mM]8|O8?|\?)", str(code)):
            raise FormatError(f"arrays of type {code!r} are not supported", "only numbers, text and objects are")
        self.dtype = np.dtype("O" if str(code).startswith("O") else str(code))

    def build(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _scalar(dtype: _DType, data: bytes | str) -> Any:
    return _array_from(data, dtype, (1,))[0]


def _array_from(data: Any, dtype: _DType, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    """An array from bytes, whose number must match type and shape."""
    if dtype.dtype.hasobject:
        raise FormatError("objects cannot be stored as bytes", "the file is damaged or forged")
    data = data.encode("latin-1") if isinstance(data, str) else bytes(data)
    return np.frombuffer(data, dtype.dtype).reshape(_shape(shape), order="F" if order == "F" else "C").copy()


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > 32 or any(type(n) is not int or n < 0 for n in shape):
        raise FormatError(f"{shape!r} is not a valid array shape", "the file is damaged or forged")
    return shape


def _fill(array: np.ndarray, state: tuple[Any, ...]) -> None:
    """Unpickle an array as numpy does, after checks."""
    _, shape, dtype, fortran, data = state
    shape = _shape(shape)
    if dtype.dtype.hasobject:
        if type(data) is not list or len(data) != int(np.prod(shape, dtype=object)):
            raise FormatError(f"{len(data)} objects do not fill an array of {shape}", "the file is damaged or forged")
    else:
        data = data.encode("latin-1") if isinstance(data, str) else bytes(data)
        if len(data) != int(np.prod(shape, dtype=object)) * dtype.dtype.itemsize:
            raise FormatError(f"{len(data)} bytes do not fill an array of {shape}", "the file is damaged or forged")
    array.__setstate__((1, shape, dtype.dtype, bool(fortran), data))  # pyright: ignore[reportArgumentType]


def _dict(items: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in (items.items() if type(items) is dict else items)}


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise FormatError(f"text in {encoding!r} is not supported")
    return text.encode(encoding)


def _key(value: Any, depth: int = 0) -> Any:
    """A key of a dictionary or set: a plain type, so that hashing it is cheap and runs no code of the file."""
    if isinstance(value, (str, bytes, int, float, complex, type(None), np.generic)):
        return value
    if type(value) is tuple and depth < 3 and len(value) < 100:
        for part in value:
            _key(part, depth + 1)
        return value
    raise FormatError(f"a {type(value).__name__} as the key of a dictionary is not supported")


NAMES: dict[str, Callable[..., Any]] = {  # name in the pickle -> constructor of plain data
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda factory=None: {},
    "builtins.dict": _dict,
    "builtins.set": lambda items=(): {_key(item) for item in items},
    "builtins.frozenset": lambda items=(): frozenset(_key(item) for item in items),
    "builtins.list": lambda items=(): list(items),
    "builtins.tuple": lambda items=(): tuple(items),
    "builtins.bytes": lambda items=b"": bytes(items) if isinstance(items, bytes) else bytes(list(items)),
    "builtins.complex": lambda real, imaginary=0.0: complex(float(real), float(imaginary)),
    "builtins.slice": lambda *ends: slice(*(None if end is None else int(end) for end in ends)),
    "_codecs.encode": _encode,
    "numpy.dtype": _DType,
    "numpy.ndarray": lambda *_: Record("numpy.ndarray"),
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: np.empty(0, "b") for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array_from for core in ("core", "_core")},
}
INERT = ("pandas.",)  # names under these become Records
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


# ------------------------------------------------------------------------------------------------------- the machine


class _Machine:
    """The stack, the memo, and a method for each nontrivial instruction."""

    def __init__(self, source: str, names: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any] | None):
        self.source, self.names, self.persistent = source, names, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks put aside by MARK
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for instruction, argument, _ in pickletools.genops(data):  # decodes, and checks every length against `data`
            step = STEPS.get(instruction.name)
            if step is None:
                raise FormatError(f"{self.source!r} uses the pickle instruction {instruction.name}", "it is not data")
            step(self, argument)
        return self.pop()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        """The top of the stack, which must be exactly of this type."""
        if type(self.stack[-1]) is not kind:
            raise FormatError(
                f"{self.source!r} fills a {type(self.stack[-1]).__name__} as if it were a {kind.__name__}"
            )
        return self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise FormatError(f"{self.source!r} holds a key without a value", "the file is damaged or forged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def name(self, module: Any, name: Any) -> None:
        full = f"{_PYTHON_2.get(module, module)}.{name}"
        if full in self.names:
            self.push(Name(full, self.names[full]))
        elif full.startswith(INERT):
            self.push(Name(full, lambda *args: Record(full, args)))
        else:
            raise FormatError(f"{self.source!r} refers to {full}, which weights and dictionaries do not need",
                              "do not load it with other tools: it may run code")  # fmt: skip

    def call(self) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, Name) or type(arguments) is not tuple:
            raise FormatError(f"{self.source!r} calls a {type(called).__name__}", "it is not data")
        self.push(called.make(*arguments))

    def call_with_keywords(self) -> None:
        if self.pop():
            raise FormatError(f"{self.source!r} calls with keywords", "it is not data")
        self.call()

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, np.ndarray):
            _fill(target, state)
        elif isinstance(target, _DType):
            target.build(state)
        elif isinstance(target, Record):
            target.state = state
        elif not (type(target) is dict and isinstance(state, dict)):  # torch attaches metadata to state dicts: dropped
            raise FormatError(f"{self.source!r} sets the state of a {type(target).__name__}", "it is not data")

    def outside(self, key: Any) -> None:
        if self.persistent is None:
            raise FormatError(f"{self.source!r} refers to data outside itself", "it is not a complete file")
        self.push(self.persistent(key))


_Step = Callable[[_Machine, Any], Any]
_PUSHED = """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"""
STEPS: dict[str, _Step] = {  # instruction -> what it does; INST, OBJ, EXT*, PERSID and out-of-band buffers are missing
    **{name: lambda m, x: m.push(x) for name in _PUSHED.split()},
    **{name: lambda m, x: None for name in ("PROTO", "FRAME", "STOP")},
    **{name: lambda m, x: m.memo.__setitem__(x, m.stack[-1]) for name in ("PUT", "BINPUT", "LONG_BINPUT")},
    **{name: lambda m, x: m.push(m.memo[x]) for name in ("GET", "BINGET", "LONG_BINGET")},
    "MEMOIZE": lambda m, x: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "NONE": lambda m, x: m.push(None),
    "NEWTRUE": lambda m, x: m.push(True),
    "NEWFALSE": lambda m, x: m.push(False),
    "EMPTY_LIST": lambda m, x: m.push([]),
    "EMPTY_DICT": lambda m, x: m.push({}),
    "EMPTY_TUPLE": lambda m, x: m.push(()),
    "EMPTY_SET": lambda m, x: m.push(set()),
    "MARK": lambda m, x: m.mark(),
    "POP": lambda m, x: m.pop(),
    "POP_MARK": lambda m, x: m.since_mark(),
    "DUP": lambda m, x: m.push(m.stack[-1]),
    "TUPLE": lambda m, x: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, x: m.push((m.pop(),)),
    "TUPLE2": lambda m, x: m.push((m.pop(), m.pop())[::-1]),
    "TUPLE3": lambda m, x: m.push((m.pop(), m.pop(), m.pop())[::-1]),
    "LIST": lambda m, x: m.push(m.since_mark()),
    "DICT": lambda m, x: (items := m.since_mark(), m.push({}), m.set_items(items)),
    "FROZENSET": lambda m, x: m.push(frozenset(map(_key, m.since_mark()))),
    "APPEND": lambda m, x: (item := m.pop(), m.top(list).append(item)),
    "APPENDS": lambda m, x: (items := m.since_mark(), m.top(list).extend(items)),
    "ADDITEMS": lambda m, x: (items := m.since_mark(), m.top(set).update(map(_key, items))),
    "SETITEM": lambda m, x: (value := m.pop(), key := m.pop(), m.set_items([key, value])),
    "SETITEMS": lambda m, x: m.set_items(m.since_mark()),
    "GLOBAL": lambda m, x: m.name(*x.split(" ", 1)),
    "STACK_GLOBAL": lambda m, x: (name := m.pop(), m.name(m.pop(), name)),
    "REDUCE": lambda m, x: m.call(),
    "NEWOBJ": lambda m, x: m.call(),
    "NEWOBJ_EX": lambda m, x: m.call_with_keywords(),
    "BUILD": lambda m, x: m.build(),
    "BINPERSID": lambda m, x: m.outside(m.pop()),
}
