"""A plan for each class: how its samples become bytes and come back, worked out once.

A sample is a msgpack map in field order; see `atdata.samples.arrays` for arrays. Nothing else is in the bytes: no
extension types, no version, no class name.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import typing
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from atdata.errors import SampleDecodeError, SampleTypeError, SchemaError
from atdata.forks import shared_lock
from atdata.samples.decode import explain, from_wire, wire_type
from atdata.samples.encode import ArrayKind, ArrayWriter, Mismatch, check_dims, pack, small
from atdata.samples.fields import Array, FieldType, OptionalOf, Primitive, field_type

__all__ = ["Field", "Passes", "Plan", "map_header", "pass_on", "plan"]

MISSING = dataclasses.MISSING


class UnknownNameError(SchemaError):
    """An annotation names a class that is not there, or not yet."""


_NDARRAY = np.ndarray


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a sample type: name, type, and whether data may lack it."""

    name: str
    type: FieldType
    has_default: bool = False
    kw_only: bool = False


class Passes(typing.NamedTuple):
    """What is made of a sample while it is decoded: an object that its fields are passed on to.

    Attributes:
        view: the class of that.
        fields: for the arguments of its `__init__` that are a field of the sample, the name of that.
        made: for the others, what makes the value.
    """

    view: type
    fields: typing.Mapping[str, str]
    made: typing.Mapping[str, Callable[[], Any]]


class Plan:
    """How one sample class is written and read.

    Args:
        cls: the class.
        fields: its fields.
        passes: what is made of each sample while it is decoded; None for the sample itself.
    """

    def __init__(self, cls: type, fields: list[Field], passes: Passes | None = None) -> None:
        self.cls = cls
        self.fields = fields
        self.passes = passes
        self.nodes = {f.name: f.type for f in fields}
        # Packed name, the exact type that msgspec packs as it is (or ndarray), and the function for the rest.
        self._write: list[tuple[bytes, type | None, Any]] = []
        for f in fields:
            key = msgspec.msgpack.encode(f.name)
            array, optional = _array_node(f.type)
            if array is not None:
                self._write.append((key, _NDARRAY, ArrayWriter(array, optional)))
            else:
                exact = f.type.type if isinstance(f.type, Primitive) and f.type.type is not bytes else None
                self._write.append((key, exact, small(f.type)))
        self.array_fields = [f.name for f in fields if _array_node(f.type)[0] is not None]
        self._head = map_header(len(fields))
        self._values = _getter([f.name for f in fields])
        self.dims = self._named_dims()
        self._wire: tuple[Any, Any] | None = None
        self._raw: Callable[[bytes], Any] | None = None
        # Fields in the data that the class does not have: an error, unless the class is a selection of another's.
        self.ignore_unknown = False

    # -- writing ---------------------------------------------------------------------------------------------

    def encode(self, sample: Any) -> tuple[bytes, tuple[Any, ...], list[int], list[ArrayKind | None]]:
        """The bytes of `sample`, and what a manifest wants to know.

        Returns:
            The payload; the field values in field order; for each top-level array field the offset of its raw elements
            in the payload, -1 where there are none (None, or a structured array); and its dtype and shape.

        Raises:
            SampleTypeError: the sample or one of its values is not of the declared type.
        """
        if type(sample) is not self.cls and not isinstance(sample, self.cls):
            raise SampleTypeError(f"expected a {self.cls.__name__}, got {type(sample).__name__}")
        try:
            values = self._values(sample)
        except AttributeError as error:
            raise SampleTypeError(f"{self.cls.__name__}: {error}") from None
        parts: list[bytes | memoryview] = [self._head]
        raw: list[int] = []
        kinds: list[ArrayKind | None] = []
        size, counted = len(self._head), 1
        key = b""
        try:
            # As many values as fields, always; `strict` would take a tenth of the time to say so.
            for value, (key, exact, write) in zip(values, self._write):  # noqa: B905
                if exact is _NDARRAY:
                    prefix, data, kind = write(value)
                    parts += (key, prefix)
                    kinds.append(kind)
                    if data is None:
                        raw.append(-1)
                    else:
                        size += len(key) + len(prefix)
                        if len(parts) - counted > 2:  # scalars came in between
                            size += sum(map(len, parts[counted:-2]))
                        raw.append(size)
                        size += len(data)
                        parts.append(data)
                        counted = len(parts)
                elif type(value) is exact:
                    try:
                        parts += (key, pack(value))
                    except (UnicodeEncodeError, OverflowError):
                        write(value)  # says what is wrong
                        raise
                else:
                    parts += (key, write(value))
            if self.dims:
                self._check_dims(values)
        except Mismatch as error:
            path = f"{self.cls.__name__}.{msgspec.msgpack.decode(key)}{error.path}"
            raise SampleTypeError(f"{path}: {error.message}", field=path) from None
        # One copy, so that whoever makes the samples may reuse the arrays for the next one.
        return b"".join(parts), values, raw, kinds

    def spans(self, payload: bytes) -> list[tuple[int, int]]:
        """Where the packed value of each field begins and ends in a payload that `encode` made."""
        if self._raw is None:
            fields = [(f"f{i}", msgspec.Raw, msgspec.field(name=f.name)) for i, f in enumerate(self.fields)]
            struct = msgspec.defstruct(self.cls.__name__, fields, kw_only=True, gc=False)
            self._raw = msgspec.msgpack.Decoder(struct).decode
        found = []
        end = len(self._head)
        for (key, _, _), value in zip(self._write, msgspec.structs.astuple(self._raw(payload)), strict=True):
            begin = end + len(key)
            end = begin + memoryview(value).nbytes
            found.append((begin, end))
        return found

    def _check_dims(self, values: tuple[Any, ...]) -> None:
        sizes: dict[str, int] = {}
        for i, dims in self.dims:
            if values[i] is not None:
                try:
                    check_dims(sizes, dims, values[i].shape)
                except Mismatch as error:
                    path = f"{self.cls.__name__}.{self.fields[i].name}"
                    raise SampleTypeError(f"{path}: {error.message}", field=path) from None

    def _named_dims(self) -> list[tuple[int, tuple[int | str | None, ...]]]:
        found = []
        for i, f in enumerate(self.fields):
            array, _ = _array_node(f.type)
            if array is not None and array.dims and any(isinstance(d, str) for d in array.dims):
                found.append((i, array.dims))
        return found

    # -- reading ---------------------------------------------------------------------------------------------

    def decode(self, payload: bytes | memoryview) -> Any:
        """The sample in `payload`; its arrays are read-only views of it.

        Raises:
            SampleDecodeError: the bytes are not a sample of this class.
        """
        decoder, build = self._wire or self._compile()
        try:
            return build(decoder(payload))
        except Mismatch as error:
            raise self._error(error) from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._error(explain(error, self.nodes)) from None

    def from_map(self, value: Any) -> Any:
        """The sample in a map that msgspec has decoded already (a nested class)."""
        self._wire or self._compile()
        try:
            return self._build_checked(value)
        except msgspec.ValidationError as error:
            raise explain(error, self.nodes) from None

    def _error(self, error: Mismatch) -> SampleDecodeError:
        path = f"{self.cls.__name__}{error.path}"
        return SampleDecodeError(f"{path}: {error.message}", field=path)

    def _compile(self) -> tuple[Any, Any]:
        names = [f"f{i}" for i in range(len(self.fields))]
        spec: list[tuple[str, Any, Any]] = []
        for name, f in zip(names, self.fields, strict=True):
            wire = wire_type(f.type)
            if f.has_default:
                wire = wire if wire is Any else wire | msgspec.UnsetType
                spec.append((name, wire, msgspec.field(name=f.name, default=msgspec.UNSET)))
            else:
                spec.append((name, wire, msgspec.field(name=f.name)))
        struct = msgspec.defstruct(
            self.cls.__name__, spec, kw_only=True, forbid_unknown_fields=not self.ignore_unknown, gc=False
        )
        decoder = msgspec.msgpack.Decoder(struct).decode
        build = self._builder()
        self._build_checked: Callable[[Any], Any] = lambda value: build(msgspec.convert(value, struct))
        self._wire = (decoder, build)
        return self._wire

    def make(self, values: dict[str, Any]) -> Any:
        """The sample, or what is made of it, of field values by name; those with a default may be missing."""
        if self.passes is None:
            return self.cls(**values)
        for name, default in _defaults(self.cls).items():
            if name not in values:
                values[name] = default()
        return self._passed()([values[f.name] for f in self.fields])

    def _passed(self) -> Callable[[list[Any]], Any]:
        """What makes the view of field values, in the order of the fields."""
        assert self.passes is not None
        view, origins, made = self.passes
        index = {f.name: i for i, f in enumerate(self.fields)}
        arguments = [(f.name, f.kw_only) for f in plan(view).fields]
        makers = [made[name] for name, _ in arguments if name in made]
        order, at = [], len(index)
        for name, _ in arguments:
            order.append(index[origins[name]] if name in origins else at)
            at += name in made
        pick: Any = operator.itemgetter(*order) if len(order) > 1 else lambda values: (values[order[0]],)
        straight = order == list(range(len(index)))
        if not makers and not any(by_name for _, by_name in arguments):
            return (lambda values: view(*values)) if straight else lambda values: view(*pick(values))
        names = [name for name, _ in arguments]

        def passed(values: list[Any]) -> Any:
            values += [maker() for maker in makers]
            return view(**dict(zip(names, pick(values), strict=True)))

        return passed

    def _builder(self) -> Callable[[Any], Any]:
        cls, fields = self.cls, self.fields
        names = [f.name for f in fields]
        unset = msgspec.UNSET
        converts = [(i, c) for i, f in enumerate(fields) if (c := from_wire(f.type)) is not None]
        maybe = [i for i, f in enumerate(fields) if f.has_default]
        by_name = any(f.kw_only for f in fields)
        astuple = msgspec.structs.astuple
        passed = None if self.passes is None else self._passed()
        fills = [] if passed is None else [(names.index(n), d) for n, d in _defaults(cls).items()]

        def build(wire: Any) -> Any:
            values = list(astuple(wire))
            i = 0
            try:
                for i, convert in converts:
                    if values[i] is not unset:
                        values[i] = convert(values[i])
            except Mismatch as error:
                raise Mismatch(error.message, f".{names[i]}{error.path}") from None
            if passed is not None:
                for i, default in fills:
                    if values[i] is unset:
                        values[i] = default()
                return passed(values)
            for i in maybe:
                if values[i] is unset:
                    return cls(**{n: v for n, v in zip(names, values, strict=True) if v is not unset})
            return cls(**dict(zip(names, values, strict=True))) if by_name else cls(*values)

        return build


def _defaults(cls: type) -> dict[str, Callable[[], Any]]:
    """What makes the default of each field that has one, of a class whose own `__init__` does no more."""
    found: dict[str, Callable[[], Any]] = {}
    for f in dataclasses.fields(cls):
        if f.default is not MISSING:
            found[f.name] = functools.partial(_same, f.default)
        elif f.default_factory is not MISSING:
            found[f.name] = f.default_factory
    return found


def _same(value: Any) -> Any:
    return value


def _array_node(node: FieldType) -> tuple[Array | None, bool]:
    if isinstance(node, Array):
        return node, False
    if isinstance(node, OptionalOf) and isinstance(node.inner, Array):
        return node.inner, True
    return None, False


def map_header(n: int) -> bytes:
    """The msgpack header of a map of `n` pairs."""
    if n < 16:
        return bytes([0x80 | n])
    return b"\xde" + n.to_bytes(2, "big") if n < 65536 else b"\xdf" + n.to_bytes(4, "big")


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) == 1:
        get = operator.attrgetter(names[0])
        return lambda sample: (get(sample),)
    return operator.attrgetter(*names) if names else lambda sample: ()


class _Holder:
    """Keeps a plan on its class, so that both can go together; a copy or a pickle of it is empty."""

    __slots__ = ("plan",)

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Holder, ())


_lock = shared_lock()


def pass_on(cls: type, passes: Passes) -> None:
    """Let what `passes` says be made of every sample of `cls` that is decoded.

    The class is made for this alone; its fields are read in the order in which the view wants them.
    """
    before = plan(cls)
    first = list(dict.fromkeys(passes.fields.values()))
    fields = sorted(before.fields, key=lambda f: first.index(f.name) if f.name in first else len(first))
    made = Plan(cls, fields, passes)
    made.ignore_unknown = before.ignore_unknown
    cls.__atdata_plan__ = _Holder(made)  # type: ignore[attr-defined]


def plan(cls: type) -> Plan:
    """The plan of a packable class, made on first use.

    Raises:
        SchemaError: `cls` is not packable, or has a field that cannot be stored.
    """
    try:
        found: Plan | None = cls.__atdata_plan__.plan  # type: ignore[attr-defined]
        if found is not None and found.cls is cls:  # not that of a base class
            return found
    except AttributeError:
        pass
    made = Plan(cls, _fields(cls))
    with _lock:
        holder: Any = vars(cls).get("__atdata_plan__")
        if holder is None or holder.plan is None or holder.plan.cls is not cls:
            cls.__atdata_plan__ = holder = _Holder(made)  # type: ignore[attr-defined]
    return typing.cast(Plan, holder.plan)


def _fields(cls: type) -> list[Field]:
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise SchemaError(f"{cls!r} is not a sample type: decorate the class with @atdata.packable")
    name = cls.__name__
    for pseudo in vars(cls).get("__dataclass_fields__", {}).values():
        if pseudo._field_type is dataclasses._FIELD_INITVAR:  # type: ignore[attr-defined]
            raise SchemaError(
                "an InitVar is not stored, so the sample could not be rebuilt", field=f"{name}.{pseudo.name}"
            )
    names: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names.update(vars(base).get("__atdata_names__", {}))
    try:
        hints = typing.get_type_hints(cls, localns=names or None, include_extras=True)
    except NameError as error:
        raise UnknownNameError(
            f"an annotation names {error.name!r}, which is not defined where {name} is", field=name
        ) from None
    fields = []
    for f in dataclasses.fields(cls):
        if not f.init:
            continue  # derived in __post_init__ from the others, so derived again when read
        if f.name.startswith("__"):
            raise SchemaError("names beginning with two underscores are reserved", field=f"{name}.{f.name}")
        node = field_type(hints[f.name], f"{name}.{f.name}")
        default = not (f.default is MISSING and f.default_factory is MISSING)
        fields.append(Field(f.name, node, default, bool(f.kw_only)))
    if not fields:
        raise SchemaError(f"{name} has no fields to store")
    return fields
