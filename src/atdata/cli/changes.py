"""`atdata diff`: what changed between two datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from atdata.cli.accounts import is_account
from atdata.cli.catalog import opened
from atdata.cli.reporting import Report, clean, count
from atdata.datasets.dataset import Dataset
from atdata.datasets.sources import Located
from atdata.index.diff import DatasetDiff, diff
from atdata.index.load import load_dataset
from atdata.index.splits import DatasetDict

__all__ = ["dataset_at", "run"]

_LISTED = 10  # keys of a kind without --all


def run(report: Report, url: str | None, old: str, new: str, *, every: bool) -> None:
    """Show which samples were added, removed and changed; exits with 1 when the datasets differ."""
    sides = [dataset_at(text, url) for text in (old, new)]
    found = diff(*sides)
    if report.json:
        report.document(_document(found, (old, new), sides, every))
    else:
        _show(report, found, (old, new), every)
    if found.change is not None:
        raise typer.Exit(1)


def dataset_at(text: str, url: str | None) -> Dataset[Any]:
    """The dataset that a name or a place means, with all its splits."""
    if url is None or is_account(text):
        found = load_dataset(text)
    else:
        with opened(url) as index:
            found = load_dataset(text, index=index)
    if not isinstance(found, DatasetDict):
        ds: Dataset[Any] = found
        return ds
    parts = [ds.located for ds in found.values() if ds.located is not None]
    schemas = {None if part.schema is None else part.schema.cid for part in parts}
    shards = tuple(ref for part in parts for ref in part.shards)
    first = next(iter(found.values()))
    return Dataset(Located(shards, parts[0].schema if len(schemas) == 1 else None), store=first.opening.store)


def _document(found: DatasetDiff, names: tuple[str, str], sides: Sequence[Dataset[Any]], every: bool) -> dict[str, Any]:
    samples = {}
    for kind in ("added", "removed", "changed"):
        some = getattr(found, kind)[: None if every else _LISTED]
        samples[kind] = [_changed(s) if kind == "changed" else _place(s) | {"key": s.key} for s in some]
    return {
        "old": {"name": names[0], "cid": sides[0].cid},
        "new": {"name": names[1], "cid": sides[1].cid},
        "change": found.change,
        "added": len(found.added),
        "removed": len(found.removed),
        "changed": len(found.changed),
        "unchanged": found.unchanged,
        "shared_shards": found.shared_shards,
        "shards_read": list(found.shards_read),
        "schema": None if found.schema is None else [str(d) for d in found.schema.differences],
        "samples": samples,
    }


def _place(sample: Any) -> dict[str, Any]:
    return {"url": sample.url, "row": sample.row, "sha256": sample.sha256}


def _changed(sample: Any) -> dict[str, Any]:
    return {"key": sample.key, "old": _place(sample.old), "new": _place(sample.new)}


_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


def _show(report: Report, found: DatasetDiff, names: tuple[str, str], every: bool) -> None:
    from rich.text import Text

    report.print(Text(clean(f"{names[0]} → {names[1]}"), "bold"))
    for kind, (sign, colour) in _SIGNS.items():
        samples = getattr(found, kind)
        for sample in samples[: None if every else _LISTED]:
            report.print(Text(f"{sign} {clean(sample.key)}", colour))
        if not every and len(samples) > _LISTED:
            report.print(Text(f"{sign} … {len(samples) - _LISTED:,} more (--all)", f"dim {colour}"))
    counts = ", ".join(f"{len(getattr(found, kind)):,} {kind}" for kind in _SIGNS)
    report.print(
        f"{counts}, {found.unchanged:,} unchanged; {count(found.shared_shards, 'shard')} the same on both sides"
    )
    for difference in () if found.schema is None else found.schema.differences:
        report.print(f"type {clean(str(difference))}")
    if found.shards_read:
        report.print(f"read to the end, for lack of manifests: {clean(', '.join(found.shards_read[:5]))}")
    said = {None: "nothing changed", "patch": "the same data, lying differently"}
    report.print(said.get(found.change, f"a {found.change} change"))
