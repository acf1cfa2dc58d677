"""What an epoch will take, and how well it is mixed."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from dataset_samples import Digit, digits, is_even

import atdata
from atdata.datasets.order import Order
from atdata.datasets.plan import Traffic, make_plan, traffic
from atdata.datasets.quality import order_quality, shuffle_quality
from atdata.datasets.remote import WINDOW
from atdata.errors import DatasetError
from atdata.stores.base import WrittenShards


def test_a_plan_says_what_there_is_and_who_gets_what(urls: WrittenShards) -> None:
    ds = atdata.Dataset[Digit](urls)
    plan = ds.shuffled(4, block=5, window=2, remainder="uneven").plan(world_size=3, workers=2)
    assert (plan.samples, plan.shards, plan.exact, plan.traffic) == (25, 3, True, None)
    assert plan.bytes == sum(info.size for info in urls.shards)
    assert plan.ranks == {3: 1, 2: 2}
    assert sum(batches * ranks for batches, ranks in plan.ranks.items()) == 7
    assert (plan.block, plan.window, plan.lanes) == (5, 2, 1)
    text = str(plan)
    for part in (
        "25 in 3 shards",
        "blocks of 5 samples, 2 in a window",
        "3 or 2 batches of 4 a rank (uneven)",
        "local",
    ):
        assert part in text
    for remainder, each in (("drop", 2), ("pad", 3)):
        assert ds.shuffled(4, remainder=remainder).plan(3).ranks == {each: 3}
    assert "perfect shuffle" in str(ds.plan())
    assert str(ds.ordered().plan()).splitlines()[1] == "order     as stored"
    assert "5 of 12 readers get nothing" in str(ds.shuffled(4).plan(6, 2))


def test_a_plan_of_a_filter_is_a_limit(urls: WrittenShards) -> None:
    ds = atdata.Dataset[Digit](urls).filter(is_even)
    assert ds.plan().exact is False
    assert "at most 25" in str(ds.plan())
    one = ds.shuffled(4)
    len(one)
    assert (one.plan().samples, one.plan().exact) == (13, True)


def test_samples_in_memory_have_no_plan() -> None:
    with pytest.raises(DatasetError, match="not read from anywhere"):
        atdata.Dataset.from_samples(digits(3), Digit).plan()


EACH = 150_000
ORDERS: dict[str, tuple[Order, int, Traffic]] = {
    "as stored": (Order(1000), 1, Traffic(-(-1000 // (WINDOW // EACH)), 1000 * EACH, 1)),
    "as stored, by many": (Order(1000), 4, Traffic(16, 1000 * EACH, 1)),
    "small samples as stored, by many": (Order(10**6), 4, Traffic(4 * -(-(10**6) // (WINDOW // 500)), 2 * 10**9, 4)),
    "perfect": (Order(1000, 1), 4, Traffic(1000, 1000 * EACH, 1)),
    "blocks": (Order(1000, 1, 10, 8), 1, Traffic(100, 1000 * EACH, 1)),
    "blocks, by many": (Order(1000, 1, 10, 8), 4, Traffic(1000, 1000 * EACH, 1)),
    "lanes": (Order(1000, 1, 10, 8, lanes=4), 4, Traffic(100, 1000 * EACH, 1)),
    "small samples, by many": (Order(10**6, 1, 1000, 8), 4, Traffic(4000, 2 * 10**9, 4)),
    "small samples, lanes": (Order(10**6, 1, 1000, 8, lanes=2), 4, Traffic(2000, 10**9, 2)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_traffic(name: str) -> None:
    order, readers, expected = ORDERS[name]
    assert traffic(order, readers, 64, 500 if "small" in name else EACH) == expected


def _huge(order: Order, readers: int) -> Any:
    return make_plan(
        order, exact=True, shards=10_000, size=10**15, each=10**6, batch_size=64, remainder="uneven",
        world_size=readers, workers=1, budget=256 << 20, far=True, seekable=True, notes=[],
    )  # fmt: skip


def test_a_plan_of_a_huge_epoch_takes_no_memory() -> None:
    order = Order(10**9, 1, block=2, window=32)
    _huge(order, 1)
    tracemalloc.start()
    plan = _huge(order, 32)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert plan.ranks == {488282: 8, 488281: 24}
    assert "with lanes=32 it would be 500,000,000 requests" in str(plan)


def test_the_quality_of_orders() -> None:
    n = 100_000
    assert shuffle_quality(np.arange(n)) == 0.0
    assert 0.97 < shuffle_quality(np.random.default_rng(1).permutation(n)) < 1.03
    orders = [Order(n, 5, *shape) for shape in ((2000, 1), (2000, 4), (2000, 16), (200, 160), (1, 1))]
    found = [order_quality(order.numbers, n) for order in orders]
    assert found == sorted(found)
    assert found[0] < 0.1
    assert 0.97 < found[-1] < 1.03
    assert shuffle_quality(orders[2].numbers(np.arange(n))) == found[2]
    for few in range(5):
        assert 0.0 <= shuffle_quality(np.arange(few)) <= 1.0
