"""`atdata schema diff` and `schema ls`; and which schema a text means."""

from __future__ import annotations

import dataclasses
import os

import typer

from atdata.cli.catalog import opened
from atdata.cli.changes import dataset_at
from atdata.cli.reporting import Report, clean, count
from atdata.errors import EntryFormError, EntryNotFoundError, SchemaError
from atdata.index.load import existing_index
from atdata.samples.evolution import compare
from atdata.samples.schema import Schema

__all__ = ["difference", "listing", "schema_at"]


def schema_at(text: str, url: str | None) -> Schema:
    """The schema of that name in the index, or that of the dataset that the text means.

    Raises:
        EntryNotFoundError: the index has neither.
        SchemaError: no schema is stored with the dataset.
    """
    missing = None
    index = None if os.path.exists(text) else existing_index(url)
    if index is not None:
        with index:
            try:
                return index.get_schema(text)
            except EntryFormError:
                pass
            except EntryNotFoundError as error:
                missing = error
    try:
        ds = dataset_at(text, url)
    except EntryNotFoundError as error:
        if missing is None:
            raise
        raise EntryNotFoundError(f"{missing.message}; {error.message}") from None
    if ds.located is None or ds.located.schema is None:
        raise SchemaError(
            "no schema is stored with it: it has no commit record, or was written without a sample class", url=text
        )
    return ds.located.schema


def difference(report: Report, url: str | None, old: str, new: str) -> None:
    """Show what changed from one schema to another; exits with 1 when bytes are not read as before."""
    found = compare(schema_at(old, url), schema_at(new, url))
    report.document(
        {
            "old": {"name": found.old.name, "version": found.old.version, "cid": found.old.cid},
            "new": {"name": found.new.name, "version": found.new.version, "cid": found.new.cid},
            "change": found.change,
            "readable": found.readable,
            "differences": [dataclasses.asdict(d) for d in found.differences],
        }
    )
    for line in str(found).splitlines():
        report.print(clean(line))
    if found.change is not None:
        raise typer.Exit(1)


def listing(report: Report, url: str | None) -> None:
    """List every version of every schema in an index."""
    with opened(url) as index:
        schemas = list(index.list_schemas())
        report.document(
            {
                "index": index.url,
                "schemas": [
                    {"name": s.name, "version": s.version, "cid": s.cid, "fields": [f.name for f in s.fields]}
                    for s in schemas
                ],
            }
        )
        for s in schemas:
            about = (s.description or "").strip().split("\n")[0]
            report.print(clean(f"{s.name}@{s.version}  {count(len(s.fields), 'field')}  {about}".rstrip()))
        report.print(f"{count(len(schemas), 'schema')} in {clean(index.url)}")
