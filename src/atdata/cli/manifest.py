"""`atdata manifest build`: manifests for shards that have none."""

from __future__ import annotations

from typing import Any

import typer

from atdata.cli.places import type_of
from atdata.cli.reporting import Report, clean, count, size
from atdata.datasets.sources import locate
from atdata.errors import AtdataError
from atdata.samples.dictsample import DictSample
from atdata.stores.manifests import build_manifests
from atdata.stores.progress import Progress

__all__ = ["run"]


def run(report: Report, url: str, *, force: bool) -> None:
    """Build the manifests of the shards at `url`; all that can be built are, whatever becomes of the others."""
    located = locate(url)
    stored = type_of(located)
    built: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    # What the record does not list may be of any type.
    shards = [(ref.url, stored if ref.info is not None else DictSample) for ref in located.shards]
    with Progress("building manifests", len(shards), show=not report.json, unit="shards") as bar:
        for shard, made in build_manifests(shards, force=force):
            if isinstance(made, AtdataError):
                refused.append({"shard": shard, "type": type(made).__name__, "message": str(made)})
            else:
                built.append({"shard": shard, "manifest": made.path, "samples": made.samples, "bytes": made.size,
                              "fields": made.fields})  # fmt: skip
            bar.advance()
    report.document({"url": url, "built": built, "refused": refused})
    for one in built:
        fields = f", fields {', '.join(one['fields'])}" if one["fields"] else ""
        report.print(
            f"wrote {clean(one['manifest'])}: {count(one['samples'], 'sample')}, {size(one['bytes'])}{clean(fields)}"
        )
    for message in dict.fromkeys(one["message"] for one in refused):
        report.error(message)
    if refused:
        raise typer.Exit(1)
