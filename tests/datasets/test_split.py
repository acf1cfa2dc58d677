"""Splitting by the hash of the key: every sample in one part, and in the same whatever comes to the others."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdata.datasets.split import hash_ranges, key_hashes

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
