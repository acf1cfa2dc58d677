"""`ds[i]` at random places: one sample at a time, its three fields taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import peers
from harness import Bar, Contender, Context, Result, agree, compare, rates, ratio
from workloads import SMALL, summary

TITLE = "Random access"


def run(ctx: Context) -> Result:
    """Data S, the same places for all."""
    result = Result()
    work = SMALL
    dataset = work.dataset(work.written(ctx))
    places = np.random.default_rng(3).integers(0, work.count(ctx), ctx.count(5_000)).tolist()
    found: dict[str, Any] = {}
    for label, package, make in (
        ("MosaicML Streaming", "streaming", peers.streaming_dataset),
        ("LitData", "litdata", peers.litdata_dataset),
        ("LitData, tuned", "litdata", peers.litdata_tuned),
    ):
        if peers.available(ctx, package):
            found[label] = make(ctx, work)
        else:
            result.missing.append(package)
    ways: dict[str, Callable[[], Any]] = {
        "atdata": lambda: summary((s.x, s.label, s.idx) for s in (dataset[i] for i in places))
    }
    contenders = [Contender("atdata", lambda: _attributes(dataset, places))]
    for label, ds in found.items():
        ways[label] = lambda ds=ds: summary((np.asarray(s["x"]), s["label"], s["idx"]) for s in (ds[i] for i in places))
        contenders.append(Contender(label, lambda ds=ds: _items(ds, places)))
    agree(TITLE, ways)
    timings = compare(contenders, ctx.rounds)
    result.tables.append(
        rates(
            f"{TITLE}, {work}",
            "samples/s",
            len(places),
            timings,
            "The datasets are open and warm. atdata checks each sample's SHA-256 at every access, until the whole "
            "shard was checked; the others check nothing. LitData tuned: batch_decode=0, LITDATA_POSIX_PAGE_BYTES=0; "
            "as it comes it looks for an item's neighbours and decodes up to 256 of them along. Its samples are all "
            "in one chunk.",
        )
    )
    for label, want in (("MosaicML Streaming", 3.0), ("LitData", 10.0), ("LitData, tuned", 10.0)):
        if label in timings:
            result.bars.append(Bar(f"ds[i] at random, S: times {label}", want, *ratio(timings, "atdata", label)))
    return result


def _attributes(dataset: Any, places: list[int]) -> int:
    total = 0
    for i in places:
        sample = dataset[i]
        _ = sample.x
        _ = sample.label
        total += sample.idx
    return total


def _items(dataset: Any, places: list[int]) -> int:
    total = 0
    for i in places:
        sample = dataset[i]
        _ = sample["x"]
        _ = sample["label"]
        total += int(sample["idx"])
    return total
