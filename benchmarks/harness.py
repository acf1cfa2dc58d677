# ruff: noqa: RUF001 (typographic signs are wanted in what people read)
"""Timing of contenders that do the same work, turn by turn, and what is said about it."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

# A contender that needs less than this for a run has several runs in its turn.
_TURN = 0.4
_RUNS = 5


def _nothing() -> None:
    return None


@dataclass
class Contender:
    """One way to do the work.

    Attributes:
        name: how the tables call it.
        run: does the work once, and gives what all contenders must agree on.
        before: done before every run; not timed.
        after: done after every run; not timed.
    """

    name: str
    run: Callable[[], Any]
    before: Callable[[], object] = _nothing
    after: Callable[[], object] = _nothing


@dataclass
class Timing:
    """The seconds of all runs of one contender, by turn."""

    name: str
    turns: list[list[float]] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median seconds of all runs."""
        return statistics.median(s for turn in self.turns for s in turn)

    @property
    def low(self) -> float:
        """Seconds of the fastest run."""
        return min(min(turn) for turn in self.turns)

    @property
    def high(self) -> float:
        """Seconds of the slowest run."""
        return max(max(turn) for turn in self.turns)


def compare(contenders: Sequence[Contender], rounds: int, runs: int = _RUNS) -> dict[str, Timing]:
    """Every contender once a round, A B C A B C, after one round that is not counted; all must agree.

    A quick one has up to `runs` runs in its turn.

    Raises:
        AssertionError: the contenders' results differ.
    """
    timings = {c.name: Timing(c.name) for c in contenders}
    agreed: Any = None
    for turn in range(rounds + 1):
        for contender in contenders:
            seconds: list[float] = []
            while not seconds or (turn and sum(seconds) < _TURN and len(seconds) < runs):
                contender.before()
                gc.collect()
                start = time.perf_counter()
                found = contender.run()
                seconds.append(time.perf_counter() - start)
                contender.after()
                if agreed is None:
                    agreed = found
                assert found == agreed, f"{contender.name} gave {found}, {contenders[0].name} gave {agreed}"
            if turn:
                timings[contender.name].turns.append(seconds)
    return timings


def agree(name: str, ways: dict[str, Callable[[], Any]]) -> Any:
    """What all `ways` give; they are called once each, outside of the timing.

    Raises:
        AssertionError: they differ.
    """
    found = {way: call() for way, call in ways.items()}
    values = list(found.values())
    assert all(value == values[0] for value in values), f"{name}: the contenders differ: {found}"
    return values[0]


@dataclass
class Row:
    """One line of a table: a middle value and the range of all runs."""

    name: str
    value: float
    low: float
    high: float
    ratio: float | None = None  # of the table's first row to this one, or the other way for times and sizes


@dataclass
class Table:
    """What was measured, one row a contender; the first row is atdata."""

    title: str
    unit: str
    rows: list[Row]
    note: str = ""


@dataclass
class Grid:
    """What was found that is no speed: a line for each contender, the first of them atdata, with a cell a question."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass
class Bar:
    """One promise: `got` must be at least (or at most) `want`."""

    text: str
    want: float
    got: float
    low: float
    high: float
    at_least: bool = True
    unit: str = "×"

    @property
    def passed(self) -> bool:
        """Whether the promise is kept."""
        return self.got >= self.want if self.at_least else self.got <= self.want


@dataclass
class Result:
    """What one scenario found."""

    tables: list[Table] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        """The result out of plain data."""
        tables = [Table(**{**t, "rows": [Row(**r) for r in t["rows"]]}) for t in data["tables"]]
        grids = [Grid(**g) for g in data["grids"]]
        return cls(tables, [Bar(**b) for b in data["bars"]], data["missing"], grids)


def rates(title: str, unit: str, count: float, timings: dict[str, Timing], note: str = "") -> Table:
    """A table of `count` things per second; the ratio says how many times as fast the first row is."""
    first = next(iter(timings.values()))
    rows = [
        Row(t.name, count / t.median, count / t.high, count / t.low, None if t is first else t.median / first.median)
        for t in timings.values()
    ]
    return Table(title, unit, rows, note)


def ratio(timings: dict[str, Timing], ours: str, theirs: str) -> tuple[float, float, float]:
    """How many times as fast `ours` is: of the medians, and lowest and highest of the rounds."""
    a, b = timings[ours], timings[theirs]
    by_turn = [
        statistics.median(y) / statistics.median(x) for x, y in zip(a.turns, b.turns, strict=True)
    ]  # neighbours in time, so that load from outside meets both
    return b.median / a.median, min(by_turn), max(by_turn)


@dataclass
class Context:
    """What a scenario is run with."""

    data: Path
    scale: float = 1.0
    rounds: int = 5
    full: bool = False
    peers: tuple[str, ...] = ("webdataset", "streaming", "litdata", "pyarrow", "lance", "datasets", "grain", "torch")
    kinds: tuple[str, ...] = ("S", "L")

    def count(self, at_full_scale: int, least: int = 64) -> int:
        """That many samples, at this scale."""
        return max(least, int(at_full_scale * self.scale))


def machine() -> dict[str, str]:
    """The machine, as far as it matters here."""
    found = {
        "cores": str(len(os.sched_getaffinity(0))),
        "load": " ".join(f"{x:.1f}" for x in os.getloadavg()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "cpu": platform.processor() or platform.machine(),
    }
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            found["cpu"] = line.partition(":")[2].strip()
            break
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            found["memory"] = f"{int(line.split()[1]) / 2**20:.0f} GiB"
    return found


def versions() -> dict[str, str]:
    """The versions of what is compared, of those that are installed."""
    found = {}
    for name in (
        "atdata",
        "numpy",
        "msgspec",
        "pyarrow",
        "webdataset",
        "ormsgpack",
        "msgpack",
        "mosaicml-streaming",
        "litdata",
        "pylance",
        "datasets",
        "grain",
        "array-record",
        "torch",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _lines(path: str) -> Iterable[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
