"""From the values of one field type to those of another, and back.

A conversion keeps what a value says, or refuses it (`LensValueError`); only floats are rounded, where they are cast to
narrower ones or scaled. Back goes only what comes out again: an unchanged value is written as it was, a changed one
when it survives the way back and there, and the one before it the way there and back. That is what makes the laws hold.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from datetime import datetime
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np

from atdata.errors import AtdataError, LensValueError
from atdata.lenses.columns import rows, stack
from atdata.lenses.numbers import array_numbers, scalar_numbers
from atdata.samples import codec
from atdata.samples.decode import explain, from_wire, wire_type
from atdata.samples.encode import Mismatch, small, to_wire
from atdata.samples.evolution import compare
from atdata.samples.fields import (
    AnyValue,
    Array,
    DateTime,
    DictOf,
    EnumOf,
    FieldType,
    ImageBytes,
    ListOf,
    Nested,
    OptionalOf,
    Primitive,
    TupleOf,
)
from atdata.samples.images import Image
from atdata.samples.schema import Schema, SchemaField

__all__ = ["Conversion", "conversion"]

Convert = Callable[[Any], Any]
Pair = tuple[Convert, Convert]


class Conversion:
    """One way to see values of a field type as values of another.

    Attributes:
        there: gives the value that one of the old type is seen as.
        plain_back: the other way, whatever the value was before.
        free: whether every value of the one is a value of the other, so that nobody has to ask for the cast.
    """

    def __init__(
        self,
        old: FieldType,
        new: FieldType,
        there: Convert,
        back: Convert,
        *,
        free: bool = False,
        whole: Convert | None = None,
    ) -> None:
        self.there = there
        self.plain_back = back
        self.free = free
        self._whole = whole
        # What is written in the same bytes is the same, also NaN; 0.0 and -0.0 are not.
        self._old, self._new = checked_bytes(old), checked_bytes(new)

    def back(self, value: Any, was: Any) -> Any:
        """The value that is seen as `value`, in place of `was`.

        Raises:
            LensValueError: there is none, or `was` lost something when it was seen, so that a change cannot be kept.
        """
        seen, wanted = self.there(was), self._new(value)
        if wanted == self._new(seen):
            return was
        made = self.plain_back(value)
        again = self.there(made)
        if wanted != self._new(again):
            raise LensValueError(f"{_show(value)} cannot be written back: it would be read as {_show(again)}")
        if self._old(self.plain_back(seen)) != self._old(was):
            raise LensValueError(
                f"the source's {_show(was)} is only read approximately, as {_show(seen)}, so it cannot be changed"
            )
        return made

    def column(self, values: Any) -> Any:
        """`there` for a whole column."""
        if self._whole is not None and isinstance(values, np.ndarray):
            return self._whole(values)
        return stack([self.there(value) for value in rows(values)])


def checked_bytes(node: FieldType) -> Callable[[Any], bytes]:
    """A function from values of a field type to their msgpack bytes, which refuses others (`LensValueError`)."""
    write = small(node)

    def checked(value: Any) -> bytes:
        try:
            return write(value)
        except Mismatch as error:
            raise LensValueError(f"{error.path}{error.path and ': '}{error.message}") from None

    return checked


def _show(value: Any) -> str:
    return f"array of {value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.60}"


def _same(value: Any) -> Any:
    return value


def conversion(old: FieldType, new: FieldType, factor: Fraction = Fraction(1)) -> Conversion | None:
    """How values of `old` are seen as values of `new`, times a factor; None when they cannot be.

    Example:
        >>> to_float = conversion(Primitive(int), Primitive(float))
        >>> to_float.there(3), to_float.back(4.0, 3), to_float.free
        (3.0, 4, False)
    """
    if factor == 1 and (found := _contained(old, new)) is not None:
        return found
    pair = _pair(old, new, factor)
    if pair is None:
        return None
    whole = _whole(old, new, factor) if isinstance(old, Array) and isinstance(new, Array) else None
    return Conversion(old, new, *pair, whole=whole)


# -- where one type's values are among the other's -----------------------------------------------------------


def _contained(old: FieldType, new: FieldType) -> Conversion | None:
    if old == new:
        return Conversion(old, new, _same, _same, free=True, whole=_same)
    wider, narrower = _readable(old, new), _readable(new, old)
    if not wider and not narrower:
        return None
    if not _as_is(old, new):
        there, back = _reread(old, new), _reread(new, old)
        return Conversion(old, new, there if wider else _lossless(old, there, back), back, free=wider)
    if wider:
        return Conversion(old, new, _same, _fits(old), free=True, whole=_same)
    return Conversion(old, new, _fits(new), _same, whole=_fits_whole(new))


def _readable(old: FieldType, new: FieldType) -> bool:
    before, now = (Schema("Value", (SchemaField("value", node),)) for node in (old, new))
    # A sample has a value for every field, whether or not its bytes may lack one.
    return all(d.readable or d.kind == "default" for d in compare(before, now).differences)


def _known(node: FieldType, wire: Any) -> Any:
    """`wire` without the fields that nested samples of `node` do not have."""
    match node:
        case OptionalOf():
            return None if wire is None else _known(node.inner, wire)
        case ListOf() if isinstance(wire, list):
            return [_known(node.item, item) for item in wire]
        case DictOf() if isinstance(wire, dict):
            return {key: _known(node.value, item) for key, item in wire.items()}
        case TupleOf() if isinstance(wire, list):
            items = itertools.repeat(node.items[0]) if node.variadic else node.items
            return [_known(item, value) for item, value in zip(items, wire, strict=False)]
        case Nested() if isinstance(wire, dict):
            nodes = codec.plan(node.cls).nodes
            return {name: _known(nodes[name], value) for name, value in wire.items() if name in nodes}
    return wire


def _as_is(old: FieldType, new: FieldType) -> bool:
    """Whether a value that both types allow is the same Python object in both: the classes in them are the same."""
    match old, new:
        case (OptionalOf(), _):
            return _as_is(old.inner, new.inner if isinstance(new, OptionalOf) else new)
        case (_, OptionalOf()):
            return _as_is(old, new.inner)
        case (_, AnyValue()) | (AnyValue(), _):
            return True
        case (ListOf(), ListOf()):
            return _as_is(old.item, new.item)
        case (DictOf(), DictOf()):
            return _as_is(old.value, new.value)
        case (TupleOf(), TupleOf()):
            return all(_as_is(a, b) for a in old.items for b in new.items)
        case (EnumOf(), EnumOf()):
            return old.cls is new.cls
        case (Nested(), Nested()):
            return old.cls is new.cls
    return True


def _fits(node: FieldType) -> Convert:
    if isinstance(node, Array):
        return lambda value: _check_array(node, value)
    write = checked_bytes(node)

    def check(value: Any) -> Any:
        write(value)
        return value

    return check


def _fits_whole(node: FieldType) -> Convert | None:
    return (lambda values: _check_array(node, values, 1)) if isinstance(node, Array) else None


def _check_array(node: Array, value: Any, skip: int = 0) -> Any:
    """`value` when it is an array of that dtype and shape, whose first `skip` dimensions are not the array's own."""
    if not isinstance(value, np.ndarray):
        raise LensValueError(f"expected {node.name}, got {type(value).__name__}")
    if wrong := node.mismatch(value.dtype, value.shape[skip:]):
        raise LensValueError(wrong)
    return value


def _lossless(node: FieldType, there: Convert, back: Convert) -> Convert:
    write = checked_bytes(node)

    def checked(value: Any) -> Any:
        made = there(value)
        if write(back(made)) != write(value):
            raise LensValueError(f"{_show(value)} has parts for which there is no place")
        return made

    return checked


def _reread(old: FieldType, new: FieldType) -> Convert:
    """Writes a value of the one and reads it as the other, without the fields it has not: how classes meet."""
    write, decode, convert = to_wire(old), msgspec.msgpack.Decoder(wire_type(new)).decode, from_wire(new) or _same

    def reread(value: Any) -> Any:
        try:
            return convert(decode(msgspec.msgpack.encode(_known(new, write(value)))))
        except msgspec.MsgspecError as error:
            problem: Exception = explain(error, {})
        except (Mismatch, AtdataError) as error:
            problem = error
        path, message = getattr(problem, "path", ""), getattr(problem, "message", str(problem))
        raise LensValueError(f"{path}{path and ': '}{message}") from None

    return reread


# -- where they are not --------------------------------------------------------------------------------------


def _pair(old: FieldType, new: FieldType, factor: Fraction) -> Pair | None:
    if isinstance(old, OptionalOf) or isinstance(new, OptionalOf):
        return _optional(old, new, factor)
    match old, new:
        case (Primitive(), Primitive()):
            there, back = scalar_numbers(old.type, new.type, factor), scalar_numbers(new.type, old.type, 1 / factor)
            if there is not None and back is not None:
                return there, back
        case (Array(), Array()):
            return _arrays(old, new, factor)
        case (ListOf(), ListOf()):
            return _each(old.item, new.item, factor, list, list)
        case (TupleOf(), TupleOf()) if old.variadic and new.variadic:
            return _each(old.items[0], new.items[0], factor, tuple, tuple)
        case (ListOf(), TupleOf()) if new.variadic:
            return _each(old.item, new.items[0], factor, tuple, list)
        case (TupleOf(), ListOf()) if old.variadic:
            return _each(old.items[0], new.item, factor, list, tuple)
        case (DictOf(), DictOf()):
            return _values(old.value, new.value, factor)
    return _texts(old, new) if factor == 1 else None


def _optional(old: FieldType, new: FieldType, factor: Fraction) -> Pair | None:
    inside = [n.inner if isinstance(n, OptionalOf) else n for n in (old, new)]
    inner = conversion(inside[0], inside[1], factor)
    if inner is None:
        return None

    def through(convert: Convert, allowed: bool) -> Convert:
        def some(value: Any) -> Any:
            if value is None and not allowed:
                raise LensValueError("None is not possible there")
            return None if value is None else convert(value)

        return some

    return through(inner.there, isinstance(new, OptionalOf)), through(inner.plain_back, isinstance(old, OptionalOf))


def _each(old: FieldType, new: FieldType, factor: Fraction, made: type, was: type) -> Pair | None:
    inner = conversion(old, new, factor)
    if inner is None:
        return None
    there, back = inner.there, inner.plain_back
    return (lambda values: made(map(there, values))), (lambda values: was(map(back, values)))


def _values(old: FieldType, new: FieldType, factor: Fraction) -> Pair | None:
    inner = conversion(old, new, factor)
    if inner is None:
        return None

    def over(convert: Convert) -> Convert:
        return lambda values: {key: convert(value) for key, value in values.items()}

    return over(inner.there), over(inner.plain_back)


def _arrays(old: Array, new: Array, factor: Fraction) -> Pair | None:
    if old.dtype is None or new.dtype is None:
        return None
    there, back = array_numbers(old.dtype, new.dtype, factor), array_numbers(new.dtype, old.dtype, 1 / factor)
    if there is None or back is None:
        return None

    def checked(convert: Convert, before: Array, after: Array) -> Convert:
        return lambda value: _check_array(after, convert(_check_array(before, value)))

    return checked(there, old, new), checked(back, new, old)


def _whole(old: Array, new: Array, factor: Fraction) -> Convert | None:
    if old.dtype is None or new.dtype is None:
        return None
    convert = array_numbers(old.dtype, new.dtype, factor)
    return None if convert is None else lambda values: _check_array(new, convert(_check_array(old, values, 1)), 1)


_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}", re.ASCII)
_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|-?inf|nan", re.ASCII | re.IGNORECASE)


def _texts(old: FieldType, new: FieldType) -> Pair | None:
    """Two types of which one is another form of the other."""
    if (pair := _forms(old, new)) is not None:
        return pair
    return None if (pair := _forms(new, old)) is None else pair[::-1]


def _forms(old: FieldType, new: FieldType) -> Pair | None:
    match old, new:
        case (EnumOf(), Primitive()) if all(type(m.value) is new.type for m in old.cls):
            return (lambda member: member.value), _member(old)
        case (Primitive(), Primitive()) if old.type is int and new.type is str:
            return int.__repr__, lambda text: int(_match(_INTEGER, text, "a whole number, as Python writes it"))
        case (Primitive(), Primitive()) if old.type is float and new.type is str:
            return float.__repr__, lambda text: float(_match(_FLOAT, text, "a number"))
        case (DateTime(), Primitive()) if new.type is str:
            return datetime.isoformat, _parse_datetime
        case (ImageBytes(), Primitive()) if new.type is bytes:
            return (lambda image: image.data), Image
    return None


def _member(node: EnumOf) -> Convert:
    members = {(type(m.value), m.value): m for m in node.cls}

    def find(value: Any) -> Any:
        if (type(value), value) not in members:
            raise LensValueError(f"{value!r:.60} is not a member of {node.name}")
        return members[type(value), value]

    return find


def _match(pattern: re.Pattern[str], text: str, what: str) -> str:
    if len(text) > 1000 or not pattern.fullmatch(text):
        raise LensValueError(f"{text!r:.60} is not {what}")
    return text


def _parse_datetime(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise LensValueError(f"{text!r:.60} is not a date and time (ISO 8601)") from None
