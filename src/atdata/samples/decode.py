"""msgpack to values: a msgspec type for each field type, and what is left to do after msgspec."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atdata.samples import arrays
from atdata.samples.encode import ARRAY_TAG, Mismatch
from atdata.samples.fields import (
    AnyValue,
    Array,
    DateTime,
    DictOf,
    EnumOf,
    FieldType,
    ImageBytes,
    ListOf,
    LiteralOf,
    Nested,
    OptionalOf,
    Primitive,
    TupleOf,
)
from atdata.samples.images import Image

__all__ = ["ArrayReader", "any_from_wire", "explain", "from_wire", "wire_type"]

Convert = Callable[[Any], Any]


def wire_type(node: FieldType) -> Any:
    """The type that msgspec decodes the bytes of `node` to; byte strings come as views, not copies."""
    match node:
        case Primitive():
            return node.type
        case Array():
            return memoryview
        case ImageBytes():
            return bytes
        case DateTime():
            return str
        case EnumOf():
            return _base({type(m.value) for m in node.cls})
        case LiteralOf():
            return _base({type(v) for v in node.values})
        case OptionalOf():
            inner = wire_type(node.inner)
            return inner if inner is Any else inner | None
        case ListOf():
            return list[wire_type(node.item)]  # type: ignore[misc]
        case TupleOf():
            if node.variadic:
                return list[wire_type(node.items[0])]  # type: ignore[misc]
            return tuple[tuple(wire_type(item) for item in node.items)]  # type: ignore[misc]
        case DictOf():
            return dict[str, wire_type(node.value)]  # type: ignore[misc]
        case Nested() | AnyValue():
            # A nested class is decoded by its own plan from the map, which names the path of what is wrong.
            return Any
    raise AssertionError(node)


def _base(types: set[type]) -> Any:
    union: Any = None
    for t in sorted(types, key=lambda t: t.__name__):
        union = t if union is None else union | t
    return union


def from_wire(node: FieldType) -> Convert | None:
    """What turns msgspec's value into the field's; None where they are the same."""
    match node:
        case Primitive():
            return None
        case Array():
            return ArrayReader(node)
        case AnyValue():
            return any_from_wire
        case ImageBytes():
            return Image
        case DateTime():
            return _datetime
        case EnumOf():
            return _member({m.value: m for m in node.cls}, node.name)
        case LiteralOf():
            return _one_of(node)
        case OptionalOf():
            inner = from_wire(node.inner)
            return None if inner is None else lambda value: None if value is None else inner(value)
        case ListOf():
            item = from_wire(node.item)
            return None if item is None else lambda value: _each(item, value)
        case TupleOf():
            return _tuple(node)
        case DictOf():
            each = from_wire(node.value)
            return None if each is None else _dict(each)
        case Nested():
            return _nested(node)
    raise AssertionError(node)


def _each(item: Convert, values: Any) -> list[Any]:
    out = []
    for i, value in enumerate(values):
        try:
            out.append(item(value))
        except Mismatch as error:
            raise Mismatch(error.message, f"[{i}]{error.path}") from None
    return out


def _tuple(node: TupleOf) -> Convert:
    items = [from_wire(item) for item in node.items]
    if all(item is None for item in items):
        return tuple
    if node.variadic:
        only = items[0]
        assert only is not None
        return lambda values: tuple(_each(only, values))

    def convert(values: Any) -> tuple[Any, ...]:
        out = []
        for i, (item, value) in enumerate(zip(items, values, strict=True)):
            try:
                out.append(value if item is None else item(value))
            except Mismatch as error:
                raise Mismatch(error.message, f"[{i}]{error.path}") from None
        return tuple(out)

    return convert


def _dict(item: Convert) -> Convert:
    def convert(values: Any) -> dict[str, Any]:
        out = {}
        for key, value in values.items():
            try:
                out[key] = item(value)
            except Mismatch as error:
                raise Mismatch(error.message, f"[{key!r}]{error.path}") from None
        return out

    return convert


def _datetime(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Mismatch(f"expected datetime, got the text {text!r:.100}") from None


def _member(members: dict[Any, Any], name: str) -> Convert:
    def convert(value: Any) -> Any:
        try:
            return members[value]
        except KeyError:
            raise Mismatch(f"{value!r:.100} is not a member of {name}") from None

    return convert


def _one_of(node: LiteralOf) -> Convert:
    allowed = {(type(v), v) for v in node.values}

    def convert(value: Any) -> Any:
        if (type(value), value) not in allowed:
            raise Mismatch(f"expected {node.name}, got {value!r:.100}")
        return value

    return convert


def _nested(node: Nested) -> Convert:
    read: Callable[[Any], Any] | None = None

    def convert(value: Any) -> Any:
        nonlocal read
        if read is None:  # on first use: a class may nest itself
            from atdata.samples.codec import plan

            read = plan(node.cls).from_map
        return read(value)

    return convert


def any_from_wire(value: Any) -> Any:
    """Values without a declared type, with tagged arrays made arrays again."""
    if type(value) is dict:
        if len(value) == 1 and type(value.get(ARRAY_TAG)) is bytes:
            return _array_of(value[ARRAY_TAG])
        return {key: any_from_wire(item) for key, item in value.items()}
    if type(value) is list:
        return [any_from_wire(item) for item in value]
    return value


def _array_of(data: bytes | memoryview) -> NDArray[Any]:
    try:
        return arrays.array_from_bytes(data)
    except arrays.ArrayError as error:
        raise Mismatch(str(error)) from None


class ArrayReader:
    """Array bytes to a read-only view; headers seen before are not parsed again."""

    __slots__ = ("_cache", "_node")

    def __init__(self, node: Array) -> None:
        self._node = node
        self._cache: dict[bytes, tuple[np.dtype[Any], tuple[int, ...], int, int]] = {}

    def __call__(self, data: memoryview) -> NDArray[Any]:
        """The array in `data`; raises `Mismatch` when there is none, or another than declared."""
        try:
            n = data[0]
            head = bytes(data[: 2 + n + 8 * data[1 + n]])
        except IndexError:
            head = b""
        known = self._cache.get(head)
        if known is not None and known[3] == len(data):
            array: NDArray[Any] = np.ndarray(known[1], known[0], data, known[2])
            if not data.readonly:
                array.flags.writeable = False
            return array
        array = _array_of(data)
        if wrong := self._node.mismatch(array.dtype, array.shape):
            raise Mismatch(wrong)
        if array.nbytes and head[:6] != arrays.NPY_MAGIC and data[0] != 0x93:
            if len(self._cache) >= 1024:
                self._cache.clear()
            self._cache[head] = (array.dtype, array.shape, len(head), len(data))
        return array


_MESSAGE = re.compile(r"Expected `(?P<want>.+?)`, got `(?P<got>.+?)`(?: - at `(?:key` in `)?\$(?P<path>.*)`)?")
_LENGTH = re.compile(r"Expected `array` of length (?P<want>\d+), got (?P<got>\d+)(?: - at `\$(?P<path>.*)`)?")
_MISSING = re.compile(r"Object missing required field `(?P<name>.*?)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`")
_GOT = {"object": "dict", "array": "list", "null": "None"}


def explain(error: Exception, nodes: dict[str, FieldType]) -> Mismatch:
    """msgspec's error as ours: `path` begins with `.field`, types have their Python names."""
    text = str(error)
    if match := _MISSING.match(text):
        return Mismatch("missing", "." + match["name"])
    if match := _UNKNOWN.match(text):
        return Mismatch("is not a field of the sample type", "." + match["name"])
    if match := _LENGTH.match(text):
        return Mismatch(f"expected {match['want']} items, got {match['got']}", match["path"] or "")
    if match := _MESSAGE.match(text):
        path = match["path"] or ""
        node = nodes.get(path[1:])
        want = match["want"].replace("object", "dict").replace("array", "list")
        got = _GOT.get(match["got"], match["got"])
        return Mismatch(f"expected {want if node is None else node.name}, got {got}", path)
    if isinstance(error, UnicodeDecodeError):
        return Mismatch("text that is not UTF-8")
    if isinstance(error, RecursionError):
        return Mismatch("nested too deeply to be a sample")
    return Mismatch(f"not a msgpack map: {text}")
