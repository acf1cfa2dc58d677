"""Datasets in an account of the AT Protocol: published together and listed, against single records and bare paging."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from harness import Bar, Contender, Context, Result, compare, rates, ratio

import atdata
from atdata.atmosphere.records import ENTRY, LABEL, SCHEMA
from atdata.datasets.sources import Located, ShardRef
from atdata.index.base import DatasetEntry
from atdata.stores.record import CommitRecord, ShardInfo
from atdata.testing.network import LocalNetwork, LocalNetworkError
from atmosphere import Account

TITLE = "Published datasets"
DATASETS, LISTED = 1000, 10_000


@atdata.packable
class Thing:
    """A sample of the datasets that are published."""

    text: str
    number: int


def run(ctx: Context) -> Result:
    """Everything against a PDS of our own on this machine."""
    result = Result()
    try:
        import httpx  # noqa: F401

        network = LocalNetwork().start()
    except (ImportError, LocalNetworkError) as error:
        result.missing.append(f"the AT Protocol network ({str(error).splitlines()[0]})")
        return result
    try:
        _publish(ctx, network, result)
        _list(ctx, network, result)
    finally:
        network.close()
    return result


def entries(count: int) -> Iterator[DatasetEntry]:
    """Small datasets, as another index has them."""
    schema = atdata.Schema.of(Thing)
    for n in range(count):
        digest = hashlib.sha256(b"%d" % n).hexdigest()
        record = CommitRecord(schema, (ShardInfo("shard-000000.tar", 10_240, 5, digest),))
        located = Located((ShardRef(f"https://example.org/{n}/shard-000000.tar", record.shards[0]),), schema, record)
        yield DatasetEntry(
            name=f"dataset-{n:06d}",
            version="1.0.0",
            cid=record.cid,
            schema_ref=None,
            parent=None,
            description="many images and some texts",
            tags=("benchmark", "images"),
            license="CC-BY-4.0",
            metadata={"source": n},
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            samples=5,
            size=10_240,
            _locate=lambda located=located: located,  # type: ignore[misc]
        )


def _publish(ctx: Context, network: LocalNetwork, result: Result) -> None:
    count = ctx.count(DATASETS)
    several = list(entries(count))
    model = Account.of(network)
    atdata.AtmosphereIndex(model.client).add_entries(several)
    records = [
        (nsid, r.uri.rkey, r.value)
        for nsid in (SCHEMA, ENTRY, LABEL)
        for r in model.client.list_records(model.did, nsid)
    ]
    model.close()
    now: list[Account] = []

    def together() -> int:
        return atdata.AtmosphereIndex(now[0].client).add_entries(several)

    def single() -> int:
        for each in records:
            now[0].client.put_record(*each)
        return count

    def before() -> None:
        now[:] = [Account.of(network)]

    contenders = [
        Contender("atdata, add_entries", together, before, lambda: now[0].close()),
        Contender("one record at a time", single, before, lambda: now[0].close()),
    ]
    timings = compare(contenders, min(ctx.rounds, 3), runs=1)
    note = f"Into a new account: {len(records):,} records, which are entries, labels and a schema."
    result.tables.append(rates(f"{TITLE}, {count:,} published", "datasets/s", count, timings, note))
    got = ratio(timings, *(each.name for each in contenders))
    result.bars.append(Bar(f"{count:,} datasets published together, over one record at a time", 5.0, *got))


def _list(ctx: Context, network: LocalNetwork, result: Result) -> None:
    count = ctx.count(LISTED)
    account = Account.of(network)
    index = atdata.AtmosphereIndex(account.client)
    index.add_entries(entries(count))

    def ours() -> int:
        return sum(entry.samples or 0 for entry in index.list_datasets())

    def bare() -> int:
        total = 0
        params: dict[str, Any] = {"repo": account.did, "collection": ENTRY, "limit": "100"}
        while True:
            page = json.loads(account.bare.get("/com.atproto.repo.listRecords", params=params).content)
            total += sum(record["value"]["size"]["samples"] for record in page["records"])
            if not page.get("cursor"):
                return total
            params["cursor"] = page["cursor"]

    assert ours() == 5 * count
    contenders = [Contender("atdata, list_datasets", ours), Contender("httpx, page by page", bare)]
    timings = compare(contenders, ctx.rounds, runs=1)
    note = "A hundred a page; ours checks every record against its lexicon."
    result.tables.append(rates(f"{TITLE}, {count:,} listed", "datasets/s", count, timings, note))
    middle, low, high = ratio(timings, *(each.name for each in contenders))
    result.bars.append(Bar("time to list datasets, over bare paging", 2.0, 1 / middle, 1 / high, 1 / low, False))
    account.close()
