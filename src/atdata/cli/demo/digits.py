"""The code of the demo that a user would type: `atdata demo` shows the source of these functions, and runs them."""

# ruff: noqa: RET504 - what is shown is a name that gets a value, not a return

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import atdata

__all__ = ["Digit", "centroids", "read", "read_batches", "samples", "score", "write"]


@atdata.packable
class Digit:
    """A handwritten digit: 8×8 pixels from 0 to 16."""

    image: NDArray[np.uint8]
    label: int


def samples() -> Any:
    """The digits that come with scikit-learn, one by one."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pairs = zip(digits.images, digits.target, strict=True)
    samples = (Digit(image.astype(np.uint8), int(label)) for image, label in pairs)
    return samples


def write(samples: Iterable[Digit], folder: str) -> Any:
    """Write the samples as shards of 500."""
    dataset = atdata.Dataset.from_samples(samples, Digit)
    store = atdata.LocalDiskStore(folder)
    urls = store.write_shards(dataset, prefix="digits/v1", maxcount=500, overwrite=True, progress=True)
    return urls


def read(folder: str) -> Any:
    """Open the dataset by nothing but its place."""
    digits = atdata.Dataset(f"{folder}/digits/v1")  # type: ignore[var-annotated]
    return digits


def read_batches(digits: Any) -> Any:
    """The first batch."""
    batch = next(iter(digits.ordered(batch_size=64)))
    return batch


def centroids(digits: Any) -> Any:
    """The mean image of each label over the first four fifths of the samples, in one pass over the shards."""
    train = len(digits) * 4 // 5
    sums, counts = np.zeros((10, 8, 8)), np.zeros(10)
    for batch in digits.take(train).ordered(batch_size=64):
        np.add.at(sums, batch.label, batch.image)
        np.add.at(counts, batch.label, 1)
    centroids = sums / counts[:, None, None]
    return centroids


def score(digits: Any, centroids: NDArray[np.float64]) -> tuple[int, int]:
    """How many of the samples after the first four fifths are nearest to their own label's mean, and of how many."""
    train = len(digits) * 4 // 5
    right = seen = start = 0
    for batch in digits.ordered(batch_size=64):
        held_out = slice(max(0, train - start), None)
        start += len(batch)
        images, labels = batch.image[held_out], np.array(batch.label[held_out])
        distances = np.square(images[:, None] - centroids).sum(axis=(2, 3))
        right += int((distances.argmin(axis=1) == labels).sum())
        seen += len(labels)
    return right, seen
