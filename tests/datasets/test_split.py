"""Splitting by the hash of the key: every sample in one part, and in the same whatever comes to the others."""

from __future__ import annotations

import hashlib
import math
import pickle
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import Digit, Shelf, digits, double, is_even
from hypothesis import given, settings
from hypothesis import strategies as st

import atdata
from atdata.datasets.split import hash_ranges, key_hashes
from atdata.errors import DatasetError, SampleKeyError
from atdata.stores.base import WrittenShards

KEYS = [f"{i:09d}" for i in range(20_000)]


# -- the arithmetic --------------------------------------------------------------------------------------------------


@given(
    weights=st.lists(st.integers(1, 1000), min_size=2, max_size=6),
    seed=st.integers(),
    keys=st.lists(st.text(max_size=8), max_size=30),
)
def test_every_key_is_in_one_part(weights: list[int], seed: int, keys: list[str]) -> None:
    ranges = hash_ranges([w / sum(weights) for w in weights], seed)
    assert [r.start for r in ranges] == [0, *(r.stop for r in ranges[:-1])]
    assert ranges[-1].stop == 2**64
    held = np.array([r.holds(keys) for r in ranges])
    assert held.shape == (len(weights), len(keys))
    assert (held.sum(axis=0) == 1).all()


def test_the_hash_is_the_one_that_is_documented() -> None:
    """It may never change: people's test sets depend on it."""
    for seed, key in [(0, ""), (1, "000000000"), (-7, "Ünï/cødé"), (10**30, "x" * 1000)]:
        digest = hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()
        assert key_hashes([key], str(seed)).tolist() == [int(digest[:16], 16)]
    assert key_hashes([], "0").dtype == np.uint64
    assert key_hashes(["000000000", "000000001"], "1").tolist() == [4203036873411422110, 17353300250367565578]
    assert [KEYS[i] for i in np.flatnonzero(~hash_ranges([0.999], 1)[0].holds(KEYS[:3000]))] == [
        k
        for k in KEYS[:3000]
        if hashlib.sha256(f"1:{k}".encode()).hexdigest() >= f"{int(Fraction(999, 1000) * 2**64):x}"
    ]


def test_a_part_is_split_again_by_other_hashes() -> None:
    """By the same hashes all of it would be in the first part."""
    half = [k for k, held in zip(KEYS, hash_ranges([0.5], 1)[0].holds(KEYS), strict=True) if held]
    assert hash_ranges([0.5], 1, 1)[0].holds(half).mean() == pytest.approx(0.5, abs=0.015)
    assert key_hashes(["k"], "1/2") == int(hashlib.sha256(b"1/2:k").hexdigest()[:16], 16)
    assert [r.salt for n in range(3) for r in hash_ranges([0.5], 7, n)] == ["7", "7", "7/2", "7/2", "7/3", "7/3"]


def test_parts_are_as_large_as_their_fractions() -> None:
    for seed in range(5):
        held = [r.holds(KEYS) for r in hash_ranges([0.7, 0.2, 0.1], seed)]
        assert [h.mean() for h in held] == pytest.approx([0.7, 0.2, 0.1], abs=0.015)
    first, other = (hash_ranges([0.5], seed)[0].holds(KEYS) for seed in (1, 2))
    assert (first & other).mean() == pytest.approx(0.25, abs=0.015)  # seeds have nothing to do with each other


def test_a_larger_part_holds_the_smaller_one() -> None:
    small, large = (hash_ranges([f], 3)[0].holds(KEYS) for f in (0.8, 0.9))
    assert (large[small]).all()
    assert hash_ranges([0.7, 0.2, 0.1], 1)[1].stop == hash_ranges([0.9], 1)[0].stop  # as decimals, not as floats
    assert hash_ranges([1 / 3] * 3, 0)[2].stop == 2**64
    assert hash_ranges([0.1] * 10, 0)[8].stop == hash_ranges([0.9, 0.1], 0)[0].stop


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ([], "add up to 1: none is 0"),
        ([0.5, 0.6], r"add up to 1: 0.5 \+ 0.6 is 1.1"),
        ([0.3, 0.3], r"add up to 1: 0.3 \+ 0.3 is 0.6"),
        ([0.5, 0.5 + 1e-6], "add up to 1"),
        ([1.0], "more than 0 and less than 1, not 1.0"),
        ([0.0], "more than 0 and less than 1, not 0.0"),
        ([1.5, -0.5], "more than 0 and less than 1, not 1.5"),
        ([90, 10], "more than 0 and less than 1, not 90"),
        ([math.nan], "more than 0 and less than 1, not nan"),
    ],
)
def test_fractions_that_make_no_sense(fractions: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hash_ranges(fractions, 0)


@pytest.mark.parametrize("seed", [1.0, "1", None, True])
def test_a_seed_is_an_int(seed: object) -> None:
    with pytest.raises(TypeError, match="the seed of a split is an int, not"):
        hash_ranges([0.5], seed)  # type: ignore[arg-type]


# -- datasets --------------------------------------------------------------------------------------------------------


def labels(ds: atdata.Dataset[Any]) -> list[int]:
    return [d.label for d in ds]


@given(
    count=st.integers(1, 60),
    weights=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    seed=st.integers(-5, 5),
    manifest=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_parts_are_a_partition_in_order(count: int, weights: list[int], seed: int, manifest: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        memory = atdata.Dataset.from_samples(digits(count), Digit)
        urls = atdata.LocalDiskStore(root).write_shards(memory, prefix="d", maxcount=11, manifest=manifest)
        fractions = [w / sum(weights) for w in weights]
        parts = atdata.Dataset[Digit](urls).split(*fractions, seed=seed)
        found = [labels(part) for part in parts]
        assert len(parts) == len(weights)
        assert sorted(label for part in found for label in part) == list(range(count))
        assert all(part == sorted(part) for part in found)
        assert [len(part) for part in parts] == [len(part) for part in found]
        held = [r.holds([f"{i:09d}" for i in range(count)]) for r in hash_ranges(fractions, seed)]
        assert found == [np.flatnonzero(h).tolist() for h in held]


def test_parts_are_datasets(urls: WrittenShards) -> None:
    train, test = atdata.Dataset[Digit](urls).split(0.8, seed=1)
    every = sorted(labels(train) + labels(test))
    assert every == list(range(25))
    assert 0 < len(test) < len(train)
    assert train[0].label == labels(train)[0]
    assert [b.label for b in train.ordered(batch_size=100)] == [labels(train)]
    assert sorted(d.label for d in test.shuffled(seed=3)) == labels(test)
    key = f"{labels(test)[0]:09d}"
    assert test.get(key).label == labels(test)[0]
    with pytest.raises(SampleKeyError):
        train.get(key)
    again = pickle.loads(pickle.dumps(test))
    assert labels(again) == labels(test)
    assert test.describe()["steps"] == ["split"]


def test_a_sample_stays_in_its_part(store: atdata.LocalDiskStore) -> None:
    """Whatever is added, left out, or written in shards of another size."""
    few = store.write_shards(atdata.Dataset.from_samples(digits(100), Digit), prefix="few", maxcount=30)
    more = store.write_shards(atdata.Dataset.from_samples(digits(150), Digit), prefix="more", maxcount=17)
    F = atdata.fields(Digit)
    small, large = (atdata.Dataset[Digit](urls) for urls in (few, more))
    for part, larger in zip(small.split(0.6, 0.3, 0.1), large.split(0.6, 0.3, 0.1), strict=True):
        assert labels(part) == [label for label in labels(larger) if label < 100]
    test = small.split(0.7, seed=4)[1]
    assert labels(small.where(F.label >= 50).split(0.7, seed=4)[1]) == [x for x in labels(test) if x >= 50]
    assert labels(small.map(double).split(0.7, seed=4)[1]) == [2 * x for x in labels(test)]
    assert labels(small.filter(is_even).split(0.7, seed=4)[1]) == [x for x in labels(test) if x % 2 == 0]
    assert labels(small.take(40).split(0.7, seed=4)[1]) == [x for x in labels(test) if x < 40]
    assert labels(small.split(0.7, seed=4)[1].take(3)) == labels(test)[:3]
    assert labels(small.split(0.7, seed=5)[1]) != labels(test)
    assert set(labels(small.split(0.7)[0])) <= set(labels(small.split(0.8)[0]))


def test_a_part_can_be_split_again(urls: WrittenShards) -> None:
    train, rest = atdata.Dataset[Digit](urls).split(0.5, seed=1)
    a, b = rest.split(0.5, seed=1)
    assert labels(a)
    assert labels(b)
    assert sorted(labels(train) + labels(a) + labels(b)) == list(range(25))


def test_sources_and_memory_are_split_by_their_keys(urls: WrittenShards) -> None:
    shelf = atdata.Dataset(Shelf({url: Path(url).read_bytes() for url in urls}), sample_type=Digit)
    for part, same in zip(shelf.split(0.5, seed=2), atdata.Dataset[Digit](urls).split(0.5, seed=2), strict=True):
        assert labels(part) == labels(same)
    keyed = atdata.Dataset.from_samples(digits(25), Digit, key=lambda d: f"{d.label:09d}")
    assert [labels(p) for p in keyed.split(0.5, seed=2)] == [labels(p) for p in shelf.split(0.5, seed=2)]
    with pytest.raises(DatasetError, match="split by the keys of its samples, and these in memory have none: give"):
        list(atdata.Dataset.from_samples(digits(3), Digit).split(0.5)[0])


def test_a_part_may_be_empty(urls: WrittenShards) -> None:
    nothing = atdata.Dataset[Digit](urls).split(1e-9)[0]
    assert (len(nothing), list(nothing), list(nothing.shuffled(batch_size=3, seed=0))) == (0, [], [])
    with pytest.raises(ValueError, match="less than 1"):
        atdata.Dataset[Digit](urls).split(90, 10)
    with pytest.raises(ValueError, match="none"):
        atdata.Dataset[Digit](urls).split()
