"""A batch of samples, column by column: nothing is decoded before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.fields import Array, EnumOf, LiteralOf, OptionalOf
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

    An array field gives one new, writable array of shape (samples, …) when all its arrays have one dtype and shape,
    else (ragged, or None among them) a list of arrays; every other field gives a list. A column is gathered when it is
    first asked for and kept. A field named like one of this class's own members is reached as an item only.

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
        if name.startswith("_") or hasattr(
            type(self), name
        ):  # a member of this class that raised AttributeError itself
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
        if self._samples is None and all(shard.has_column(self._type, field) for shard, _, _ in self._rows):
            found = self._gather(field)
            if found is not None:
                return found
        samples: list[Any] = self.samples
        if not issubclass(self._type, Mapping) and field not in self.fields:
            raise KeyError(f"{self._type.__name__} has no field {field!r}; it has {', '.join(self.fields)}")
        try:
            values = [s[field] if isinstance(s, Mapping) else getattr(s, field) for s in samples]
        except (KeyError, AttributeError):
            raise KeyError(f"not every sample of the batch has a field {field!r}") from None
        return _stack(values)

    def _gather(self, field: str) -> Any:
        """The column out of the manifests; None where they hold values that are none of the field's."""
        node = codec.plan(self._type).nodes[field]
        inner = node.inner if isinstance(node, OptionalOf) else node
        if not isinstance(inner, Array):
            values = [v for shard, start, stop in self._rows for v in shard.gather(field, start, stop)]
            match inner:
                case EnumOf():
                    members = {None: None, **{m.value: m for m in inner.cls}}
                    return [members[v] for v in values] if all(v in members for v in values) else None
                case LiteralOf():
                    return values if all(v is None or v in inner.values for v in values) else None
            return values
        columns = [shard.manifest.array(field) for shard, _, _ in self._rows if shard.manifest is not None]
        dtype, shape = columns[0].dtype, columns[0].shape
        uniform = dtype is not None and all(
            c.dtype == dtype and c.shape == shape and not c.missing(start, stop)
            for c, (_, start, stop) in zip(columns, self._rows, strict=True)
        )
        if not uniform:
            return _stack([v for shard, start, stop in self._rows for v in shard.gather(field, start, stop)])
        out = _empty(len(self), shape or (), dtype)
        at = 0
        for shard, start, stop in self._rows:
            shard.gather(field, start, stop, out[at : at + stop - start])
            at += stop - start
        return out


def _empty(count: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    # `np.empty` would make one byte of a dtype of none (`<U0`), as `np.stack` makes native what is big-endian.
    return np.ndarray((count, *shape), dtype)


def _stack(values: list[Any]) -> Any:
    first = values[0] if values else None
    if isinstance(first, np.ndarray) and all(
        isinstance(v, np.ndarray) and v.dtype == first.dtype and v.shape == first.shape for v in values
    ):
        out = _empty(len(values), first.shape, first.dtype)
        for i, value in enumerate(values):
            out[i] = value
        return out
    # Lists of arrays are the caller's own, as stacked columns are.
    return [v.copy() if isinstance(v, np.ndarray) else v for v in values]
