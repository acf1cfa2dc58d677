"""Some fields of some samples: brought by themselves, and put together as samples of these fields alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdata.samples import codec
from atdata.samples.arrays import array_header
from atdata.samples.dictsample import DictSample
from atdata.samples.encode import bin_header, pack
from atdata.shards.manifest import ArrayColumn, Manifest
from atdata.shards.reader import BufferShard, Rows

__all__ = ["Extract", "Part", "Spans", "fields_of", "spans_of", "stands_in"]

_NONE = b"\xc0"


def fields_of(sample_type: type) -> tuple[str, ...] | None:
    """The fields that reading samples of a class takes; None for whole samples.

    Only a class of chosen fields does without the others: any other one refuses what it does not know.
    """
    if issubclass(sample_type, DictSample):
        return None
    plan = codec.plan(sample_type)
    return tuple(plan.nodes) if plan.ignore_unknown else None


def stands_in(manifest: Manifest, field: str) -> bool:
    """Whether the values of a field stand in the manifest exactly as in the samples."""
    # Times are instants there, and texts with their zone in the samples.
    return field in manifest.scalar_fields and not pa.types.is_timestamp(manifest.table[field].type)


class Spans(NamedTuple):
    """What has to be brought of some samples, each piece once.

    Attributes:
        fields: those that have pieces of their own.
        whole: which of the samples are brought as a whole, of shape (samples,).
        starts: where each piece begins in the tar file, int64.
        stops: where it ends.
        rows: the number of its sample, among these.
        which: the number of its field in `fields`; -1 for a whole sample.
    """

    fields: tuple[str, ...]
    whole: NDArray[np.bool_]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    rows: NDArray[np.int64]
    which: NDArray[np.int64]


def spans_of(manifest: Manifest, rows: NDArray[np.int64], fields: Iterable[str], *, check: bool) -> Spans | None:
    """Where some fields of some samples lie; None where samples are to be brought whole.

    Args:
        manifest: of their shard.
        rows: the samples.
        fields: what is wanted of them.
        check: whether there has to be a digest for each piece. A sample with a piece that has none comes whole.
    """
    apart: list[str] = []
    whole = np.zeros(len(rows), bool)
    for field in fields:
        if stands_in(manifest, field):
            continue
        ranges = manifest.ranges(field)
        if ranges is None:
            return None
        apart.append(field)
        whole |= ranges.sizes[rows] < 0
        if check:
            whole |= ~ranges.checked[rows]
    if apart and whole.all():
        return None
    parts: list[tuple[NDArray[Any], ...]] = []
    for number, field in enumerate(apart):
        ranges = manifest.ranges(field)
        assert ranges is not None
        these = np.flatnonzero(~whole & (ranges.sizes[rows] > 0))
        starts = ranges.offsets[rows[these]]
        parts.append((starts, starts + ranges.sizes[rows[these]], these, np.full(len(these), number)))
    these = np.flatnonzero(whole)
    starts = manifest.offsets[rows[these]]
    parts.append((starts, starts + manifest.sizes[rows[these]], these, np.full(len(these), -1)))
    return Spans(tuple(apart), whole, *(np.concatenate(part) for part in zip(*parts, strict=True)))


class Part(NamedTuple):
    """A stretch of the tar file that was fetched, and where it begins there."""

    data: memoryview
    base: int


class Extract(BufferShard):
    """Samples of which only some fields are here.

    Each has a payload of these fields alone, made when it is first needed; some may be here as a whole. What a class of
    these fields decodes of them, and every column, is what it would be of the samples themselves.

    Args:
        url: the place of their shard, for messages.
        manifest: of the shard.
        rows: the samples, ascending, each once.
        fields: what is here of them.
        spans: the pieces that were brought.
        parts: for each piece, the stretch that it lies in.
    """

    manifest: Manifest

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        rows: NDArray[np.int64],
        fields: Sequence[str],
        spans: Spans,
        parts: Sequence[Part],
    ) -> None:
        super().__init__(url, memoryview(b""), manifest)
        self._rows = rows
        self._fields = tuple(fields)
        self._brought: tuple[Spans, Sequence[Part]] | None = (spans, parts)
        self._made = threading.Lock()
        self._run = len(rows) > 0 and int(rows[-1]) - int(rows[0]) + 1 == len(rows)
        self._bounds = np.empty(0, np.int64)
        self._arrays: dict[str, ArrayColumn] = {}

    def offers(self, fields: Iterable[str] | None) -> bool:
        """Whether samples of these fields (None: whole samples) are here."""
        return fields is not None and set(fields) <= set(self._fields)

    def has_column(self, sample_type: type, field: str) -> bool:
        """Whether a column can be had without decoding: of the manifest, or of arrays that are here."""
        here = field in self._fields or field not in self.manifest.array_fields
        return here and super().has_column(sample_type, field)

    @property
    def buffer(self) -> memoryview:
        """The samples' payloads, one after the other."""
        if self._brought is not None:
            with self._made:  # two threads may read from one batch
                if self._brought is not None:
                    self._make(*self._brought)
                    self._brought = None
        return self._buffer

    def payload(self, row: int) -> memoryview:
        """The payload of sample `row`."""
        buffer, (at,) = self.buffer, self._local(np.array([row]))
        return buffer[int(self._bounds[at]) : int(self._bounds[at + 1])]

    def payloads(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in the buffer the payloads of some samples begin and end."""
        self.buffer  # noqa: B018  (makes them)
        at = self._local(rows)
        return self._bounds[:-1][at], self._bounds[1:][at]

    def _locate(self, field: str, rows: Rows) -> tuple[ArrayColumn, Rows]:
        self.buffer  # noqa: B018  (makes them)
        found = self._local(rows)
        if isinstance(rows, slice) and self._run:
            begin = rows.start - int(self._rows[0])
            return self._arrays[field], slice(begin, begin + rows.stop - rows.start)
        return self._arrays[field], found

    def _local(self, rows: Rows) -> NDArray[np.int64]:
        """Which of the samples here these are."""
        wanted = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return wanted - self._rows[0] if self._run else np.searchsorted(self._rows, wanted)

    # -- putting together ------------------------------------------------------------------------------------

    def _make(self, spans: Spans, parts: Sequence[Part]) -> None:
        count = len(self._rows)
        brought: dict[int, list[memoryview | None]] = {}
        for number in (-1, *range(len(spans.fields))):
            pieces: list[memoryview | None] = [None] * count
            for at in np.flatnonzero(spans.which == number).tolist():
                data, base = parts[at]
                pieces[int(spans.rows[at])] = data[int(spans.starts[at]) - base : int(spans.stops[at]) - base]
            brought[number] = pieces
        whole = brought.pop(-1)
        by_field = {name: brought[number] for number, name in enumerate(spans.fields)}
        writers = [self._writer(name, by_field) for name in self._fields]
        head = codec.map_header(len(writers))
        out: list[bytes | memoryview] = []
        bounds = np.zeros(count + 1, np.int64)
        begins = {name: np.full(count, -1, np.int64) for name in spans.fields if name in self.manifest.array_fields}
        end = 0
        for at, payload in enumerate(whole):
            if payload is not None:
                out.append(payload)
                row = int(self._rows[at])
                for name, places in begins.items():
                    offset = int(self.manifest.array(name).offsets[row])
                    places[at] = -1 if offset < 0 else end + offset - int(self.manifest.offsets[row])
                end += len(payload)
            else:
                out.append(head)
                end += len(head)
                for name, write in zip(self._fields, writers, strict=True):
                    prefix, value = write(at)
                    out.append(prefix)
                    end += len(prefix)
                    if value is not None:
                        if name in begins:
                            begins[name][at] = end
                        out.append(value)
                        end += len(value)
            bounds[at + 1] = end
        self._bounds = bounds
        self._arrays = {name: self.manifest.array(name).of(self._rows, places) for name, places in begins.items()}
        self._buffer = memoryview(b"".join(out))

    def _writer(
        self, name: str, brought: Mapping[str, list[memoryview | None]]
    ) -> Callable[[int], tuple[bytes, bytes | memoryview | None]]:
        """What gives the packed name and value of a field of each sample: a prefix, and what was brought."""
        key, manifest = msgspec.msgpack.encode(name), self.manifest
        if name not in brought:
            values = manifest.values(name)[self._rows].tolist()
            return lambda at: (key + pack(values[at]), None)
        pieces = brought[name]
        if name not in manifest.array_fields:
            return lambda at: (key + _NONE, None) if pieces[at] is None else (key, pieces[at])
        column, rows = manifest.array(name), self._rows.tolist()
        heads: dict[Any, bytes] = {}

        def array(at: int) -> tuple[bytes, bytes | memoryview | None]:
            if column.offsets[rows[at]] < 0:
                return key + _NONE, None
            data = pieces[at]
            kind = column.describe(rows[at])
            head = heads.get(kind)
            if head is None:
                compact = array_header(*kind)
                head = heads[kind] = key + bin_header(len(compact) + (0 if data is None else len(data))) + compact
            return head, b"" if data is None else data

        return array
