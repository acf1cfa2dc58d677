"""Reading beside formats made for it: batches in order and shuffled, random batches, one column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import peers
import peers_columnar as columnar
from batches import Bare
from harness import Bar, Contender, Context, Result, agree, compare, rates, ratio
from workloads import LARGE, SMALL, Workload, chosen, summary

TITLE = "Reading beside columnar formats"
SIZE = 64
RANDOM = 256
_ROWS = (
    "webdataset",
    "Hugging Face datasets (webdataset)",
    "grain + ArrayRecord",
    "MosaicML Streaming",
    "LitData",
)


def run(ctx: Context) -> Result:
    """All of it."""
    result = Result()
    for work in chosen(ctx):
        dataset = work.dataset(work.written(ctx))
        _in_order(ctx, work, dataset, result)
        _shuffled(ctx, work, dataset, result)
        if work is SMALL:
            _random(ctx, work, dataset, result)
            _column(ctx, work, dataset, result)
    return result


# -- batches in order ------------------------------------------------------------------------------------------------


def _in_order(ctx: Context, work: Workload, dataset: Any, result: Result) -> None:
    ways: dict[str, Callable[[], Iterable[columnar.Batch]]] = {"atdata": lambda: _ours(work, dataset.ordered(SIZE))}
    if peers.available(ctx, "pyarrow"):
        path = columnar.parquet_file(ctx, work)
        ways["Parquet"] = lambda: columnar.parquet_batches(work, path, SIZE)
    if peers.available(ctx, "lance"):
        lance = columnar.lance_dataset(ctx, work)
        ways["Lance"] = lambda: columnar.lance_batches(work, lance, SIZE)
    if peers.available(ctx, "datasets"):
        arrow = columnar.arrow_dataset(ctx, work)
        ways["Hugging Face datasets (Arrow)"] = lambda: columnar.arrow_batches(work, arrow, SIZE)
    if peers.available(ctx, "webdataset"):
        shards = peers.webdataset_shards(ctx, work)
        if peers.available(ctx, "datasets"):
            tars = columnar.tars_dataset(work, shards)
            ways["Hugging Face datasets (webdataset)"] = lambda: _collated(work, tars)
        made = peers.webdataset_samples(work, shards)
        ways["webdataset"] = lambda: _collated(work, made)
    if peers.available(ctx, "grain"):
        source = columnar.grain_source(ctx, work)
        ways["grain + ArrayRecord"] = lambda: columnar.grain_batches(ctx, work, source, SIZE)
    if peers.available(ctx, "streaming"):
        mds = peers.streaming_dataset(ctx, work)
        ways["MosaicML Streaming"] = lambda: _collated(work, mds)
    if peers.available(ctx, "litdata"):
        lit = peers.litdata_dataset(ctx, work)
        ways["LitData"] = lambda: _collated(work, lit)
    agree(TITLE, {name: lambda way=way: summary(_rows(way())) for name, way in ways.items()})
    timings = compare([Contender(name, lambda way=way: _count(way())) for name, way in ways.items()], ctx.rounds)
    note = "Every field of every batch: arrays stacked into new memory, labels and numbers as lists."
    result.tables.append(rates(f"Batches of {SIZE} in order, {work}", "samples/s", work.count(ctx), timings, note))
    for name, want in (("LitData", 3.0), ("Lance", 0.5), ("Parquet", 0.5)) if work is SMALL else ():
        if name in timings:
            result.bars.append(Bar(f"batches, {work.letter}: of {name}", want, *ratio(timings, "atdata", name)))
    rows = [name for name in _ROWS if name in timings]
    if work is LARGE and rows:
        best = min(rows, key=lambda name: timings[name].median)
        text = f"batches, L: times the fastest row-oriented peer ({best})"
        result.bars.append(Bar(text, 1.5, *ratio(timings, "atdata", best)))


def _ours(work: Workload, batches: Iterable[Any]) -> Iterator[columnar.Batch]:
    for batch in batches:
        yield batch[work.array], batch["label"], batch["idx"]


def _collated(work: Workload, samples: Iterable[Any]) -> Iterator[columnar.Batch]:
    waiting: list[Any] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) == SIZE:
            yield _collate(work, waiting)
            waiting = []
    if waiting:
        yield _collate(work, waiting)


def _collate(work: Workload, samples: list[Any]) -> columnar.Batch:
    arrays = np.stack([np.asarray(s[work.array]) for s in samples])
    return arrays, [s["label"] for s in samples], [int(s["idx"]) for s in samples]


def _rows(batches: Iterable[columnar.Batch]) -> Iterator[Any]:
    for arrays, labels, numbers in batches:
        yield from zip(arrays, labels, numbers, strict=True)


def _count(batches: Iterable[columnar.Batch]) -> int:
    return sum(len(arrays) for arrays, _, _ in batches)


# -- shuffled --------------------------------------------------------------------------------------------------------


def _shuffled(ctx: Context, work: Workload, dataset: Any, result: Result) -> None:
    contenders = [
        Contender("atdata, shuffled", lambda: _count(_ours(work, dataset.shuffled(SIZE, seed=1)))),
        Contender("atdata, shuffled perfectly", lambda: _count(_ours(work, dataset.shuffled(SIZE, seed=1, block=1)))),
        Contender("atdata, in order", lambda: _count(_ours(work, dataset.ordered(SIZE)))),
    ]
    if peers.available(ctx, "grain"):
        source = columnar.grain_source(ctx, work)
        contenders.append(
            Contender("grain + ArrayRecord", lambda: _count(columnar.grain_batches(ctx, work, source, SIZE, seed=1)))
        )
    if work is LARGE:
        bare = Bare(work, work.folder(ctx, "atdata") / "data")
        contenders.append(Contender("bare copy loop, in order", lambda: bare.take()))
    _check_shuffle(work, dataset, work.count(ctx))
    timings = compare(contenders, ctx.rounds)
    note = "The same samples, each once; the quality of the shuffle is what `ds.plan()` says of it."
    result.tables.append(rates(f"Batches of {SIZE}, shuffled, {work}", "samples/s", work.count(ctx), timings, note))
    found = ratio(timings, "atdata, shuffled", "atdata, in order")
    result.bars.append(Bar(f"shuffled batches, {work.letter}: of those in order", 0.8, *found))
    if work is LARGE:
        for name in ("atdata, in order", "atdata, shuffled"):
            found = ratio(timings, name, "bare copy loop, in order")
            result.bars.append(Bar(f"batches, L, {name}: of a bare copy loop", 0.85, *found))


def _check_shuffle(work: Workload, dataset: Any, count: int) -> None:
    numbers = [n for _, _, some in _ours(work, dataset.shuffled(SIZE, seed=1)) for n in some]
    assert sorted(numbers) == list(range(count)), "the shuffle lost or repeated samples"
    assert numbers != list(range(count))


# -- random batches --------------------------------------------------------------------------------------------------


def _random(ctx: Context, work: Workload, dataset: Any, result: Result) -> None:
    rng = np.random.default_rng(5)
    picks = [rng.integers(0, work.count(ctx), RANDOM).tolist() for _ in range(20)]

    def ours(rows: list[int]) -> columnar.Batch:
        return next(_ours(work, dataset.take(rows).ordered(RANDOM)))

    ways: dict[str, Callable[[list[int]], columnar.Batch]] = {"atdata": ours}
    if peers.available(ctx, "lance"):
        lance = columnar.lance_dataset(ctx, work)
        ways["Lance"] = lambda rows: columnar.lance_take(work, lance, rows)
    if peers.available(ctx, "datasets"):
        arrow = columnar.arrow_dataset(ctx, work)
        ways["Hugging Face datasets (Arrow)"] = lambda rows: columnar.arrow_take(work, arrow, rows)
    agree(TITLE, {name: lambda way=way: summary(_rows(map(way, picks))) for name, way in ways.items()})
    contenders = [Contender(name, lambda way=way: _count(map(way, picks))) for name, way in ways.items()]
    timings = compare(contenders, ctx.rounds)
    result.tables.append(
        rates(f"Random batches of {RANDOM}, {work}", "samples/s", RANDOM * len(picks), timings, "One call a batch.")
    )
    if "Lance" in timings:
        result.bars.append(Bar("random batches of 256, S: times Lance", 1.5, *ratio(timings, "atdata", "Lance")))


# -- one column ------------------------------------------------------------------------------------------------------


def _column(ctx: Context, work: Workload, dataset: Any, result: Result) -> None:
    path = columnar.parquet_file(ctx, work)

    def ours(name: str) -> Any:
        batch = next(iter(dataset.select_fields(name).ordered(work.count(ctx))))
        return np.asarray(batch[name])

    for name in (work.array, "idx"):
        found = ours(name)
        assert np.array_equal(found, columnar.parquet_column(work, path, name))
        contenders = [
            Contender("atdata", lambda name=name: len(ours(name))),
            Contender("Parquet", lambda name=name: len(columnar.parquet_column(work, path, name))),
        ]
        timings = compare(contenders, ctx.rounds)
        note = "All of the column as one NumPy array."
        result.tables.append(rates(f"The column {name}, {work}", "samples/s", work.count(ctx), timings, note))
        if name == work.array:
            result.bars.append(Bar("one column, S: of Parquet", 0.7, *ratio(timings, "atdata", "Parquet")))
