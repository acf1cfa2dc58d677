"""Predicates as a tree: tests of single fields, combined by and, or, not.

What a predicate says of a sample:

- None never matches, as in SQL, polars and Arrow: not with `==`, not with `!=`, and not with `~` before the comparison.
  `is_null()` finds it.
- NaN is a number that is equal to none, and neither less nor more than any, as in Python, NumPy and Arrow: only `!=`
  and `~` match it. (In polars and DuckDB it is equal to itself, and more than all others.)
- Numbers are compared exactly, ints with floats too: no int is rounded to a float first.
- Text is ordered by code points, and bool has no order.
- A time with a zone is an instant, and cannot be compared with a time without one.
- An enum's member is its value.
"""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

__all__ = ["And", "Instant", "Not", "Operator", "Or", "Predicate", "Test", "Value", "canonical", "field_name", "fold"]

Operator = Literal["==", "!=", "<", "<=", ">", ">=", "isin", "is_null", "contains", "startswith"]
Value = str | bytes | bool | int | float | datetime
R = TypeVar("R")


class Predicate(abc.ABC):
    """What is asked of every sample; made with `atdata.fields`, combined by `&`, `|` and `~`.

    It does not change, can be hashed and pickled, and holds no reference to the class it was made from. Two are equal
    when they ask the same.
    """

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Canonical text of the question: the same for the same question, in every process and on every machine."""

    @property
    @abc.abstractmethod
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that it is about, each once."""

    @abc.abstractmethod
    def renamed(self, names: Mapping[str, str]) -> Predicate:
        """The same question about fields of other names."""

    def __and__(self, other: Predicate) -> Predicate:
        # A field of bool is a predicate too, and joins from its own side.
        return And(_parts(And, self, other)) if isinstance(other, Predicate) else NotImplemented

    def __or__(self, other: Predicate) -> Predicate:
        return Or(_parts(Or, self, other)) if isinstance(other, Predicate) else NotImplemented

    def __invert__(self) -> Predicate:
        return self.part if isinstance(self, Not) else Not(self)

    def __bool__(self) -> bool:
        raise TypeError(
            "a predicate is not true or false by itself: combine predicates with & | ~ in place of and, or, not; write "
            "F.x.between(a, b) in place of a <= F.x <= b, and F.x.isin([…]) in place of `in`"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Predicate) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Test(Predicate):
    """One field compared with plain values: a tuple of them for `isin`, None for `is_null`."""

    __test__ = False  # none of pytest's

    field: str
    operator: Operator
    value: Any

    @property
    def fingerprint(self) -> str:
        """`==("hour",22)`: operator, field, canonical value."""
        match self.operator:
            case "is_null":
                return f"is_null({json.dumps(self.field)})"
            case "isin":
                value = f"[{','.join(sorted(map(canonical, self.value)))}]"
            case _:
                value = canonical(self.value)
        return f"{self.operator}({json.dumps(self.field)},{value})"

    @property
    def fields(self) -> tuple[str, ...]:
        """The name of the field."""
        return (self.field,)

    def renamed(self, names: Mapping[str, str]) -> Predicate:
        """The same question about a field of another name."""
        return dataclasses.replace(self, field=names[self.field])

    def __repr__(self) -> str:
        name = field_name(self.field)
        match self.operator:
            case "is_null":
                return f"{name}.is_null()"
            case "isin":
                return f"{name}.isin({list(self.value)!r})"
            case "contains" | "startswith":
                return f"{name}.{self.operator}({self.value!r})"
        return f"{name} {self.operator} {self.value!r}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Joined(Predicate):
    parts: tuple[Predicate, ...]

    word: ClassVar[str]
    sign: ClassVar[str]

    @property
    def fingerprint(self) -> str:
        """The parts in alphabetical order, each once."""
        texts = sorted({part.fingerprint for part in self.parts})
        return texts[0] if len(texts) == 1 else f"{self.word}({','.join(texts)})"

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields of all parts."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.fields))

    def renamed(self, names: Mapping[str, str]) -> Predicate:
        """The same question about fields of other names."""
        return dataclasses.replace(self, parts=tuple(part.renamed(names) for part in self.parts))

    def __repr__(self) -> str:
        return self.sign.join(map(_bracketed, self.parts))


class And(_Joined):
    """Every one of `parts`."""

    word = "and"
    sign = " & "


class Or(_Joined):
    """At least one of `parts`."""

    word = "or"
    sign = " | "


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Not(Predicate):
    """`part` is known to be false."""

    part: Predicate

    @property
    def fingerprint(self) -> str:
        """`not(…)`."""
        return f"not({self.part.fingerprint})"

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields of the part."""
        return self.part.fields

    def renamed(self, names: Mapping[str, str]) -> Predicate:
        """The same question about fields of other names."""
        return Not(self.part.renamed(names))

    def __repr__(self) -> str:
        return "~" + _bracketed(self.part)


def fold(
    predicate: Predicate,
    test: Callable[[Test, bool], R],
    every: Callable[[list[R]], R],
    some: Callable[[list[R]], R],
    *,
    want: bool = True,
) -> R:
    """Where a predicate is true, worked out from where its tests are.

    Args:
        predicate: the predicate.
        test: given a test, where it is true; given False besides, where it is false. Of None it is neither.
        every: where all of several hold.
        some: where at least one of several holds.
        want: False asks where the predicate is false.
    """
    match predicate:
        case Test():
            return test(predicate, want)
        case Not():
            return fold(predicate.part, test, every, some, want=not want)
        case _Joined():
            parts = [fold(part, test, every, some, want=want) for part in predicate.parts]
            return every(parts) if isinstance(predicate, And) is want else some(parts)
    raise TypeError(f"not a predicate: {predicate!r}")


class Instant(NamedTuple):
    """A time as a number of microseconds since 1970, in UTC when it has a zone.

    Python compares times of one zone by their clocks, and finds some times of two zones unequal that are the same
    instant (PEP 495); numbers know no such exceptions.
    """

    zoned: bool
    microseconds: int

    @classmethod
    def of(cls, when: datetime) -> Instant:
        """The instant of a `datetime`."""
        offset = when.utcoffset()
        since = (when.replace(tzinfo=None) - _EPOCH) // _MICROSECOND
        return cls(False, since) if offset is None else cls(True, since - offset // _MICROSECOND)


_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)


def canonical(value: Value) -> str:
    """One text for each value; an int and the float equal to it have the same."""
    match value:
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(value)
        case bytes():
            return f"x'{value.hex()}'"
    zoned, microseconds = Instant.of(value)
    return f"{microseconds}us{' UTC' if zoned else ''}"


def field_name(field: str) -> str:
    """How a field is written in a program."""
    return f"F.{field}" if field.isidentifier() else f"F[{field!r}]"


def _parts(kind: type[_Joined], *sides: Predicate) -> tuple[Predicate, ...]:
    return tuple(part for side in sides for part in (side.parts if isinstance(side, kind) else (side,)))


def _bracketed(part: Predicate) -> str:
    bare = isinstance(part, Not) or (isinstance(part, Test) and part.operator not in ("==", "!=", "<", "<=", ">", ">="))
    return repr(part) if bare else f"({part!r})"
