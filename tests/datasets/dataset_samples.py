"""Sample types, sources and functions that other processes can import too."""

from __future__ import annotations

import dataclasses
import enum
import io
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

import atdata


@atdata.packable
class Digit:
    """A digit."""

    image: NDArray[np.uint8]
    label: int
    note: str | None = None


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@atdata.packable
class Point:
    x: float
    y: float


@atdata.packable
class Everything:
    """A field of every type."""

    text: str
    whole: int
    real: float
    truth: bool
    raw: bytes
    nothing: None
    plain: NDArray[np.float32]
    fixed: Annotated[NDArray[np.int16], atdata.Shape(2, 3)]
    any_array: np.ndarray[Any, Any]
    maybe_array: NDArray[np.uint8] | None
    maybe_text: str | None
    maybe_whole: int | None
    maybe_real: float | None
    maybe_truth: bool | None
    color: Color
    level: Level | None
    choice: Literal["a", "b", None]
    number: Literal[1, 2, 3]
    when: datetime
    point: Point
    points: list[Point]
    pair: tuple[int, str]
    many: tuple[float, ...]
    table: dict[str, NDArray[np.float64]]
    mixed: Any
    image: atdata.Image


@atdata.packable
class Counted:
    """Counts how often samples are made out of bytes, in this process."""

    number: int

    made = 0  # not annotated, so not a field

    def __post_init__(self) -> None:
        type(self).made += 1


@atdata.packable
class Halved:
    """What is seen is not what is stored."""

    number: int
    half: float = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.half = self.number / 2
        self.number = -abs(self.number)


def digit(i: int) -> Digit:
    return Digit(np.full((4, 3), i % 251, np.uint8), i, None if i % 3 else f"n{i}")


def digits(count: int) -> list[Digit]:
    return [digit(i) for i in range(count)]


def everything(i: int) -> Everything:
    """A sample whose every field depends on `i`."""
    return Everything(
        text=f"text {i}",
        whole=i,
        real=i / 4,
        truth=i % 2 == 0,
        raw=bytes([i % 256]) * (i % 5),
        nothing=None,
        plain=np.full((2,), i, np.float32),
        fixed=np.full((2, 3), i, ">i2"),
        any_array=np.full((i % 3,), i, np.int64),
        maybe_array=None if i % 2 else np.full((2, 2), i, np.uint8),
        maybe_text=None if i % 2 else "x",
        maybe_whole=None if i % 3 else i,
        maybe_real=None if i % 3 else i / 3,
        maybe_truth=None if i % 3 else True,
        color=Color.RED if i % 2 else Color.BLUE,
        level=(None, Level.LOW, Level.HIGH)[i % 3],
        choice=("a", "b", None)[i % 3],
        number=(1, 2, 3)[i % 3],
        when=datetime(2026, 1, 1, tzinfo=UTC).replace(minute=i % 60),
        point=Point(i, -i),
        points=[Point(k, k) for k in range(i % 3)],
        pair=(i, "p"),
        many=tuple(float(k) for k in range(i % 4)),
        table={"t": np.arange(i % 4, dtype=np.float64)},
        mixed={"a": [1, None, i]},
        image=atdata.Image(b"\x89PNG" + bytes([i % 256])),
    )


def double(sample: Digit) -> Digit:
    return dataclasses.replace(sample, label=sample.label * 2)


def is_even(sample: Digit) -> bool:
    return sample.label % 2 == 0


def labels_of(dataset: atdata.Dataset[Any]) -> list[int]:
    return [sample.label for sample in dataset]


def columns_of(batch: atdata.SampleBatch[Any]) -> list[int]:
    return list(batch.label)


def reads_of_shard(path: str) -> int:
    return len(Path(path).read_bytes())


class ShortReads(io.RawIOBase):
    """A stream that gives fewer bytes than it is asked for, as sockets do."""

    def __init__(self, data: bytes, seed: int = 0) -> None:
        self._data = io.BytesIO(data)
        self._random = random.Random(seed)

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        return self._data.read(n if n <= 1 else self._random.randint(1, min(n, 700)))


class Shelf:
    """A stranger's `DataSource`: shards in memory, given in short reads, every opening counted."""

    def __init__(self, shards: dict[str, bytes]) -> None:
        self._shards = shards
        self.opened: list[str] = []

    def list_shards(self) -> list[str]:
        return list(self._shards)

    def open_shard(self, shard_id: str) -> IO[bytes]:
        data = self._shards[shard_id]
        self.opened.append(shard_id)
        return ShortReads(data, len(self.opened))  # type: ignore[return-value]

    @property
    def shards(self) -> Iterator[tuple[str, IO[bytes]]]:
        for name in self._shards:
            yield name, self.open_shard(name)
