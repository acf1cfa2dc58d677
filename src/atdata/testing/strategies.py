"""Hypothesis strategies of samples: any value that a sample type allows, edge cases included."""

from __future__ import annotations

import datetime
import functools
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from atdata.samples import codec
from atdata.samples.encode import ARRAY_TAG
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

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["samples"]

T = TypeVar("T")

_DTYPES = (
    "|b1", "|i1", "<i2", ">i4", "<i8", "|u1", ">u2", "<u4", ">u8", "<f2", "<f4", ">f4", "<f8", "<c8", ">c16", "<U2",
    ">U3", "|S4", "<M8[ns]", ">M8[D]", "<m8[us]",
)  # fmt: skip
_RECORDS = (
    np.dtype([("a", "<i4"), ("b", ">f8")]),
    np.dtype([("name", "<U3"), ("box", "<f4", (2, 2)), ("in", [("k", "|u1")])]),
)


def samples(sample_type: type[T]) -> SearchStrategy[T]:
    """A Hypothesis strategy of instances of a packable class, of any values its fields allow.

    Arrays come in every declared dtype and shape, both byte orders, 0-d, empty, Fortran-ordered and strided; numbers
    with NaN, infinities and the limits of 64 bits.

    Example:
        >>> from hypothesis import find
        >>> import atdata
        >>> @atdata.packable
        ... class Word:
        ...     text: str
        ...     count: int
        >>> find(samples(Word), lambda word: word.count > 2)
        Word(text='', count=3)
    """
    return _of(sample_type, {})


def _of(cls: type[T], known: dict[type, SearchStrategy[Any]]) -> SearchStrategy[T]:
    from hypothesis import strategies as st

    if cls not in known:  # a class may hold itself: what is inside looks here for what is being made
        known[cls] = st.deferred(lambda: made)
        made = st.builds(cls, **{f.name: _values(f.type, cls.__qualname__, known) for f in codec.plan(cls).fields})
    return known[cls]


def _values(node: FieldType, owner: str, known: dict[type, SearchStrategy[Any]]) -> SearchStrategy[Any]:
    from hypothesis import strategies as st

    match node:
        case Primitive():
            return {
                str: st.text(),
                int: st.integers(-(2**63), 2**64 - 1),
                float: st.floats(),
                bool: st.booleans(),
                bytes: st.binary(),
                type(None): st.none(),
            }[node.type]
        case AnyValue():
            return _anything()
        case Array():
            return _arrays(node, owner)
        case ImageBytes():
            return st.builds(Image, st.binary(min_size=1))
        case DateTime():
            minutes = st.integers(-1439, 1439).map(lambda n: datetime.timezone(datetime.timedelta(minutes=n)))
            return st.datetimes(timezones=st.none() | minutes)
        case EnumOf():
            return st.sampled_from(list(node.cls))
        case LiteralOf():
            return st.sampled_from(node.values)
        case OptionalOf():
            return st.none() | _values(node.inner, owner, known)
        case ListOf():
            return st.lists(_values(node.item, owner, known), max_size=3)
        case TupleOf() if node.variadic:
            return st.lists(_values(node.items[0], owner, known), max_size=3).map(tuple)
        case TupleOf():
            return st.tuples(*(_values(item, owner, known) for item in node.items))
        case DictOf():
            return st.dictionaries(st.text(), _values(node.value, owner, known), max_size=3).filter(
                lambda value: value.keys() != {ARRAY_TAG}
            )
        case Nested():
            return _of(node.cls, known)
    raise AssertionError(node)


@functools.cache
def _anything() -> SearchStrategy[Any]:
    from hypothesis import strategies as st

    leaf = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text()
        | st.binary()
        | _arrays(Array(), "")
    )
    return st.recursive(
        leaf,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(), inner, max_size=3).filter(lambda value: value.keys() != {ARRAY_TAG})
        ),
        max_leaves=5,
    )


def _arrays(node: Array, owner: str) -> SearchStrategy[NDArray[Any]]:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    def size(dim: int | str | None) -> SearchStrategy[int]:
        if isinstance(dim, int):
            return st.just(dim)
        some = st.integers(0, 4)
        return some if dim is None else st.shared(some, key=f"{owner}.{dim}")

    shape: SearchStrategy[tuple[int, ...]]
    if node.dims is None:
        shape = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    else:
        shape = st.tuples(*map(size, node.dims))
    arrays = hnp.arrays(st.sampled_from(_dtypes(node.dtype)), shape)
    return st.tuples(arrays, st.sampled_from(("C", "F", "strided"))).map(lambda pair: _laid_out(*pair))


def _dtypes(declared: np.dtype[Any] | None) -> list[np.dtype[Any]]:
    every = [*map(np.dtype, _DTYPES), *_RECORDS]
    if declared is None:
        return every
    if declared.itemsize == 0 or declared.kind in "mM":
        return [d for d in every if d.kind == declared.kind]
    return [declared, declared.newbyteorder()]


def _laid_out(array: NDArray[Any], layout: str) -> NDArray[Any]:
    if layout == "F":
        return np.asfortranarray(array).reshape(array.shape)
    if layout == "strided" and array.ndim:
        wide = np.repeat(array, 2, axis=0)
        return wide[::2]
    return array
