"""Batches of 64, every field taken: arrays stacked into new memory, the others as lists."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
from harness import Bar, Contender, Context, Result, agree, compare, rates, ratio
from workloads import LARGE, SMALL, Workload, chosen, summary

TITLE = "Batches of 64"
SIZE = 64


def run(ctx: Context) -> Result:
    """Batches of both kinds."""
    result = Result()
    for work in chosen(ctx):
        _run(ctx, work, result)
    return result


def _run(ctx: Context, work: Workload, result: Result) -> None:
    folder = work.written(ctx)
    dataset = work.dataset(folder)
    name = work.array
    ways: dict[str, Callable[[], Any]] = {"atdata": lambda: _summary(name, dataset.ordered(batch_size=SIZE))}
    contenders = [Contender("atdata", lambda: take(name, dataset.ordered(batch_size=SIZE)))]
    if peers.available(ctx, "webdataset"):
        theirs = peers.webdataset_shards(ctx, work)
        made = peers.webdataset_batches(work, theirs, SIZE)
        ways["webdataset"] = lambda: _summary(name, made)
        contenders.append(Contender("webdataset", lambda: take(name, made)))
    else:
        result.missing.append("webdataset")
    bare = Bare(work, folder)
    contenders.append(Contender("bare loop over mapped files", lambda: bare.take()))
    assert bare.summary() == ways["atdata"]()[:2], "the bare loop reads something else"
    agree(TITLE, ways)
    timings = compare(contenders, ctx.rounds)
    result.tables.append(
        rates(
            f"{TITLE}, {work}",
            "samples/s",
            work.count(ctx),
            timings,
            "The bare loop copies each array's bytes from a mapped file into a new (64, …) array and makes "
            "nothing else: no labels, no checks.",
        )
    )
    if work is SMALL and "webdataset" in timings:
        result.bars.append(Bar("batches, S: times webdataset", 100.0, *ratio(timings, "atdata", "webdataset")))
    if work is LARGE:
        result.bars.append(
            Bar("batches, L: of a bare copy loop", 0.85, *ratio(timings, "atdata", "bare loop over mapped files"))
        )


def take(name: str, batches: Iterable[Any]) -> int:
    """Every field of every batch; the number of arrays."""
    count = 0
    for batch in batches:
        array = batch[name]
        batch["label"]
        batch["idx"]
        count += len(array)
    return count


def _summary(name: str, batches: Iterable[Any]) -> Any:
    def rows() -> Iterator[Any]:
        for batch in batches:
            array = batch[name]
            assert type(array) is np.ndarray
            assert array.flags.writeable
            assert type(batch["label"]) is list
            assert len(array) == len(batch["label"]) <= SIZE
            yield from zip(array, batch["label"], batch["idx"], strict=True)

    return summary(rows())


class Bare:
    """The least that has to be done: each array's bytes copied into a new (64, …) array."""

    def __init__(self, work: Workload, folder: Path) -> None:
        import pyarrow.parquet as pq

        self._work = work
        self._shards = []
        for path in sorted(folder.glob("*.tar")):
            table = pq.read_table(str(path).removesuffix(".tar") + ".manifest.parquet")
            self._shards.append((path, table[f"__offset__{work.array}"].to_pylist()))

    def arrays(self) -> Iterator[Any]:
        """The batches, within each shard."""
        shape, dtype = self._work.shape, self._work.dtype
        number = int(np.prod(shape))
        for path, offsets in self._shards:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            for start in range(0, len(offsets), SIZE):
                some = offsets[start : start + SIZE]
                out = np.empty((len(some), *shape), dtype)
                for i, at in enumerate(some):
                    out[i] = np.frombuffer(mapped, dtype, number, at).reshape(shape)
                yield out

    def take(self) -> int:
        """The number of arrays."""
        count = 0
        for out in self.arrays():
            count += len(out)
        return count

    def summary(self) -> Any:
        """The part of `workloads.summary` that arrays alone decide."""
        return summary((a, "", 0) for out in self.arrays() for a in out)[:2]
