"""The order of an epoch: a permutation for every shape, the same everywhere, without memory, and well mixed."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdata.datasets.order import Order, order_key, permute, unpermute

SHAPES = st.builds(
    Order,
    length=st.integers(1, 400),
    key=st.none() | st.integers(0, 2**64 - 1),
    block=st.integers(1, 40) | st.just(1000),
    window=st.integers(1, 9) | st.just(1000),
    lanes=st.integers(1, 5),
    batch=st.integers(1, 20),
)


@given(SHAPES)
def test_every_sample_stands_at_exactly_one_position(order: Order) -> None:
    numbers = order.numbers(np.arange(order.length))
    assert sorted(numbers.tolist()) == list(range(order.length))
    assert order.positions(numbers).tolist() == list(range(order.length))


@given(SHAPES, st.data())
def test_positions_can_be_asked_for_in_any_order_and_number(order: Order, data: st.DataObject) -> None:
    some = np.array(data.draw(st.lists(st.integers(0, order.length - 1), max_size=20)), np.int64)
    assert order.numbers(some).tolist() == order.numbers(np.arange(order.length))[some].tolist()


@given(SHAPES)
def test_a_group_lies_in_few_blocks(order: Order) -> None:
    """What has to be read for the positions of one group: whole blocks, but for those at its two ends."""
    numbers = order.numbers(np.arange(order.length))
    if order.key is None or order.block == 1:
        assert order.group == 1
        return
    per_group = -(-order.group // order.block) + 2
    for start in range(0, order.length, order.group):
        assert len(set((numbers[start : start + order.group] // order.block).tolist())) <= per_group


@given(SHAPES)
def test_batches_of_different_lanes_share_hardly_a_block(order: Order) -> None:
    if order.key is None or order.block == 1 or order.lanes == 1:
        return
    for start in range(0, order.length, order.group):
        stop = min(start + order.group, order.length)
        blocks: list[set[int]] = [set() for _ in range(order.lanes)]
        for i, at in enumerate(range(start, stop, order.batch)):
            numbers = order.numbers(np.arange(at, min(at + order.batch, stop)))
            blocks[i % order.lanes].update((numbers // order.block).tolist())
        assert all(len(a & b) <= 1 for a, b in pairwise(blocks))


@given(st.integers(1, 9000), st.integers(0, 2**64 - 1))
def test_a_permutation_and_its_inverse(n: int, key: int) -> None:
    found = permute(np.arange(n), n, key)
    assert sorted(found.tolist()) == list(range(n))
    assert unpermute(found, n, key).tolist() == list(range(n))


def test_keys_differ_in_every_part() -> None:
    parts = [("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1), ("a", 1, 1), ("a", -1, 0), ("a1", 1, 0), ("a", 11, 0)]
    assert len({order_key(*part) for part in parts}) == len(parts)


def test_the_order_never_changes() -> None:
    """States saved by one version mean the same samples in the next: these numbers are part of the format."""
    key = order_key("bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy", 7, 3)
    assert key == 9907993077636796075
    assert permute(np.arange(10), 10, key).tolist() == [1, 8, 9, 5, 4, 6, 0, 2, 3, 7]
    assert Order(20, key).numbers(np.arange(20)).tolist() == [
        0, 18, 12, 16, 11, 8, 4, 17, 7, 19, 3, 14, 2, 1, 9, 5, 10, 13, 6, 15,
    ]  # fmt: skip
    assert Order(20, key, block=3, window=2).numbers(np.arange(20)).tolist() == [
        1, 2, 13, 0, 12, 14, 9, 6, 8, 7, 10, 11, 5, 16, 4, 15, 3, 17, 18, 19,
    ]  # fmt: skip
    assert Order(20, key, block=3, window=2, lanes=2, batch=2).numbers(np.arange(20)).tolist() == [
        1, 2, 9, 6, 13, 0, 8, 7, 12, 14, 10, 11, 5, 4, 19, 16, 15, 3, 18, 17,
    ]  # fmt: skip
    far = np.array([0, 10**9, 10**12 - 1])
    assert permute(far, 10**12, key).tolist() == [331875981603, 410301008500, 892272891297]
    assert Order(10**12, key, block=1000, window=32).numbers(far).tolist() == [953871669858, 372326885163, 753901836412]


def test_the_order_is_the_same_in_another_process() -> None:
    order = Order(1000, order_key("x", 1, 2), block=7, window=5)
    program = (
        "import numpy as np; from atdata.datasets.order import Order, order_key; "
        "print(Order(1000, order_key('x', 1, 2), block=7, window=5).numbers(np.arange(1000)).tolist())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(order.numbers(np.arange(1000)).tolist())


def test_huge_orders_take_no_memory() -> None:
    order = Order(10**15, order_key("x", 0, 0), block=1000, window=64)
    positions = np.arange(10**14, 10**14 + 1000)
    tracemalloc.start()
    numbers = order.numbers(positions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert len(np.unique(numbers)) == 1000
    assert (order.positions(numbers) == positions).all()


@pytest.mark.parametrize("order", [Order(10), Order(10, 1), Order(10, 1, block=2, window=2)])
def test_positions_outside_are_refused(order: Order) -> None:
    for wrong in (-1, 10):
        with pytest.raises(IndexError, match=r"range\(10\)"):
            order.numbers(np.array([3, wrong]))
        with pytest.raises(IndexError):
            order.positions(np.array([wrong, 3]))
    assert len(order.numbers(np.empty(0, np.int64))) == 0


# -- how well it mixes ---------------------------------------------------------------------------------------


def z_score(counts: np.ndarray, expected: float, freedom: int) -> float:
    """How many standard deviations chi-square is above what chance gives."""
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 33])
def test_every_sample_is_as_likely_at_every_position(n: int) -> None:
    runs = 6000
    counts, pairs = np.zeros((n, n)), np.zeros((n, n))
    for seed in range(runs):
        found = permute(np.arange(n), n, order_key("mix", seed, 0))
        counts[np.arange(n), found] += 1
        pairs[found[0], found[1]] += 1
    assert z_score(counts, runs / n, (n - 1) ** 2) < 5
    neighbours = pairs[~np.eye(n, dtype=bool)]
    assert z_score(neighbours, runs / (n * (n - 1)), n * (n - 1) - 1 or 1) < 5


def test_many_samples_are_as_likely_everywhere() -> None:
    """More than are sorted: of all numbers, those that come first, at a place of each power of two, and last."""
    n, cells, runs = 5000, 20, 2000
    counts = np.zeros((6, cells))
    places = np.array([0, 1, 255, 1024, 4096, n - 1])
    pairs = np.zeros((cells, cells))
    for seed in range(runs):
        found = permute(places, n, order_key("mix", seed, 0)) * cells // n
        counts[np.arange(6), found] += 1
        pairs[found[0], found[1]] += 1
    assert z_score(counts, runs / cells, 6 * (cells - 1)) < 5
    assert z_score(pairs, runs / cells**2, cells**2 - 1) < 5


@pytest.mark.parametrize("shape", [(1, 1, 1), (10, 10, 1), (7, 9, 1), (10, 5, 3)])
def test_every_part_of_the_data_is_as_likely_in_every_part_of_the_epoch(shape: tuple[int, int, int]) -> None:
    n, cells, runs = 1000, 10, 400
    counts = np.zeros((cells, cells))
    block, window, lanes = shape
    for seed in range(runs):
        order = Order(n, order_key("mix", seed, 0), block, window, lanes, batch=4)
        numbers = order.numbers(np.arange(n))
        np.add.at(counts, (np.arange(n) * cells // n, numbers * cells // n), 1)
    # Samples of one block stay together, so that chance itself is `block` times as coarse.
    assert z_score(counts / block, runs * n / cells**2 / block, (cells - 1) ** 2) < 5


def test_epochs_have_nothing_in_common() -> None:
    n = 20_000
    orders = [Order(n, order_key("x", seed, epoch)).numbers(np.arange(n)) for seed in range(3) for epoch in range(3)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).sum() < 12  # one on average
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
