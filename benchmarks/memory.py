"""The most memory that a process takes while it goes through many shards, the page cache aside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from watch import anonymous, highest

if __name__ != "__main__":
    import numpy as np
    from harness import Bar, Context, Result, Row, Table
    from peers import available
    from workloads import LARGE, SMALL, Large

    import atdata

TITLE = "Memory"
_GB = 10**9
_SPARE = 20 * _GB


def run(ctx: Context) -> Result:
    """Pictures by the gigabyte, and data S, each way of reading in a process of its own."""
    result = Result()
    size = 10 * _GB if ctx.full else int(max(2 * _GB * min(ctx.scale, 1.0), 4e6))
    ctx.data.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(ctx.data).free - size < _SPARE:
        raise SystemExit(f"memory: {size / _GB:.0f} GB more would leave less than {_SPARE / _GB:.0f} GB free")
    folder = ctx.data / "memory"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        count = size // int(np.prod(LARGE.shape))
        rng = np.random.default_rng(1)
        image = rng.integers(0, 256, LARGE.shape, np.uint8)
        samples = (Large(image, "label", i) for i in range(count))
        atdata.LocalDiskStore(folder).write_shards(
            atdata.Dataset.from_samples(samples, Large), prefix="data", maxcount=1000
        )
        ways = {"samples": "atdata, samples", "batches": "atdata, batches of 64", "random": "atdata, ds[i] at random"}
        if available(ctx, "webdataset"):
            ways["webdataset"] = "webdataset, raw samples"
        else:
            result.missing.append("webdataset")
        rows = [_measure(way, label, folder / "data", count) for way, label in ways.items()]
        small = SMALL.written(ctx)
        others = [
            _measure(way, f"{label} (data S)", small, SMALL.count(ctx))
            for way, label in ways.items()
            if way in ("samples", "batches")
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for row in rows[1:]:
        row.ratio = row.value / rows[0].value
    result.tables.append(
        Table(
            f"{TITLE}, {size / _GB:.3g} GB of shards, and data S",
            "MB",
            rows + others,
            "The highest RssAnon of a process, interpreter and imports included; mapped files are page cache. "
            "webdataset imports torch where it is installed.",
        )
    )
    for row in rows:
        if row.name.startswith("atdata"):
            result.bars.append(
                Bar(
                    f"peak memory, {size / _GB:.3g} GB, {row.name.partition(', ')[2]}",
                    300.0,
                    row.value,
                    row.low,
                    row.high,
                    False,
                    "MB",
                )
            )
    return result


def _measure(way: str, label: str, folder: Path, count: int) -> Row:
    done = subprocess.run([sys.executable, __file__, way, str(folder)], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    assert found["count"] == count, f"{label} read {found['count']} samples of {count}"
    return Row(label, found["peak"], found["peak"], found["peak"])


def _child(way: str, folder: Path) -> dict[str, Any]:
    before = anonymous()
    with highest() as peak:
        count = _read(way, folder)
    return {"before": before, "peak": peak[0], "count": count}


def _read(way: str, folder: Path) -> int:
    """Go through all samples; their number."""
    count = 0
    if way == "webdataset":
        import webdataset

        shards = sorted(str(path) for path in folder.glob("*.tar"))
        for sample in webdataset.WebDataset(shards, shardshuffle=False):
            count += len(sample["msgpack"]) > 0
    else:
        import atdata

        dataset: Any = atdata.Dataset(str(folder))
        array = next(f for f in ("image", "x") if f in dataset.describe()["fields"])
        if way == "samples":
            for sample in dataset.ordered():
                getattr(sample, array).reshape(-1)[::1024].sum()
                count += 1
        elif way == "batches":
            for batch in dataset.ordered(batch_size=64):
                _ = batch.label, batch.idx
                count += len(batch[array])
        else:
            import random

            for i in random.Random(5).sample(range(len(dataset)), len(dataset)):
                getattr(dataset[i], array).reshape(-1)[::1024].sum()
                count += 1
    return count


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], Path(sys.argv[2]))))
