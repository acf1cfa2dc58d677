"""Mixtures: weights, ends, exactly once, the same for any number of readers, resumable."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import atdata
from atdata.datasets.turns import Pattern

weights = st.lists(st.integers(1, 50), min_size=1, max_size=5).map(tuple)


@atdata.packable
class Word:
    vector: NDArray[np.float32]
    number: int


@atdata.packable
class Other:
    number: int


def dataset(folder: Path, first: int, count: int) -> Any:
    words = [Word(np.full(3, n, np.float32), n) for n in range(first, first + count)]
    source = atdata.Dataset.from_samples(words, Word)
    urls = atdata.LocalDiskStore(folder).write_shards(source, prefix=f"from-{first}", maxcount=70)
    return atdata.Dataset[Word](urls)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return dataset(tmp_path_factory.mktemp("large"), 0, 1500)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return dataset(tmp_path_factory.mktemp("small"), 10_000, 400)


def numbers(loader: Any) -> list[int]:
    found = []
    for batch in loader:
        assert (batch.vector[:, 0] == np.array(batch.number)).all(), "columns of one batch are of different samples"
        found += batch.number
    return found


# -- whose turn it is --------------------------------------------------------------------------------------------------


@given(weights, st.integers(0, 1 << 64), st.integers(0, 10**12))
def test_every_position_has_one_source_and_each_source_gives_its_samples_in_turn(
    weights: tuple[int, ...], key: int, start: int
) -> None:
    pattern = Pattern(weights, key & ((1 << 64) - 1))
    positions = np.arange(start, start + 3000)
    turns = pattern.turns(positions)
    for source in range(len(weights)):
        given = turns.given[turns.sources == source]
        if len(given):
            assert (given == np.arange(given[0], given[0] + len(given))).all()


@given(weights, st.integers(0, 1 << 40))
def test_weights_are_kept_at_the_end_of_every_window(weights: tuple[int, ...], window: int) -> None:
    position = window * 1024
    for weight, count in zip(weights, Pattern(weights, 0).before(position), strict=True):
        assert abs(count - position * weight / sum(weights)) <= len(weights)
    assert sum(Pattern(weights, 0).before(position)) == position


@given(weights, st.integers(0, 1 << 20), st.randoms(use_true_random=False))
def test_turns_do_not_depend_on_which_positions_are_asked_for_together(
    weights: tuple[int, ...], start: int, random: Any
) -> None:
    pattern = Pattern(weights, 7)
    together = pattern.turns(np.arange(start, start + 200))
    picked = random.sample(range(200), 20)
    apart = pattern.turns(np.array(picked) + start)
    assert (apart.sources == together.sources[picked]).all()
    assert (apart.given == together.given[picked]).all()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 4000)), min_size=1, max_size=4))
def test_an_epoch_ends_exactly_when_the_first_or_when_all_sources_are_used_up(pairs: list[tuple[int, int]]) -> None:
    pattern = Pattern(tuple(weight for weight, _ in pairs), 3)
    lengths = [length for _, length in pairs]
    first, every = pattern.longest(lengths, "first"), pattern.longest(lengths, "all")
    counts = np.bincount(pattern.turns(np.arange(first)).sources, minlength=len(pairs))
    assert (counts <= lengths).all()
    follows = int(pattern.turns(np.array([first])).sources[0])
    assert counts[follows] == lengths[follows], "one more sample would have been there"
    counts = np.bincount(pattern.turns(np.arange(every)).sources, minlength=len(pairs))
    assert (counts >= lengths).all()
    last = int(pattern.turns(np.array([every - 1])).sources[0])
    assert counts[last] == lengths[last], "it could have ended earlier"


# -- what is read ------------------------------------------------------------------------------------------------------


def test_without_weights_every_sample_comes_once_and_everywhere(large: Any, small: Any) -> None:
    found = numbers(atdata.mix({"large": large, "small": small}, seed=1).shuffled(batch_size=32))
    assert sorted(found) == [*range(1500), *range(10_000, 10_400)]
    for part in np.array_split(np.array(found), 4):
        assert 0.1 < (part >= 10_000).mean() < 0.32


@pytest.mark.parametrize("until", ["first", "all"])
@pytest.mark.parametrize("share", [0.7, 0.5])
def test_weights_decide_how_often_each_comes(large: Any, small: Any, until: Any, share: float) -> None:
    mixture = atdata.mix({"large": large, "small": small}, {"large": share, "small": 1 - share}, until=until)
    found = numbers(mixture.shuffled(batch_size=16))
    assert len(found) == len(mixture)
    assert math.isclose(sum(n < 10_000 for n in found) / len(found), share, abs_tol=0.02)
    counts = Counter(found)
    if until == "first":
        assert max(counts.values()) == 1
    else:
        assert len(counts) == 1900
        repeated = [n for n in found if n >= 10_000]
        assert repeated[:400] != repeated[400:800], "a source that begins anew comes in another order"


@pytest.mark.parametrize("remainder", ["uneven", "drop", "pad"])
def test_any_number_of_ranks_reads_the_same_batches(large: Any, small: Any, remainder: Any) -> None:
    mixture = atdata.mix({"large": large, "small": small}, {"large": 2, "small": 1}, seed=5)
    alone = [batch.number for batch in mixture.shuffled(batch_size=32, remainder=remainder)]
    for size in (2, 3, 5):
        ranks = [
            [batch.number for batch in mixture.shuffled(batch_size=32, remainder=remainder, rank=rank, world_size=size)]
            for rank in range(size)
        ]
        dealt = [ranks[n % size][n // size] for n in range(sum(map(len, ranks)))]
        shared = min(len(dealt), len(alone))
        assert dealt[:shared] == alone[:shared]
        if remainder == "uneven":
            assert dealt == alone
        else:
            assert len({len(rank) for rank in ranks}) == 1


def test_it_goes_on_from_a_state_on_other_ranks(large: Any, small: Any) -> None:
    mixture = atdata.mix({"large": large, "small": small}, {"large": 0.8, "small": 0.2}, seed=2)
    whole = [batch.number for batch in mixture.shuffled(batch_size=8, epoch=3)]
    for done in (0, 1, 17, len(whole) - 1):
        loader = mixture.shuffled(batch_size=8, epoch=3)
        some = iter(loader)
        for _ in range(done):
            next(some)
        state = json.loads(json.dumps(loader.state_dict()))
        assert len(json.dumps(state)) <= 300
        rest = []
        for rank in range(3):
            other = mixture.shuffled(batch_size=8, rank=rank, world_size=3)
            other.load_state_dict(state)
            rest.append([batch.number for batch in pickle.loads(pickle.dumps(other))])
        assert [rest[n % 3][n // 3] for n in range(sum(map(len, rest)))] == whole[done:]
        loader.close()


def test_a_state_of_another_mixture_is_refused(large: Any, small: Any) -> None:
    state = atdata.mix({"large": large, "small": small}, seed=2).shuffled(batch_size=8).state_dict()
    for other in (
        atdata.mix({"large": large, "tiny": small}, seed=2),
        atdata.mix({"large": large, "small": small}, {"large": 1, "small": 1}, seed=2),
        atdata.mix({"large": large, "small": small}, seed=2, until="all"),
    ):
        with pytest.raises(atdata.errors.StateError, match="of another dataset"):
            other.shuffled(batch_size=8).load_state_dict(state)
    with pytest.raises(atdata.errors.StateError, match="another seed"):
        atdata.mix({"large": large, "small": small}, seed=3).shuffled(batch_size=8).load_state_dict(state)


def test_one_dataset_twice_comes_in_two_orders(small: Any) -> None:
    mixture = atdata.mix({"one": small, "two": small}, {"one": 1, "two": 1})
    found = numbers(mixture.shuffled(batch_size=10))
    one, two = found[0::2], found[1::2]
    assert one[:50] != two[:50]
    passes: list[list[int]] = [[], []]
    for number in found:
        passes[number in passes[0]].append(number)
    assert passes[0] != passes[1]


def test_a_mixture_in_a_mixture_keeps_its_own_weights(large: Any, small: Any) -> None:
    inner = atdata.mix({"large": large, "small": small}, {"large": 3, "small": 1})
    mixture = atdata.mix({"inner": inner, "again": small}, {"inner": 1, "again": 1})
    assert mixture.weights == {"inner/large": 0.375, "inner/small": 0.125, "again": 0.5}
    assert repr(mixture) == "Mixture[Word](inner/large 37.5%, inner/small 12.5%, again 50.0%)"


def test_steps_of_the_sources_are_followed(large: Any, small: Any) -> None:
    doubled = small.map(lambda word: Word(word.vector * 2, word.number * 2))
    mixture = atdata.mix({"even": large.filter(lambda word: word.number % 2 == 0), "doubled": doubled})
    assert sorted(numbers(mixture.shuffled(batch_size=64))) == [*range(0, 1500, 2), *range(20_000, 20_800, 2)]
    samples = list(mixture.shuffled())
    assert sorted(sample.number for sample in samples) == [*range(0, 1500, 2), *range(20_000, 20_800, 2)]


def test_epochs_differ_and_can_be_chosen(large: Any, small: Any) -> None:
    mixture = atdata.mix({"large": large, "small": small})
    loader = mixture.shuffled(batch_size=50)
    first = numbers(loader)
    assert numbers(loader) == first
    loader.set_epoch(1)
    assert numbers(loader) != first
    assert numbers(mixture.shuffled(batch_size=50, epoch=1)) == numbers(loader)


def test_what_makes_no_mixture(large: Any, small: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give at least one dataset"):
        atdata.mix({})
    with pytest.raises(ValueError, match="weights are for large, other, and the datasets are large, small"):
        atdata.mix({"large": large, "small": small}, {"large": 1, "other": 1})
    for weight in (0, -1, float("nan"), float("inf"), "a", True):
        with pytest.raises(ValueError, match="the weight of"):
            atdata.mix({"large": large}, {"large": weight})
    other = atdata.Dataset.from_samples([Other(1)], Other)
    urls = atdata.LocalDiskStore(tmp_path).write_shards(other, prefix="other")
    with pytest.raises(atdata.errors.DatasetError, match="'large' of Word, 'other' of Other"):
        atdata.mix({"large": large, "other": atdata.Dataset[Other](urls)})
    with pytest.raises(atdata.errors.DatasetError, match="'memory' cannot be mixed"):
        atdata.mix({"memory": atdata.Dataset.from_samples([Word(np.zeros(3, np.float32), 1)], Word)})
    with pytest.raises(TypeError, match="made of datasets, not of list"):
        atdata.mix({"large": [1, 2]})
    with pytest.raises(atdata.errors.DatasetError, match="without samples: none"):
        len(atdata.mix({"large": large, "none": small.take(0)}, {"large": 1, "none": 1}))
