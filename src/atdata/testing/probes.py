"""The samples that the suites write, and names that a store has to refuse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

import atdata

__all__ = ["HOSTILE_PREFIXES", "BrokenError", "Probe", "breaking", "dataset_of", "keyed", "probes"]

HOSTILE_PREFIXES = (
    "", "/", "..", "../escape", "a/../../escape", "a/..", "./a", "a/./b", "/absolute", "a//b", "a\\..\\b",
    "nul\0byte", "line\nbreak", "a/" + "x" * 300, "x/" * 2000 + "x",
)  # fmt: skip


@atdata.packable
class Probe:
    """The sample that the suites write."""

    pixels: NDArray[np.uint8]
    label: int
    note: str | None = None


class BrokenError(Exception):
    """What a user's generator raises."""


def probes(count: int, *, first: int = 0, size: int = 64) -> list[Probe]:
    """`count` samples, every one different, each with an array of `size` bytes."""
    return [
        Probe(np.full(size, n % 251, np.uint8), n, None if n % 3 else f"nöte {n}")
        for n in range(first, first + count)
    ]  # fmt: skip


def breaking(count: int) -> Iterator[Probe]:
    """Samples from a generator that raises BrokenError after `count` of them."""
    yield from probes(count)
    raise BrokenError("half-way")


def dataset_of(samples: Iterable[Probe]) -> atdata.Dataset[Probe]:
    """The samples as a dataset to be written; they get their numbers as keys."""
    return atdata.Dataset.from_samples(samples, Probe)


def keyed(samples: Iterable[Probe], prefix: str = "key") -> atdata.Dataset[Probe]:
    """The samples as a dataset with keys like `key-0007`, by their labels."""
    return atdata.Dataset.from_samples(samples, Probe, key=lambda sample: f"{prefix}-{sample.label:04d}")
