"""Shards on an S3 server that answers after 30 ms and gives 90 MB/s a connection; and the cache before it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from distance import distant
from harness import Bar, Contender, Context, Result, compare, rates, ratio
from remote import attributes, ranged
from s3 import Bucket, bucket
from workloads import LARGE

import atdata
from atdata.testing import FaultProxy

TITLE = "A distant server"
_LATENCY = 0.03
_BANDWIDTH = 90e6
_ONE = "one stream"


def run(ctx: Context) -> Result:
    """Data L."""
    result = Result()
    with bucket() as place:
        if place is None:
            result.missing.append("Ceph's RADOS gateway (scripts/install-rgw.sh)")
            return result
        shards = place.written(ctx, LARGE)
        with distant(place.server.endpoint, _LATENCY, _BANDWIDTH) as endpoint:
            _read(ctx, place.through(endpoint), shards, result)
        _first(place, result)
        _cache(ctx, place, result)
    return result


def _read(ctx: Context, place: Bucket, shards: list[tuple[str, int]], result: Result) -> None:
    count, size = LARGE.count(ctx), sum(size for _, size in shards)
    dataset = place.dataset(LARGE)

    def one() -> int:
        chunks = (chunk for key, _ in shards for chunk in place.client.get(key).stream(min_chunk_size=1 << 20))
        assert sum(map(len, chunks)) == size
        return count

    def bare() -> int:
        assert ranged(place.client, shards) == size
        return count

    contenders = [
        Contender("atdata, in order", lambda: attributes(dataset.ordered())),
        Contender("atdata, shuffled", lambda: attributes(dataset.shuffled(seed=1))),
        Contender(_ONE, one),
        Contender("obstore alone, twenty-four ranges at a time", bare),
    ]
    timings = compare(contenders, ctx.rounds, runs=1)
    result.tables.append(
        rates(
            f"{TITLE} (30 ms, 90 MB/s a connection), {LARGE}",
            "samples/s",
            count,
            timings,
            f"{_ONE}: obstore, one object after the other, and nothing done with them. atdata checks every sample.",
        )
    )
    for name, text in (("atdata, in order", "in order"), ("atdata, shuffled", "shuffled in blocks")):
        result.bars.append(Bar(f"a distant server, L, {text}: times one stream", 5.0, *ratio(timings, name, _ONE)))


def _first(place: Bucket, result: Result) -> None:
    with FaultProxy(place.server.endpoint) as proxy:
        found: Any = place.through(proxy.endpoint).dataset(LARGE)[0]
        assert found.idx == 0
        asked = len(proxy.requests())
    result.bars.append(Bar("the first sample of a dataset on S3: requests", 3, asked, asked, asked, False, ""))


def _cache(ctx: Context, place: Bucket, result: Result) -> None:
    ctx.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ctx.data, prefix="atdata-bench-") as temporary:
        folder = Path(temporary)
        cached = place.dataset(LARGE, cache=folder / "cache")
        source = atdata.Dataset.from_samples(LARGE.samples(ctx), LARGE.sample_type)
        urls = atdata.LocalDiskStore(folder / "disk").write_shards(source, prefix="data")
        local = atdata.Dataset(urls, sample_type=LARGE.sample_type)
        contenders = [
            Contender("atdata, S3 with a cache", lambda: _batches(cached)),
            Contender("atdata, local disk", lambda: _batches(local)),
        ]
        timings = compare(contenders, ctx.rounds)  # the round that does not count is the first epoch
    result.tables.append(
        rates(
            f"A second epoch from the cache, batches of 64, {LARGE}",
            "samples/s",
            LARGE.count(ctx),
            timings,
            "Every field taken, files in the page cache; both were checked in the first epoch.",
        )
    )
    bar = Bar("a second epoch from the cache: of local disk", 0.9, *ratio(timings, *timings))
    result.bars.append(bar)


def _batches(dataset: Any) -> int:
    count = 0
    for batch in dataset.ordered(batch_size=64):
        _ = batch.label, batch.idx
        count += len(batch.image)
    return count
