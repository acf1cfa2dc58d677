"""`atdata lens ls` and `lens show`: the lenses of an index, or of an account."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from atdata.cli.accounts import is_account, parted
from atdata.cli.catalog import found_index
from atdata.cli.reporting import Report, clean, count
from atdata.errors import AtdataError, EntryFormError
from atdata.lenses.fields import FieldsLens
from atdata.lenses.records import declared_json
from atdata.lenses.references import LensReference

if TYPE_CHECKING:
    from atdata.index.lenses import StoredLens

__all__ = ["listing", "show"]

_LISTED = 100  # without --all
_SHOWN = 80  # characters of a default


def listing(report: Report, url: str | None, account: str | None, *, every: bool) -> None:
    """List the lenses of an index or an account."""
    if account is not None and (not is_account(account) or parted(account)[1]):
        raise EntryFormError(f"{account!r:.120} is no account: write @HANDLE, or --index URL for an index")
    with found_index(url, account) as (index, place, _):
        lenses = index.list_lenses()
        if report.json:
            report.document({"index": place, "lenses": [_facts(each) for each in lenses]})
            return
        shown = list(lenses if every else itertools.islice(lenses, _LISTED))
        for each in shown:
            report.print(clean(f"{each.name}  {_between(each)}  {'declared' if each.declared else 'code'}  {each.uri}"))
        more = next(lenses, None) is not None
        report.print(f"{more * 'more than '}{count(len(shown), 'lens')} in {clean(place)}{more * ' (--all)'}")


def show(report: Report, url: str | None, ref: str) -> None:
    """Say what one lens does, or where its code is."""
    with found_index(url, ref) as (index, _, rest):
        if rest is None:
            raise EntryFormError(f"which lens? Write {clean(ref)}/NAME, or see `atdata lens ls {clean(ref)}`")
        stored = index.get_lens(rest)
        lens = stored.load()
        between = _between(stored)
    code = lens if isinstance(lens, LensReference) else None
    report.document(_facts(stored) | {"record": dict(stored.record)})
    report.print(clean(f"{stored.name}: {between}"))
    report.print(clean(f"  {stored.uri}, of {stored.created_at.astimezone():%Y-%m-%d %H:%M}"))
    if stored.description:
        report.print(clean(f"  {stored.description.strip().splitlines()[0]}"))
    if code is not None:
        report.print(clean(f"  {code}"))
    elif isinstance(lens, FieldsLens):
        for line in _declared(declared_json(lens.declared)):
            report.print(clean(f"  {line}"))


def _facts(stored: StoredLens) -> dict[str, Any]:
    return {
        "uri": stored.uri,
        "name": stored.name,
        "source": stored.source,
        "view": stored.view,
        "declared": stored.declared,
        "description": stored.description,
        "created": stored.created_at.isoformat(),
    }


def _between(stored: StoredLens) -> str:
    try:
        source, view = stored.schemas
    except AtdataError:  # a schema is not there: its address says as much as can be said
        return f"{stored.source} -> {stored.view}"
    return f"{source.name}@{source.version} -> {view.name}@{view.version}"


def _declared(parts: Mapping[str, Any]) -> Iterator[str]:
    """What is declared, a line for each field."""
    for old, new in parts.get("rename", {}).items():
        yield f"rename   {old} -> {new}"
    for path in parts.get("drop", ()):
        yield f"drop     {path}"
    for path, value in parts.get("default", {}).items():
        text = repr(value["value"]) if "value" in value else f"{len(value['msgpack'])} characters of msgpack"
        yield f"default  {path} = {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}"
    for path in parts.get("cast", ()):
        yield f"cast     {path}"
    for path, names in parts.get("nest", {}).items():
        yield f"nest     {', '.join(names)} -> {path}"
    for path in parts.get("unnest", ()):
        yield f"unnest   {path}"
    for path, (over, under) in parts.get("scale", {}).items():
        yield f"scale    {path} = {over if under == 1 else f'{over}/{under}'} of what is stored"
    if len(parts) == 1:
        yield "every field stays as it is"
