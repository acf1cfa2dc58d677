"""`atdata inspect`: what a dataset is, without reading its samples."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from atdata.cli.head import first
from atdata.cli.places import located_at, type_of
from atdata.cli.reporting import Report, clean, count, size
from atdata.cli.values import fields_of, summary
from atdata.datasets.access import Access
from atdata.datasets.sources import Located, ShardRef
from atdata.errors import AtdataError
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.shards.manifest_file import read_manifest
from atdata.shards.reader import BufferShard
from atdata.stores.flight import Stop, in_flight
from atdata.stores.http import public_url
from atdata.stores.opening import Opening
from atdata.stores.record import RECORD_NAME

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["run"]

_LISTED = 12  # shards shown without --all
_REQUESTS = 16  # under way


class ShardFacts(msgspec.Struct):
    """What there is to say of one shard.

    Attributes:
        manifest: "yes", "no", "foreign" (another tool's), or what is wrong with it.
        problem: why it cannot be read, or None.
    """

    name: str
    url: str
    samples: int | None
    bytes: int | None
    sha256: str | None
    manifest: str
    problem: str | None = None


def run(report: Report, url: str, *, every: bool) -> None:
    """Describe the dataset at `url`; exits with 1 where a shard is missing or cannot be read."""
    located, opening = located_at(url)
    access = Access(located, None, opening, "first")
    jobs = ((0, partial(_facts, opening, access, number, ref)) for number, ref in enumerate(located.shards))
    shards = list(in_flight(jobs, Stop(), most=_REQUESTS, budget=0))
    sample_type = type_of(located)
    fields = _fields(located, sample_type, opening)
    counts = [shard.samples for shard in shards]
    sizes = [shard.bytes for shard in shards]
    problems = [f"{shard.name}: {shard.problem}" for shard in shards if shard.problem is not None]
    document = {
        "url": url,
        "sample_type": sample_type.__name__,
        "description": None if located.schema is None else located.schema.description,
        "schema_version": None if located.schema is None else located.schema.version,
        "cid": None if located.record is None else located.record.cid,
        "samples": _total(counts),
        "bytes": _total(sizes),
        "shards": [msgspec.to_builtins(shard) for shard in shards],
        "fields": fields,
        "missing": _missing(located, shards),
        "problems": problems,
        "verified": False,
    }
    report.document(document)
    if not report.json:
        _show(report, document, shards, located, every)
    if problems:
        raise typer.Exit(1)


def _total(parts: list[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _facts(opening: Opening, access: Access, number: int, ref: ShardRef) -> ShardFacts:
    info = ref.info
    url = public_url(ref.url)
    facts = ShardFacts(url.rpartition("/")[2], url, None, None, None, _manifest(opening, ref))
    if info is not None:
        facts.samples, facts.sha256 = info.samples, info.sha256
        if info.manifest is not None and facts.manifest == "no":
            facts.manifest = "missing"
    try:
        facts.bytes = opening.open(ref.url).size
        if info is not None:
            if facts.bytes != info.size:
                facts.problem = f"has {facts.bytes:,} bytes, the record says {info.size:,}"
            return facts
        shard = access.shard(number)
        if shard.manifest is not None:
            facts.sha256 = shard.manifest.shard_sha256
        # Counting what is in a compressed archive, or in one far away, means reading it all.
        if isinstance(shard, BufferShard) or shard.manifest is not None:
            facts.samples = len(shard)
    except FileNotFoundError:
        facts.problem = "is not there"
    except AtdataError as error:
        facts.problem = error.message
    return facts


def _manifest(opening: Opening, ref: ShardRef) -> str:
    """Whether there is a manifest: "yes", "no", "foreign", or what is wrong with it."""
    info = ref.info
    url = opening.manifest(ref.url, info)
    if url is None:
        return "no"
    try:
        if info is not None and opening.path(ref.url) is None:  # its digest is recorded: no need to fetch it
            return "no" if info.manifest is None else _there(opening, url, info.manifest.size)
        data = opening.read(url)
        if data is None:
            return "no"
        return "yes" if read_manifest(data, url=url) is not None else "foreign"
    except AtdataError:
        return "unreadable"


def _there(opening: Opening, url: str, size: int) -> str:
    try:
        return "yes" if opening.open(url).size == size else "unreadable"
    except FileNotFoundError:
        return "no"


def _fields(located: Located, sample_type: type, opening: Opening) -> list[dict[str, Any]]:
    """Name, type and statistics of each field; of the first sample where no type is known."""
    if issubclass(sample_type, DictSample):
        try:
            for _, sample in first(located, sample_type, 1, opening):
                return [
                    {"name": n, "type": summary(v, 30), "from": "first sample"} for n, v in fields_of(sample).items()
                ]
        except AtdataError:
            pass  # why no sample can be read stands with its shard
        return []
    fields = []
    for f in codec.plan(sample_type).fields:
        field: dict[str, Any] = {"name": f.name, "type": f.type.name, "optional": f.has_default}
        field.update(_stats(located, f.name))
        fields.append(field)
    return fields


def _stats(located: Located, field: str) -> dict[str, Any]:
    """Smallest and largest value over all shards, and how many are None; empty where the record does not say."""
    infos = [ref.info for ref in located.shards]
    stats = [info.stats.get(field) for info in infos if info is not None]
    if not infos or len(stats) != len(infos) or None in stats:
        return {}
    merged: dict[str, Any] = {"nulls": sum(s.nulls for s in stats if s is not None)}
    # A shard without bounds has None only, or values that have no bounds: long texts, infinities.
    pairs = [
        (s.min, s.max)
        for s, info in zip(stats, infos, strict=True)
        if s is not None and info is not None and s.nulls < info.samples
    ]
    lows = [low for low, _ in pairs if low is not None]
    highs = [high for _, high in pairs if high is not None]
    if pairs and len(lows) == len(highs) == len(pairs):
        try:
            merged |= {"min": min(lows), "max": max(highs)}
        except TypeError:  # of different types: no order
            return merged
    return merged


def _missing(located: Located, shards: list[ShardFacts]) -> list[str]:
    out = []
    if located.record is None:
        if located.shards and all(ref.info is not None for ref in located.shards):
            out.append(f"these are not exactly the shards that the {RECORD_NAME} beside them names")
        else:
            out.append(f"no {RECORD_NAME} is about these shards: whether all are here cannot be known")
    if located.schema is None:
        out.append("no stored sample type: samples are read as DictSample")
    without = sum(shard.manifest != "yes" for shard in shards)
    if without:
        which = (
            "no manifests" if without == len(shards) else f"no usable manifest for {without} of {len(shards)} shards"
        )
        out.append(f"{which}: reading is slower; `atdata manifest build` makes them for plain tars of .msgpack samples")
    return out


# -- for people ------------------------------------------------------------------------------------------------------


def _show(report: Report, document: dict[str, Any], shards: list[ShardFacts], located: Located, every: bool) -> None:
    from rich.text import Text

    report.print(Text(clean(document["url"]), "bold"))
    report.print(_overview(document, located))
    if document["fields"]:
        report.print(_field_table(document["fields"]))
    report.print(_shard_table(shards, every))
    for line in document["missing"]:
        report.print(Text.assemble(("missing  ", "yellow"), (clean(line), "default")))
    for line in document["problems"]:
        report.print(Text.assemble(("problem  ", "bold red"), (clean(line), "default")))


def _overview(document: dict[str, Any], located: Located) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    name = clean(document["sample_type"])
    about = (document["description"] or "").strip().split("\n")[0]
    table.add_row("type", Text(name, "bold").append(f"  {clean(about)}" if about else "", "default"))
    if document["cid"] is not None:
        table.add_row("cid", document["cid"])
    samples = "an unknown number of samples" if document["samples"] is None else count(document["samples"], "sample")
    table.add_row("samples", f"{samples} in {count(len(located.shards), 'shard')}")
    if document["bytes"] is not None:
        table.add_row("bytes", f"{document['bytes']:,}  ({size(document['bytes'])})")
    if located.record is not None:
        table.add_row("record", f"{RECORD_NAME} is intact, and names these shards")
    table.add_row("verified", "not now: shards are checked when they are read, or all at once by `atdata verify`")
    return table


def _field_table(fields: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    stored = "from" not in fields[0]
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1))
    table.add_column("field", style="cyan", overflow="fold")
    table.add_column("type" if stored else "in the first sample", overflow="fold")
    columns = ("min", "max", "None")
    statistics = any("nulls" in field for field in fields)
    for name in columns if statistics else ():
        table.add_column(name, justify="right", overflow="fold")
    for field in fields:
        bounds = [summary(field[name], 24) if name in field else "" for name in ("min", "max")]
        nulls = f"{field['nulls']:,}" if "nulls" in field else ""
        table.add_row(clean(field["name"]), clean(field["type"]), *([*bounds, nulls] if statistics else []))
    return table


def _shard_table(shards: list[ShardFacts], every: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1))
    table.add_column("shard", style="cyan", overflow="fold")
    for name in ("samples", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("sha256", no_wrap=True)
    table.add_column("manifest")
    shown = shards if every or len(shards) <= _LISTED else shards[: _LISTED - 2]
    for shard in shown:
        _shard_row(table, shard)
    if len(shown) < len(shards):
        table.add_row(f"… {len(shards) - len(shown) - 1:,} more (--all)", "", "", "", "", style="dim")
        _shard_row(table, shards[-1])
    return table


def _shard_row(table: Table, shard: ShardFacts) -> None:
    table.add_row(
        clean(shard.name),
        "?" if shard.samples is None else f"{shard.samples:,}",
        "?" if shard.bytes is None else size(shard.bytes),
        "" if shard.sha256 is None else f"{shard.sha256[:12]}…",
        shard.manifest,
        style="red" if shard.problem is not None else None,
    )
