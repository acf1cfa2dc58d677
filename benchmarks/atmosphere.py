"""An account of the AT Protocol: records written and listed, blobs sent and fetched, against bare httpx."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from watch import anonymous, highest

if __name__ != "__main__":
    import numpy as np
    from harness import Bar, Contender, Context, Result, Row, Table, Timing, compare, rates, ratio
    from numpy.typing import NDArray

    import atdata
    from atdata.atmosphere import Atmosphere, Write
    from atdata.testing.network import LocalNetwork, LocalNetworkError

    @atdata.packable
    class Block:
        data: NDArray[np.uint8]


TITLE = "Atmosphere"
THING = "com.example.dataset"
RECORDS, LISTED = 1000, 10_000
BLOB = 50 << 20
SHARDS = 4
PIECE = 1 << 20
MEMORY = 64 + PIECE / 1e6  # MB


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
        _blobs(ctx, network, result)
        _dataset(ctx, network, result)
        _memory(ctx, network, result)
    finally:
        network.close()
    return result


def value(n: int) -> dict[str, Any]:
    """A record of about the size of a small dataset's."""
    digest = hashlib.sha256(b"%d" % n).hexdigest()
    return {
        "$type": THING,
        "name": f"dataset-{n}",
        "description": "many images and some texts",
        "tags": ["benchmark", "images"],
        "shards": [{"url": f"s3://bucket/{n}/shard-000000.tar", "digest": digest}],
        "size": {"samples": n, "bytes": 4096},
        "createdAt": "2026-01-01T00:00:00Z",
    }


@dataclass
class Account:
    """A new account, logged in, and a bare client with its token."""

    client: Atmosphere
    bare: Any

    @classmethod
    def of(cls, network: LocalNetwork) -> Account:
        import httpx

        account = network.make_account()
        client = Atmosphere.login(
            account.handle, account.password, pds_url=account.pds, directory=network.directory, allow_private=True
        )
        token = client.auth.headers("GET", account.pds)["authorization"]  # type: ignore[union-attr]
        bare = httpx.Client(base_url=f"{account.pds}/xrpc", headers={"authorization": token}, timeout=60)
        return cls(client, bare)

    @property
    def did(self) -> str:
        return str(self.client.did)

    def close(self) -> None:
        self.client.close()
        self.bare.close()


def _publish(ctx: Context, network: LocalNetwork, result: Result) -> None:
    count = ctx.count(RECORDS)
    values = [value(n) for n in range(count)]
    now: list[Account] = []

    def batched() -> int:
        return len(now[0].client.apply_writes([Write("create", THING, f"k{n}", each) for n, each in enumerate(values)]))

    def single() -> int:
        return len([now[0].client.put_record(THING, f"k{n}", each) for n, each in enumerate(values)])

    def before() -> None:
        now[:] = [Account.of(network)]

    contenders = [
        Contender("atdata, apply_writes", batched, before, lambda: now[0].close()),
        Contender("one at a time", single, before, lambda: now[0].close()),
    ]
    timings = compare(contenders, min(ctx.rounds, 3), runs=1)
    note = "Into a new account; the PDS commits once a call."
    result.tables.append(rates(f"{TITLE}, {count:,} records written", "records/s", count, timings, note))
    got = ratio(timings, *(each.name for each in contenders))
    result.bars.append(Bar(f"{count:,} records written at once, over one at a time", 5.0, *got))


def _list(ctx: Context, network: LocalNetwork, result: Result) -> None:
    count = ctx.count(LISTED)
    account = Account.of(network)
    account.client.apply_writes([Write("create", THING, f"k{n:05}", value(n)) for n in range(count)])
    expected = count * (count - 1) // 2

    def ours() -> int:
        return sum(record.value["size"]["samples"] for record in account.client.list_records(account.did, THING))

    def bare() -> int:
        total, cursor = 0, None
        while True:
            params = {
                "repo": account.did,
                "collection": THING,
                "limit": "100",
                **({"cursor": cursor} if cursor else {}),
            }
            page = json.loads(account.bare.get("/com.atproto.repo.listRecords", params=params).content)
            total += sum(record["value"]["size"]["samples"] for record in page["records"])
            cursor = page.get("cursor")
            if not cursor:
                return total

    contenders = [Contender("atdata, list_records", ours), Contender("httpx, page by page", bare)]
    assert ours() == expected
    timings = compare(contenders, ctx.rounds, runs=1)
    note = "A hundred a page, every value looked at."
    result.tables.append(rates(f"{TITLE}, {count:,} records listed", "records/s", count, timings, note))
    middle, low, high = ratio(timings, *(each.name for each in contenders))
    result.bars.append(Bar("time to list, over bare paging", 2.0, 1 / middle, 1 / high, 1 / low, False))
    account.close()


def pieces(size: int, seed: bytes = b"") -> Iterator[bytes]:
    """Bytes of which no two pieces are the same, made in no time."""
    block = hashlib.shake_256(seed).digest(PIECE - 8)
    for n in range(size // PIECE):
        yield n.to_bytes(8, "big") + block


def _blobs(ctx: Context, network: LocalNetwork, result: Result) -> None:
    size = max(PIECE, int(BLOB * min(ctx.scale, 1.0)) // PIECE * PIECE)
    account = Account.of(network)
    number = itertools.count()
    data: list[bytes] = []

    def another() -> None:
        """A blob that the server does not have yet."""
        data[:] = pieces(size, b"%d" % next(number))

    def send_ours() -> int:
        return int(account.client.upload_blob(data, size, "application/octet-stream")["size"])

    def send_bare() -> int:
        digest = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for piece in data:
                digest.update(piece)
                yield piece

        headers = {"content-type": "application/octet-stream", "content-length": str(size)}
        answer = account.bare.post("/com.atproto.repo.uploadBlob", content=hashed(), headers=headers)
        return int(answer.json()["blob"]["size"])

    sending = [Contender("atdata, upload_blob", send_ours, another), Contender("httpx and SHA-256", send_bare, another)]
    _compared(ctx, result, "sent", size, sending)
    another()
    blob = account.client.upload_blob(data, size, "application/octet-stream")
    account.client.put_record(THING, "pin", {"blob": blob})
    cid = blob["ref"]["$link"]

    def get_ours() -> int:
        return sum(map(len, account.client.blob_chunks(account.did, cid)))

    def get_bare() -> int:
        digest, got = hashlib.sha256(), 0
        params = {"did": account.did, "cid": cid}
        headers = {"accept-encoding": "identity"}
        with account.bare.stream("GET", "/com.atproto.sync.getBlob", params=params, headers=headers) as answer:
            for chunk in answer.iter_raw():
                digest.update(chunk)
                got += len(chunk)
        assert digest.digest()
        return got

    _compared(
        ctx,
        result,
        "fetched",
        size,
        [Contender("atdata, blob_chunks", get_ours), Contender("httpx and SHA-256", get_bare)],
    )
    account.close()


def _dataset(ctx: Context, network: LocalNetwork, result: Result) -> None:
    """A dataset of several shards of that size, each one blob: written and read whole."""
    size = max(PIECE, int(BLOB * min(ctx.scale, 1.0)) // PIECE * PIECE)
    account = Account.of(network)
    number = itertools.count()
    samples: list[Block] = []
    with tempfile.TemporaryDirectory(prefix="atdata-bench-") as folder:
        fresh = itertools.count()

        def another() -> None:
            seed = next(number)
            rng = np.random.default_rng(seed)
            samples[:] = [Block(rng.integers(0, 256, PIECE - 1024, np.uint8)) for _ in range(SHARDS * size // PIECE)]

        def store() -> atdata.PDSBlobStore:
            return atdata.PDSBlobStore(account.client, cache=f"{folder}/{next(fresh)}")

        def send_ours() -> int:
            dataset = atdata.Dataset.from_samples(samples, Block)
            urls = store().write_shards(dataset, prefix=f"p{next(fresh)}", maxsize=size, manifest=False)
            return sum(shard.samples for shard in urls.shards)

        def send_bare(*, named: bool = True) -> int:
            """The bytes; and a record that names them, without which nobody can read them."""
            each, blobs = size // PIECE, []
            for first in range(0, len(samples), each):
                digest = hashlib.sha256()

                def hashed(first: int = first, digest: Any = digest) -> Iterator[bytes]:
                    for sample in samples[first : first + each]:
                        digest.update(sample.data)
                        yield sample.data.tobytes()

                length = sum(sample.data.nbytes for sample in samples[first : first + each])
                headers = {"content-type": "application/octet-stream", "content-length": str(length)}
                answer = account.bare.post("/com.atproto.repo.uploadBlob", content=hashed(), headers=headers)
                blobs.append(answer.raise_for_status().json()["blob"])
            if named:
                made = {"repo": account.did, "collection": THING, "record": {"$type": THING, "blobs": blobs}}
                account.bare.post("/com.atproto.repo.createRecord", json=made).raise_for_status()
            return len(samples)

        sending = [
            Contender("atdata, write_shards", send_ours, another),
            Contender("httpx and SHA-256", send_bare, another),
            Contender("the same, named by no record", lambda: send_bare(named=False), another),
        ]
        _compared(ctx, result, "sent", size, sending, SHARDS)
        another()
        dataset = atdata.Dataset.from_samples(samples, Block)
        urls = store().write_shards(dataset, prefix="q", maxsize=size, manifest=False)

        def get_ours() -> int:
            return sum(int(sample.data[0]) >= 0 for sample in atdata.Dataset[Block](urls, store=store()))

        def get_bare() -> int:
            for url in urls:
                params = {"did": account.did, "cid": url.rpartition("/")[2]}
                headers, digest = {"accept-encoding": "identity"}, hashlib.sha256()
                with account.bare.stream("GET", "/com.atproto.sync.getBlob", params=params, headers=headers) as answer:
                    for chunk in answer.iter_raw():
                        digest.update(chunk)
            return len(samples)

        bare = Contender("httpx and SHA-256", get_bare)
        _compared(ctx, result, "read", size, [Contender("atdata, Dataset", get_ours), bare], SHARDS)
    account.close()


def _compared(
    ctx: Context, result: Result, what: str, size: int, contenders: list[Contender], shards: int | None = None
) -> None:
    timings: dict[str, Timing] = compare(contenders, ctx.rounds if shards is None else min(ctx.rounds, 3))
    things = "a blob" if shards is None else f"a dataset of {shards} shards"
    title = f"{TITLE}, {things} of {size >> 20} MiB {what}"
    note = "In pieces, hashed on the way."
    if what == "sent" and shards is not None:
        note = "Bare: one by one, and a record that names them; the server makes a copy of a blob when a record does."
    elif shards is not None:
        note = "Shards and records; bare: the bytes alone, one by one."
    result.tables.append(rates(title, "MB/s", size * (shards or 1) / 1e6, timings, note))
    got = ratio(timings, contenders[0].name, contenders[1].name)
    result.bars.append(Bar(f"{things} {what}, over bare streaming with SHA-256", 0.8, *got))


def _memory(ctx: Context, network: LocalNetwork, result: Result) -> None:
    size = max(PIECE, int(BLOB * min(ctx.scale, 1.0)) // PIECE * PIECE)
    account = network.make_account()
    place = (account.handle, account.password, account.pds, network.directory)
    done = subprocess.run([sys.executable, __file__, *place, str(size)], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    rows = [Row(f"atdata, {way}", *[found[way]] * 3) for way in ("sent", "fetched", f"{SHARDS} shards sent")]
    note = "The highest RssAnon of a process, above what it was before."
    result.tables.append(Table(f"{TITLE}, memory for blobs of {size >> 20} MiB", "MB", rows, note))
    for row in rows:
        result.bars.append(
            Bar(f"memory, {row.name.partition(', ')[2]}", MEMORY, row.value, row.low, row.high, False, "MB")
        )


def _child(handle: str, password: str, pds: str, directory: str, size: str) -> dict[str, float]:
    import atdata
    from atdata.atmosphere import Atmosphere

    client = Atmosphere.login(handle, password, pds_url=pds, directory=directory, allow_private=True)
    client.upload_blob(b"x" * PIECE, PIECE, "text/plain")  # what is imported and connected by then is there before
    before = anonymous()
    with highest() as sent:
        blob = client.upload_blob(pieces(int(size)), int(size), "application/octet-stream")
    client.put_record(THING, "pin", {"blob": blob})
    with highest() as fetched:
        assert sum(map(len, client.blob_chunks(str(client.did), blob["ref"]["$link"]))) == int(size)

    def write(prefix: str, each: int, shards: int) -> None:
        samples = (atdata.DictSample(data=piece) for n in range(shards) for piece in pieces(each, b"%d" % n))
        dataset = atdata.Dataset.from_samples(samples, atdata.DictSample)
        atdata.PDSBlobStore(client).write_shards(dataset, prefix=prefix, maxsize=int(size) + PIECE, manifest=False)

    write("first", PIECE, 1)
    before_shards = anonymous()
    with highest() as shards:
        write("more", int(size), SHARDS)
    client.close()
    return {
        "sent": sent[0] - before,
        "fetched": fetched[0] - before,
        f"{SHARDS} shards sent": shards[0] - before_shards,
    }


if __name__ == "__main__":
    print(json.dumps(_child(*sys.argv[1:6])))
