"""The two kinds of data that are measured, and how atdata reads and writes them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Context
from numpy.typing import NDArray

import atdata


@atdata.packable
class Small:
    """A few numbers and a label."""

    x: NDArray[np.float32]
    label: str
    idx: int


@atdata.packable
class Large:
    """A picture and a label."""

    image: NDArray[np.uint8]
    label: str
    idx: int


class Workload:
    """Samples of one kind.

    Attributes:
        letter: S or L.
        array: the name of the array field.
        shape, dtype: of every array.
        full, least: how many samples there are at full scale, and at any.
    """

    def __init__(
        self,
        letter: str,
        sample_type: type,
        array: str,
        shape: tuple[int, ...],
        dtype: type,
        full: int,
        least: int = 64,
    ):
        self.letter = letter
        self.sample_type = sample_type
        self.array = array
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.full = full
        self.least = least

    def __str__(self) -> str:
        return f"{self.letter} ({self.array}: {self.dtype}{list(self.shape)}, label: str, idx: int)"

    def count(self, ctx: Context) -> int:
        """How many samples there are at this scale."""
        return ctx.count(self.full, self.least)

    def samples(self, ctx: Context) -> list[Any]:
        """The samples, the same at every call."""
        count = self.count(ctx)
        rng = np.random.default_rng(7)
        if self.dtype == np.uint8:
            arrays = rng.integers(0, 256, (count, *self.shape), np.uint8)
        else:
            arrays = rng.standard_normal((count, *self.shape), self.dtype)
        # Arrays of their own, as an application has them, not views of one large block.
        return [self.sample_type(a.copy(), f"label-{i % 1000:03d}", i) for i, a in enumerate(arrays)]

    def folder(self, ctx: Context, who: str) -> Path:
        """Where `who` keeps these samples."""
        return ctx.data / f"{self.letter}-{self.count(ctx)}-{who}"

    def written(self, ctx: Context) -> Path:
        """A dataset of these samples as atdata writes it, made anew."""
        folder = self.folder(ctx, "atdata")
        shutil.rmtree(folder, ignore_errors=True)
        source = atdata.Dataset.from_samples(self.samples(ctx), self.sample_type)
        atdata.LocalDiskStore(folder).write_shards(source, prefix="data")
        return folder / "data"

    def dataset(self, folder: Path) -> Any:
        """The dataset in `folder`, read with its class."""
        return atdata.Dataset(str(folder), sample_type=self.sample_type)


SMALL = Workload("S", Small, "x", (16,), np.float32, 100_000)
# Prime numbers of samples, which no number of ranks, workers or samples of a batch divides.
COUNTED = Workload("S", Small, "x", (16,), np.float32, 30_011, 1_009)
LARGE = Workload("L", Large, "image", (224, 224, 3), np.uint8, 3_000)


def chosen(ctx: Context) -> list[Workload]:
    """The kinds to measure."""
    return [work for work in (SMALL, LARGE) if work.letter in ctx.kinds]


def summary(rows: Iterable[tuple[NDArray[Any], str, int]]) -> tuple[int, str, str, int]:
    """Count, and what depends on every byte of every array, label and number, in order."""
    arrays, labels = hashlib.sha256(), hashlib.sha256()
    count = total = 0
    for array, label, idx in rows:
        arrays.update(np.ascontiguousarray(array))
        labels.update(label.encode())
        total += int(idx) * (count + 1)
        count += 1
    return count, arrays.hexdigest()[:16], labels.hexdigest()[:16], total
