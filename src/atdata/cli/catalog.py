"""`atdata ls`, `search`, `show`, `rm`, `gc` and `index migrate`: what an index or an account has, and tidying it."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from atdata.cli.accounts import account_index, is_account, parted
from atdata.cli.reporting import Report, clean, count, size
from atdata.datasets.sources import ShardRef
from atdata.errors import CatalogError, EntryFormError
from atdata.index.base import DatasetEntry
from atdata.index.load import existing_index
from atdata.index.local import LocalIndex
from atdata.index.names import parse_ref
from atdata.stores.opening import open_store

if TYPE_CHECKING:
    from rich.table import Table

    from atdata.index.lenses import StoredLens
    from atdata.samples.schema import Schema

__all__ = ["ask", "collect", "found_index", "listing", "migrate", "opened", "remove", "search", "show"]

_LISTED = 100  # without --all
_SHARDS = 12
_NOTED = 5


class Index(Protocol):
    """What the commands here ask of an index, local or of accounts on the network."""

    def get_dataset(self, ref: str) -> DatasetEntry:
        """The version that a reference names."""

    def list_datasets(self) -> Iterator[DatasetEntry]:
        """The latest version of every dataset."""

    def list_versions(self, name: str) -> Iterator[DatasetEntry]:
        """Every version of a dataset, the highest first."""

    def search(self, text: str = "", *, tags: Iterable[str] = (), schema: str | None = None) -> Iterator[DatasetEntry]:
        """The latest versions that match."""

    def labels(self, name: str) -> dict[str, str]:
        """The labels of a dataset and the versions they mean."""

    def get_schema(self, ref: str) -> Schema:
        """The schema that a reference names."""

    def get_lens(self, ref: str) -> StoredLens:
        """The lens that a reference names."""

    def list_lenses(self) -> Iterator[StoredLens]:
        """The lenses."""


@contextlib.contextmanager
def opened(url: str | None) -> Iterator[LocalIndex]:
    """The local index that a command is about.

    Raises:
        CatalogError: there is none, or it is an account of the network.
    """
    if is_account(url):
        raise CatalogError("this works on an index in a file or a database, not on an account", url=url)
    index = existing_index(url)
    if index is None:
        place = url or os.environ.get("ATDATA_INDEX") or "~/.atdata/index.db"
        raise CatalogError("there is no index here; LocalIndex().insert_dataset and write_samples make one", url=place)
    with index:
        yield index


@contextlib.contextmanager
def found_index(url: str | None, ref: str | None = None) -> Iterator[tuple[Index, str, str | None]]:
    """The index that a command or a reference is about, what it is called, and the reference as that index has it."""
    rest: str | None
    if ref is not None and is_account(ref):
        account, rest = parted(ref)
    elif url is not None and is_account(url):
        account, rest = parted(url)[0], ref
    else:
        with opened(url) as local:
            yield local, local.url, ref
        return
    with account_index(account) as index:
        yield index, account, rest or None
        for left in index.left_out[:_NOTED]:
            print(f"atdata: note: left out {clean(str(left))}", file=sys.stderr)


# -- finding -----------------------------------------------------------------------------------------------------


def listing(report: Report, url: str | None, name: str | None, *, every: bool) -> None:
    """List the datasets of an index or an account, or the versions of one."""
    with found_index(url, name) as (index, place, rest):
        found = index.list_datasets() if rest is None else index.list_versions(rest)
        _list(report, place, found, every, "dataset" if rest is None else "version")


def search(
    report: Report, url: str | None, words: list[str], tags: list[str], schema: str | None, *, every: bool
) -> None:
    """List the datasets that match."""
    with found_index(url) as (index, place, _):
        _list(report, place, index.search(" ".join(words), tags=tags, schema=schema), every, "dataset")


def _list(report: Report, place: str, entries: Iterable[DatasetEntry], every: bool, what: str) -> None:
    if report.json:
        report.document({"index": place, f"{what}s": [_facts(entry) for entry in entries]})
        return
    entries = iter(entries)
    shown = list(entries if every else itertools.islice(entries, _LISTED))
    if shown:
        report.print(_table(shown))
    more = next(entries, None) is not None
    report.print(f"{'more than ' if more else ''}{count(len(shown), what)} in {clean(place)}{more * ' (--all)'}")


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
            clean(_type(entry)),
            f"{entry.created_at.astimezone():%Y-%m-%d}",
            clean(", ".join(entry.tags)),
        )
    return table


def _type(entry: DatasetEntry) -> str:
    """Name and version of the type, where that can be told without asking for the record of it."""
    named = getattr(entry, "schema_name", None)
    if named is not None or entry.schema_ref is None:
        return str(named or "")
    return "" if entry.schema_ref.startswith("at://") else entry.schema_ref.rpartition("/")[2]


def _facts(entry: DatasetEntry) -> dict[str, Any]:
    uri = getattr(entry, "uri", None)
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
    } | ({} if uri is None else {"uri": uri})


def show(report: Report, url: str | None, ref: str, *, every: bool) -> None:
    """Say all that an index, or an account's record, says of one version."""
    with found_index(url, ref) as (index, _, rest):
        if rest is None:
            raise EntryFormError(f"which dataset? Write {clean(ref)}/NAME, or see `atdata ls {clean(ref)}`")
        entry = index.get_dataset(rest)
        labels = index.labels(entry.name)
        versions = [other.version for other in index.list_versions(entry.name)]
        shards = [_shard(ref) for ref in entry.shards]
    facts = _facts(entry) | {"metadata": dict(entry.metadata), "labels": labels, "versions": versions, "shards": shards}
    report.document(facts)
    if report.json:
        return
    from rich.text import Text

    report.print(Text(clean(f"{entry.name}@{entry.version}"), "bold"))
    report.print(_overview(entry, facts))
    shown = shards if every or len(shards) <= _SHARDS else shards[: _SHARDS - 1]
    for shard in shown:
        known = "" if shard["samples"] is None else f"  {count(shard['samples'], 'sample')}, {size(shard['bytes'])}"
        report.print(f"  {clean(str(shard['url']))}{known}")
    if len(shown) < len(shards):
        report.print(f"  … {len(shards) - len(shown):,} more (--all)")


def _shard(ref: ShardRef) -> dict[str, Any]:
    info = ref.info
    if info is None:  # an entry that another tool has published may name places alone
        return {"url": ref.url, "samples": None, "bytes": None, "sha256": None}
    return {"url": ref.url, "samples": info.samples, "bytes": info.size, "sha256": info.sha256}


def _overview(entry: DatasetEntry, facts: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    labels = [f"{label} ({version})" for label, version in facts["labels"].items()]
    rows = {
        "about": entry.description,
        "type": " ".join(dict.fromkeys(text for text in (_type(entry), entry.schema_ref) if text)),
        "record": facts.get("uri"),
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
    if is_account(ref):
        raise EntryFormError("what an account has published is taken back by `atdata unpublish`")
    with opened(url) as index:
        parsed = parse_ref(ref)
        entry = index.get_dataset(ref)
        versions = [entry.version] if parsed.version else [e.version for e in index.list_versions(entry.name)]
        what = (
            f"{entry.name}@{entry.version}"
            if parsed.version
            else f"{entry.name} with {count(len(versions), 'version')}"
        )
        ask(f"Forget {clean(what)}? Its shards stay where they are.", f"{what} would be forgotten", yes, index.url)
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
            ask(f"Remove {what}?", f"{what} would be removed", yes, index.url)
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


def ask(question: str, otherwise: str, yes: bool, url: str) -> None:
    """Ask the person at the terminal, unless that was answered by --yes.

    Raises:
        CatalogError: nobody is there.
    """
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
