"""`atdata cp`: a dataset from one place to another."""

from __future__ import annotations

from pathlib import Path

from atdata.cli.places import destination, located_at
from atdata.cli.reporting import Report, clean, count, size
from atdata.datasets.sources import Located
from atdata.errors import StoreError
from atdata.stores.base import DataStore
from atdata.stores.copy import Copied, CopyProgress, copy_dataset
from atdata.stores.opening import Opening
from atdata.stores.progress import Progress

__all__ = ["copied", "run", "say_copied"]


def run(report: Report, source: str, to: str, *, overwrite: bool, source_env: Path | None, to_env: Path | None) -> None:
    """Copy the dataset at `source` to the folder or prefix `to`."""
    if to.rstrip("/").endswith(".tar"):
        raise StoreError("the destination is a folder, and files keep their names; give a folder", url=to)
    located, opening = located_at(source, source_env)
    store, prefix = destination(to, to_env)
    done = copied(report, located, opening, store, prefix, overwrite=overwrite)
    say_copied(report, source, to, done)


def copied(
    report: Report, located: Located, opening: Opening, store: DataStore, prefix: str, *, overwrite: bool = False
) -> Copied:
    """Copy a dataset, with progress on the terminal."""
    infos = [ref.info for ref in located.shards]
    total = None if None in infos else sum(i.size + (i.manifest.size if i.manifest else 0) for i in infos if i)
    with Progress(f"copying {count(len(infos), 'shard')}", total, show=not report.json, unit="bytes") as bar:
        shown = 0

        def advance(now: CopyProgress) -> None:
            nonlocal shown
            bar.advance(now.bytes - shown)
            shown = now.bytes

        return copy_dataset(located, store, prefix=prefix, opening=opening, overwrite=overwrite, progress=advance)


def say_copied(report: Report, source: str, to: str, done: Copied) -> None:
    """Tell what was copied."""
    record = done.record
    report.document(
        {
            "source": source,
            "destination": to,
            "cid": None if record is None else record.cid,
            "samples": None if record is None else record.samples,
            "bytes": done.bytes,
            "shards": done.urls,
            "kept": done.kept,
        }
    )
    what = count(len(done.urls), "shard")
    if record is not None:
        what += f" of {count(record.samples, 'sample')}"
    report.print(f"copied {what}, {size(done.bytes)}, to {clean(to)}")
    if done.kept:
        report.print(f"{count(done.kept, 'file')} of an interrupted copy were there already, and right")
    if record is None:
        report.print(
            "note  there is no atdata.json: it names plain .tar files only, and these are not; name them by a glob"
        )
