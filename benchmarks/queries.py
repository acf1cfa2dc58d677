"""A query over the manifests of many shards, against tools that filter the same Parquet files and nothing more."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from harness import Contender, Context, Result, agree, compare, rates

import atdata

TITLE = "Query of two fields"
LABELS = ("owl", "bat", "cat", "dog", "fox", "hen", "ant", "bee", "cow", "elk")


@atdata.packable
class Sighting:
    """Three numbers and a label."""

    hour: int
    label: str
    score: float
    place: int


def _samples(count: int) -> Iterator[Sighting]:
    for i in range(count):
        mixed = i * 2654435761 % 4294967296
        yield Sighting(mixed % 24, LABELS[mixed // 24 % 10], mixed / 4294967296, i)


def _written(ctx: Context, count: int) -> Path:
    """A dataset of so many sightings in shards of 10,000; kept, as it takes a while."""
    folder = ctx.data / f"queries-{count}"
    if not (folder / "data" / "atdata.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        ds = atdata.Dataset.from_samples(_samples(count), Sighting)
        atdata.LocalDiskStore(folder).write_shards(ds, prefix="data")
    return folder / "data"


def run(ctx: Context) -> Result:
    """How many samples of 1,000,000 are at night and of two of ten labels."""
    result = Result()
    count = ctx.count(1_000_000)
    folder = _written(ctx, count)
    files = sorted(str(path) for path in folder.glob("*.manifest.parquet"))
    F = atdata.fields(Sighting)
    night = (F.hour >= 22) & F.label.isin(["owl", "bat"])
    expression = (pc.field("hour") >= 22) & pc.field("label").isin(["owl", "bat"])
    labels = pa.array(["owl", "bat"])

    def arrow_by_file() -> int:
        found = 0
        for file in files:
            table = pq.ParquetFile(file).read(["hour", "label"])
            mask = pc.and_(pc.greater_equal(table["hour"], 22), pc.is_in(table["label"], labels))
            found += pc.sum(mask).as_py() or 0
        return found

    ways: dict[str, Callable[[], int]] = {
        "atdata": lambda: len(atdata.Dataset(str(folder), sample_type=Sighting).where(night)),
        "pyarrow.dataset, row count": lambda: int(pads.dataset(files).count_rows(filter=expression)),
        "pyarrow, file by file": arrow_by_file,
    }
    agree(TITLE, ways)
    timings = compare([Contender(name, way) for name, way in ways.items()], ctx.rounds)
    shards = f"{len(files)} manifest{'' if len(files) == 1 else 's'}"
    result.tables.append(
        rates(
            f"{TITLE}, {count:,} samples in {shards}",
            "samples/s",
            count,
            timings,
            "atdata opens the dataset anew each time, checks every manifest's SHA-256 and page checksums, and ends "
            "with the numbers of the rows, ready to be read; the others count matches, and check nothing. No "
            "statistics rule out a shard here.",
        )
    )
    return result
