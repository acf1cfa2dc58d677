"""`atdata cache`: what is in the cache of shards, emptying it, and whether it is sound."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import typer

from atdata.cli.reporting import Report, clean, count, size
from atdata.errors import StoreError
from atdata.stores.cache import Cache
from atdata.stores.progress import Progress

__all__ = ["clear", "listing", "verify"]


def _cache(folder: Path | None) -> Cache:
    place = folder or os.environ.get("ATDATA_CACHE")
    if not place:
        raise StoreError("no cache is named: give --cache FOLDER, or set ATDATA_CACHE")
    cache = Cache(place)
    if cache.root.exists() and not cache.root.is_dir():
        raise StoreError("the cache is a folder, and this is none", url=str(cache.root))
    return cache


def listing(report: Report, folder: Path | None) -> None:
    """List the shards in the cache, the most recently used first."""
    cache = _cache(folder)
    shards = list(cache.shards())
    total = sum(shard.size for shard in shards)
    used = [datetime.fromtimestamp(shard.used, UTC) for shard in shards]
    report.document(
        {
            "cache": str(cache.root),
            "bytes": total,
            "limit": cache.limit,
            "shards": [
                {"sha256": shard.sha256, "bytes": shard.size, "used": at.isoformat(timespec="seconds")}
                for shard, at in zip(shards, used, strict=True)
            ],
        }
    )
    for shard, at in zip(shards, used, strict=True):
        report.print(f"{shard.sha256}  {size(shard.size):>9}  {at.astimezone():%Y-%m-%d %H:%M:%S}")
    report.print(f"{count(len(shards), 'shard')}, {size(total)} of {size(cache.limit)}, in {clean(str(cache.root))}")


def clear(report: Report, folder: Path | None, *, older_than: float | None, yes: bool) -> None:
    """Remove shards from the cache: all, or those that were not used for a while."""
    cache = _cache(folder)
    before = None if older_than is None else time.time() - older_than
    going = [shard for shard in cache.shards() if before is None or shard.used < before]
    total = sum(shard.size for shard in going)
    what = f"{count(len(going), 'shard')}, {size(total)}"
    if going and not yes:
        if not sys.stdin.isatty():
            raise StoreError(f"{what} would be removed; nobody is here to be asked: give --yes", url=str(cache.root))
        typer.confirm(f"Remove {what}, from {clean(str(cache.root))}?", abort=True, err=True)
    for shard in going:
        cache.remove(shard.sha256)
    cache.sweep()
    report.document({"cache": str(cache.root), "removed": [shard.sha256 for shard in going], "bytes": total})
    report.print(f"removed {what}, from {clean(str(cache.root))}")


def verify(report: Report, folder: Path | None) -> None:
    """Hash every shard in the cache, and remove those that are damaged."""
    cache = _cache(folder)
    shards = list(cache.shards())
    damaged = []
    total = sum(shard.size for shard in shards)
    with Progress("checking the cache", total, show=not report.json, unit="bytes") as bar:
        for shard in shards:
            if not cache.sound(shard.sha256):
                cache.remove(shard.sha256)
                damaged.append(shard.sha256)
            bar.advance(shard.size)
    report.document({"cache": str(cache.root), "shards": len(shards), "bytes": total, "removed": damaged})
    for sha256 in damaged:
        report.print(f"✗ {sha256} was damaged, and is removed; it is fetched again when it is read")
    report.print(f"{count(len(shards), 'shard')}, {size(total)}: {len(damaged) or 'none'} damaged")
    if damaged:
        raise typer.Exit(1)
