"""Data seen through lenses beside plain reading of the same fields: samples, batches, single ones at random."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from harness import Bar, Contender, Context, Result, agree, compare, rates, ratio
from numpy.typing import NDArray
from workloads import SMALL, Large, Small, Workload, chosen

import atdata

TITLE = "Lenses"
SIZE = 64
PICKS = 5_000
_PLAIN = "atdata, plain reading of these fields"
Way = tuple[Any, str, str]  # a dataset, and the names of its fields


@atdata.packable
class SmallPart:
    """Two fields of three, by their own names."""

    x: NDArray[np.float32]
    idx: int


@atdata.packable
class SmallNamed:
    """The same by other names."""

    vector: NDArray[np.float32]
    number: int


@atdata.packable
class LargePart:
    """Two fields of three, by their own names."""

    image: NDArray[np.uint8]
    idx: int


@atdata.packable
class LargeNamed:
    """The same by other names."""

    vector: NDArray[np.uint8]
    number: int


def small_named(src: Small) -> SmallNamed:
    """Passes fields on."""
    return SmallNamed(src.x, src.idx)


def small_computed(src: Small) -> SmallNamed:
    """Does something else as well."""
    return SmallNamed(src.x, src.idx + 1)


def large_named(src: Large) -> LargeNamed:
    """Passes fields on."""
    return LargeNamed(src.image, src.idx)


def large_computed(src: Large) -> LargeNamed:
    """Does something else as well."""
    return LargeNamed(src.image, src.idx + 1)


def run(ctx: Context) -> Result:
    """All of it."""
    result = Result()
    for work in chosen(ctx):
        _run(ctx, work, result)
    return result


def _run(ctx: Context, work: Workload, result: Result) -> None:
    dataset = work.dataset(work.written(ctx))
    part, named = (SmallPart, SmallNamed) if work is SMALL else (LargePart, LargeNamed)
    code, computed = (small_named, small_computed) if work is SMALL else (large_named, large_computed)
    moved = {work.array: "vector", "idx": "number"}
    declared = atdata.Lens.fields(work.sample_type, named, rename=moved, drop=["label"])
    plain = dataset.select_fields(work.array, "idx")
    # Each with the names that its fields have there.
    ways: dict[str, Way] = {
        _PLAIN: (plain, work.array, "idx"),
        "atdata, a class with some of the fields": (dataset.as_type(part), work.array, "idx"),
        "atdata, a declared lens": (dataset.as_type(declared), "vector", "number"),
        "atdata, a function that passes fields on": (dataset.as_type(atdata.Lens(code)), "vector", "number"),
    }
    others: dict[str, Way] = {
        "atdata, a function that computes": (dataset.as_type(atdata.Lens(computed)), "vector", "number"),
        "atdata, plain reading, that function by hand": (plain.map(computed, named), "vector", "number"),
    }
    picks = np.random.default_rng(3).integers(0, work.count(ctx), min(PICKS, work.count(ctx))).tolist()
    for what, read, count in (
        ("single samples", _samples, work.count(ctx)),
        (f"batches of {SIZE}", _batches, work.count(ctx)),
        ("ds[i] at random", partial(_picked, picks), len(picks)),
    ):
        agree(f"{TITLE}, {what}", _calls(read, ways))
        agree(f"{TITLE}, {what}, computed", _calls(read, others))
        every = [Contender(name, lambda call=call: bool(call())) for name, call in _calls(read, ways | others).items()]
        timings = compare(every, ctx.rounds)
        note = f"The fields {work.array} and idx; both are taken of every sample or batch."
        result.tables.append(rates(f"Through lenses, {what}, {work}", "samples/s", count, timings, note))
        for name in list(ways)[1:]:
            _, low, high = ratio(timings, _PLAIN, name)
            cost = timings[name].median / timings[_PLAIN].median
            lens = name.removeprefix("atdata, ")
            text = f"{what}, {work.letter}, through {lens}: times plain reading takes"
            result.bars.append(Bar(text, 1.3, cost, low, high, at_least=False))


def _calls(read: Callable[..., int], ways: dict[str, Way]) -> dict[str, Callable[[], int]]:
    return {name: partial(read, *way) for name, way in ways.items()}


def _samples(dataset: Any, array: str, number: str) -> int:
    total = count = 0
    for sample in dataset.ordered():
        total += getattr(sample, number)
        count += len(getattr(sample, array))
    return total + count


def _batches(dataset: Any, array: str, number: str) -> int:
    total = count = 0
    for batch in dataset.ordered(batch_size=SIZE):
        total += sum(batch[number])
        count += batch[array].shape[0] * batch[array].shape[1]
    return total + count


def _picked(picks: list[int], dataset: Any, array: str, number: str) -> int:
    total = count = 0
    for at in picks:
        sample = dataset[at]
        total += getattr(sample, number)
        count += len(getattr(sample, array))
    return total + count
