"""Reading one shard: its samples in order, one by number or key, and whole columns of them."""

from __future__ import annotations

import abc
import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdata.errors import AtdataError, SampleDecodeError
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.fields import Array, EnumOf, LiteralOf, OptionalOf, Primitive
from atdata.samples.packable import keeps_values
from atdata.shards.compression import open_archive
from atdata.shards.grouping import RawSample, group
from atdata.shards.manifest import ArrayColumn, Manifest
from atdata.shards.members import decoder
from atdata.shards.tar import BufferSource, StreamSource, walk

__all__ = ["SHORT", "BufferShard", "Rows", "Shard", "StreamShard", "keeps_values", "payload_decoder"]


class Shard(abc.ABC):
    """One shard open for reading.

    Attributes:
        url: its place, for messages.
        manifest: what lies where in it, or None.
    """

    url: str
    manifest: Manifest | None = None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abc.abstractmethod
    def key(self, row: int) -> str:
        """The key of sample `row`."""

    @abc.abstractmethod
    def find(self, key: str) -> int | None:
        """The number of the first sample with that key; None when there is none."""

    @abc.abstractmethod
    def raw(self, start: int = 0, stop: int | None = None) -> Iterator[RawSample]:
        """The samples from `start` up to `stop` as they lie in the archive."""

    def keyed(self, sample_type: type, start: int = 0, stop: int | None = None) -> Iterator[tuple[str, Any]]:
        """Key and sample, from `start` up to `stop`."""
        decode = decoder(sample_type)
        raws = self.raw(start, stop)
        while True:
            try:
                raw = next(raws, None)
                if raw is None:
                    return
                sample = decode(raw)
            except AtdataError as error:
                error.at(url=self.url)
                raise
            yield raw.key, sample

    def samples(self, sample_type: type, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """The samples from `start` up to `stop`."""
        for _, sample in self.keyed(sample_type, start, stop):
            yield sample


class BufferShard(Shard):
    """A shard in memory or mapped from a file: samples are views of it.

    Args:
        url: its place, for messages.
        buffer: the whole uncompressed archive; or, with a manifest, a stretch of it.
        manifest: a manifest known to be its own; without one the archive's headers are walked.
        base: where in the archive the buffer begins.
    """

    def __init__(self, url: str, buffer: memoryview, manifest: Manifest | None = None, *, base: int = 0) -> None:
        self.url = url
        self._buffer = buffer
        self.base = base
        self.manifest = manifest
        self._walked: tuple[list[str], array[int]] | None = None
        self._numbers: dict[str, int] | None = None
        self._columns: dict[tuple[type, str], bool] = {}
        self._decoder: tuple[type, Callable[[memoryview], Any]] | None = None

    @property
    def buffer(self) -> memoryview:
        """The bytes that are here."""
        return self._buffer

    def __len__(self) -> int:
        return len(self.manifest) if self.manifest is not None else len(self._index()[0])

    def offers(self, fields: Iterable[str] | None) -> bool:
        """Whether samples of these fields (None: whole samples) are here, of those that this is to hold."""
        return True

    def key(self, row: int) -> str:
        """The key of sample `row`."""
        return self.manifest.keys[row] if self.manifest is not None else self._index()[0][row]

    def find(self, key: str) -> int | None:
        """The number of the first sample with that key; None when there is none."""
        if self.manifest is not None:
            return self.manifest.numbers.get(key)
        if self._numbers is None:
            self._numbers = {}
            for row, name in enumerate(self._index()[0]):
                self._numbers.setdefault(name, row)
        return self._numbers.get(key)

    def _index(self) -> tuple[list[str], array[int]]:
        """Keys, and where each sample's first header begins."""
        if self._walked is None:
            keys, starts = [], array("q")
            try:
                for raw in group(walk(BufferSource(self.buffer))):
                    keys.append(raw.key)
                    starts.append(raw.start)
            except AtdataError as error:
                error.at(url=self.url)
                raise
            self._walked = keys, starts
        return self._walked

    def payload(self, row: int) -> memoryview:
        """The payload of sample `row`; needs a manifest."""
        assert self.manifest is not None
        at = self.manifest.offsets.item(row) - self.base
        return self.buffer[at : at + self.manifest.sizes.item(row)]

    def payloads(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in the buffer the payloads of some samples begin and end; needs a manifest."""
        assert self.manifest is not None
        begins = self.manifest.offsets[rows] - self.base
        return begins, begins + self.manifest.sizes[rows]

    def elements(self, field: str, rows: Rows) -> NDArray[np.int64]:
        """Where in the buffer the raw elements of an array field begin; needs a manifest."""
        column, rows = self._locate(field, rows)
        return column.offsets[rows] - self.base

    def _locate(self, field: str, rows: Rows) -> tuple[ArrayColumn, Rows]:
        """Where the arrays of a field lie, and which of them those of some samples are."""
        assert self.manifest is not None
        return self.manifest.array(field), rows

    def raw(self, start: int = 0, stop: int | None = None) -> Iterator[RawSample]:
        """The samples from `start` up to `stop` as they lie in the archive."""
        if self.manifest is not None:
            rows = slice(*slice(start, stop).indices(len(self.manifest)))
            begins, ends = self.payloads(rows)
            places = zip(
                self.manifest.keys[rows],
                self.manifest.offsets[rows].tolist(),
                begins.tolist(),
                ends.tolist(),
                strict=True,
            )
            buffer = self.buffer
            for key, offset, begin, end in places:
                yield RawSample(key, offset, {"msgpack": buffer[begin:end]})
            return
        source = BufferSource(self.buffer)
        if start or stop is not None:
            starts = self._index()[1]
            start, stop, _ = slice(start, stop).indices(len(starts))
            if start >= stop:
                return
            source.position = starts[start]
        left = None if stop is None else stop - start
        for raw in group(walk(source)):
            yield raw
            if left is not None:
                left -= 1
                if left == 0:
                    return

    def samples(self, sample_type: type, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """The samples from `start` up to `stop`."""
        if self.manifest is None:
            yield from super().samples(sample_type, start, stop)
            return
        decode = payload_decoder(sample_type)
        begins, ends = self.payloads(slice(*slice(start, stop).indices(len(self.manifest))))
        buffer = self.buffer
        row = start
        try:
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
                sample = decode(buffer[begin:end])
                yield sample
                row += 1
        except SampleDecodeError as error:
            if error.key is None and error.url is None:
                error.at(url=self.url, offset=int(self.manifest.offsets[row]), key=self.key(row))
            raise

    def sample(self, sample_type: type, row: int) -> Any:
        """Sample `row`; needs a manifest."""
        return self.decoded(sample_type, row, self.payload(row))

    def decoded(self, sample_type: type, row: int, payload: memoryview) -> Any:
        """Sample `row`, of which this is the payload."""
        known = self._decoder
        if known is None or known[0] is not sample_type:
            known = self._decoder = sample_type, payload_decoder(sample_type)
        try:
            return known[1](payload)
        except SampleDecodeError as error:
            assert self.manifest is not None
            error.at(url=self.url, offset=int(self.manifest.offsets[row]), key=self.key(row))
            raise

    def fits(self, sample_type: type) -> bool:
        """Whether the class has all fields that the manifest describes, or is one that does without."""
        assert self.manifest is not None
        plan, manifest = codec.plan(sample_type), self.manifest
        described = {*manifest.array_fields, *manifest.scalar_fields, *manifest.packed_fields}
        return plan.ignore_unknown or described <= plan.nodes.keys()

    def has_column(self, sample_type: type, field: str) -> bool:
        """Whether `gather` gives the same values of that field as decoding samples of `sample_type` would."""
        known = self._columns.get((sample_type, field))
        if known is None:
            known = self._columns[sample_type, field] = self._column_fits(sample_type, field)
        return known

    def _column_fits(self, sample_type: type, field: str) -> bool:
        manifest = self.manifest
        if manifest is None or issubclass(sample_type, DictSample) or not keeps_values(sample_type):
            return False
        plan = codec.plan(sample_type)
        if not self.fits(sample_type):
            return False  # decoding says that it is another type
        node = plan.nodes.get(field)
        optional = isinstance(node, OptionalOf)
        inner = node.inner if isinstance(node, OptionalOf) else node
        if isinstance(inner, Array):
            if field not in manifest.array_fields:
                return False
            column = manifest.array(field)
            if not optional and column.missing():
                return False
            return all(inner.mismatch(dtype, shape) is None for dtype, shape in _kinds(column))
        match inner:
            case Primitive():
                types = {inner.type}
            case EnumOf():
                types = {type(member.value) for member in inner.cls}
            case LiteralOf():
                types = {type(value) for value in inner.values if value is not None}
                optional = optional or None in inner.values
            case _:
                return False
        if len(types) != 1 or field not in manifest.scalar_fields:
            return False
        values = manifest.table[field]
        return values.type in _ARROW.get(types.pop(), ()) and (optional or not values.null_count)

    def column(self, field: str) -> NDArray[Any]:
        """The values of a scalar field for all samples of the shard, as `Manifest.values` has them."""
        assert self.manifest is not None
        return self.manifest.values(field)

    def values(self, field: str, rows: Rows) -> NDArray[Any]:
        """The values of a scalar field for some samples, as `Manifest.values` has them; no sample is decoded."""
        assert self.manifest is not None
        return self.manifest.values(field)[rows]

    def arrays(self, field: str, rows: Rows) -> list[NDArray[Any] | None]:
        """New arrays of an array field for some samples, None where there is none, without decoding any sample."""
        column, rows = self._locate(field, rows)
        found: list[NDArray[Any] | None] = []
        for row, offset in zip(_numbers(rows), column.offsets[rows].tolist(), strict=True):
            if offset < 0:
                found.append(None)
                continue
            dtype, shape = column.describe(row)
            found.append(np.ndarray(shape, dtype, self.buffer, offset - self.base).copy())
        return found

    def gather(self, field: str, rows: Rows, out: NDArray[Any], at: Rows) -> None:
        """Copy the arrays of a field that all have one dtype and shape, without decoding any sample.

        Args:
            field: the array field; none of the samples is without it.
            rows: the samples.
            out: where they go, of shape (…, *shape) and contiguous.
            at: which rows of `out` they become, as many as there are samples.
        """
        column, rows = self._locate(field, rows)
        assert column.shape is not None
        size = out.itemsize * math.prod(column.shape)
        if not size or not len(out):
            return
        if isinstance(rows, slice) and column.stride is not None and column.stride >= 0:
            # One view over all rows; NumPy itself checks that it stays inside the buffer.
            offset, inner = int(column.offsets[rows.start]) - self.base, out.strides[1:]
            shape = (rows.stop - rows.start, *column.shape)
            out[at] = np.ndarray(shape, out.dtype, self.buffer, offset, (column.stride, *inner))
            return
        offsets = column.offsets[rows] - self.base
        if size <= SHORT:
            # What begins at every single byte, of which NumPy takes those that are wanted in one go.
            every = np.ndarray((len(self.buffer) - size + 1,), f"V{size}", self.buffer, 0, (1,))
            out.reshape(len(out), -1).view(f"V{size}")[:, 0][at] = every[offsets]
            return
        for place, offset in zip(_numbers(at), offsets.tolist(), strict=True):
            out[place] = np.ndarray(column.shape, column.dtype, self.buffer, offset)


SHORT = 2048  # bytes up to which an array is copied faster together with others

# Samples of a shard: a run (with start and stop, and step 1), or their numbers.
Rows = slice | NDArray[np.int64]


def _numbers(rows: Rows) -> Iterable[int]:
    return range(rows.start, rows.stop) if isinstance(rows, slice) else rows.tolist()


class StreamShard(Shard):
    """A shard that can only be read from front to back: compressed, or behind a plain stream.

    Args:
        url: its place, for messages.
        open: gives a new stream from the beginning.
    """

    def __init__(self, url: str, open: Callable[[], IO[bytes]]) -> None:
        self.url = url
        self._open = open
        self._keys: list[str] | None = None

    def raw(self, start: int = 0, stop: int | None = None) -> Iterator[RawSample]:
        """The samples from `start` up to `stop`; what comes before is read and passed over."""
        with self._open() as stream:
            for row, raw in enumerate(group(walk(StreamSource(open_archive(stream))))):
                if stop is not None and row >= stop:
                    return
                if row >= start:
                    yield raw

    def _all_keys(self) -> list[str]:
        if self._keys is None:
            try:
                self._keys = [raw.key for raw in self.raw()]
            except AtdataError as error:
                error.at(url=self.url)
                raise
        return self._keys

    def __len__(self) -> int:
        return len(self._all_keys())

    def key(self, row: int) -> str:
        """The key of sample `row`."""
        return self._all_keys()[row]

    def find(self, key: str) -> int | None:
        """The number of the first sample with that key; None when there is none."""
        try:
            return self._all_keys().index(key)
        except ValueError:
            return None


_ARROW: dict[type, tuple[pa.DataType, ...]] = {
    str: (pa.string(),),
    int: (pa.int64(), pa.uint64()),
    float: (pa.float64(),),
    bool: (pa.bool_(),),
}


def _kinds(column: ArrayColumn) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
    """Every dtype with every shape that the arrays of a column have."""
    if column.dtype is not None and column.shape is not None:
        return [(column.dtype, column.shape)]
    dtypes = column._dtypes.drop_null().unique().to_pylist()
    shapes = set(map(tuple, column._shapes.drop_null().to_pylist()))
    return [(np.dtype(dtype), shape) for dtype in dtypes for shape in shapes]


def payload_decoder(sample_type: type) -> Callable[[memoryview], Any]:
    """What turns the payload of a `.msgpack` member into a sample of that type."""
    if issubclass(sample_type, DictSample):
        return sample_type.from_bytes
    return codec.plan(sample_type).decode
