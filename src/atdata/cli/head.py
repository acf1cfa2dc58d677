"""`atdata head`: the first samples, as a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from atdata.cli.pictures import can_draw, picture
from atdata.cli.places import located_at, type_of
from atdata.cli.reporting import Report, clean, count
from atdata.cli.values import fields_of, summary, to_json
from atdata.datasets.access import Access
from atdata.datasets.sources import Located
from atdata.shards.reader import BufferShard
from atdata.stores.opening import Opening

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["first", "run"]


def run(report: Report, url: str, n: int, *, pictures: bool) -> None:
    """Show the first `n` samples of the dataset at `url`."""
    located, opening = located_at(url)
    sample_type = type_of(located)
    samples = list(itertools.islice(first(located, sample_type, n, opening), n))
    report.document(
        {
            "url": url,
            "sample_type": sample_type.__name__,
            "samples": [{"key": key, "fields": to_json(fields_of(sample))} for key, sample in samples],
        }
    )
    if report.json:
        return
    if not samples:
        report.print("there are no samples in it")
        return
    rows = [(key, fields_of(sample)) for key, sample in samples]
    names = list(dict.fromkeys(name for _, fields in rows for name in fields))
    draw = pictures and can_draw(report.console)
    width = report.console.width
    if len(names) * 16 + 14 > width:
        _one_by_one(report, rows, draw)
    else:
        _together(report, rows, names, draw)
    total = None if located.record is None else located.record.samples
    shown = count(len(rows), "sample") if total is None else f"{len(rows):,} of {count(total, 'sample')}"
    report.print(f"\n{shown}, {clean(sample_type.__name__)}")


def first(located: Located, sample_type: type, n: int, opening: Opening) -> Iterator[tuple[str, Any]]:
    """Key and sample of the first `n`; no more is read and checked than they need."""
    access = Access(located, None, opening, "first")
    for number in range(len(located.shards)):
        shard = access.shard(number)
        if isinstance(shard, BufferShard) and shard.manifest is not None:
            here = min(n, len(shard))
            for row in range(here):
                yield access.key(number, row), access.row(number, row, sample_type)
        else:
            here = 0
            checked = access.shard(number, whole=True)
            stop = n if checked.manifest is not None else None  # no more is fetched than is shown
            for pair in itertools.islice(checked.keyed(sample_type, 0, stop), n):
                yield pair
                here += 1
        n -= here
        if n <= 0:
            return


def _cell(report: Report, value: Any, draw: bool, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    text = Text(summary(value, width), "dim" if value is None else "")
    drawn = picture(value, report.console) if draw else None
    return text if drawn is None else Group(drawn, Text(text.plain, "dim"))


def _together(report: Report, rows: list[tuple[str, dict[str, Any]]], names: list[str], draw: bool) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_lines=draw and len(rows) > 1, padding=(0, 1))
    table.add_column("key", no_wrap=True, style="cyan")
    for name in names:
        table.add_column(clean(name), overflow="fold")
    width = 60 if report.console.is_terminal else 200
    for key, fields in rows:
        cells = [_cell(report, fields[name], draw, width) if name in fields else "" for name in names]
        table.add_row(clean(key), *cells)
    report.print(table)


def _one_by_one(report: Report, rows: list[tuple[str, dict[str, Any]]], draw: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    for key, fields in rows:
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in fields.items():
            table.add_row(clean(name), _cell(report, value, draw, 120))
        report.print(Text(clean(key), "bold cyan"))
        report.print(table)
