"""The class that `atdata schema show` writes is the class."""

from __future__ import annotations

import enum
import math
import sys
import types
from dataclasses import field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.cli.schema import class_source


class Color(enum.Enum):
    RED = "r"
    CRIMSON = "r"  # noqa: PIE796
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    A = "a"


class Mixed(str, enum.Enum):  # noqa: UP042
    X = "x"


@atdata.packable
class Point:
    """Two numbers."""

    x: float
    y: float = math.inf


@atdata.packable
class Plain:
    a: int
    b: str = 'say "so"\n'
    c: bytes = b"\x00"
    d: bool = True
    e: None = None
    f: float = -0.5


@atdata.packable
class Arrays:
    r"""Arrays, with a \ and \"\"\" quotes \"\"\""""

    image: Annotated[NDArray[np.uint8], atdata.Shape("h", "w", 3)]
    any_: NDArray[Any]
    flags: NDArray[np.bool_] | None
    mixed: Annotated[NDArray[np.float32] | None, atdata.Shape(None, 2)] = None
    text: NDArray[np.str_] = field(default_factory=lambda: np.array(["a", "bc"]))
    scalar: np.ndarray = field(default_factory=lambda: np.array(3.5))


@atdata.packable
class Everything:
    """First line.

    More lines.
    """

    color: Color
    level: Level
    point: Point
    points: list[Point]
    pair: tuple[int, str]
    many: tuple[float, ...]
    table: dict[str, list[int]]
    choice: Literal["a", 1, None]
    when: datetime
    anything: Any
    picture: atdata.Image
    word: Word = Word.A
    mixed: Mixed = Mixed.X
    then: datetime = datetime(2020, 1, 2, tzinfo=UTC)
    names: list[str] = field(default_factory=lambda: ["a"])
    origin: Point = field(default_factory=lambda: Point(0.0, 1.0))
    lookup: dict[str, Any] = field(default_factory=dict)
    last: int | None = field(default=None, kw_only=True)


@atdata.packable
class Tree:
    value: int
    children: list["Tree"] = field(default_factory=list)  # noqa: UP037
    parent: "Tree | None" = None  # noqa: UP037


@pytest.mark.parametrize("cls", [Point, Plain, Arrays, Everything, Tree])
def test_the_source_defines_the_same_class(cls, monkeypatch):
    schema = atdata.Schema.from_record(atdata.Schema.of(cls).to_record())
    source = class_source(schema)
    module = types.ModuleType("made")
    monkeypatch.setitem(sys.modules, "made", module)  # where dataclasses looks up annotations that are text
    scope = vars(module)
    exec(compile(source, "made", "exec", dont_inherit=True), scope)
    assert atdata.Schema.of(scope[cls.__name__]).to_record() == schema.to_record(), source


def test_it_reads_like_a_person_wrote_it():
    @atdata.packable
    class Digit:
        """A digit."""

        image: Annotated[NDArray[np.uint8], atdata.Shape(8, 8)]
        label: int
        note: str | None = None

    assert class_source(atdata.Schema.of(Digit)) == (
        "from typing import Annotated\n\nimport atdata\nimport numpy as np\nfrom numpy.typing import NDArray\n\n\n"
        '@atdata.packable\nclass Digit:\n    """A digit."""\n\n'
        "    image: Annotated[NDArray[np.uint8], atdata.Shape(8, 8)]\n    label: int\n    note: str | None = None\n"
    )
