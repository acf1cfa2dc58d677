"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Every", "Index", "Json", "Yes", "age"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Index = Annotated[
    str | None,
    typer.Option(
        "--index", metavar="URL", help="The index, a file or URL; else ATDATA_INDEX, else ~/.atdata/index.db."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Every = Annotated[bool, typer.Option("--all", help="List everything, however much there is.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def age(text: str) -> float:
    """Seconds in `30m`, `12h`, `7d`, `2w`."""
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise typer.BadParameter(f"{text!r} is no age; say 30m, 12h, 7d or 2w")
    return float(number) * _UNITS[unit]
