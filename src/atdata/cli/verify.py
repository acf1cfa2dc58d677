"""`atdata verify`: every byte against what was recorded, and every sample read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import typer

from atdata.cli.places import type_of
from atdata.cli.reporting import Report, clean, count, size
from atdata.cli.shard_check import Problem, ShardCheck, ShardFindings
from atdata.datasets.sources import Located, ShardRef, locate
from atdata.errors import CommitRecordError, StoreError
from atdata.stores.flight import Stop, in_flight
from atdata.stores.http import public_url
from atdata.stores.opening import Opening
from atdata.stores.progress import Progress
from atdata.stores.record import RECORD_NAME

__all__ = ["run"]

_LISTED = 20  # problems of one shard that people see; JSON has them all
_SHARDS = 4  # under way
_LARGE = 40 << 20  # bytes of memory that a large shard takes while it is read
_BUDGET = 96 << 20
_LOST = 3  # shards that could not be read after which their server is taken to be gone


def run(report: Report, url: str, *, fast: bool) -> None:
    """Check the dataset at `url`; exits with 1 when anything is wrong."""
    problems: list[Problem] = []
    notes: list[str] = []
    opening = Opening()
    try:
        located = locate(url, opening)
    except CommitRecordError as error:
        # What the record said is lost, but not what can be seen without it.
        problems.append(Problem.of(error, url))
        located = _without_record(url, opening)
    if located.record is None and not problems:
        notes.append(f"no {RECORD_NAME} is about exactly these shards: whether any is missing cannot be known")
    expected = [ref.info.samples if ref.info is not None else None for ref in located.shards]
    total = sum(n for n in expected if n is not None) if None not in expected else None
    with Progress(
        "checking", len(located.shards) if fast else total, show=not report.json, unit="shards" if fast else "samples"
    ) as bar:
        findings = list(_checked(located, opening, fast, bar))
    unread = len(located.shards) - len(findings)
    if unread:
        gone = StoreError(f"{count(unread, 'more shard')} were not checked: their server cannot be read")
        problems.append(Problem.of(gone, public_url(url)))
    notes += [note for found in findings for note in found.notes]
    every = problems + [problem for found in findings for problem in found.problems]
    report.document(
        {
            "url": url,
            "ok": not every,
            "fast": fast,
            "cid": None if located.record is None else located.record.cid,
            "shards": [
                {"url": f.url, "bytes": f.bytes, "samples": f.samples, "problems": len(f.problems)} for f in findings
            ],
            "problems": [msgspec.to_builtins(problem) for problem in every],
            "notes": notes,
        }
    )
    if not report.json:
        _show(report, located, problems, findings, notes, fast)
    if every:
        raise typer.Exit(1)


def _without_record(url: str, opening: Opening) -> Located:
    """The shards that a damaged record may have spoken for."""
    path, store = opening.path(url), opening.object_store(url)
    if path is not None:
        return Located(tuple(ShardRef(str(shard.absolute())) for shard in sorted(path.glob("*.tar"))))
    if store is None:
        return Located(())
    folder = url.rstrip("/") + "/"
    found = (u for u in store.list(store.key(folder)) if u.rpartition("/")[0] + "/" == folder)
    return Located(tuple(ShardRef(shard) for shard in found if shard.endswith(".tar")))


def _checked(located: Located, opening: Opening, fast: bool, bar: Progress) -> Iterator[ShardFindings]:
    """What comes out for each shard, in order; no more where their server is gone."""
    sample_type = type_of(located)
    stop = Stop()

    def advance(samples: int) -> None:
        stop.check()
        if samples and not fast:
            bar.advance(samples)

    def check(ref: ShardRef) -> tuple[ShardFindings, bool]:
        one = ShardCheck(ref, opening, sample_type, fast, advance)
        found = one.run()
        far = opening.path(ref.url) is None
        if far and found.problems and one.lost is None:  # it may have been damaged on the way
            found = ShardCheck(ref, opening, sample_type, fast, lambda _: stop.check()).run()
            if not found.problems:
                found.notes.append(f"{found.url}: came damaged, and right when it was read once more")
        if fast:
            bar.advance()
        return found, far and one.lost is not None

    jobs = ((min(_LARGE, ref.info.size if ref.info else _LARGE), partial(check, ref)) for ref in located.shards)
    lost = 0
    with contextlib.closing(in_flight(jobs, stop, most=_SHARDS, budget=_BUDGET)) as checked:
        for found, gone in checked:
            yield found
            lost = lost + 1 if gone else 0
            if lost == _LOST:
                return


# -- for people ------------------------------------------------------------------------------------------------------


def _show(
    report: Report,
    located: Located,
    problems: list[Problem],
    findings: list[ShardFindings],
    notes: list[str],
    fast: bool,
) -> None:
    from rich.text import Text

    groups = [problems, *(found.problems for found in findings)]
    for url, group in _by_file(groups):
        report.print(Text.assemble(("✗ ", "bold red"), (clean(url), "bold")))
        for problem in group[:_LISTED]:
            report.print(f"    {clean(_line(problem))}")
        if len(group) > _LISTED:
            report.print(f"    … and {len(group) - _LISTED:,} more (--json lists all)")
    for note in notes[:_LISTED]:
        report.print(Text.assemble(("note  ", "yellow"), (clean(note), "default")))
    if len(notes) > _LISTED:
        report.print(f"… and {len(notes) - _LISTED:,} more notes (--json lists all)")
    total = sum(len(group) for group in groups)
    samples = sum(found.samples or 0 for found in findings)
    what = f"{count(len(findings), 'shard')}, {size(sum(found.bytes for found in findings))}"
    what += ", digests only" if fast else f", {count(samples, 'sample')} read"
    if total:
        bad = sum(bool(found.problems) for found in findings)
        where = f" in {bad} of {len(findings)} shards" if findings else ""
        report.print(Text.assemble((f"{count(total, 'problem')}{where}", "bold red"), (f"  ({what})", "default")))
        return
    recorded = located.record is not None
    verdict = "all as recorded" if recorded else "nothing is wrong that can be seen without a record"
    report.print(Text.assemble(("✓ ", "bold green"), (f"{what}: {verdict}", "default")))


def _by_file(groups: list[list[Problem]]) -> Iterator[tuple[str, list[Problem]]]:
    files: dict[str, list[Problem]] = {}
    for group in groups:
        for problem in group:
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
