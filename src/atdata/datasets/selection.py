"""Which stored samples a dataset has, and in which order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atdata.errors import SampleIndexError

__all__ = ["Part", "Places", "Rows", "Selection"]

Rows = range | NDArray[np.int32]
Positions = NDArray[np.int64]


class Places(NamedTuple):
    """Where samples lie: for each, the number of its shard and its row there, both int64."""

    shards: Positions
    rows: Positions


class Part(NamedTuple):
    """The samples of one shard: its number, their positions in the selection, and their rows."""

    shard: int
    positions: range | Positions
    rows: Rows


class Selection:
    """Stored samples in an order: position → shard and row.

    It takes no memory for whole shards and runs of rows, 4 bytes a sample for single rows, and 8 bytes a sample once
    samples were picked in an order of one's own. It does not change; every method that narrows it gives a new one.

    Args:
        parts: shard number and rows of each part, in order: a `range` with step 1, or row numbers, int32.

    Example:
        >>> selection = Selection.whole([3, 2]).pick(np.array([4, 0, 1]))
        >>> len(selection), selection.places(np.arange(3))
        (3, Places(shards=array([1, 0, 0]), rows=array([1, 0, 1])))
    """

    def __init__(self, parts: Sequence[tuple[int, Rows]]) -> None:
        parts = [(shard, rows) for shard, rows in parts if len(rows)]
        self._shards = np.array([shard for shard, _ in parts], np.int32)
        self._starts = np.array([0, *itertools.accumulate(len(rows) for _, rows in parts)], np.int64)
        listed = [np.asarray(rows, np.int32) for _, rows in parts if not isinstance(rows, range)]
        # Of a run the row of its first sample; of single rows where in `_listed` they begin.
        self._listed = np.concatenate(listed) if listed else None
        self._runs = np.array([isinstance(rows, range) for _, rows in parts], bool)
        begins = itertools.accumulate([0, *(0 if isinstance(rows, range) else len(rows) for _, rows in parts)])
        self._first = np.array(
            [r.start if isinstance(r, range) else at for (_, r), at in zip(parts, begins, strict=False)], np.int64
        )
        self._picked: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None
        sizes = np.diff(self._starts)
        alike = len(sizes) > 0 and (sizes[:-1] == sizes[0]).all() and sizes[-1] <= sizes[0]
        self._each = int(sizes[0]) if alike else None  # samples of every part but the last

    @classmethod
    def whole(cls, counts: Sequence[int]) -> Selection:
        """All samples of all shards, given how many each shard has."""
        return cls([(shard, range(count)) for shard, count in enumerate(counts)])

    def __len__(self) -> int:
        return len(self._picked[0]) if self._picked is not None else int(self._starts[-1])

    def places(self, positions: Positions) -> Places:
        """Where the samples at these positions lie.

        Args:
            positions: int64, each in range(len(self)).
        """
        if self._picked is not None:
            shards, picked = self._picked
            return Places(shards[positions].astype(np.int64), picked[positions].astype(np.int64))
        if self._each is not None:
            part = positions // self._each
        else:
            part = np.searchsorted(self._starts, positions, "right") - 1
        rows = positions - self._starts[part] + self._first[part]
        if self._listed is not None:
            single = ~self._runs[part]
            rows[single] = self._listed[rows[single]]
        return Places(self._shards[part].astype(np.int64), rows)

    def find(self, shard: int, row: int) -> int | None:
        """The first position of a stored sample; None when it is not among these."""
        if self._picked is not None:
            found = np.flatnonzero((self._picked[0] == shard) & (self._picked[1] == row))
            return int(found[0]) if len(found) else None
        for part in np.flatnonzero(self._shards == shard).tolist():
            rows = self._rows(part)
            at = rows.index(row) if isinstance(rows, range) and row in rows else None
            if not isinstance(rows, range):
                at = next(iter(np.flatnonzero(rows == row).tolist()), None)
            if at is not None:
                return int(self._starts[part]) + at
        return None

    def parts(self) -> Iterator[Part]:
        """Shard by shard, each once: which samples of it there are, and at which positions."""
        if self._picked is None and len(np.unique(self._shards)) == len(self._shards):
            for number, shard in enumerate(self._shards.tolist()):
                start, stop = self._starts[number : number + 2].tolist()
                yield Part(shard, range(start, stop), self._rows(number))
            return
        shards, rows = self.places(np.arange(len(self)))
        order = np.argsort(shards, kind="stable")
        bounds = [0, *(np.flatnonzero(np.diff(shards[order])) + 1).tolist(), len(order)]
        for start, stop in itertools.pairwise(bounds):
            these = order[start:stop]
            if len(these):
                yield Part(int(shards[these[0]]), these, rows[these].astype(np.int32))

    def _rows(self, part: int) -> Rows:
        begin, count = int(self._first[part]), int(self._starts[part + 1] - self._starts[part])
        if self._listed is None or self._runs[part]:
            return range(begin, begin + count)
        return self._listed[begin : begin + count]

    # -- fewer samples ---------------------------------------------------------------------------------------

    def take(self, count: int) -> Selection:
        """The first `count` samples, or all if there are fewer."""
        if count >= len(self):
            return self
        if self._picked is not None:
            return self._of_places(self._picked[0][:count], self._picked[1][:count])
        parts: list[tuple[int, Rows]] = []
        for number, shard in enumerate(self._shards.tolist()):
            left = count - int(self._starts[number])
            if left <= 0:
                break
            parts.append((shard, self._rows(number)[:left]))
        return Selection(parts)

    def pick(self, positions: Positions) -> Selection:
        """The samples at these positions, in this order; one that is named twice comes twice.

        Raises:
            SampleIndexError: a position is not in range(len(self)).
        """
        wrong = np.flatnonzero((positions < 0) | (positions >= len(self)))
        if len(wrong):
            raise SampleIndexError(f"there is no sample {positions[wrong[0]]}: the dataset has {len(self)}")
        shards, rows = self.places(np.asarray(positions, np.int64))
        return self._of_places(shards.astype(np.int32), rows.astype(np.int32))

    def keep(self, mask: NDArray[np.bool_]) -> Selection:
        """The samples whose position is True in `mask`, of shape (len(self),)."""
        return self._narrowed((part, mask[_slice(part.positions)]) for part in self.parts())

    def within(self, wanted: Callable[[int, Rows], NDArray[np.bool_] | bool]) -> Selection:
        """The samples that `wanted` says.

        Args:
            wanted: given a shard's number and rows, whether each is wanted: of shape (len(rows),), or one answer for
                all of them. It is asked once for each shard.
        """
        return self._narrowed((part, wanted(part.shard, part.rows)) for part in self.parts())

    def _narrowed(self, answers: Iterator[tuple[Part, NDArray[np.bool_] | bool]]) -> Selection:
        parts: list[tuple[int, Rows]] = []
        kept: list[Any] = []
        in_order = self._picked is None
        for part, answer in answers:
            in_order = in_order and isinstance(part.positions, range)
            if isinstance(answer, bool | np.bool_):
                rows, positions = (part.rows, part.positions) if answer else (range(0), range(0))
            elif answer.all():
                rows, positions = part.rows, part.positions
            else:
                at = np.flatnonzero(answer)
                rows, positions = _single(part.rows, at), _single(part.positions, at)
            parts.append((part.shard, rows))
            kept.append(positions)
        if in_order:
            return Selection(parts)
        every = np.sort(np.concatenate([np.asarray(p, np.int64) for p in kept])) if kept else np.empty(0, np.int64)
        return self.pick(every)

    @classmethod
    def _of_places(cls, shards: NDArray[np.int32], rows: NDArray[np.int32]) -> Selection:
        made = cls([])
        made._picked = (shards, rows)
        return made


def _slice(positions: range | Positions) -> Any:
    return slice(positions.start, positions.stop) if isinstance(positions, range) else positions


def _single(numbers: Any, at: Positions) -> Any:
    """Some of a run or of an array; a run again where they are neighbours."""
    if isinstance(numbers, range):
        if not len(at):
            return range(0)
        if int(at[-1]) - int(at[0]) + 1 == len(at):
            return numbers[int(at[0]) : int(at[-1]) + 1]
        return (at + numbers.start).astype(np.int32)
    return numbers[at]
