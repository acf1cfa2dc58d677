"""Selections against the plainest thing that does the same: a list of (shard, row)."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdata.datasets.selection import Selection
from atdata.errors import SampleIndexError

COUNTS = st.lists(st.integers(0, 6), max_size=6)


def listed(selection: Selection) -> list[tuple[int, int]]:
    shards, rows = selection.places(np.arange(len(selection)))
    assert shards.dtype == rows.dtype == np.int64
    return list(zip(shards.tolist(), rows.tolist(), strict=True))


def wanted(shard: int, row: int, seed: int) -> bool:
    return hash((shard, row, seed)) % 3 > 0 if seed % 5 else shard % 2 == 0


@given(COUNTS, st.data())
def test_any_steps_give_what_lists_give(counts: list[int], data: st.DataObject) -> None:
    selection = Selection.whole(counts)
    model = [(shard, row) for shard, count in enumerate(counts) for row in range(count)]
    for _ in range(data.draw(st.integers(0, 4))):
        step = data.draw(st.sampled_from(["take", "pick", "keep", "within"]))
        if step == "take":
            count = data.draw(st.integers(0, len(model) + 2))
            selection, model = selection.take(count), model[:count]
        elif step == "pick" and model:
            some = data.draw(st.lists(st.integers(0, len(model) - 1), max_size=8))
            selection, model = selection.pick(np.array(some, np.int64)), [model[i] for i in some]
        elif step == "keep":
            mask = data.draw(st.lists(st.booleans(), min_size=len(model), max_size=len(model)))
            selection = selection.keep(np.array(mask, bool))
            model = [place for place, keep in zip(model, mask, strict=True) if keep]
        elif step == "within":
            seed = data.draw(st.integers(0, 9))
            asked: list[int] = []

            def answer(shard: int, rows: Any, seed: int = seed, asked: list[int] = asked) -> Any:
                asked.append(shard)
                found = np.array([wanted(shard, row, seed) for row in np.asarray(rows).tolist()], bool)
                return bool(found[0]) if found.all() or not found.any() else found

            selection = selection.within(answer)
            model = [place for place in model if wanted(*place, seed)]
            assert len(asked) == len(set(asked))
        assert len(selection) == len(model)
        assert listed(selection) == model
        assert listed(pickle.loads(pickle.dumps(selection))) == model
        parts: dict[int, tuple[int, int]] = {}
        shards = [part.shard for part in selection.parts()]
        assert len(shards) == len(set(shards))
        for part in selection.parts():
            for position, row in zip(part.positions, part.rows, strict=True):
                parts[int(position)] = (part.shard, int(row))
        assert [parts[i] for i in range(len(model))] == model


def test_positions_that_are_not_there() -> None:
    selection = Selection.whole([3, 2])
    for wrong in (5, -1):
        with pytest.raises(SampleIndexError, match=f"there is no sample {wrong}: the dataset has 5"):
            selection.pick(np.array([0, wrong]))


def test_whole_shards_take_memory_for_the_shards_only() -> None:
    tracemalloc.start()
    selection = Selection.whole([1_000_000] * 1000)
    assert len(selection) == 10**9
    far = selection.places(np.array([0, 999_999_999]))
    some = selection.take(10**9 - 1).within(lambda shard, rows: shard % 2 == 0)
    assert tracemalloc.get_traced_memory()[0] < 1 << 19
    tracemalloc.stop()
    assert far.shards.tolist() == [0, 999]
    assert far.rows.tolist() == [0, 999_999]
    assert len(some) == 500_000_000


def test_single_rows_take_four_bytes() -> None:
    tracemalloc.start()
    selection = Selection.whole([1_000_000]).within(lambda shard, rows: np.arange(len(rows)) % 2 == 0)
    assert tracemalloc.get_traced_memory()[0] < 2_100_000
    tracemalloc.stop()
    assert len(selection) == 500_000
