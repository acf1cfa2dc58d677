"""Going through a dataset: samples or batches, in order, as often as asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from atdata.datasets import steps
from atdata.datasets.batch import SampleBatch
from atdata.datasets.columns import Run, Runs
from atdata.datasets.sequence import pieces
from atdata.shards.reader import BufferShard

if TYPE_CHECKING:
    from atdata.datasets.dataset import Dataset

__all__ = ["Loader"]

T = TypeVar("T")


class Loader(Generic[T]):
    """A dataset's samples, or batches of them, each time it is iterated.

    `len()` is the number of samples or batches; it needs a dataset whose length is known.
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int | None) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._dataset = dataset
        self._batch_size = batch_size

    def __len__(self) -> int:
        samples = len(self._dataset)
        return samples if self._batch_size is None else -(-samples // self._batch_size)

    def __iter__(self) -> Iterator[T]:
        return self._samples() if self._batch_size is None else self._batches(self._batch_size)  # type: ignore[return-value]

    def _samples(self) -> Iterator[Any]:
        dataset = self._dataset
        if dataset._located is None or dataset._steps:
            for _, sample in dataset.keyed():
                yield sample
            return
        # Without steps nobody needs the keys.
        for number, shard, start, stop in pieces(dataset._shards()):
            if stop is not None:
                yield from shard.samples(dataset._stored_type, start, stop)
                continue
            count = 0
            for sample in shard.samples(dataset._stored_type):
                yield sample
                count += 1
            dataset._check_count(number, count)

    def _batches(self, size: int) -> Iterator[SampleBatch[Any]]:
        dataset = self._dataset
        # Counting samples changes no value, so batches can stay where they lie.
        lazy = all(isinstance(step, steps.Take) for step in dataset._steps)
        if dataset._located is not None and lazy:
            yield from self._lazy_batches(size)
            return
        waiting = []
        for _, sample in dataset.keyed():
            waiting.append(sample)
            if len(waiting) == size:
                yield SampleBatch(waiting, dataset.sample_type)
                waiting = []
        if waiting:
            yield SampleBatch(waiting, dataset.sample_type)

    def _lazy_batches(self, size: int) -> Iterator[SampleBatch[Any]]:
        dataset = self._dataset
        sample_type = dataset.sample_type
        left = dataset._after_steps(1 << 62) or 0
        rows: list[Run] = []
        have = 0
        waiting: list[Any] = []  # of shards without a manifest
        for number, shard, start, stop in pieces(dataset._shards()) if left else ():
            if not isinstance(shard, BufferShard) or stop is None:
                # From here on samples are decoded; what waits of earlier shards is decoded with them.
                waiting += SampleBatch.of_lying(Runs(rows), sample_type).samples
                rows, have = [], 0
                count = 0
                for count, sample in enumerate(shard.samples(dataset._stored_type), 1):  # noqa: B007
                    waiting.append(sample)
                    left -= 1
                    if len(waiting) == size:
                        yield SampleBatch(waiting, sample_type)
                        waiting = []
                    if left == 0:
                        break
                else:
                    dataset._check_count(number, count)
            else:
                at = start
                while at < stop and left:
                    n = min(size - have - len(waiting), stop - at, left)
                    rows.append(Run(shard, at, at + n))
                    at += n
                    have += n
                    left -= n
                    if have + len(waiting) == size:
                        yield self._batch(waiting, rows)
                        rows, have, waiting = [], 0, []
            if left == 0:
                break
        if rows or waiting:
            yield self._batch(waiting, rows)

    def _batch(self, waiting: list[Any], rows: list[Run]) -> SampleBatch[Any]:
        lazy: SampleBatch[Any] = SampleBatch.of_lying(Runs(rows), self._dataset.sample_type)
        return SampleBatch(waiting + lazy.samples, self._dataset.sample_type) if waiting else lazy
