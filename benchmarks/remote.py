"""Shards on an S3 server of this machine: written, read in order, and read at random places."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from harness import Bar, Contender, Context, Result, agree, compare, rates, ratio
from s3 import PART, RANGES, THREADS, Bucket, bucket
from workloads import LARGE, summary

import atdata

TITLE = "Object storage"
_BARE = "obstore alone"


def run(ctx: Context) -> Result:
    """Data L, in a server that keeps it in memory."""
    result = Result()
    with bucket() as place:
        if place is None:
            result.missing.append("Ceph's RADOS gateway (scripts/install-rgw.sh)")
            return result
        _write(ctx, place, result)
        shards = place.written(ctx, LARGE)
        _read(ctx, place, shards, result)
        _random(ctx, place, result)
    return result


def _write(ctx: Context, place: Bucket, result: Result) -> None:
    samples = LARGE.samples(ctx)
    source = atdata.Dataset.from_samples(samples, LARGE.sample_type)
    numbers = itertools.count()

    def ours() -> int:
        return place.store.write_shards(source, prefix=f"ours/{next(numbers)}").record.samples

    urls = place.store.write_shards(source, prefix="ours/first")
    stored = [bytes(place.client.get(url[len(place.store.base) :]).bytes()) for url in urls]

    def bare() -> int:
        run = next(numbers)
        for number, data in enumerate(stored):
            place.client.put(f"bare/{run}/{number}", data, chunk_size=PART, max_concurrency=4)
        return len(samples)

    def clear() -> None:
        place.remove("ours/")
        place.remove("bare/")

    clear()
    contenders = [Contender("atdata", ours, after=clear), Contender(_BARE, bare, after=clear)]
    timings = compare(contenders, ctx.rounds, runs=1)
    result.tables.append(
        rates(
            f"{TITLE}, written, {LARGE}",
            "samples/s",
            len(samples),
            timings,
            f"{_BARE} puts the finished shards from memory, in parts of 8 MiB, four at a time. Both sign what they "
            "send, for which each part is hashed; atdata encodes, and hashes each sample and each shard too.",
        )
    )
    result.bars.append(Bar("writing to S3, L: of obstore alone", 0.8, *ratio(timings, "atdata", _BARE)))


def ranged(client: Any, shards: list[tuple[str, int]]) -> int:
    """All bytes of the shards by obstore, in ranges of 8 MiB, many at a time and taken in order; their number."""
    ranges = [(key, at, min(at + PART, size)) for key, size in shards for at in range(0, size, PART)]
    total = 0
    waiting: deque[Any] = deque()
    with ThreadPoolExecutor(RANGES) as pool:
        for key, start, stop in ranges:
            if len(waiting) == RANGES:
                total += len(waiting.popleft().result())
            waiting.append(pool.submit(client.get_range, key, start=start, end=stop))
        return total + sum(len(future.result()) for future in waiting)


def attributes(samples: Any) -> int:
    """Take every field; the number of samples."""
    count = 0
    for sample in samples:
        _ = sample.image, sample.label, sample.idx
        count += 1
    return count


def _read(ctx: Context, place: Bucket, shards: list[tuple[str, int]], result: Result) -> None:
    count, size = LARGE.count(ctx), sum(size for _, size in shards)
    checked, unchecked = place.dataset(LARGE), place.dataset(LARGE, verify="never")
    expected = summary((s.image, s.label, s.idx) for s in LARGE.samples(ctx))
    ways: dict[str, Callable[[], Any]] = {
        name: lambda ds=ds: summary((s.image, s.label, s.idx) for s in ds)
        for name, ds in (("checked", checked), ("unchecked", unchecked))
    }
    agree(TITLE, {"memory": lambda: expected, **ways})

    def bare() -> int:
        assert ranged(place.client, shards) == size
        return count

    contenders = [
        Contender("atdata", lambda: attributes(checked.ordered())),
        Contender('atdata, verify="never"', lambda: attributes(unchecked.ordered())),
        Contender(_BARE, bare),
    ]
    timings = compare(contenders, ctx.rounds, runs=1)
    result.tables.append(
        rates(
            f"{TITLE}, read in order, {LARGE}",
            "samples/s",
            count,
            timings,
            f"{_BARE} gets the same objects in ranges of 8 MiB, twenty-four at a time, and does nothing with them.",
        )
    )
    result.bars.append(Bar("reading from S3, L, verified: of obstore alone", 0.8, *ratio(timings, "atdata", _BARE)))


def _random(ctx: Context, place: Bucket, result: Result) -> None:
    dataset, unchecked = place.dataset(LARGE), place.dataset(LARGE, verify="never")
    places = np.random.default_rng(3).integers(0, LARGE.count(ctx), ctx.count(2_000)).tolist()
    ranges = []
    for number, row in map(dataset._shards().place, places):
        shard = dataset._shards().shard(number)
        start = int(shard.manifest.offsets[row])
        ranges.append((shard.url[len(place.store.base) :], start, start + int(shard.manifest.sizes[row])))

    def ours(ds: Any) -> int:
        return sum(pool.map(lambda i: ds[i].idx, places))

    def bare() -> int:
        found = pool.map(lambda r: len(place.client.get_range(r[0], start=r[1], end=r[2])), ranges)
        assert sum(found) == sum(stop - start for _, start, stop in ranges)
        return sum(places)

    with ThreadPoolExecutor(THREADS) as pool:
        contenders = [
            Contender("atdata", lambda: ours(dataset)),
            Contender('atdata, verify="never"', lambda: ours(unchecked)),
            Contender(_BARE, bare),
        ]
        timings = compare(contenders, ctx.rounds, runs=1)
    result.tables.append(
        rates(
            f"{TITLE}, ds[i] at random, {LARGE}",
            "samples/s",
            len(places),
            timings,
            f"From sixteen threads. {_BARE}: get_range of the same ranges. The manifests were read before.",
        )
    )
    bar = Bar("ds[i] at random from S3, L, verified: of obstore alone", 0.6, *ratio(timings, "atdata", _BARE))
    result.bars.append(bar)
