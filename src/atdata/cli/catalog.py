"""`atdata ls`, `search`, `show`, `rm`, `gc` and `index migrate`: what an index knows, and tidying it."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from atdata.cli.reporting import Report, clean, count, size
from atdata.errors import CatalogError
from atdata.index.base import DatasetEntry
from atdata.index.load import existing_index
from atdata.index.local import LocalIndex
from atdata.index.names import parse_ref
from atdata.stores.opening import open_store

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["collect", "listing", "migrate", "opened", "remove", "search", "show"]

_LISTED = 100  # without --all
_SHARDS = 12


@contextlib.contextmanager
def opened(url: str | None) -> Iterator[LocalIndex]:
    """The index that a command is about.

    Raises:
        CatalogError: there is none.
    """
    index = existing_index(url)
    if index is None:
        place = url or os.environ.get("ATDATA_INDEX") or "~/.atdata/index.db"
        raise CatalogError("there is no index here; LocalIndex().insert_dataset and write_samples make one", url=place)
    with index:
        yield index


# -- finding -----------------------------------------------------------------------------------------------------


def listing(report: Report, url: str | None, name: str | None, *, every: bool) -> None:
    """List the datasets of an index, or the versions of one."""
    with opened(url) as index:
        found = index.list_datasets() if name is None else index.list_versions(name)
        _list(report, index, found, every, "dataset" if name is None else "version")


def search(
    report: Report, url: str | None, words: list[str], tags: list[str], schema: str | None, *, every: bool
) -> None:
    """List the datasets that match."""
    with opened(url) as index:
        _list(report, index, index.search(" ".join(words), tags=tags, schema=schema), every, "dataset")


def _list(report: Report, index: LocalIndex, entries: Iterable[DatasetEntry], every: bool, what: str) -> None:
    if report.json:
        report.document({"index": index.url, f"{what}s": [_facts(entry) for entry in entries]})
        return
    entries = iter(entries)
    shown = list(entries if every else itertools.islice(entries, _LISTED))
    if shown:
        report.print(_table(shown))
    more = next(entries, None) is not None
    report.print(f"{'more than ' if more else ''}{count(len(shown), what)} in {clean(index.url)}{more * ' (--all)'}")


def _table(entries: list[DatasetEntry]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1))
    table.add_column("name", style="cyan", overflow="fold")
    table.add_column("version", no_wrap=True)
    for name in ("samples", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("type", "made", "tags"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        table.add_row(
            clean(entry.name),
            entry.version,
            "?" if entry.samples is None else f"{entry.samples:,}",
            size(entry.size),
            "" if entry.schema_ref is None else clean(entry.schema_ref.rpartition("/")[2]),
            f"{entry.created_at.astimezone():%Y-%m-%d}",
            clean(", ".join(entry.tags)),
        )
    return table


def _facts(entry: DatasetEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "version": entry.version,
        "cid": entry.cid,
        "schema": entry.schema_ref,
        "parent": entry.parent,
        "samples": entry.samples,
        "bytes": entry.size,
        "description": entry.description,
        "tags": list(entry.tags),
        "license": entry.license,
        "created": entry.created_at.isoformat(),
    }


def show(report: Report, url: str | None, ref: str, *, every: bool) -> None:
    """Say all that an index knows of one version."""
    with opened(url) as index:
        entry = index.get_dataset(ref)
        labels = index.labels(entry.name)
        versions = [other.version for other in index.list_versions(entry.name)]
        shards: list[dict[str, Any]] = [
            {"url": ref.url, "samples": ref.info.samples, "bytes": ref.info.size, "sha256": ref.info.sha256}
            for ref in entry.shards
            if ref.info is not None
        ]
    facts = _facts(entry) | {"metadata": dict(entry.metadata), "labels": labels, "versions": versions, "shards": shards}
    report.document(facts)
    if report.json:
        return
    from rich.text import Text

    report.print(Text(clean(f"{entry.name}@{entry.version}"), "bold"))
    report.print(_overview(entry, facts))
    shown = shards if every or len(shards) <= _SHARDS else shards[: _SHARDS - 1]
    for shard in shown:
        report.print(f"  {clean(str(shard['url']))}  {count(shard['samples'], 'sample')}, {size(shard['bytes'])}")
    if len(shown) < len(shards):
        report.print(f"  … {len(shards) - len(shown):,} more (--all)")


def _overview(entry: DatasetEntry, facts: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    labels = [f"{label} ({version})" for label, version in facts["labels"].items()]
    rows = {
        "about": entry.description,
        "type": entry.schema_ref,
        "cid": entry.cid,
        "samples": f"{count(entry.samples, 'sample')} in {count(len(facts['shards']), 'shard')}, {size(entry.size)}",
        "made": f"{entry.created_at.astimezone():%Y-%m-%d %H:%M}" + (f", from {entry.parent}" if entry.parent else ""),
        "tags": ", ".join(entry.tags),
        "license": entry.license,
        "labels": ", ".join(labels),
        "versions": ", ".join(facts["versions"]),
        "metadata": ", ".join(f"{key}: {value!r:.80}" for key, value in entry.metadata.items()),
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, clean(text))
    return table


# -- tidying -----------------------------------------------------------------------------------------------------


def remove(report: Report, url: str | None, ref: str, *, yes: bool) -> None:
    """Let an index forget a dataset, or one version of it."""
    with opened(url) as index:
        parsed = parse_ref(ref)
        entry = index.get_dataset(ref)
        versions = [entry.version] if parsed.version else [e.version for e in index.list_versions(entry.name)]
        what = (
            f"{entry.name}@{entry.version}"
            if parsed.version
            else f"{entry.name} with {count(len(versions), 'version')}"
        )
        _ask(f"Forget {clean(what)}? Its shards stay where they are.", f"{what} would be forgotten", yes, index.url)
        index.delete_dataset(ref)
        report.document({"index": index.url, "name": entry.name, "versions": versions})
        report.print(
            f"forgot {clean(what)}; its shards stay where they are (`atdata gc` finds those that nothing uses)"
        )


def collect(
    report: Report, url: str | None, store: str | None, prefix: str, grace: float, *, dry_run: bool, yes: bool
) -> None:
    """Find what lies in a store and no version of the index refers to; remove it."""
    with opened(url) as index:
        place = None if store is None else open_store(store)
        age = timedelta(seconds=grace)
        found = index.gc(place, prefix=prefix, grace=age)
        total = sum(item.size or 0 for item in found)
        what = f"{count(len(found), 'thing')} that no version refers to, {size(total)}"
        if not report.json or not dry_run:
            for item in found:
                text = f"{clean(item.url)}  {item.kind}, {item.changed.astimezone():%Y-%m-%d %H:%M}"
                report.print(text if item.size is None else f"{text}, {size(item.size)}")
        if found and not dry_run:
            _ask(f"Remove {what}?", f"{what} would be removed", yes, index.url)
            found = index.gc(place, prefix=prefix, grace=age, dry_run=False)
        report.document(
            {
                "index": index.url,
                "dry_run": dry_run,
                "bytes": total,
                "found": [
                    {
                        "url": i.url,
                        "kind": i.kind,
                        "bytes": i.size,
                        "changed": i.changed.isoformat(),
                        "removed": i.removed,
                    }
                    for i in found
                ],
            }
        )
        report.print(f"{'removed' if found and not dry_run else 'found'} {what}")


def _ask(question: str, otherwise: str, yes: bool, url: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise CatalogError(f"{otherwise}; nobody is here to be asked: give --yes", url=url)
    typer.confirm(question, abort=True, err=True)


def migrate(report: Report, url: str | None) -> None:
    """Bring the tables of an index to the newest revision."""
    import sqlalchemy as sa

    from atdata.index.engine import Database
    from atdata.index.migration import migrate as upgrade

    text = url or os.environ.get("ATDATA_INDEX") or "~/.atdata/index.db"
    scheme, colon, rest = text.partition("://")
    if scheme in ("redis", "rediss"):
        raise CatalogError("an index in Redis has had one format so far: there is nothing to migrate")
    if colon and scheme != "sqlite":
        try:
            database = Database(sa.make_url(text))
        except (sa.exc.ArgumentError, ValueError):
            raise CatalogError("the URL of the index cannot be read; write postgresql://user@host/database") from None
    else:
        path = Path(rest.removeprefix("/") if colon else text).expanduser().absolute()
        if not path.exists():
            raise CatalogError("there is no index here", url=text)
        database = Database(path)
    try:
        before, now = upgrade(database)
    finally:
        database.close()
    report.document({"index": database.url, "before": before, "revision": now})
    said = "is up to date already" if before == now else f"was at revision {before}, and is up to date now"
    report.print(f"{clean(database.url)} {said} (revision {now})")
