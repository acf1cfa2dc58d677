"""Samples in memory to shards on the disk: manifests, digests and fsync included."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import peers
from harness import Bar, Contender, Context, Result, agree, compare, rates, ratio
from workloads import LARGE, SMALL, Workload, chosen, summary

import atdata

TITLE = "Writing"
_CHUNK = 4 << 20


def run(ctx: Context) -> Result:
    """Both kinds, on the disk; and in memory, where the disk's noise is left out."""
    result = Result()
    memory = Path("/dev/shm")
    places = [("on disk", ctx.data)]
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30:
        places.append(("on a file system in memory", memory))
    for work in chosen(ctx):
        for where, place in places:
            _run(ctx, work, where, place, result)
    return result


def _run(ctx: Context, work: Workload, where: str, place: Path, result: Result) -> None:
    samples = work.samples(ctx)
    dataset = atdata.Dataset.from_samples(samples, work.sample_type)
    with tempfile.TemporaryDirectory(dir=place, prefix="atdata-bench-") as temporary:
        fresh = _Fresh(Path(temporary))

        def ours() -> int:
            urls = atdata.LocalDiskStore(fresh.folder).write_shards(dataset, prefix="data")
            return sum(shard.samples for shard in urls.record.shards)

        ours()
        written = fresh.folder / "data"
        name = work.array
        expected = summary((getattr(s, name), s.label, s.idx) for s in samples)
        agree(
            TITLE,
            {
                "memory": lambda: expected,
                "atdata": lambda: summary((getattr(s, name), s.label, s.idx) for s in work.dataset(written)),
            },
        )
        shards = [path.read_bytes() for path in sorted(written.glob("*.tar"))]
        fresh.clear()

        def theirs() -> int:
            peers.webdataset_write(work, samples, fresh.folder)
            return len(samples)

        def bare() -> int:
            write_bare(fresh.folder, shards)
            return len(samples)

        contenders = [Contender("atdata", ours, fresh.begin, fresh.clear)]
        if peers.available(ctx, "webdataset"):
            contenders.append(Contender("webdataset.ShardWriter", theirs, fresh.begin, fresh.clear))
            theirs()
            read = peers.webdataset_samples(work, sorted(map(str, fresh.folder.glob("*.tar"))))
            agree(
                TITLE,
                {
                    "memory": lambda: expected,
                    "webdataset": lambda: summary((s[name], s["label"], s["idx"]) for s in read),
                },
            )
            fresh.clear()
        else:
            result.missing.append("webdataset")
        contenders.append(Contender("bare write + SHA-256 + fsync", bare, fresh.begin, fresh.clear))
        timings = compare(contenders, ctx.rounds)
    result.tables.append(
        rates(
            f"{TITLE} {where}, {work}",
            "samples/s",
            len(samples),
            timings,
            "webdataset writes no digests and no manifest and does not wait for the disk. The bare loop writes shards "
            "that lie finished in memory.",
        )
    )
    if where != "on disk":
        return
    if work is SMALL and "webdataset.ShardWriter" in timings:
        result.bars.append(
            Bar(
                "writing, S: times webdataset.ShardWriter + msgpack",
                8.0,
                *ratio(timings, "atdata", "webdataset.ShardWriter"),
            )
        )
    if work is LARGE:
        result.bars.append(
            Bar(
                "writing, L: of a bare write + fsync + SHA-256",
                0.6,
                *ratio(timings, "atdata", "bare write + SHA-256 + fsync"),
            )
        )


def write_bare(folder: Path, shards: list[bytes]) -> list[str]:
    """The shards' bytes to files, with their digests, and down to the disk."""
    folder.mkdir(parents=True)
    digests = []
    for number, data in enumerate(shards):
        sha = hashlib.sha256()
        view = memoryview(data)
        with (folder / f"shard-{number:06d}.tar").open("wb", buffering=0) as file:
            for start in range(0, len(view), _CHUNK):
                chunk = view[start : start + _CHUNK]
                sha.update(chunk)
                file.write(chunk)
            os.fsync(file.fileno())
        digests.append(sha.hexdigest())
    return digests


class _Fresh:
    """A new folder for every run, so that nobody has to remove what was there within the time that counts."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._numbers = itertools.count()
        self.folder = root / "check"

    def begin(self) -> Any:
        self.folder = self._root / str(next(self._numbers))
        os.sync()  # nobody waits for what another wrote

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
