"""`atdata manifest build`: manifests for shards that have none."""

from __future__ import annotations

from typing import Any

import typer

from atdata.cli.places import local_file, type_of
from atdata.cli.reporting import Report, clean, count, size
from atdata.datasets.sources import locate
from atdata.errors import AtdataError
from atdata.samples.dictsample import DictSample
from atdata.stores.manifests import build_manifest
from atdata.stores.progress import Progress

__all__ = ["run"]


def run(report: Report, url: str, *, force: bool) -> None:
    """Build the manifests of the shards at `url`; all that can be built are, whatever becomes of the others."""
    located = locate(url)
    stored = type_of(located)
    built: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    with Progress("building manifests", len(located.shards), show=not report.json, unit="shards") as bar:
        for ref in located.shards:
            path = local_file(ref)
            # What the record does not list may be of any type.
            sample_type = stored if ref.info is not None else DictSample
            try:
                made = build_manifest(path, sample_type, force=force)
                built.append({"shard": ref.url, "manifest": made.path, "samples": made.samples, "bytes": made.size,
                              "fields": made.fields})  # fmt: skip
            except AtdataError as error:
                refused.append({"shard": ref.url, "type": type(error).__name__, "message": str(error)})
            bar.advance()
    report.document({"url": url, "built": built, "refused": refused})
    for one in built:
        fields = f", fields {', '.join(one['fields'])}" if one["fields"] else ""
        report.print(
            f"wrote {clean(one['manifest'])}: {count(one['samples'], 'sample')}, {size(one['bytes'])}{clean(fields)}"
        )
    for one in refused:
        report.error(one["message"])
    if refused:
        raise typer.Exit(1)
