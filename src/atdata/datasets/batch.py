"""A batch of samples, column by column: nothing is decoded before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.fields import Array, EnumOf, FieldType, LiteralOf, OptionalOf, Primitive
from atdata.shards.reader import BufferShard

__all__ = ["Rows", "SampleBatch"]

T = TypeVar("T")


class Rows(NamedTuple):
    """A run of samples in one shard with a manifest: from number `start` up to `stop`."""

    shard: BufferShard
    start: int
    stop: int


class SampleBatch(Generic[T]):
    """Some samples, seen by column: `batch.image`, `batch["image"]`.

    An array field gives one new, writable array of shape (samples, …) when all its arrays have one dtype and shape, else
    (ragged, or None among them) a list of arrays; every other field gives a list. A column is gathered when it is first
    asked for and kept. A field named like one of this class's own members is reached as an item only.

    Args:
        samples: the samples, all of one type.

    Example:
        >>> batch = SampleBatch([DictSample(x=1), DictSample(x=2)])
        >>> len(batch), batch.x
        (2, [1, 2])
    """

    def __init__(self, samples: Sequence[T], sample_type: type[T] | None = None) -> None:
        self._type: Any = sample_type if sample_type is not None else type(samples[0]) if samples else DictSample
        self._samples: list[T] | None = list(samples)
        self._rows: list[Rows] = []
        self._columns: dict[str, Any] = {}

    @classmethod
    def of_rows(cls, rows: list[Rows], sample_type: type[T]) -> SampleBatch[T]:
        """The batch of samples that lie in these places."""
        batch = cls((), sample_type)
        batch._samples = None
        batch._rows = rows
        return batch

    @property
    def sample_type(self) -> type[T]:
        """The class of the samples."""
        found: type[T] = self._type
        return found

    @property
    def samples(self) -> list[T]:
        """The samples themselves; arrays read from a shard are read-only."""
        if self._samples is None:
            self._samples = [
                sample for shard, start, stop in self._rows for sample in shard.samples(self._type, start, stop)
            ]
        return self._samples

    @property
    def fields(self) -> list[str]:
        """The names of the columns."""
        if issubclass(self._type, Mapping):
            return list(dict.fromkeys(name for sample in self.samples for name in sample))  # type: ignore[attr-defined]
        return [f.name for f in codec.plan(self._type).fields]

    def __len__(self) -> int:
        return sum(rows.stop - rows.start for rows in self._rows) if self._samples is None else len(self._samples)

    def __iter__(self) -> Iterator[T]:
        return iter(self.samples)

    def __getitem__(self, field: str) -> Any:
        found = self._columns.get(field)
        if found is None:
            found = self._columns[field] = self._column(field)
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(str(error.args[0])) from None

    def __repr__(self) -> str:
        return f"SampleBatch[{self._type.__name__}]({len(self)} samples: {', '.join(self.fields)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The places it came from mean nothing in another process, so the samples go along.
        return (SampleBatch, (self.samples, self._type))

    def _column(self, field: str) -> Any:
        if self._samples is None:
            convert = self._convert(field)
            if convert is not None:
                return self._gather(field, convert)
        samples: list[Any] = self.samples
        if not issubclass(self._type, Mapping) and field not in self.fields:
            raise KeyError(f"{self._type.__name__} has no field {field!r}; it has {', '.join(self.fields)}")
        try:
            values = [s[field] if isinstance(s, Mapping) else getattr(s, field) for s in samples]
        except (KeyError, AttributeError):
            raise KeyError(f"not every sample of the batch has a field {field!r}") from None
        return _stack(values)

    def _convert(self, field: str) -> Callable[[list[Any]], Any] | None:
        """What makes field values of a manifest's; None where the manifests do not have the field."""
        if issubclass(self._type, Mapping):
            return None
        node = codec.plan(self._type).nodes.get(field)
        for shard, _, _ in self._rows:
            manifest = shard.manifest
            if node is None or manifest is None:
                return None
            if field not in manifest.array_fields and field not in manifest.scalar_fields:
                return None
        return None if node is None else _from_column(node)

    def _gather(self, field: str, convert: Callable[[list[Any]], Any]) -> Any:
        first = self._rows[0].shard.manifest
        assert first is not None
        if field not in first.array_fields:
            return convert([v for shard, start, stop in self._rows for v in shard.gather(field, start, stop)])
        columns = [shard.manifest.array(field) for shard, _, _ in self._rows if shard.manifest is not None]
        dtype, shape = columns[0].dtype, columns[0].shape
        uniform = dtype is not None and all(
            c.dtype == dtype and c.shape == shape and not c.missing(start, stop)
            for c, (_, start, stop) in zip(columns, self._rows, strict=True)
        )
        if not uniform:
            return _stack([v for shard, start, stop in self._rows for v in shard.gather(field, start, stop)])
        out = np.empty((len(self), *(shape or ())), dtype)
        at = 0
        for shard, start, stop in self._rows:
            shard.gather(field, start, stop, out[at : at + stop - start])
            at += stop - start
        return out


def _from_column(node: FieldType) -> Callable[[list[Any]], Any] | None:
    inner = node.inner if isinstance(node, OptionalOf) else node
    match inner:
        case Primitive() | LiteralOf():
            return _same
        case EnumOf():
            members = {m.value: m for m in inner.cls}
            return lambda values: [None if v is None else members[v] for v in values]
        case Array():
            return _same
    return None


def _same(values: list[Any]) -> list[Any]:
    return values


def _stack(values: list[Any]) -> Any:
    first = values[0] if values else None
    if isinstance(first, np.ndarray) and all(
        isinstance(v, np.ndarray) and v.dtype == first.dtype and v.shape == first.shape for v in values
    ):
        return np.stack(values)
    # Lists of arrays are the caller's own, as stacked columns are.
    return [v.copy() if isinstance(v, np.ndarray) else v for v in values]
