"""Going on in the middle of a very long epoch: the place in the order, what planning takes, and the size of a state."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

from harness import Bar, Contender, Context, Result, Row, Table, compare, rates, ratio
from workloads import SMALL

from atdata.datasets.order import Order, order_key
from atdata.datasets.plan import make_plan
from atdata.datasets.share import Deal, Share

TITLE = "Going on in an epoch of 10⁹ samples"
SIZE = 64
LENGTH = 10**9
SHARDS = 10_000
PLACES = {"from 0": 0, "from 10⁸": 10**8}
_TIMES = 200  # batches of a run, each found as the first of a new epoch


def run(ctx: Context) -> Result:
    """Simulated: there are no 10⁹ samples, only their order."""
    result = Result()
    contenders = [Contender(f"atdata, {name}", lambda at=at: _first_batches(at)) for name, at in PLACES.items()]
    timings = compare(contenders, ctx.rounds)
    note = f"Which {SIZE} samples a rank of 8 with 4 workers has first, in blocks of 2,048 and windows of 32."
    result.tables.append(rates(TITLE, "batches/s", _TIMES, timings, note))
    middle, *ends = (1 / x for x in ratio(timings, "atdata, from 10⁸", "atdata, from 0"))
    text = "resuming at 10⁸ of 10⁹ samples: time of resuming at 0"
    result.bars.append(Bar(text, 1.2, middle, min(ends), max(ends), at_least=False))
    _peak_of_planning(1000)  # imports
    few, many = (_peak_of_planning(length) for length in (10**6, LENGTH))
    rows = [Row("atdata, 10⁹ samples", many, many, many), Row("atdata, 10⁶ samples", few, few, few, few / many)]
    result.tables.append(Table("Planning an epoch, most memory", "KB", rows))
    share = many / few
    text = "planning an epoch of 10⁹ samples: memory of planning one of 10⁶"
    result.bars.append(Bar(text, 1.2, share, share, share, at_least=False))
    size = _state_size(ctx)
    result.tables.append(Table("State of a loader as JSON", "bytes", [Row("atdata", size, size, size)]))
    result.bars.append(Bar("state of a loader", 300, size, size, size, at_least=False, unit="bytes"))
    return result


def _order(epoch: int, length: int = LENGTH) -> Order:
    return Order(length, order_key("resume", 7, epoch), block=2048, window=32)


def _first_batches(at: int) -> int:
    found = 0
    for epoch in range(_TIMES):
        deal = Deal(LENGTH, SIZE, Share(3, 8, 1, 4), start=at)
        found += len(_order(epoch).numbers(deal.positions(0, 1)))
    return found


def _peak_of_planning(length: int) -> float:
    """KB that a plan takes at most; its shards are counted, not listed."""
    settings: dict[str, Any] = {
        "exact": True, "shards": SHARDS, "size": length * 1000, "each": 1000.0, "batch_size": SIZE,
        "remainder": "uneven", "world_size": 8, "workers": 4, "budget": 1 << 28, "far": True, "seekable": True,
        "notes": [], "alone": None,
    }  # fmt: skip
    tracemalloc.start()
    str(make_plan(_order(0, length), **settings))
    peak = tracemalloc.get_traced_memory()[1] / 1000
    tracemalloc.stop()
    return peak


def _state_size(ctx: Context) -> int:
    dataset = SMALL.dataset(SMALL.written(ctx))
    loader = dataset.map(lambda sample: sample).shuffled(SIZE, seed=7, remainder="drop")
    next(iter(loader))
    return len(json.dumps(loader.state_dict()))
