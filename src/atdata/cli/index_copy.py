"""`atdata index copy`: what one index has, into another."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import typer

from atdata.cli.reporting import Report, clean, count
from atdata.errors import CatalogError, EntryFormError
from atdata.index.copying import IndexCopy, copy_index, has_dataset
from atdata.index.foreign import ForeignIndex, look, shown
from atdata.index.load import existing_index
from atdata.index.local import LocalIndex
from atdata.stores.progress import Progress

__all__ = ["run"]


def run(report: Report, source: str, to: str, renames: list[str], *, dry_run: bool) -> None:
    """Copy an index; exit with 1 when something was left out."""
    names = dict(map(_pair, renames))
    place, found = _place(source), look(source)
    if _place(to) == place:
        raise CatalogError("an index is copied to another place than its own", url=shown(place))
    with contextlib.ExitStack() as stack:
        sources: list[LocalIndex | ForeignIndex] = [] if found.foreign is None else [found.foreign]
        if found.own and (own := existing_index(source)) is not None:
            sources.append(stack.enter_context(own))
        if not sources:
            raise CatalogError("there is no index here to copy from", url=shown(place))
        for old in names:
            if not any(has_dataset(each, old) for each in sources):
                raise EntryFormError(f"there is no dataset {old!r:.120} to be renamed")
        target = stack.enter_context(_target(to, dry_run))
        done = IndexCopy()
        with Progress("reading shards", None, show=not report.json, unit="shards") as bar:
            for each in sources:
                mine = {old: new for old, new in names.items() if has_dataset(each, old)}
                some = copy_index(each, target, rename=mine, dry_run=dry_run, advance=bar.advance)
                for field in dataclasses.fields(IndexCopy):
                    setattr(done, field.name, getattr(done, field.name) + getattr(some, field.name))
        _say(report, done, shown(place), shown(_place(to)), dry_run)
    if done.left_out:
        raise typer.Exit(1)


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.rpartition("=")
    if not equals:
        raise EntryFormError(f"{text!r:.120} is no renaming: write --rename OLD=NEW")
    return old, new


def _place(url: str) -> str:
    """The same for the same file."""
    scheme, colon, rest = url.partition("://")
    if colon and scheme != "sqlite":
        return url
    return os.path.realpath(os.path.expanduser(rest.removeprefix("/") if colon else url))


@contextlib.contextmanager
def _target(url: str, dry_run: bool) -> Iterator[LocalIndex]:
    """The index to copy to; for a dry run that has none yet, an empty one which goes away again."""
    with contextlib.ExitStack() as stack:
        there = None if dry_run and not look(url).own else LocalIndex(url)
        if there is None:
            there = LocalIndex(os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "index.db"))
        yield stack.enter_context(there)


def _say(report: Report, done: IndexCopy, source: str, target: str, dry_run: bool) -> None:
    report.document({"source": source, "target": target, "dry_run": dry_run} | _facts(done))
    added = {"version": done.versions, "schema": done.schemas, "label": done.labels, "lens": done.lenses}
    for what, names in added.items():
        for name in names if dry_run else ():
            report.print(f"{what}  {clean(name)}")
    for note in done.notes:
        report.print(f"note  {clean(note)}")
    if not report.json:
        for left in done.left_out:
            report.error(f"left out: {left.what}: {left.why}")
    counted = ", ".join(count(len(names), what) for what, names in added.items())
    there = f"; {count(done.present, 'version')} there already" if done.present else ""
    left_out = f"; {len(done.left_out):,} left out" if done.left_out else ""
    report.print(f"{'would copy' if dry_run else 'copied'} {counted} to {clean(target)}{there}{left_out}")


def _facts(done: IndexCopy) -> dict[str, Any]:
    return dataclasses.asdict(done) | {"left_out": [left._asdict() for left in done.left_out]}
