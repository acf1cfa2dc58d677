"""Samples with fields of every kind that can be queried, predicates about them, and what Python says of both."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

import atdata
from atdata.datasets.query import Fields
from atdata.datasets.query_tree import Predicate


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Odd(enum.Enum):
    NUMBER = 1
    TEXT = "1"


@atdata.packable
class Row:
    """A field of each kind, most of them also as one that may be None."""

    whole: int
    maybe_whole: int | None
    real: float
    maybe_real: float | None
    text: str
    maybe_text: str | None
    long: str  # not in the manifest
    raw: bytes
    flag: bool
    maybe_flag: bool | None
    color: Color
    level: Level | None
    odd: Odd
    choice: Literal["a", "b", None]
    strange: Literal["1", 1, True]
    clock: datetime
    instant: datetime | None
    array: NDArray[np.float32] | None
    many: list[int] | None
    mixed: Any


WHOLE = [0, 1, 2, 3, -1, 2**53, 2**53 + 1, 2**62, 2**63 - 1, -(2**63)]
LARGE = [*WHOLE, 2**63, 2**64 - 1]
REAL = [0.0, -0.0, 1.0, 1.5, 2.0, -1.5, 2.0**53, 2.0**63, 2.0**64, 1e308, 5e-324, float("inf"), float("-inf")]
NAN = float("nan")
TEXTS = ["", "a", "ab", "abc", "b", "é", "z", "\U0001f600", "\uffff", "a\0b", "A"]
LONG = ["long " * 100, "other " * 100]
CLOCKS = [datetime(2026, 1, 1), datetime(2026, 1, 1, 0, 0, 0, 1), datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59)]
ZONES = [UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-9, minutes=-30))]
INSTANTS = [datetime(2026, 1, 1, hour, tzinfo=zone) for hour in (0, 2, 9) for zone in ZONES]

# Values that a field holds, and values that it is compared with.
POOLS: dict[str, tuple[list[Any], list[Any]]] = {
    "whole": (WHOLE, [*LARGE, *REAL, 10**400, -(10**400), 2.5]),
    "maybe_whole": ([0, 1, 2**63, 2**64 - 1, None], [*LARGE, *REAL, 2**64, -(2**63) - 1]),
    "real": ([*REAL, NAN], [*LARGE, *REAL, 10**400, -(10**400), 2**64 - 1, 2**1024]),
    "maybe_real": ([1.0, 2.0, NAN, None], [0, 1, 2, 1.5, 3]),
    "text": (TEXTS, TEXTS),
    "maybe_text": ([*TEXTS[:4], None], TEXTS),
    "long": (LONG, ["long ", "other", "long " * 100, "m", ""]),
    "raw": ([b"", b"a", b"ab", b"\xff"], [b"", b"a", b"b"]),
    "flag": ([True, False], [True, False]),
    "maybe_flag": ([True, False, None], [True, False]),
    "color": (list(Color), [Color.RED, "blue"]),
    "level": ([Level.LOW, Level.HIGH, None], [Level.LOW, Level.HIGH, 1]),
    "odd": (list(Odd), [Odd.NUMBER, Odd.TEXT]),
    "choice": (["a", "b", None], ["a", "b"]),
    "strange": (["1", 1, True], ["1", 1, True]),
    "clock": (CLOCKS, CLOCKS),
    "instant": ([*INSTANTS, None], INSTANTS),
    "array": ([np.ones(2, np.float32), None], []),
    "many": ([[1], [], None], []),
    "mixed": ([1, 2.5, 0, None], [0, 1, 2.5]),
}
ORDERED = {"whole", "maybe_whole", "real", "maybe_real", "text", "maybe_text", "long", "raw", "level", "choice",
           "clock", "instant", "mixed"}  # fmt: skip
TEXTUAL = {"text", "maybe_text", "long", "raw", "choice"}


def row(**values: Any) -> Row:
    """A row with these values, and the first of their pools for all others."""
    return Row(**{name: values.get(name, pool[0]) for name, (pool, _) in POOLS.items()})


def rows() -> st.SearchStrategy[Row]:
    """Rows of any values out of the pools."""
    # Drawing every field by itself would take longer than what is tested.
    return st.integers(0, 10**6).map(
        lambda seed: row(**{n: random.Random(f"{seed} {n}").choice(pool) for n, (pool, _) in POOLS.items()})
    )


# -- predicates, and what they mean ----------------------------------------------------------------------------------


@dataclass
class Question:
    """A predicate as a user writes it, and its meaning in plain Python: True, False, or None where None is compared."""

    predicate: Predicate
    truth: Callable[[Any], bool | None]


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _same(a: Any, b: Any) -> bool:
    """Equal, and of one kind: True is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def question(F: Fields, name: str, operator: str, value: Any) -> Question:
    """One comparison."""
    field = F[name]
    bare = [_plain(v) for v in value] if isinstance(value, list) else _plain(value)
    asked: dict[str, tuple[Callable[[], Predicate], Callable[[Any], bool]]] = {
        "==": (lambda: field == value, lambda v: _same(v, bare)),
        "!=": (lambda: field != value, lambda v: not _same(v, bare)),
        "<": (lambda: field < value, lambda v: v < bare),
        "<=": (lambda: field <= value, lambda v: v <= bare),
        ">": (lambda: field > value, lambda v: v > bare),
        ">=": (lambda: field >= value, lambda v: v >= bare),
        "isin": (lambda: field.isin(value), lambda v: any(_same(v, b) for b in bare)),
        "contains": (lambda: field.contains(value), lambda v: bare in v),
        "startswith": (lambda: field.startswith(value), lambda v: v.startswith(bare)),
        "between": (lambda: field.between(*value), lambda v: bare[0] <= v <= bare[1]),
    }
    if operator == "is_null":
        return Question(field.is_null(), lambda sample: getattr(sample, name) is None)
    make, test = asked[operator]

    def truth(sample: Any) -> bool | None:
        got = _plain(getattr(sample, name))
        return None if got is None else test(got)

    return Question(make(), truth)


def negated(one: Question) -> Question:
    def truth(sample: Any) -> bool | None:
        found = one.truth(sample)
        return None if found is None else not found

    return Question(~one.predicate, truth)


def combined(sign: str, a: Question, b: Question) -> Question:
    def truth(sample: Any) -> bool | None:
        found = [a.truth(sample), b.truth(sample)]
        decisive = sign == "|"
        return decisive if decisive in found else None if None in found else not decisive

    return Question(a.predicate & b.predicate if sign == "&" else a.predicate | b.predicate, truth)


@st.composite
def questions(draw: st.DrawFn, names: list[str] | None = None, depth: int = 2) -> Question:
    """Any predicate about `Row`."""
    if depth and draw(st.booleans()):
        if draw(st.booleans()):
            return negated(draw(questions(names, depth - 1)))
        parts = [draw(questions(names, depth - 1)) for _ in range(2)]
        return combined(draw(st.sampled_from("&|")), *parts)
    name = draw(st.sampled_from(names or list(POOLS)))
    values = POOLS[name][1]
    if not values:
        return question(Fields(Row), name, "is_null", None)
    operators = ["==", "!=", "isin", "is_null"]
    operators += ["<", "<=", ">", ">=", "between"] if name in ORDERED else []
    operators += ["contains", "startswith"] if name in TEXTUAL else []
    operator = draw(st.sampled_from(operators))
    one = st.sampled_from(values)
    if operator == "isin":
        return question(Fields(Row), name, operator, draw(st.lists(one, max_size=4)))
    if operator == "between":
        return question(Fields(Row), name, operator, [draw(one), draw(one)])
    return question(Fields(Row), name, operator, draw(one))
