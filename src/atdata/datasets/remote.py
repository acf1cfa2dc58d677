"""Shards that lie far away: whole samples or fields of them, by ranges that are checked as they arrive."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atdata.datasets.checks import check_rows, hashed
from atdata.errors import IntegrityError
from atdata.shards.extract import Extract, Part, Spans, fields_of, spans_of
from atdata.shards.grouping import RawSample
from atdata.shards.manifest import APART, Manifest
from atdata.shards.reader import BufferShard, Shard
from atdata.stores.base import StoredObject
from atdata.stores.ranges import ByteRange, coalesce, windows

__all__ = ["GAP", "REQUEST", "WINDOW", "Fields", "Load", "RemoteShard"]

GAP = 128 << 10  # bytes between two samples that are read for nothing rather than ask twice
WINDOW = 4 << 20  # bytes of one range: long enough for a connection to reach its speed, short enough to come soon
_HELD = 1.4  # bytes that a byte of a range takes: pieces of an answer before they are one, and what allocators keep
REQUEST = 64 << 10  # bytes that a range counts as at least, however short: nobody is asked thousands of times at once

# Some fields of samples; None for whole samples.
Fields = tuple[str, ...] | None


class Load(NamedTuple):
    """Samples that are fetched together, to be held by one buffer.

    Attributes:
        rows: which samples.
        size: bytes that they are taken to hold.
        jobs: what fetches and checks them, each by itself.
        finish: makes the shard of what the jobs gave.
        light: whether the jobs fetch single fields, which takes a server's time more than a processor's.
    """

    rows: NDArray[np.int64]
    size: int
    jobs: Sequence[Callable[[], Any]]
    finish: Callable[[list[Any]], BufferShard]
    light: bool = False


class RemoteShard(Shard):
    """A shard on a server that has a manifest: any run of its samples is one range, and so are single fields.

    Args:
        url: its place, for messages.
        file: the object.
        manifest: its manifest, known to be its own.
        check: whether all that is fetched is checked against its digest.
    """

    manifest: Manifest

    def __init__(self, url: str, file: StoredObject, manifest: Manifest, *, check: bool) -> None:
        self.url = url
        self.manifest = manifest
        self._file = file
        self._check = check

    def __len__(self) -> int:
        return len(self.manifest)

    def key(self, row: int) -> str:
        """The key of sample `row`."""
        return self.manifest.keys[row]

    def find(self, key: str) -> int | None:
        """The number of the first sample with that key; None when there is none."""
        return self.manifest.numbers.get(key)

    def raw(self, start: int = 0, stop: int | None = None) -> Iterator[RawSample]:
        """The samples from `start` up to `stop` as they lie in the archive."""
        for first, last in self.runs(None, start, stop):
            yield from self.fetch(first, last, None).raw(first, last)

    def samples(self, sample_type: type, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """The samples from `start` up to `stop`."""
        fields = fields_of(sample_type)
        for first, last in self.runs(fields, start, stop):
            yield from self.fetch(first, last, fields).samples(sample_type, first, last)

    def sample(self, sample_type: type, row: int) -> Any:
        """Sample `row`."""
        return self.fetch(row, row + 1, fields_of(sample_type)).sample(sample_type, row)

    def fetch(self, start: int, stop: int, fields: Fields) -> BufferShard:
        """The samples from `start` up to `stop`, or fields of them, here and now.

        Raises:
            IntegrityError: bytes are not those that were written; they were fetched twice.
        """
        load = self.load(start, stop, fields)
        if len(load.jobs) == 1:
            return load.finish([load.jobs[0]()])
        with ThreadPoolExecutor(min(16, len(load.jobs) or 1), thread_name_prefix="atdata-fetch") as pool:
            return load.finish(list(pool.map(lambda job: job(), load.jobs)))

    def load(self, start: int, stop: int, fields: Fields) -> Load:
        """What to fetch for the samples from `start` up to `stop`; whole samples are one range."""
        rows = np.arange(start, stop)
        return self._narrow(rows, fields) or self._range(rows)

    def runs(
        self, fields: Fields, start: int = 0, stop: int | None = None, *, most: int = WINDOW
    ) -> Iterator[tuple[int, int]]:
        """Runs of neighbouring samples to be fetched together, of at most so many bytes where a sample is no larger."""
        rows = np.arange(*slice(start, stop).indices(len(self)))
        if not len(rows):
            return
        spans = None if fields is None else spans_of(self.manifest, rows, fields, check=self._check)
        if spans is None:
            starts = self.manifest.offsets[rows]
            stops = starts + self.manifest.sizes[rows]
        else:
            each = np.bincount(spans.rows, spans.stops - spans.starts + REQUEST, len(rows)).astype(np.int64)
            stops = np.cumsum(each)
            starts = stops - each
        for first, last in windows(starts.tolist(), stops.tolist(), min(WINDOW, most)):
            yield start + first, start + last

    def weight(self, rows: NDArray[np.int64], fields: Fields) -> int:
        """Bytes that samples, or fields of them, are taken to hold."""
        spans = None if fields is None else spans_of(self.manifest, rows, fields, check=self._check)
        if spans is None:
            return int(self.manifest.sizes[rows].sum())
        return int((spans.stops - spans.starts).sum()) + REQUEST * len(spans.starts)

    def loads(self, rows: NDArray[np.int64], fields: Fields) -> Iterator[Load]:
        """What to fetch for these samples: as few ranges as make sense.

        Args:
            rows: in any order, each once.
            fields: what is wanted of them.
        """
        narrow = self._narrow(np.sort(rows), fields)
        if narrow is not None:
            yield narrow
            return
        starts = self.manifest.offsets[rows]
        order = np.argsort(starts, kind="stable")
        starts, stops = starts[order], (starts + self.manifest.sizes[rows])[order]
        gaps = np.flatnonzero(starts[1:] - stops[:-1] > GAP) + 1
        for first, last in itertools.pairwise([0, *gaps.tolist(), len(rows)]):
            for begin, end in windows(starts[first:last].tolist(), stops[first:last].tolist(), WINDOW):
                yield self._range(rows[order[first + begin : first + end]])

    # -- whole samples ---------------------------------------------------------------------------------------

    def _range(self, rows: NDArray[np.int64]) -> Load:
        """All bytes from the first of these samples to the last."""
        offsets = self.manifest.offsets[rows]
        base, end = int(offsets.min()), int((offsets + self.manifest.sizes[rows]).max())
        return Load(rows, int((end - base) * _HELD), [partial(self._window, rows, base, end)], _only)

    def _window(self, rows: NDArray[np.int64], base: int, end: int) -> BufferShard:
        shard = BufferShard(self.url, self._file.fetch(base, end), self.manifest, base=base)
        if self._check:
            try:
                check_rows(shard, rows)
            except IntegrityError:  # it may have been damaged on the way
                shard = BufferShard(self.url, self._file.fetch(base, end), self.manifest, base=base)
                check_rows(shard, rows)
        return shard

    # -- single fields ---------------------------------------------------------------------------------------

    def takes(self, fields: Fields) -> tuple[int, int] | None:
        """Requests and bytes for some fields of all samples; None where these are not fetched by themselves."""
        requests = size = 0
        for start, stop in self.runs(fields):
            found = self._ranges(np.arange(start, stop), fields)
            if found is None:
                return None
            requests += len(found[1])
            size += sum(r.stop - r.start for r in found[1])
        return requests, size

    def _ranges(self, rows: NDArray[np.int64], fields: Fields) -> tuple[Spans, list[ByteRange]] | None:
        """The ranges to fetch of these samples for some fields; None where whole samples cost little more."""
        spans = None if fields is None else spans_of(self.manifest, rows, fields, check=self._check)
        if spans is None:
            return None
        pieces = list(zip(spans.starts.tolist(), spans.stops.tolist(), strict=True))
        ranges = coalesce(pieces, max_gap=APART, max_size=WINDOW)
        size = sum(r.stop - r.start for r in ranges)
        return None if 4 * size > 3 * int(self.manifest.sizes[rows].sum()) else (spans, ranges)

    def _narrow(self, rows: NDArray[np.int64], fields: Fields) -> Load | None:
        """What to fetch of these samples for some fields; None where whole samples cost little more."""
        found = self._ranges(rows, fields)
        if fields is None or found is None:
            return None
        spans, ranges = found
        jobs = [partial(self._fields, rows, spans, wanted) for wanted in ranges]
        size = sum(max(r.stop - r.start, REQUEST) for r in ranges)
        return Load(rows, size, jobs, partial(self._extract, rows, fields, spans, ranges), light=True)

    def _fields(self, rows: NDArray[np.int64], spans: Spans, wanted: ByteRange) -> Part:
        part = Part(self._file.fetch(wanted.start, wanted.stop), wanted.start)
        if self._check:
            try:
                self._check_pieces(rows, spans, wanted.items, part)
            except IntegrityError:  # it may have been damaged on the way
                part = Part(self._file.fetch(wanted.start, wanted.stop), wanted.start)
                self._check_pieces(rows, spans, wanted.items, part)
        return part

    def _check_pieces(self, rows: NDArray[np.int64], spans: Spans, items: Iterable[int], part: Part) -> None:
        manifest = self.manifest
        for at in items:
            row, number = int(rows[spans.rows[at]]), int(spans.which[at])
            begin, end = int(spans.starts[at]), int(spans.stops[at])
            got = hashed(part.data[begin - part.base : end - part.base]).digest()
            ranges = None if number < 0 else manifest.ranges(spans.fields[number])
            expected = manifest.digest(row) if ranges is None else ranges.digest(row)
            if got != expected:
                what = "sample" if ranges is None else "field"
                raise IntegrityError(
                    f"the {what}'s bytes are not those that were written (SHA-256 differs)",
                    url=self.url,
                    offset=begin,
                    key=self.key(row),
                    field=None if ranges is None else spans.fields[number],
                    expected=expected.hex(),
                    got=got.hex(),
                )

    def _extract(
        self,
        rows: NDArray[np.int64],
        fields: tuple[str, ...],
        spans: Spans,
        ranges: Sequence[ByteRange],
        parts: list[Part],
    ) -> Extract:
        of_piece = [parts[0]] * len(spans.starts) if parts else []
        for wanted, part in zip(ranges, parts, strict=True):
            for at in wanted.items:
                of_piece[at] = part
        return Extract(self.url, self.manifest, rows, fields, spans, of_piece)


def _only(results: list[BufferShard]) -> BufferShard:
    return results[0]
