"""Datasets by name: what changed between two versions of a million samples, and the first sample of one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from harness import Bar, Contender, Context, Result, Row, Table, compare, rates
from workloads import SMALL

import atdata
from atdata.index.diff import diff

_COLUMNS = ["__key__", "__sha256__"]


@atdata.packable
class Item:
    """A little text."""

    text: str
    number: int


def run(ctx: Context) -> Result:
    """Both."""
    result = Result()
    _diff(ctx, result)
    _first(ctx, result)
    return result


def _diff(ctx: Context, result: Result) -> None:
    count = ctx.count(1_000_000, 1000)
    folder = ctx.data / f"versions-{count}"
    if not (folder / "new" / "atdata.json").exists():
        store = atdata.LocalDiskStore(folder)
        store.write_shards(_samples(count, old=True), prefix="old", overwrite=True)
        # No shard is the same in both, so that every sample has to be compared.
        store.write_shards(_samples(count, old=False), prefix="new", maxcount=9_999, overwrite=True)
    old, new = (atdata.Dataset(str(folder / name)) for name in ("old", "new"))

    def ours() -> tuple[int, int, int, int]:
        found = diff(old, new)
        assert not found.shards_read
        assert not found.shared_shards
        return len(found.added), len(found.removed), len(found.changed), found.unchanged

    timings = compare(
        [Contender("atdata", ours), Contender("bare join in Arrow", lambda: _join(folder))], ctx.rounds, runs=1
    )
    note = (
        "All keys and digests of both versions out of their manifests, none of whose shards is the same; 0.1 % of the "
        "samples differ. The join reads the same columns, checks nothing and cannot have a key twice."
    )
    title = f"What changed between two versions of {count:,} samples"
    result.tables.append(rates(title, "samples/s", count, timings, note))
    took = timings["atdata"]
    result.bars.append(Bar(f"diff of {count:,} samples", 3.0, took.median, took.low, took.high, False, "s"))


def _samples(count: int, *, old: bool) -> atdata.Dataset[Item]:
    def samples() -> Iterator[Item]:
        for i in range(count if old else count + count // 1000):
            yield Item("old" if old or i % 1000 else "new", i)

    return atdata.Dataset.from_samples(samples(), Item)


def _join(folder: Path) -> tuple[int, int, int, int]:
    sides = []
    for name in ("old", "new"):
        files = sorted((folder / name).glob("*.parquet"))
        sides.append(pa.concat_tables([pq.read_table(file, columns=_COLUMNS) for file in files]))
    both = sides[0].join(sides[1], "__key__", join_type="full outer", right_suffix="_new")
    before, now = both["__sha256__"], both["__sha256___new"]
    added, removed = before.null_count, now.null_count
    same = pc.sum(pc.equal(before, now)).as_py()
    return added, removed, len(both) - added - removed - same, same


def _first(ctx: Context, result: Result) -> None:
    folder = ctx.data / f"named-{SMALL.count(ctx)}"
    shutil.rmtree(folder, ignore_errors=True)
    place = SMALL.written(ctx)
    with atdata.LocalIndex(folder / "index.db") as index:
        index.insert_dataset(atdata.Dataset(str(place)), name="small")

        def by_name() -> Any:
            with atdata.LocalIndex(folder / "index.db") as opened:
                return next(iter(atdata.load_dataset("small", index=opened))).idx

        timings = compare(
            [
                Contender("atdata: load_dataset(name)", by_name),
                Contender("atdata: load_dataset(path)", lambda: next(iter(atdata.load_dataset(place))).idx),
            ],
            2 * ctx.rounds,
        )
    note = "From the call to the first sample, in a process that has done it before; the index is opened each time."
    rows = [Row(t.name, 1e3 * t.median, 1e3 * t.low, 1e3 * t.high) for t in timings.values()]
    result.tables.append(Table("First sample of a dataset", "ms", rows, note))
    took = rows[0]
    result.bars.append(Bar("first sample by name", 50, took.value, took.low, took.high, False, "ms"))
