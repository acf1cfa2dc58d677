"""Samples that lie in shards, in an order: whole columns of them, copied without decoding any sample."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atdata.datasets.selection import Places
from atdata.errors import AtdataError
from atdata.samples import codec
from atdata.samples.fields import Array, EnumOf, FieldType, LiteralOf, OptionalOf, Primitive
from atdata.shards.reader import SHORT, BufferShard, Rows, payload_decoder

__all__ = ["Allocate", "Lying", "Run", "Runs", "Stretch", "arrays_from", "empty_array", "joined", "stack"]

_SPARSE = 8  # values of shards for each one that is wanted, up to which they are all gone through
_AHEAD = 4 << 20  # bytes of short arrays that are gathered at once for several batches


class Lying(abc.ABC):
    """Samples that nobody has decoded yet."""

    __slots__ = ()

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abc.abstractmethod
    def samples(self, sample_type: type) -> list[Any]:
        """The samples; arrays are read-only views."""

    @abc.abstractmethod
    def keyed(self, sample_type: type) -> Iterator[tuple[str, str, Any]]:
        """URL of the shard, key and sample."""

    @abc.abstractmethod
    def column(self, sample_type: type, field: str) -> Any:
        """One field of all samples, new and the caller's own; None where only decoding can tell."""

    @abc.abstractmethod
    def shards(self) -> Iterable[BufferShard]:
        """What holds the samples."""

    def expect(self, sample_type: type, fields: Sequence[str]) -> None:  # noqa: B027  (most have them at hand)
        """Take note that all these columns will be asked for."""


class Run(NamedTuple):
    """A run of samples in one shard with a manifest: from number `start` up to `stop`."""

    shard: BufferShard
    start: int
    stop: int
    number: int = 0  # of the shard


class Runs(Lying):
    """Runs of samples, one after the other."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs

    def __len__(self) -> int:
        return sum(run.stop - run.start for run in self._runs)

    def samples(self, sample_type: type) -> list[Any]:
        """The samples; arrays are read-only views."""
        return [sample for shard, start, stop, _ in self._runs for sample in shard.samples(sample_type, start, stop)]

    def keyed(self, sample_type: type) -> Iterator[tuple[str, str, Any]]:
        """URL of the shard, key and sample."""
        for shard, start, stop, _ in self._runs:
            for key, sample in shard.keyed(sample_type, start, stop):
                yield shard.url, key, sample

    def column(self, sample_type: type, field: str) -> Any:
        """One field of all samples, new and the caller's own; None where only decoding can tell."""
        pieces, at = [], 0
        for shard, start, stop, _ in self._runs:
            pieces.append(_Piece(shard, slice(start, stop), slice(at, at + stop - start)))
            at += stop - start
        return _column(sample_type, field, pieces, at)

    def shards(self) -> Iterable[BufferShard]:
        """What holds the samples."""
        return (run.shard for run in self._runs)

    def places(self) -> Places:
        """Where they lie."""
        numbers = [np.full(run.stop - run.start, run.number, np.int64) for run in self._runs]
        rows = [np.arange(run.start, run.stop) for run in self._runs]
        return Places(np.concatenate(numbers), np.concatenate(rows))


class Stretch:
    """Samples that were read together, in the order in which they are given out, to be cut into batches.

    Args:
        shards: where the samples lie; each shard, or part of one, holds what is said of it here.
        which: for each sample, the number of its shard in `shards`.
        rows: for each sample, its row there, int64.
        numbers: for each sample, the number of its shard in the dataset, where somebody may want to know.
    """

    def __init__(
        self,
        shards: Sequence[BufferShard],
        which: NDArray[np.intp],
        rows: NDArray[np.int64],
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        self._numbers = numbers
        self._shards = shards
        self._which = which
        self._rows = rows
        self._columns: dict[tuple[type, str], Callable[[int, int], Any]] = {}
        self._spans: tuple[list[int], list[int], list[int]] | None = None
        self._all: list[_Piece] | None = None
        self._flat: NDArray[np.int64] | None = None

    @classmethod
    def merged(cls, stretches: Sequence[tuple[Stretch, NDArray[np.intp]]], count: int) -> Stretch:
        """Several stretches as one of `count` samples, given where in it the samples of each come."""
        shards: list[BufferShard] = []
        which, rows = np.empty(count, np.intp), np.empty(count, np.int64)
        for stretch, at in stretches:
            which[at], rows[at] = stretch._which + len(shards), stretch._rows
            shards += stretch._shards
        return cls(shards, which, rows)

    def __len__(self) -> int:
        return len(self._rows)

    def part(self, start: int, stop: int) -> Lying:
        """The samples from `start` up to `stop`."""
        return _Part(self, start, stop)

    def place(self, number: int) -> tuple[str, str]:
        """URL of the shard and key of a sample."""
        shard = self._shards[int(self._which[number])]
        return shard.url, shard.key(int(self._rows[number]))

    def places(self, start: int, stop: int) -> Places:
        """Where the samples from `start` up to `stop` lie."""
        assert self._numbers is not None
        return Places(self._numbers[start:stop], self._rows[start:stop])

    def shards(self, start: int, stop: int) -> Iterable[BufferShard]:
        """What holds the samples from `start` up to `stop`."""
        return [self._shards[number] for number in np.unique(self._which[start:stop]).tolist()]

    def keyed(self, sample_type: type, start: int, stop: int) -> Iterator[tuple[str, str, Any]]:
        """URL of the shard, key and sample, from `start` up to `stop`."""
        samples = self.decoded(sample_type, start, stop)
        for number, row in zip(self._which[start:stop].tolist(), self._rows[start:stop].tolist(), strict=True):
            shard = self._shards[number]
            yield shard.url, shard.key(row), next(samples)

    def decoded(self, sample_type: type, start: int, stop: int) -> Iterator[Any]:
        """The samples from `start` up to `stop`; arrays are read-only views."""
        if any(shard.manifest is None for shard in self._shards):
            for number, row in zip(self._which[start:stop].tolist(), self._rows[start:stop].tolist(), strict=True):
                yield from self._shards[number].samples(sample_type, row, row + 1)
            return
        if self._spans is None:
            self._spans = self._payloads()
        decode = payload_decoder(sample_type)
        buffers = [shard.buffer for shard in self._shards]
        which, begins, ends = (part[start:stop] for part in self._spans)
        at = start
        try:
            for number, begin, end in zip(which, begins, ends, strict=True):
                yield decode(buffers[number][begin:end])
                at += 1
        except AtdataError as error:
            if error.key is None and error.url is None:
                shard, row = self._shards[int(self._which[at])], int(self._rows[at])
                assert shard.manifest is not None
                error.at(url=shard.url, offset=int(shard.manifest.offsets[row]), key=shard.key(row))
            raise

    def _payloads(self) -> tuple[list[int], list[int], list[int]]:
        """For each sample: the number of its shard, and where in that shard's buffer it begins and ends."""
        begins, ends = np.empty(len(self), np.int64), np.empty(len(self), np.int64)
        for shard, rows, at in self._pieces(0, len(self)):
            begins[at], ends[at] = shard.payloads(rows)
        return self._which.tolist(), begins.tolist(), ends.tolist()

    def column(self, sample_type: type, field: str, start: int, stop: int) -> Any:
        """One field of the samples from `start` up to `stop`; None where only decoding can tell."""
        found = self._columns.get((sample_type, field))
        if found is None:
            found = self._columns[sample_type, field] = self._prepared(sample_type, field)
        return found(start, stop)

    def _prepared(self, sample_type: type, field: str) -> Callable[[int, int], Any]:
        """What gives a column for parts of the stretch; as much is done for all of them at once as pays."""
        pieces = self._pieces(0, len(self))
        inner = _inner(sample_type, field, pieces)
        if inner is None:
            return lambda start, stop: None
        if not isinstance(inner, Array):
            found = self._scalars(field, pieces)
            if isinstance(inner, Primitive):
                return lambda start, stop: found[start:stop].tolist()
            values = _meant(inner, found.tolist())
            return lambda start, stop: None if values is None else values[start:stop]
        kind = _kind(field, pieces)
        if kind is not None:
            return (_Gathered if kind.size <= SHORT else _Spread)(self, field, kind).part
        return lambda start, stop: _column(sample_type, field, self._pieces(start, stop), stop - start)

    def _scalars(self, field: str, pieces: Sequence[_Piece]) -> NDArray[Any]:
        """The values of a scalar field, as they stand in the manifests; `tolist` gives Python objects."""
        columns = [shard.column(field) for shard in self._shards]
        if sum(map(len, columns)) <= _SPARSE * len(self):
            # One gathering out of all is quicker than one from each to where it belongs.
            if self._flat is None:
                starts = np.cumsum([0, *map(len, columns)])
                self._flat = starts[self._which] + self._rows
            if len({column.dtype for column in columns}) > 1:  # of signed and unsigned ones NumPy would make floats
                columns = [column.astype(object) for column in columns]
            every = np.concatenate(columns) if len(columns) > 1 else columns[0]
            return every.take(self._flat)
        return _scattered(field, pieces, len(self))

    def _pieces(self, start: int, stop: int) -> list[_Piece]:
        """The samples from `start` up to `stop`, shard by shard."""
        if start == 0 and stop == len(self):
            if self._all is None:
                self._all = self._grouped(0, stop)
            return self._all
        return self._grouped(start, stop)

    def _grouped(self, start: int, stop: int) -> list[_Piece]:
        which, rows = self._which[start:stop], self._rows[start:stop]
        if len(which) == 0:
            return []
        if len(self._shards) == 1 or (which == which[0]).all():
            return [_Piece(self._shards[int(which[0])], rows, slice(0, len(rows)))]
        # NumPy sorts small numbers by counting them.
        order = np.argsort(which.astype(np.uint16) if len(self._shards) <= 1 << 16 else which, kind="stable")
        ordered = which[order]
        bounds = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(order)]
        numbers = ordered[bounds[:-1]].tolist()
        return [
            _Piece(self._shards[number], rows[order[begin:end]], order[begin:end])
            for number, begin, end in zip(numbers, bounds[:-1], bounds[1:], strict=True)
        ]


class _Part(Lying):
    """Some neighbouring samples of a stretch."""

    __slots__ = ("_start", "_stop", "_stretch")

    def __init__(self, stretch: Stretch, start: int, stop: int) -> None:
        self._stretch = stretch
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        return self._stop - self._start

    def samples(self, sample_type: type) -> list[Any]:
        return list(self._stretch.decoded(sample_type, self._start, self._stop))

    def keyed(self, sample_type: type) -> Iterator[tuple[str, str, Any]]:
        return self._stretch.keyed(sample_type, self._start, self._stop)

    def column(self, sample_type: type, field: str) -> Any:
        return self._stretch.column(sample_type, field, self._start, self._stop)

    def shards(self) -> Iterable[BufferShard]:
        return self._stretch.shards(self._start, self._stop)


def joined(parts: Sequence[Lying]) -> Lying:
    """Several, one after the other."""
    return _Joined(parts)


class _Joined(Lying):
    """Parts of several stretches."""

    def __init__(self, parts: Sequence[Lying]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def samples(self, sample_type: type) -> list[Any]:
        return [sample for part in self._parts for sample in part.samples(sample_type)]

    def keyed(self, sample_type: type) -> Iterator[tuple[str, str, Any]]:
        for part in self._parts:
            yield from part.keyed(sample_type)

    def column(self, sample_type: type, field: str) -> Any:
        columns = [part.column(sample_type, field) for part in self._parts]
        if any(column is None for column in columns):
            return None
        arrays = [column for column in columns if isinstance(column, np.ndarray)]
        kind = {(array.dtype, array.shape[1:]) for array in arrays}
        if len(arrays) == len(columns) and len(kind) == 1:
            out = empty_array(len(self), arrays[0].shape[1:], arrays[0].dtype)
            at = 0
            for array in arrays:
                out[at : at + len(array)] = array
                at += len(array)
            return out
        return stack([value for column in columns for value in _rows(column)])

    def shards(self) -> Iterable[BufferShard]:
        return (shard for part in self._parts for shard in part.shards())


def _rows(column: Any) -> list[Any]:
    """The values of a column; of an array of numbers 0-d arrays, as each sample has one."""
    return [column[i, ...] for i in range(len(column))] if isinstance(column, np.ndarray) else column


class _Piece(NamedTuple):
    """Samples of one shard: their rows in it, and which of the wanted samples they are."""

    shard: BufferShard
    rows: Rows
    at: Rows


class _Kind(NamedTuple):
    """dtype and shape of arrays that are all alike, and their size in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape))


class _Gathered:
    """Short arrays, gathered for several batches at once: each has a copy of its part."""

    def __init__(self, stretch: Stretch, field: str, kind: _Kind) -> None:
        self._stretch = stretch
        self._field = field
        self._kind = kind
        self._start = self._stop = 0
        self._arrays: NDArray[Any] = np.ndarray((0, *kind.shape), kind.dtype)

    def part(self, start: int, stop: int) -> NDArray[Any]:
        """The arrays of the samples from `start` up to `stop`."""
        if start < self._start or stop > self._stop:
            self._start = start
            self._stop = min(len(self._stretch), max(stop, start + _AHEAD // max(self._kind.size, 1)))
            self._arrays = np.ndarray((self._stop - start, *self._kind.shape), self._kind.dtype)
            for shard, rows, at in self._stretch._pieces(start, self._stop):
                shard.gather(self._field, rows, self._arrays, at)
        out = empty_array(stop - start, self._kind.shape, self._kind.dtype)
        out[...] = self._arrays[start - self._start : stop - self._start]
        return out


class _Spread:
    """Long arrays: each is copied when its batch is made."""

    def __init__(self, stretch: Stretch, field: str, kind: _Kind) -> None:
        self._kind = kind
        self._buffers = [shard.buffer for shard in stretch._shards]
        offsets = np.empty(len(stretch), np.int64)
        for shard, rows, at in stretch._pieces(0, len(stretch)):
            offsets[at] = shard.elements(field, rows)
        self._which = stretch._which.tolist()
        self._offsets = offsets.tolist()

    def part(self, start: int, stop: int) -> NDArray[Any]:
        """The arrays of the samples from `start` up to `stop`."""
        out = empty_array(stop - start, self._kind.shape, self._kind.dtype)
        size, buffers = self._kind.size, self._buffers
        target = out.reshape(-1).view(np.uint8).data
        ends = range(size, out.nbytes + 1, size)
        for number, offset, end in zip(self._which[start:stop], self._offsets[start:stop], ends, strict=True):
            target[end - size : end] = buffers[number][offset : offset + size]
        return out


def _column(sample_type: type, field: str, pieces: Sequence[_Piece], count: int) -> Any:
    inner = _inner(sample_type, field, pieces)
    if inner is None:
        return None
    if not isinstance(inner, Array):
        return _values(inner, field, pieces, count)
    kind = _kind(field, pieces)
    if kind is None:
        found: list[Any] = [None] * count
        for shard, rows, at in pieces:
            places = range(count)[at] if isinstance(at, slice) else at.tolist()
            for place, value in zip(places, shard.arrays(field, rows), strict=True):
                found[place] = value
        return stack(found)
    out = empty_array(count, kind.shape, kind.dtype)
    for shard, rows, at in pieces:
        shard.gather(field, rows, out, at)
    return out


def _inner(sample_type: type, field: str, pieces: Sequence[_Piece]) -> FieldType | None:
    """The type of a field, without None, when it can be told from the manifests of all shards."""
    if not all(piece.shard.has_column(sample_type, field) for piece in pieces):
        return None
    node = codec.plan(sample_type).nodes[field]
    return node.inner if isinstance(node, OptionalOf) else node


def _values(inner: FieldType, field: str, pieces: Sequence[_Piece], count: int) -> list[Any] | None:
    """The values of a scalar field; None where the manifests hold values that are none of the field's."""
    if len(pieces) == 1 and isinstance(pieces[0].at, slice):
        return _meant(inner, pieces[0].shard.values(field, pieces[0].rows).tolist())
    return _meant(inner, _scattered(field, pieces, count).tolist())


def _scattered(field: str, pieces: Sequence[_Piece], count: int) -> NDArray[np.object_]:
    """The values of a scalar field, each where it belongs."""
    found = np.empty(count, object)
    for shard, rows, at in pieces:
        found[at] = shard.values(field, rows)
    return found


def _meant(inner: FieldType, values: list[Any]) -> list[Any] | None:
    """What values in manifests mean; None where there are some that are none of the field's."""
    match inner:
        case EnumOf():
            members = {None: None, **{m.value: m for m in inner.cls}}
            return [members[v] for v in values] if all(v in members for v in values) else None
        case LiteralOf():
            return values if all(v is None or v in inner.values for v in values) else None
    return values


def _kind(field: str, pieces: Sequence[_Piece]) -> _Kind | None:
    """What all arrays are; None where they differ, or one is missing."""
    columns = [piece.shard.manifest.array(field) for piece in pieces if piece.shard.manifest is not None]
    if not columns or columns[0].dtype is None or columns[0].shape is None:
        return None
    kind = _Kind(columns[0].dtype, columns[0].shape)
    alike = all(
        c.dtype == kind.dtype and c.shape == kind.shape and not c.missing(rows)
        for c, (_, rows, _) in zip(columns, pieces, strict=True)
    )
    return kind if alike else None


Allocate = Callable[[tuple[int, ...], Any], "NDArray[Any] | None"]

_allocate: ContextVar[Allocate | None] = ContextVar("atdata-arrays", default=None)


@contextlib.contextmanager
def arrays_from(allocate: Allocate) -> Iterator[None]:
    """Let `allocate` give the arrays of the columns that are gathered meanwhile, of a shape and dtype, where it can."""
    token = _allocate.set(allocate)
    try:
        yield
    finally:
        _allocate.reset(token)


def empty_array(count: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """A new array of `count` arrays of that shape and dtype, with anything in it."""
    allocate = _allocate.get()
    found = None if allocate is None else allocate((count, *shape), dtype)
    # `np.empty` would make one byte of a dtype of none (`<U0`), as `np.stack` makes native what is big-endian.
    return np.ndarray((count, *shape), dtype) if found is None else found


def stack(values: list[Any]) -> Any:
    """Arrays of one dtype and shape as one new array; else a list of new arrays, or the values as they are."""
    first = values[0] if values else None
    if isinstance(first, np.ndarray) and all(
        isinstance(v, np.ndarray) and v.dtype == first.dtype and v.shape == first.shape for v in values
    ):
        out = empty_array(len(values), first.shape, first.dtype)
        for i, value in enumerate(values):
            out[i] = value
        return out
    # Lists of arrays are the caller's own, as stacked columns are.
    return [v.copy() if isinstance(v, np.ndarray) else v for v in values]
