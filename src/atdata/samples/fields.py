"""What a field of a sample may be: a small closed tree of types, read from annotations."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import types
import typing
from datetime import datetime
from typing import Any

import numpy as np

from atdata.errors import SchemaError
from atdata.samples.images import Image

__all__ = [
    "AnyValue",
    "Array",
    "DateTime",
    "DictOf",
    "EnumOf",
    "FieldType",
    "ImageBytes",
    "ListOf",
    "LiteralOf",
    "Nested",
    "OptionalOf",
    "Primitive",
    "Shape",
    "TupleOf",
    "field_type",
    "unaliased",
]


class Shape:
    """Declares the shape of an array field: `Annotated[NDArray[np.float32], Shape("h", "w", 3)]`.

    Args:
        dims: one entry for each dimension: an int is that size, None any size, and a name any size that is
            the same wherever the name appears in the sample.
    """

    __slots__ = ("dims",)

    def __init__(self, *dims: int | str | None) -> None:
        for dim in dims:
            if not (dim is None or isinstance(dim, str) or (type(dim) is int and dim >= 0)):
                raise SchemaError(f"Shape: {dim!r} is not a size, a name or None")
        self.dims = dims

    def __repr__(self) -> str:
        return f"Shape({', '.join(map(repr, self.dims))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self.dims == other.dims

    def __hash__(self) -> int:
        return hash(self.dims)


@dataclasses.dataclass(frozen=True)
class FieldType:
    """One node of the tree; `name` is what messages call it."""

    @property
    def name(self) -> str:
        """What messages and tables call this type."""
        return type(self).__name__.lower()


@dataclasses.dataclass(frozen=True)
class Primitive(FieldType):
    """`str`, `int`, `float`, `bool`, `bytes` or `None`."""

    type: type

    @property
    def name(self) -> str:
        """The Python name of the type."""
        return "None" if self.type is type(None) else self.type.__name__


@dataclasses.dataclass(frozen=True)
class AnyValue(FieldType):
    """Any value that msgpack can hold, arrays included (`typing.Any`, bare `dict` and `list`)."""

    @property
    def name(self) -> str:
        """`any`."""
        return "any"


@dataclasses.dataclass(frozen=True)
class Array(FieldType):
    """A NumPy array; `dtype` and `dims` are None where nothing is declared.

    `dtype` is declared up to byte order. A dtype without a size (`NDArray[np.str_]`) allows every size, and
    `NDArray[np.void]` every structured dtype.
    """

    dtype: np.dtype[Any] | None = None
    dims: tuple[int | str | None, ...] | None = None

    @property
    def name(self) -> str:
        """`ndarray`, with dtype and shape where declared."""
        if self.dtype is None and self.dims is None:
            return "ndarray"
        parts = ["any" if self.dtype is None else dtype_name(self.dtype)]
        if self.dims is not None:
            parts.append(" x ".join("?" if d is None else str(d) for d in self.dims) or "0-d")
        return f"ndarray[{', '.join(parts)}]"

    def mismatch(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> str | None:
        """What is wrong with an array of this dtype and shape; None when it fits."""
        want = self.dtype
        if want is not None and (
            dtype.kind != want.kind
            or (dtype.itemsize != want.itemsize and not (want.itemsize == 0 or want.kind in "mM"))
        ):
            return f"expected {dtype_name(want)} array, got {dtype_name(dtype)}"
        if self.dims is not None and (
            len(shape) != len(self.dims)
            or any(type(d) is int and d != s for d, s in zip(self.dims, shape, strict=True))
        ):
            return f"expected shape {Shape(*self.dims)!r}, got {shape}"
        return None


@dataclasses.dataclass(frozen=True)
class ImageBytes(FieldType):
    """An encoded image, `atdata.Image`."""

    @property
    def name(self) -> str:
        """`Image`."""
        return "Image"


@dataclasses.dataclass(frozen=True)
class DateTime(FieldType):
    """A `datetime.datetime`, with or without a time zone; ISO 8601 text in the bytes."""


@dataclasses.dataclass(frozen=True)
class EnumOf(FieldType):
    """A member of an `enum.Enum`; its value in the bytes."""

    cls: type[enum.Enum]

    @property
    def name(self) -> str:
        """The class's name."""
        return self.cls.__name__


@dataclasses.dataclass(frozen=True)
class LiteralOf(FieldType):
    """One of a few given values."""

    values: tuple[str | int | bool | None, ...]

    @property
    def name(self) -> str:
        """`one of …`."""
        return "one of " + ", ".join(map(repr, self.values))


@dataclasses.dataclass(frozen=True)
class OptionalOf(FieldType):
    """`inner` or None."""

    inner: FieldType

    @property
    def name(self) -> str:
        """`… or None`."""
        return f"{self.inner.name} or None"


@dataclasses.dataclass(frozen=True)
class ListOf(FieldType):
    """A list of `item`."""

    item: FieldType

    @property
    def name(self) -> str:
        """`list[…]`."""
        return f"list[{self.item.name}]"


@dataclasses.dataclass(frozen=True)
class TupleOf(FieldType):
    """A tuple of exactly `items`, or of any length of `items[0]` when `variadic`."""

    items: tuple[FieldType, ...]
    variadic: bool = False

    @property
    def name(self) -> str:
        """`tuple[…]`."""
        inner = ", ".join(item.name for item in self.items) + (", ..." if self.variadic else "")
        return f"tuple[{inner or '()'}]"


@dataclasses.dataclass(frozen=True)
class DictOf(FieldType):
    """A dict from str to `value`."""

    value: FieldType

    @property
    def name(self) -> str:
        """`dict[str, …]`."""
        return f"dict[str, {self.value.name}]"


@dataclasses.dataclass(frozen=True)
class Nested(FieldType):
    """Another packable class; a map in the bytes."""

    cls: type

    @property
    def name(self) -> str:
        """The class's name."""
        return self.cls.__name__


def dtype_name(dtype: np.dtype[Any]) -> str:
    """`float32`, `str`, `structured`: how people call a dtype, byte order aside."""
    if dtype.names is not None or dtype.kind == "V":
        return "structured" if dtype.names is not None or dtype.itemsize == 0 else dtype.str
    return {"U": "str", "S": "bytes"}.get(dtype.kind, dtype.newbyteorder("=").name)


_PRIMITIVES = {t: Primitive(t) for t in (str, int, float, bool, bytes, type(None))}


def field_type(hint: Any, path: str) -> FieldType:
    """The field type that an annotation (resolved, not text) declares.

    Args:
        hint: the annotation.
        path: the field's name for messages, for example `Digit.image`.

    Raises:
        SchemaError: the annotation is not one a sample may have; the message names those it may.
    """
    if hint is None:
        hint = type(None)
    hint = unaliased(hint)
    if isinstance(hint, type) and hint in _PRIMITIVES:
        return _PRIMITIVES[hint]
    if hint is Any:
        return AnyValue()
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _annotated(args, path)
    if hint is np.ndarray or origin is np.ndarray:
        return Array(_declared_dtype(args, path))
    if hint is Image:
        return ImageBytes()
    if hint is datetime:
        return DateTime()
    if origin is typing.Union or origin is types.UnionType:
        return _union(args, path)
    if origin is typing.Literal:
        return _literal(args, path)
    if hint is list or hint is collections.abc.Sequence:
        return ListOf(AnyValue())
    if origin is list or origin is collections.abc.Sequence:
        return ListOf(field_type(args[0], f"{path}[]"))
    if hint is tuple:
        return TupleOf((AnyValue(),), variadic=True)
    if origin is tuple:
        variadic = len(args) == 2 and args[1] is Ellipsis
        items = args[:1] if variadic else args
        return TupleOf(tuple(field_type(a, f"{path}[{i}]") for i, a in enumerate(items)), variadic)
    if hint is dict:
        return DictOf(AnyValue())
    if origin is dict:
        if args[0] is not str:
            raise SchemaError(f"keys of a dict field must be str, not {_show(args[0])}", field=path)
        return DictOf(field_type(args[1], f"{path}{{}}"))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum(hint, path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return Nested(hint)
    raise SchemaError(
        f"{_show(hint)} is not a type a sample field can have. Use str, int, float, bool, bytes, None, NDArray, "
        "atdata.Image, datetime, an Enum, Literal, list, tuple, dict[str, ...], Any, another packable class, or "
        "any of these `| None`",
        field=path,
    )


def unaliased(hint: Any) -> Any:
    """What a `type` alias stands for (PEP 695); newer releases of NumPy make `NDArray` one."""
    while True:
        alias = hint if hasattr(hint, "__value__") else typing.get_origin(hint)
        if not hasattr(alias, "__value__"):
            return hint
        args = typing.get_args(hint)
        hint = alias.__value__[args] if args else alias.__value__


def _show(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _annotated(args: tuple[Any, ...], path: str) -> FieldType:
    node = field_type(args[0], path)
    for note in args[1:]:
        if isinstance(note, Shape):
            inner = node.inner if isinstance(node, OptionalOf) else node
            if not isinstance(inner, Array):
                raise SchemaError(f"Shape describes arrays, not {node.name}", field=path)
            shaped = Array(inner.dtype, note.dims)
            node = OptionalOf(shaped) if isinstance(node, OptionalOf) else shaped
    return node


def _declared_dtype(args: tuple[Any, ...], path: str) -> np.dtype[Any] | None:
    if len(args) < 2:
        return None
    scalar = typing.get_args(args[1])
    if not scalar or not isinstance(scalar[0], type) or not issubclass(scalar[0], np.generic):
        return None  # NDArray without parameter, or NDArray[Any]
    if issubclass(scalar[0], np.object_):
        raise SchemaError("arrays of Python objects cannot be stored", field=path)
    try:
        # An abstract scalar type such as np.floating has no dtype of its own and declares nothing.
        return np.dtype(scalar[0]) if scalar[0] not in _ABSTRACT else None
    except TypeError:
        return None


_ABSTRACT = {
    np.generic, np.number, np.integer, np.signedinteger, np.unsignedinteger, np.inexact, np.floating,
    np.complexfloating, np.flexible, np.character,
}  # fmt: skip


def _union(args: tuple[Any, ...], path: str) -> FieldType:
    inner = [a for a in args if a is not type(None)]
    if len(inner) != 1 or len(inner) == len(args):
        raise SchemaError(
            "a union of several types is ambiguous in the bytes; only `T | None` can be stored", field=path
        )
    node = field_type(inner[0], path)
    return node if isinstance(node, OptionalOf) else OptionalOf(node)


def _literal(args: tuple[Any, ...], path: str) -> FieldType:
    if not args:
        raise SchemaError("a Literal without values can hold nothing", field=path)
    for value in args:
        if not (value is None or type(value) in (str, int, bool)):
            raise SchemaError(f"Literal value {value!r} is not a str, int, bool or None", field=path)
        _check_range(value, path)
    return LiteralOf(args)


def _enum(cls: type[enum.Enum], path: str) -> FieldType:
    members = list(cls)
    if issubclass(cls, enum.Flag) or not members or any(type(m.value) not in (str, int) for m in members):
        raise SchemaError(f"Enum {cls.__name__} must have members, with values of str or int", field=path)
    for member in members:
        _check_range(member.value, path)
    return EnumOf(cls)


def _check_range(value: Any, path: str) -> None:
    if type(value) is int and not -(2**63) <= value < 2**64:
        raise SchemaError(f"{value} does not fit into 64 bits", field=path)
