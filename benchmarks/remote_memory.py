"""The most memory that a process takes while gigabytes go to an S3 server and come from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from watch import anonymous, highest

if __name__ != "__main__":
    import shutil
    import tempfile

    import numpy as np
    from harness import Bar, Context, Result, Row, Table
    from s3 import bucket
    from workloads import LARGE

    from atdata.datasets.ahead import BUDGET

TITLE = "Memory, object storage"
_GB = 10**9
_SPARE = 20 * _GB
_WAYS = {"write": "written", "ordered": "in order", "batches": "batches of 64", "shuffled": "shuffled"}


def run(ctx: Context) -> Result:
    """Pictures by the gigabyte, each way in a process of its own."""
    result = Result()
    size = 5 * _GB if ctx.full else int(max(2 * _GB * min(ctx.scale, 1.0), 4e6))
    if shutil.disk_usage(tempfile.gettempdir()).free - size < _SPARE:
        raise SystemExit(f"memory: {size / _GB:.0f} GB more would leave less than {_SPARE / _GB:.0f} GB free")
    with bucket("bluestore") as place:
        if place is None:
            result.missing.append("Ceph's RADOS gateway (scripts/install-rgw.sh)")
            return result
        count = size // int(np.prod(LARGE.shape))
        rows = [_measure(way, label, place.name, place.server.credentials, count) for way, label in _WAYS.items()]
    allowed = BUDGET / 1e6 + 150
    result.tables.append(
        Table(
            f"{TITLE}, {size / _GB:.3g} GB of shards",
            "MB",
            rows,
            f"The highest RssAnon of a process, interpreter and imports included. {BUDGET / 1e6:.0f} MB may be under "
            "way or wait for the reader.",
        )
    )
    for row in rows:
        text = f"peak memory, {size / _GB:.3g} GB on S3, {row.name.partition(', ')[2]}"
        result.bars.append(Bar(text, allowed, row.value, row.low, row.high, False, "MB"))
    return result


def _measure(way: str, label: str, name: str, credentials: dict[str, str], count: int) -> Row:
    command = [sys.executable, __file__, way, name, str(count)]
    environment = {**os.environ, **credentials}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found = json.loads(done.stdout)
    assert found["count"] == count, f"{label}: {found['count']} samples of {count}"
    return Row(f"atdata, {label}", found["peak"], found["peak"], found["peak"])


def _child(way: str, name: str, count: int) -> dict[str, Any]:
    import atdata

    before = anonymous()
    store = atdata.S3DataStore(bucket=name)
    with highest() as peak:
        found = _write(store, count) if way == "write" else _read(store, way)
    return {"before": before, "peak": peak[0], "count": found}


def _write(store: Any, count: int) -> int:
    import numpy as np
    from workloads import LARGE, Large

    import atdata

    image = np.random.default_rng(1).integers(0, 256, LARGE.shape, np.uint8)
    samples = (Large(image, "label", i) for i in range(count))
    written = store.write_shards(atdata.Dataset.from_samples(samples, Large), prefix="data")
    return int(written.record.samples)


def _read(store: Any, way: str) -> int:
    import atdata

    dataset: Any = atdata.Dataset(f"{store.base}data", store=store)
    count = 0
    if way == "batches":
        for batch in dataset.ordered(batch_size=64):
            _ = batch.label, batch.idx
            count += len(batch.image)
        return count
    for sample in dataset.ordered() if way == "ordered" else dataset.shuffled(seed=1):
        sample.image.reshape(-1)[::1024].sum()
        count += 1
    return count


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
