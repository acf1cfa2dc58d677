"""Reading speed, side by side with the `webdataset` package on the same shards.

Both decode every image to an array and every label to an int. webdataset leaves the decoding of msgpack to its user;
here it gets what is fastest in Python: msgspec, and arrays as views of the bytes.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from atdata.samples.arrays import array_from_bytes

__all__ = ["Comparison", "compare"]

PASSES = 15
BATCH = 64


class Comparison(NamedTuple):
    """Samples per second of both, medians over `PASSES` passes.

    Attributes:
        spread: half the distance between the quartiles of the times, over their median; the larger of the two.
    """

    what: str
    atdata: float
    webdataset: float
    spread: float

    @property
    def ratio(self) -> float:
        """How many times faster atdata is."""
        return self.atdata / self.webdataset


def compare(digits: Any, shards: list[str], total: int) -> list[Comparison]:
    """Time reading all samples, one by one and in batches, turn by turn."""
    import webdataset

    decode = msgspec.msgpack.Decoder(dict[str, Any]).decode

    def to_fields(sample: dict[str, Any]) -> tuple[Any, int]:
        fields = decode(sample["msgpack"])
        return array_from_bytes(fields["image"]), fields["label"]

    def peer() -> Any:
        # empty_check: these few shards are fewer than some machines have workers.
        return webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).map(to_fields)

    def ours_one_by_one() -> int:
        n = 0
        for sample in digits.ordered():
            _ = sample.image, sample.label
            n += 1
        return n

    def theirs_one_by_one() -> int:
        n = 0
        for sample in peer():
            _ = sample[0], sample[1]
            n += 1
        return n

    def ours_batched() -> int:
        n = 0
        for batch in digits.ordered(batch_size=BATCH):
            _ = batch.label
            n += len(batch.image)
        return n

    def theirs_batched() -> int:
        return sum(len(images) for images, _ in peer().batched(BATCH))

    return [
        _race("sample by sample", ours_one_by_one, theirs_one_by_one, total),
        _race(f"batches of {BATCH}", ours_batched, theirs_batched, total),
    ]


def _race(what: str, ours: Callable[[], int], theirs: Callable[[], int], total: int) -> Comparison:
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(PASSES + 1):
        for side, run in zip(times, (ours, theirs), strict=True):
            gc.collect()
            start = time.perf_counter()
            n = run()
            seconds = time.perf_counter() - start
            if n != total:
                raise RuntimeError(f"read {n} samples of {total}: the two would not be doing the same work")
            if turn:  # the first pass warms both up: files, caches, and our check of the digests
                side.append(seconds)
    medians = [statistics.median(side) for side in times]
    quartiles = [statistics.quantiles(side) for side in times]
    spread = max((high - low) / 2 / middle for low, middle, high in quartiles)
    return Comparison(what, total / medians[0], total / medians[1], spread)
