"""What changed from one schema to another, field by field, and whether data of the one can be read as the other.

The rule: data can be read when every sample that the old schema allows is, with the same values, a sample of the new
one. So it is no matter when a field with a default is added, or a type widened (`int` to `int | None`, a member more in
an enum); a field that is gone, one without a default, another type or a narrower one all break it. Nothing is
converted: where `int` becomes `float`, or `float32` arrays `float64` ones, that takes a lens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from atdata.errors import SchemaError
from atdata.samples import codec
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
from atdata.samples.schema import Schema, SchemaField

__all__ = ["Difference", "Evolution", "FieldEvolution", "check_readable", "compare"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """One thing that is not as it was.

    Attributes:
        path: where, from the sample's field inwards: `box.corner`, `boxes[].label`, `table{}`.
        kind: "added" and "removed" fields; "default": another one, one more or one less; "widened": all that was
            allowed still is, and more; "narrowed": not all of it is; "type": another type altogether.
        readable: whether data written before can still be read.
        old: the type or default before, as text; None for an added field.
        new: the same now; None for a removed field.
        reason: what the two texts do not say; may be empty.
    """

    path: str
    kind: Literal["added", "removed", "default", "widened", "narrowed", "type"]
    readable: bool
    old: str | None
    new: str | None
    reason: str = ""

    def __str__(self) -> str:
        because = f" ({self.reason})" if self.reason else ""
        if self.old is None:
            return f"+ {self.path}: {self.new}{because}"
        if self.new is None:
            return f"- {self.path}: {self.old}{because}"
        return f"{'~' if self.readable else '!'} {self.path}: {self.old} -> {self.new}{because}"


@dataclasses.dataclass(frozen=True)
class FieldEvolution:
    """One field of the sample, before and now.

    Attributes:
        name: its name.
        old: the field before; None when it was added.
        new: the field now; None when it was removed.
        differences: what is not as it was, in it or anywhere inside; empty when nothing is.
    """

    name: str
    old: SchemaField | None
    new: SchemaField | None
    differences: tuple[Difference, ...] = ()

    @property
    def readable(self) -> bool:
        """Whether data written before can still be read, as far as this field goes."""
        return all(d.readable for d in self.differences)


@dataclasses.dataclass(frozen=True)
class Evolution:
    """How one schema became another.

    Attributes:
        old: the schema that data was written with.
        new: the schema it shall be read with.
        fields: every field of either: those of `new` in their order, then those that are gone.

    Example:
        >>> import atdata
        >>> @atdata.packable
        ... class Digit:
        ...     label: int
        >>> before = Schema.of(Digit)
        >>> @atdata.packable
        ... class Digit:
        ...     label: int | None
        ...     note: str = ""
        >>> print(compare(before, Schema.of(Digit, version="1.1.0")))
        Digit 1.0.0 -> 1.1.0: minor, older data can be read
          ~ label: int -> int or None
          + note: str, default ''
    """

    old: Schema
    new: Schema
    fields: tuple[FieldEvolution, ...]

    @property
    def differences(self) -> tuple[Difference, ...]:
        """All differences, in the order of the fields."""
        return tuple(d for field in self.fields for d in field.differences)

    @property
    def readable(self) -> bool:
        """Whether data of `old` can be read as samples of `new`."""
        return all(field.readable for field in self.fields)

    @property
    def change(self) -> Literal["minor", "major"] | None:
        """The part of the version that has to rise; None when bytes are read as before.

        Descriptions, and whether a field is given by name only, do not matter to the bytes.
        """
        if self.old.cid == self.new.cid:
            return None
        return "minor" if self.readable else "major"

    def __str__(self) -> str:
        names = f"{self.old.name} {self.old.version} -> "
        names += self.new.version if self.new.name == self.old.name else f"{self.new.name} {self.new.version}"
        can = "older data can be read" if self.readable else "older data cannot be read"
        head = f"{names}: {self.change or 'no change'}, {can}"
        return "\n".join([head, *(f"  {d}" for d in self.differences)])


def compare(old: Schema, new: Schema) -> Evolution:
    """What changed from `old` to `new`."""
    before, now = ([(f, f.optional) for f in schema.fields] for schema in (old, new))
    return Evolution(old, new, tuple(_Walk(_stored_fields).fields(before, now)))


def check_readable(schema: Schema, sample_type: type, *, url: str | None = None) -> None:
    """Refuse to read data of `schema` as samples of a class that it does not fit.

    Args:
        schema: what the data was written with.
        sample_type: a packable class.
        url: where the data is, for the message.

    Raises:
        SchemaError: the data cannot be read so; the message names each field and says why.
    """
    before = [(f, f.optional) for f in schema.fields]
    found = _Walk(_plain_fields).fields(before, _plain_fields(sample_type))
    wrong = [d for field in found for d in field.differences if not d.readable]
    if wrong:
        shown = [_against(d, sample_type.__name__) for d in wrong[:5]]
        shown += [f"and {len(wrong) - 5} more"] if len(wrong) > 5 else []
        raise SchemaError(
            f"the data ({schema.name} {schema.version}) cannot be read as {sample_type.__name__}: {'; '.join(shown)}",
            url=url,
            field=f"{sample_type.__name__}.{wrong[0].path}" if len(wrong) == 1 else None,
        )


def _against(d: Difference, name: str) -> str:
    """A difference between data and a class, as words."""
    because = f" ({d.reason})" if d.reason else ""
    if d.old is None:
        return f"{d.path} is not in the data, and has no default in {name}"
    if d.new is None:
        return f"{d.path} is not a field of {name}; add it, or read without a class and use select_fields"
    return f"{d.path} is {d.old} in the data and {d.new} in {name}{because}"


# What a schema or a class says of its fields, and whether data may lack each.
_Fields = Sequence[tuple[SchemaField, bool]]


def _stored_fields(cls: type) -> _Fields:
    """A class's fields with what a schema says of them."""
    return [(f, f.optional) for f in Schema.of(cls).fields]


def _plain_fields(cls: type) -> _Fields:
    """A class's fields as far as reading goes; a class may have defaults that no schema can hold (the time now)."""
    return [(SchemaField(f.name, f.type, None, f.kw_only), f.has_default) for f in codec.plan(cls).fields]


class _Walk:
    """Goes through two types side by side.

    Args:
        fields_of: the fields of a nested class.
    """

    def __init__(self, fields_of: Callable[[type], _Fields]) -> None:
        self._fields_of = fields_of
        self._seen: set[tuple[type, type]] = set()

    def fields(self, old: _Fields, new: _Fields, path: str = "") -> Iterator[FieldEvolution]:
        """Each field of either; `path` is what stands before their names."""
        before = {f.name: (f, optional) for f, optional in old}
        tied = _tied_dims([f for f, _ in old], [f for f, _ in new], path)
        for f, optional in new:
            where = path + f.name
            if not path:
                self._seen.clear()  # each field of the sample has its own differences, also those of one class
            if f.name not in before:
                text = f"{f.type.name}, {_default(f, optional)}"
                lack = "" if optional else "older data lacks it"
                yield FieldEvolution(f.name, None, f, (Difference(where, "added", optional, None, text, lack),))
                continue
            was, could_lack = before[f.name]
            found = list(self._types(was.type, f.type, where))
            both = was.default is not None and f.default is not None
            if could_lack != optional or (both and was.default != f.default):
                lost = could_lack and not optional
                texts = _default(was, could_lack), _default(f, optional)
                found.append(Difference(where, "default", not lost, *texts, "older data may lack it" if lost else ""))
            yield FieldEvolution(f.name, was, f, (*found, *tied.get(f.name, ())))
        names = {f.name for f, _ in new}
        for f, optional in old:
            if f.name not in names:
                text = f"{f.type.name}, {_default(f, optional)}"
                gone = Difference(path + f.name, "removed", False, text, None, "older data has it")
                yield FieldEvolution(f.name, f, None, (gone,))

    def _types(self, old: FieldType, new: FieldType, path: str) -> Iterator[Difference]:
        """The differences of two types; one that is not readable means that some value of `old` is none of `new`."""

        def differ(kind: _TypeKind, reason: str = "") -> Difference:
            return Difference(path, kind, kind == "widened", old.name, new.name, reason)

        match old, new:
            case (OptionalOf(), OptionalOf()):
                yield from self._types(old.inner, new.inner, path)
            case (_, AnyValue()) if not isinstance(old, AnyValue):
                if _comes_back(old):
                    yield differ("widened")
                else:
                    yield differ("type", f"without its type, {old.name} would be read as something else")
            case (Primitive(), OptionalOf()) if old.type is type(None):
                yield differ("widened")
            case (LiteralOf(), LiteralOf() | Primitive() | OptionalOf()):
                yield from _literals(old, new, differ)
            case (_, OptionalOf()):
                inner = list(self._types(old, new.inner, path))
                yield from inner if any(not d.readable for d in inner) else [differ("widened")]
            case (OptionalOf(), _):
                if not _takes(new, None):
                    yield differ("narrowed", "None is not allowed any more")
                else:
                    yield from self._types(old.inner, new, path)
            case (AnyValue(), _) if not isinstance(new, AnyValue):
                yield differ("narrowed")
            case (Primitive(), Primitive()):
                if old.type is not new.type:
                    inexact = (old.type, new.type) == (int, float)
                    yield differ("type", "not every int is exactly a float" if inexact else "")
            case (Array(), Array()):
                yield from _arrays(old, new, differ)
            case (EnumOf(), EnumOf()):
                yield from _enums(old, new, differ)
            case (ListOf(), ListOf()):
                yield from self._types(old.item, new.item, path + "[]")
            case (DictOf(), DictOf()):
                yield from self._types(old.value, new.value, path + "{}")
            case (TupleOf(), TupleOf()):
                yield from self._tuples(old, new, path, differ)
            case (Nested(), Nested()):
                pair = (old.cls, new.cls)
                if old.cls is not new.cls and pair not in self._seen:
                    self._seen.add(pair)
                    for field in self.fields(self._fields_of(old.cls), self._fields_of(new.cls), f"{path}."):
                        yield from field.differences
            case (ImageBytes(), ImageBytes()) | (DateTime(), DateTime()) | (AnyValue(), AnyValue()):
                return
            case _:
                yield differ("type")

    def _tuples(self, old: TupleOf, new: TupleOf, path: str, differ: _Differ) -> Iterator[Difference]:
        if new.variadic:
            for i, item in enumerate(old.items):
                yield from self._types(item, new.items[0], f"{path}[{'' if old.variadic else i}]")
            if not old.variadic:
                yield differ("widened")
        elif old.variadic or len(old.items) != len(new.items):
            yield differ("narrowed" if old.variadic else "type")
        else:
            for i, (a, b) in enumerate(zip(old.items, new.items, strict=True)):
                yield from self._types(a, b, f"{path}[{i}]")


_TypeKind = Literal["widened", "narrowed", "type"]
_Differ = Callable[..., Difference]


def _default(field: SchemaField, optional: bool) -> str:
    if field.default is None:
        return "with a default" if optional else "no default"
    value = field.default_value()
    plain = value is None or isinstance(value, str | int | float | bytes)
    return f"default {value!r:.40}" if plain else f"with a default ({type(value).__name__})"


def _comes_back(node: FieldType) -> bool:
    """Whether a value of the type, read without knowing the type, is the same value."""
    match node:
        case Primitive() | LiteralOf() | AnyValue():
            return True
        case OptionalOf():
            return _comes_back(node.inner)
        case ListOf():
            return _comes_back(node.item)
        case DictOf():
            return _comes_back(node.value)
    return False


def _takes(node: FieldType, value: str | int | bool | None) -> bool:
    """Whether a value is one of the type, and read as itself."""
    match node:
        case LiteralOf():
            return any(type(v) is type(value) and v == value for v in node.values)
        case OptionalOf():
            return value is None or _takes(node.inner, value)
        case Primitive():
            return type(value) is node.type
        case AnyValue():
            return True
    return False


def _literals(old: LiteralOf, new: FieldType, differ: _Differ) -> Iterator[Difference]:
    lost = [v for v in old.values if not _takes(new, v)]
    if len(lost) == len(old.values):
        yield differ("type" if not isinstance(new, LiteralOf) else "narrowed")
    elif lost:
        yield differ("narrowed", f"{', '.join(map(repr, lost[:5]))} cannot be read any more")
    elif not isinstance(new, LiteralOf) or not all(_takes(old, v) for v in new.values):
        yield differ("widened")


def _enums(old: EnumOf, new: EnumOf, differ: _Differ) -> Iterator[Difference]:
    # By name as well: a value that means another member now would be read as the wrong one.
    before, now = ({(n, type(m.value), m.value) for n, m in node.cls.__members__.items()} for node in (old, new))
    if lost := sorted(f"{name} = {value!r}" for name, _, value in before - now):
        yield differ("narrowed", f"{', '.join(lost[:5])} is not there any more")
    elif now - before:
        yield differ("widened", f"{', '.join(sorted(n for n, _, _ in now - before)[:5])} added")


def _arrays(old: Array, new: Array, differ: _Differ) -> Iterator[Difference]:
    if new.dtype is not None:
        if old.dtype is None:
            yield differ("narrowed")
            return
        if Array(new.dtype).mismatch(old.dtype, ()) is not None:
            yield differ("type")
            return
    if new.dims is not None and (
        old.dims is None
        or len(old.dims) != len(new.dims)
        or any(isinstance(n, int) and o != n for o, n in zip(old.dims, new.dims, strict=True))
    ):
        yield differ("narrowed")
    elif (old.dtype is None) != (new.dtype is None) or old.dims != new.dims:
        yield differ("widened")


def _tied_dims(old: Sequence[SchemaField], new: Sequence[SchemaField], path: str) -> dict[str, list[Difference]]:
    """Dimensions that have one name now, and so one size, where they could have had different sizes before."""
    before = {f.name: (f.type, _dims(f.type)) for f in old}
    first: dict[str, tuple[str, int | str | None]] = {}
    found: dict[str, list[Difference]] = {}
    for f in new:
        was, were = before.get(f.name, (None, ()))
        dims = _dims(f.type)
        if was is None or len(were) != len(dims):
            continue
        for name, size in zip(dims, were, strict=True):
            if not isinstance(name, str):
                continue
            if name not in first:
                first[name] = f.name, size
                continue
            where, same = first[name]
            if same is None or size != same:
                reason = f"dimension {name!r} is also one of {path}{where}; older data may have another size there"
                found.setdefault(f.name, []).append(
                    Difference(path + f.name, "narrowed", False, was.name, f.type.name, reason)
                )
    return found


def _dims(node: FieldType) -> tuple[int | str | None, ...]:
    inner = node.inner if isinstance(node, OptionalOf) else node
    return inner.dims or () if isinstance(inner, Array) else ()
