"""Every sample in order, decoded to its type, its three fields taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import peers
from harness import Bar, Contender, Context, Result, agree, compare, rates, ratio
from workloads import Workload, chosen, summary

TITLE = "Typed iteration"
_BARS = {"S": 15.0, "L": 10.0}


def run(ctx: Context) -> Result:
    """The samples of both kinds, one by one."""
    result = Result()
    for work in chosen(ctx):
        _run(ctx, work, result)
    return result


def _run(ctx: Context, work: Workload, result: Result) -> None:
    folder = work.written(ctx)
    dataset = work.dataset(folder)
    ours = sorted(str(path) for path in folder.glob("*.tar"))
    name = work.array
    ways: dict[str, Callable[[], Any]] = {
        "atdata": lambda: summary((getattr(s, name), s.label, s.idx) for s in dataset.ordered())
    }
    contenders = [Contender("atdata", lambda: _attributes(name)(dataset.ordered()))]
    if peers.available(ctx, "webdataset"):
        theirs = peers.webdataset_shards(ctx, work)
        for label, shards in (("webdataset, its own shards", theirs), ("webdataset, our shards", ours)):
            made = peers.webdataset_samples(work, shards)
            ways[label] = lambda made=made: summary((s[name], s["label"], s["idx"]) for s in made)
            contenders.append(Contender(label, lambda made=made: _items(name)(made)))
    else:
        result.missing.append("webdataset")
    agree(TITLE, ways)
    timings = compare(contenders, ctx.rounds)
    result.tables.append(rates(f"{TITLE}, {work}", "samples/s", work.count(ctx), timings))
    if len(timings) > 1:
        result.bars.append(
            Bar(
                f"typed iteration, {work.letter}: times webdataset + ormsgpack",
                _BARS[work.letter],
                *ratio(timings, "atdata", "webdataset, its own shards"),
            )
        )


def _attributes(name: str) -> Callable[[Iterable[Any]], int]:
    if name == "x":

        def take(samples: Iterable[Any]) -> int:
            total = 0
            for sample in samples:
                _ = sample.x
                _ = sample.label
                total += sample.idx
            return total

    else:

        def take(samples: Iterable[Any]) -> int:
            total = 0
            for sample in samples:
                _ = sample.image
                _ = sample.label
                total += sample.idx
            return total

    return take


def _items(name: str) -> Callable[[Iterable[Any]], int]:
    def take(samples: Iterable[Any]) -> int:
        total = 0
        for sample in samples:
            _ = sample[name]
            _ = sample["label"]
            total += sample["idx"]
        return total

    return take
