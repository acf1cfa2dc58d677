"""`@packable`: a class whose instances can be stored."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
import uuid
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar, dataclass_transform, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from atdata.errors import SampleDecodeError, SchemaError
from atdata.samples import codec

__all__ = [
    "MEMBERS",
    "Packable",
    "equal_values",
    "keeps_values",
    "make_packable",
    "only_keeps",
    "pack",
    "packable",
    "unpack",
]

T = TypeVar("T")


@runtime_checkable
class Packable(Protocol):
    """What every class decorated with `@packable` has."""

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Any:
        """A sample from a dict of field values."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Any:
        """A sample from its msgpack bytes."""

    @property
    def packed(self) -> bytes:
        """The sample's msgpack bytes."""

    @property
    def as_wds(self) -> dict[str, Any]:
        """`{"__key__": …, "msgpack": …}`, ready for `webdataset.TarWriter`; the key is new at every call."""


@dataclass_transform()
def packable(cls: type[T]) -> type[T]:
    """Make `cls` a sample type: a dataclass whose instances can be written to shards and read back.

    Every annotated attribute is a field. Types: `str`, `int`, `float`, `bool`, `bytes`, `None`, NumPy arrays
    (`NDArray[np.float32]`, `np.ndarray`; `Annotated[NDArray[np.float32], Shape("h", "w", 3)]` also declares a shape),
    `atdata.Image`, `datetime`, `Enum`, `Literal`, `list`, `tuple`, `dict[str, …]`, other packable classes, and any of
    these `| None`. Declared dtypes and shapes are checked when a sample is written.

    A class that is a dataclass already (`@packable @dataclass(frozen=True)`) stays as it is, so every option of
    `dataclasses.dataclass` is there. `__post_init__`, defaults, inheritance and a user's own `__eq__` are honoured; the
    `__eq__` made otherwise compares arrays by dtype, shape and content.

    Raises:
        SchemaError: a field's type cannot be stored.

    Example:
        >>> from numpy.typing import NDArray
        >>> @packable
        ... class Digit:
        ...     image: NDArray[np.uint8]
        ...     label: int
        >>> one = Digit(np.eye(2, dtype=np.uint8), 1)
        >>> unpack(pack(one), Digit) == one
        True
    """
    made = make_packable(cls)
    # Annotations as text may name classes local to a function; those are only known now.
    hints = vars(made).get("__annotations__", {}).values()
    frame = sys._getframe(1)
    local = {} if frame.f_locals is frame.f_globals else frame.f_locals
    words = {word for hint in hints for text in _texts(hint) for word in _words(text)}
    if words:
        names = {w: local[w] for w in words if w in local}
        made.__atdata_names__ = {**names, cls.__name__: made}  # type: ignore[attr-defined]
    try:
        codec.plan(made)
    except codec.UnknownNameError:
        return made  # a class defined later in the module: checked on first use
    return made


def _texts(hint: Any) -> Iterator[str]:
    """Annotations that are text, also inside others: `list["Node"]`."""
    if isinstance(hint, str):
        yield hint
    elif isinstance(hint, typing.ForwardRef):
        yield hint.__forward_arg__
    else:
        for arg in typing.get_args(hint):
            yield from _texts(arg)


def _made_by_dataclass(function: Any) -> bool:
    # `dataclass` compiles its methods from text; a method in a file is the user's own.
    return getattr(getattr(function, "__code__", None), "co_filename", "") == "<string>"


def make_packable(cls: type[T]) -> type[T]:
    """`cls` as a dataclass with the members of a packable class; its field types are not looked at yet."""
    fresh = "__dataclass_fields__" not in vars(cls)
    own_eq, own_hash = "__eq__" in vars(cls), "__hash__" in vars(cls)
    made: type[T] = dataclasses.dataclass(eq=False)(cls) if fresh else cls
    for f in dataclasses.fields(made):  # type: ignore[arg-type]
        if f.name in MEMBERS:
            raise SchemaError(
                f"{f.name!r} is a name every packable class has; rename the field",
                field=f"{cls.__name__}.{f.name}",
            )
    for name, member in MEMBERS.items():
        if name not in vars(made):
            setattr(made, name, member)
    if (fresh and not own_eq) or (not fresh and _generated_eq(made)):
        made.__eq__ = _equal  # type: ignore[method-assign]
    if fresh and not own_eq and not own_hash:
        made.__hash__ = None  # type: ignore[assignment]
    return made


def _generated_eq(cls: type) -> bool:
    """Whether `__eq__` is the one `dataclasses.dataclass` writes, which fails on arrays."""
    code = getattr(vars(cls).get("__eq__"), "__code__", None)
    return code is not None and code.co_filename == "<string>"


def _words(annotation: str) -> list[str]:
    return "".join(c if c.isidentifier() or c.isdigit() else " " for c in annotation).split()


def pack(sample: Any) -> bytes:
    """The msgpack bytes of a sample.

    Raises:
        SampleTypeError: a value is not of its field's type.
    """
    return codec.plan(type(sample)).encode(sample)[0]


def unpack(data: bytes | memoryview, sample_type: type[T]) -> T:
    """The sample of `sample_type` in msgpack bytes; arrays are read-only views of `data`.

    Raises:
        SampleDecodeError: the bytes are not a sample of that type.
    """
    sample: T = codec.plan(sample_type).decode(data)
    return sample


def _from_data_impl(cls: type[T], data: dict[str, Any]) -> T:
    try:
        return cls(**data)
    except TypeError as error:
        raise SampleDecodeError(f"{cls.__name__}: {error}") from None


def keeps_values(sample_type: type) -> bool:
    """Whether a sample's fields are what its bytes say: the class has no `__post_init__` or `__init__` of its own."""
    # `dataclass` compiles its methods from text; a method in a file is the user's own.
    made = getattr(getattr(sample_type.__init__, "__code__", None), "co_filename", "")  # type: ignore[misc]
    return made == "<string>" and not hasattr(sample_type, "__post_init__")


def only_keeps(sample_type: type) -> bool:
    """Whether making a sample and reading its fields does no more than keep values and give them back.

    No code of a user's runs: there is no `__init__`, `__post_init__`, `__new__`, `__setattr__`, `__getattr__` or
    `__getattribute__` of their own, no property or other descriptor in the place of a field, and no metaclass with a
    way of its own to make samples.
    """
    cls: Any = sample_type
    if not keeps_values(cls) or type(cls).__call__ is not type.__call__:
        return False
    if cls.__new__ is not object.__new__ or cls.__getattribute__ is not object.__getattribute__:
        return False
    if cls.__setattr__ is not object.__setattr__ and not _made_by_dataclass(cls.__setattr__):  # made for frozen ones
        return False
    if any("__getattr__" in vars(base) for base in cls.__mro__[:-1]):
        return False
    members = [inspect.getattr_static(cls, f.name, None) for f in dataclasses.fields(cls)]
    return all(isinstance(m, types.MemberDescriptorType) or not hasattr(type(m), "__set__") for m in members)


def equal_values(a: Any, b: Any) -> bool:
    """Whether two field values are the same: arrays by dtype, shape and content, NaN equal to NaN."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and _equal_arrays(a, b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal_values, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal_values(v, b[k]) for k, v in a.items())
    return bool(a == b or (a != a and b != b))


def _equal_arrays(a: NDArray[Any], b: NDArray[Any]) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.names is not None:
        return all(_equal_arrays(a[name], b[name]) for name in a.dtype.names)
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fcmM"))


def _equal(self: Any, other: Any) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    fields = dataclasses.fields(type(self))
    return all(equal_values(getattr(self, f.name), getattr(other, f.name)) for f in fields if f.compare)


_from_data: Any = classmethod(_from_data_impl)
_from_bytes = classmethod(lambda cls, data: unpack(data, cls))
_packed = property(pack, doc="The sample's msgpack bytes.")


def _wds(self: Any) -> dict[str, Any]:
    return {"__key__": str(uuid.uuid1(0, 0)), "msgpack": pack(self)}


_as_wds = property(_wds, doc="A new key and the sample's bytes, ready for `webdataset.TarWriter`.")

# The names every packable class has, which therefore cannot be fields.
MEMBERS = {"from_data": _from_data, "from_bytes": _from_bytes, "packed": _packed, "as_wds": _as_wds}
