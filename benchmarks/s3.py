"""The S3 server of the tests, for the benchmarks, with data in it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness import Context
from workloads import Workload

import atdata

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from servers.rgw import RGW, S3Server, ServerError

PART = 8 << 20  # as atdata's parts and ranges
RANGES = 24  # in flight, as many as atdata has
THREADS = 16  # that ask for single samples


@dataclass
class Bucket:
    """A bucket of a server.

    Attributes:
        store: for atdata.
        client: for obstore, made with the same settings.
    """

    server: S3Server
    name: str
    store: atdata.S3DataStore
    client: Any

    def through(self, endpoint: str) -> Bucket:
        """The same bucket by another way."""
        return bucket_of(S3Server(endpoint, self.server.access_key, self.server.secret_key), self.name)

    def written(self, ctx: Context, work: Workload) -> list[tuple[str, int]]:
        """Write the samples as `data`; keys and sizes of the shards."""
        source = atdata.Dataset.from_samples(work.samples(ctx), work.sample_type)
        urls = self.store.write_shards(source, prefix="data")
        return [(url[len(self.store.base) :], shard.size) for url, shard in zip(urls, urls.shards, strict=True)]

    def dataset(self, work: Workload, **options: Any) -> Any:
        """The dataset that `written` wrote."""
        return atdata.Dataset(f"{self.store.base}data", sample_type=work.sample_type, store=self.store, **options)

    def remove(self, prefix: str) -> None:
        """Delete what is under a prefix."""
        self.client.delete([meta["path"] for page in self.client.list(prefix) for meta in page])


def bucket_of(server: S3Server, name: str) -> Bucket:
    """The bucket, for atdata and for obstore."""
    store = atdata.S3DataStore(server.credentials, bucket=name, share_credentials=True)
    return Bucket(server, name, store, store.client)


@contextlib.contextmanager
def bucket(storage: Literal["memstore", "bluestore"] = "memstore") -> Iterator[Bucket | None]:
    """A fresh bucket of a server of our own; None where there is no server."""
    server = RGW(storage)
    try:
        server.start()
    except ServerError as error:
        print(f"no S3 server: {error}", file=sys.stderr)
        yield None
        return
    with server:
        yield bucket_of(server.server, server.make_bucket())
