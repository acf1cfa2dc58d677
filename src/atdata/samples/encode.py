"""Values to msgpack: one function for each field type, made once for each class.

`small(node)` gives a function value → msgpack bytes, for every type but top-level arrays, which
`ArrayWriter` splits into a cached prefix and their raw elements so that they are never copied together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from atdata.samples import arrays
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

__all__ = ["ARRAY_TAG", "ArrayKind", "ArrayWriter", "Mismatch", "bin_header", "pack", "small", "to_wire"]

# An array inside a value without a declared type (`Any`, bare `dict`): a map with this one key.
ARRAY_TAG = "__ndarray__"

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_BIN_MAX = 2**32 - 1
_MAX_DEPTH = 100
# Samples in samples: what is written must be readable, and reading takes several Python calls a level.
_MAX_NESTED = 64
_nesting = threading.local()


class Mismatch(Exception):
    """A value that does not fit; `path` is relative to the field (`[3].x`)."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path


def kind_of(value: Any) -> str:
    """What messages call the type of `value`."""
    return "ndarray" if isinstance(value, np.ndarray) else type(value).__name__


def _expected(node: FieldType, value: Any) -> Mismatch:
    return Mismatch(f"expected {node.name}, got {kind_of(value)}")


def bin_header(n: int) -> bytes:
    """The msgpack header of a byte string of `n` bytes."""
    if n < 256:
        return b"\xc4" + n.to_bytes(1, "big")
    if n < 65536:
        return b"\xc5" + n.to_bytes(2, "big")
    if n > _BIN_MAX:
        raise Mismatch(f"{n} bytes, more than msgpack can hold in one value ({_BIN_MAX})")
    return b"\xc6" + n.to_bytes(4, "big")


Wire = Callable[[Any], Any]


def to_wire(node: FieldType) -> Wire:
    """A function that turns a value of `node` into what msgspec writes as msgpack, or raises `Mismatch`."""
    match node:
        case Primitive():
            return _PRIMITIVE[node.type]
        case AnyValue():
            return any_value
        case Array():
            return _array(node)
        case OptionalOf():
            inner = to_wire(node.inner)
            return lambda value: None if value is None else inner(value)
        case ListOf():
            return _list(node, to_wire(node.item))
        case TupleOf():
            return _tuple(node)
        case DictOf():
            return _dict(node, to_wire(node.value))
        case ImageBytes():
            return _image
        case DateTime():
            return _datetime
        case EnumOf():
            return _enum(node)
        case LiteralOf():
            return _literal(node)
        case Nested():
            return _nested(node)
    raise AssertionError(node)


def _str(value: Any) -> Any:
    if type(value) is not str:
        value = _unwrap(value, str)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Mismatch(f"text with a lone surrogate cannot be stored: {error.reason}") from None
    return value


def _int(value: Any) -> Any:
    if type(value) is not int:
        value = _unwrap(value, int)
    if not _INT_MIN <= value <= _INT_MAX:
        raise Mismatch(f"{value} does not fit into 64 bits")
    return value


def _float(value: Any) -> Any:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise Mismatch("an int too large for a float") from None
    return _unwrap(value, float)


def _bool(value: Any) -> Any:
    return value if type(value) is bool else _unwrap(value, bool)


def _bytes(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        if len(value) > _BIN_MAX:
            raise Mismatch(f"{len(value)} bytes, more than msgpack can hold in one value ({_BIN_MAX})")
        return value if type(value) is bytes else bytes(value)
    return _unwrap(value, bytes)


def _none(value: Any) -> Any:
    if value is not None:
        raise Mismatch(f"expected None, got {kind_of(value)}")
    return value


def _unwrap(value: Any, want: type) -> Any:
    """Subclasses and NumPy scalars as the plain type they stand for."""
    if isinstance(value, np.generic):
        item: Any = value.item()
        if type(item) is want:
            return item
        if want is float and type(item) is int:
            return float(item)
    elif isinstance(value, want) and not (want is int and isinstance(value, bool)):
        # str() of a member of `class Color(str, Enum)` is its name, not the text it is.
        return str.__str__(value) if want is str else want(value)
    raise Mismatch(f"expected {want.__name__}, got {kind_of(value)}")


_PRIMITIVE: dict[type, Wire] = {
    str: _str,
    int: _int,
    float: _float,
    bool: _bool,
    bytes: _bytes,
    type(None): _none,
}


def _image(value: Any) -> bytes:
    if not isinstance(value, Image):
        raise Mismatch(f"expected Image, got {kind_of(value)}")
    return value.data


def _datetime(value: Any) -> str:
    if not isinstance(value, datetime):
        raise Mismatch(f"expected datetime, got {kind_of(value)}")
    return value.isoformat()


def _array(node: Array) -> Wire:
    def wire(value: Any) -> bytes:
        if not isinstance(value, np.ndarray):
            raise Mismatch(f"expected ndarray, got {kind_of(value)}")
        _refuse_mask(value)
        if wrong := node.mismatch(value.dtype, value.shape):
            raise Mismatch(wrong)
        try:
            return arrays.array_to_bytes(value)
        except arrays.ArrayError as error:
            raise Mismatch(str(error)) from None

    return wire


def _refuse_mask(value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise Mismatch("the mask of a masked array cannot be stored; use its filled() or store both parts")


def _each(item: Wire, value: Any) -> list[Any]:
    out = []
    for i, element in enumerate(value):
        try:
            out.append(item(element))
        except Mismatch as error:
            raise Mismatch(error.message, f"[{i}]{error.path}") from None
    return out


def _list(node: ListOf, item: Wire) -> Wire:
    def wire(value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise _expected(node, value)
        return _each(item, value)

    return wire


def _tuple(node: TupleOf) -> Wire:
    items = [to_wire(item) for item in node.items]

    def wire(value: Any) -> list[Any]:
        if not isinstance(value, tuple | list):
            raise _expected(node, value)
        if node.variadic:
            return _each(items[0], value)
        if len(value) != len(items):
            raise Mismatch(f"expected {len(items)} items, got {len(value)}")
        out = []
        for i, (item, element) in enumerate(zip(items, value, strict=True)):
            try:
                out.append(item(element))
            except Mismatch as error:
                raise Mismatch(error.message, f"[{i}]{error.path}") from None
        return out

    return wire


def _dict(node: DictOf, item: Wire) -> Wire:
    def wire(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _expected(node, value)
        out = {}
        for key, element in value.items():
            if not isinstance(key, str):
                raise Mismatch(f"keys must be str, got {kind_of(key)} {key!r}")
            try:
                out[_str(key)] = item(element)
            except Mismatch as error:
                raise Mismatch(error.message, f"[{key!r}]{error.path}") from None
        if isinstance(node.value, AnyValue) and out.keys() == {ARRAY_TAG}:
            raise Mismatch(f"a dict with the single key {ARRAY_TAG!r} is reserved for arrays")
        return out

    return wire


def _enum(node: EnumOf) -> Wire:
    def wire(value: Any) -> Any:
        if not isinstance(value, node.cls):
            raise _expected(node, value)
        return value.value

    return wire


def _literal(node: LiteralOf) -> Wire:
    allowed = {(type(v), v) for v in node.values}

    def wire(value: Any) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        try:
            if (type(value), value) in allowed:
                return value
        except TypeError:
            pass
        raise Mismatch(f"expected {node.name}, got {value!r:.100}")

    return wire


def _nested(node: Nested) -> Wire:
    fields: list[tuple[str, Wire]] | None = None
    dims: list[tuple[int, tuple[int | str | None, ...]]] = []

    def write(value: Any) -> dict[str, Any]:
        nonlocal fields, dims
        if fields is None:  # on first use: a class may nest itself
            from atdata.samples.codec import plan

            dims = plan(node.cls).dims
            fields = [(f.name, to_wire(f.type)) for f in plan(node.cls).fields]
        if not isinstance(value, node.cls):
            raise _expected(node, value)
        out = {}
        for name, item in fields:
            try:
                out[name] = item(getattr(value, name))
            except AttributeError:
                raise Mismatch("missing", f".{name}") from None
            except Mismatch as error:
                raise Mismatch(error.message, f".{name}{error.path}") from None
        sizes: dict[str, int] = {}
        for i, shape in dims:
            if (array := getattr(value, fields[i][0])) is not None:
                try:
                    check_dims(sizes, shape, array.shape)
                except Mismatch as error:
                    raise Mismatch(error.message, f".{fields[i][0]}") from None
        return out

    def wire(value: Any) -> dict[str, Any]:
        depth = getattr(_nesting, "depth", 0)
        if depth >= _MAX_NESTED:
            raise Mismatch(f"nested more than {_MAX_NESTED} deep")
        _nesting.depth = depth + 1
        try:
            return write(value)
        finally:
            _nesting.depth = depth

    return wire


def any_value(value: Any, depth: int = 0) -> Any:
    """A value without a declared type; arrays in it are tagged so that they come back as arrays."""
    if value is None or type(value) in (bool, float):
        return value
    if isinstance(value, str):
        return _str(value)
    if isinstance(value, np.ndarray):
        return {ARRAY_TAG: _array(Array())(value)}
    if isinstance(value, np.generic):
        return any_value(value.item(), depth)
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes(value)
    if isinstance(value, int):
        return _int(value)
    if isinstance(value, float):
        return float(value)
    if depth > _MAX_DEPTH:
        raise Mismatch(f"nested more than {_MAX_DEPTH} deep")
    if isinstance(value, list | tuple):
        return _each(lambda element: any_value(element, depth + 1), value)
    if isinstance(value, dict):
        return _dict(DictOf(AnyValue()), lambda element: any_value(element, depth + 1))(value)
    raise Mismatch(f"a value of type {kind_of(value)} cannot be stored without a declared type")


ArrayKind = tuple[np.dtype[Any], tuple[int, ...]]


class ArrayWriter:
    """Splits an array field into its prefix (msgpack and compact headers) and its raw elements."""

    __slots__ = ("_cache", "_last", "_node", "_optional")

    def __init__(self, node: Array, optional: bool) -> None:
        self._node = node
        self._optional = optional
        # Few shapes in most datasets; ragged ones would grow it without end.
        self._cache: dict[ArrayKind, tuple[bytes, ArrayKind]] = {}
        self._last: tuple[bytes, ArrayKind] | None = None

    def __call__(self, value: Any) -> tuple[bytes, bytes | memoryview | None, ArrayKind | None]:
        """Prefix, raw elements, and dtype with shape.

        There are no raw elements for None (which has no dtype either) and for structured arrays: those are `.npy`.
        """
        if type(value) is not np.ndarray:
            if value is None and self._optional:
                return b"\xc0", None, None
            if not isinstance(value, np.ndarray):
                raise _expected(self._node, value)
            _refuse_mask(value)
            value = np.asarray(value)
        dtype, shape = value.dtype, value.shape
        known = self._last  # comparing is cheaper than hashing, and most arrays are like the one before
        if known is None or known[1][0] is not dtype or known[1][1] != shape:
            kind = (dtype, shape)
            known = self._cache.get(kind)
        if known is None:
            if wrong := self._node.mismatch(value.dtype, value.shape):
                raise Mismatch(wrong)
            if value.dtype.names is not None:
                data = _array(self._node)(value)
                return bin_header(len(data)) + data, None, kind
            try:
                head = arrays.array_header(value.dtype, value.shape)
            except arrays.ArrayError as error:
                raise Mismatch(str(error)) from None
            prefix = bin_header(len(head) + value.nbytes) + head
            if len(self._cache) >= 1024:
                self._cache.clear()
            known = self._cache[kind] = prefix, kind
        self._last = known
        return known[0], value.tobytes() if value.nbytes < 16384 else arrays.raw_bytes(value), known[1]


pack = msgspec.msgpack.Encoder().encode


def small(node: FieldType) -> Callable[[Any], bytes]:
    """A function from a value of `node` to its msgpack bytes."""
    wire = to_wire(node)
    return lambda value: pack(wire(value))


def check_dims(names: dict[str, int], dims: tuple[int | str | None, ...], shape: tuple[int, ...]) -> None:
    """Record the sizes of named dimensions, or raise `Mismatch` where a repeated name disagrees."""
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(dim, str) and names.setdefault(dim, size) != size:
            raise Mismatch(f"dimension {dim!r} is {size} here, but {names[dim]} before")
