"""`atdata verify`: every byte against what was recorded, and every sample read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import typer

from atdata.cli.catalog import opened
from atdata.cli.reporting import Report, clean, count, size
from atdata.datasets.shard_check import Problem
from atdata.index.chain import Verification
from atdata.index.load import is_place, is_published
from atdata.index.verify import verify

__all__ = ["run"]

_LISTED = 20  # problems of one file that people see; JSON has them all


def run(report: Report, ref: str, index: str | None, *, fast: bool, deep: bool) -> None:
    """Check the dataset that `ref` names; exits with 1 when anything is wrong."""
    # The shards of what an account has published may be large, and far away.
    depth: bool | Literal["digests"] = True if deep else "digests" if fast else not is_published(ref)
    if index is None:
        found = verify(ref, deep=depth, on_error="report", progress=not report.json)
    else:
        with opened(index) as known:
            found = verify(ref, deep=depth, index=known, on_error="report", progress=not report.json)
    report.document(_document(found))
    if not report.json:
        _show(report, found, chain=is_published(ref) or not is_place(ref))
    if not found.ok:
        raise typer.Exit(1)


def _document(found: Verification) -> dict[str, Any]:
    return {
        "url": found.ref,
        "ok": found.ok,
        "fast": found.depth == "digests",
        "deep": found.depth == "samples",
        "cid": found.cid,
        "chain": [
            {"link": link.name, "state": link.state, "checked": link.checked, "problems": len(link.problems)}
            for link in found.chain
        ],
        "shards": [
            {"url": f.url, "bytes": f.bytes, "samples": f.samples, "problems": len(f.problems)} for f in found.shards
        ],
        "problems": [msgspec.to_builtins(problem) for problem in found.problems],
        "notes": found.notes,
    }


# -- for people ------------------------------------------------------------------------------------------------------


def _show(report: Report, found: Verification, *, chain: bool) -> None:
    from rich.text import Text

    colours = {"ok": "bold green", "broken": "bold red", "unchecked": "dim"}
    for link in found.chain if chain else ():
        sign, _, rest = str(link).partition(" ")
        report.print(Text.assemble((f"{sign} ", colours[link.state]), (clean(rest), "default")))
    for url, group in _by_file(found.problems):
        report.print(Text.assemble(("✗ ", "bold red"), (clean(url), "bold")))
        for problem in group[:_LISTED]:
            report.print(f"    {clean(_line(problem))}")
        if len(group) > _LISTED:
            report.print(f"    … and {len(group) - _LISTED:,} more (--json lists all)")
    for note in found.notes[:_LISTED]:
        report.print(Text.assemble(("note  ", "yellow"), (clean(note), "default")))
    if len(found.notes) > _LISTED:
        report.print(f"… and {len(found.notes) - _LISTED:,} more notes (--json lists all)")
    samples = sum(shard.samples or 0 for shard in found.shards)
    what = f"{count(len(found.shards), 'shard')}, {size(sum(shard.bytes for shard in found.shards))}"
    what += {
        "samples": f", {count(samples, 'sample')} read",
        "digests": ", digests only",
        "sizes": ", not read: --deep reads them",
    }[found.depth]
    if not found.ok:
        bad = sum(bool(shard.problems) for shard in found.shards)
        where = f" in {bad} of {len(found.shards)} shards" if found.shards else ""
        report.print(Text.assemble((f"{count(len(found.problems), 'problem')}{where}", "bold red"), f"  ({what})"))
        return
    verdict = "nothing is wrong that can be seen without a record" if found.cid is None else "all as recorded"
    report.print(Text.assemble(("✓ ", "bold green"), (f"{what}: {verdict}", "default")))


def _by_file(problems: Sequence[Problem]) -> Iterator[tuple[str, list[Problem]]]:
    files: dict[str, list[Problem]] = {}
    for problem in problems:
        files.setdefault(problem.url or "", []).append(problem)
    yield from files.items()


def _line(problem: Problem) -> str:
    place: list[Any] = []
    if problem.key is not None:
        place.append(f"sample {problem.key!r}")
    if problem.offset is not None:
        place.append(f"byte {problem.offset}")
    text = problem.message
    if problem.field is not None and not text.startswith(problem.field):
        text = f"{problem.field}: {text}"
    return f"{', '.join(place)}: {text}" if place else text
