"""What several commands ask of a dataset's place."""

from __future__ import annotations

import os
from pathlib import Path

from atdata.cli.accounts import is_account
from atdata.cli.changes import dataset_at
from atdata.datasets.sources import Located, locate
from atdata.errors import StoreError
from atdata.samples.dictsample import DictSample
from atdata.stores.base import DataStore
from atdata.stores.disk import LocalDiskStore, local_path
from atdata.stores.opening import Opening, open_store
from atdata.stores.web import HttpDataStore

__all__ = ["destination", "located_at", "type_of"]


def type_of(located: Located) -> type:
    """The class stored with a dataset, `DictSample` where there is none."""
    return DictSample if located.schema is None else located.schema.sample_type()


def located_at(text: str, credentials: Path | None = None) -> tuple[Located, Opening]:
    """The shards at a place, or of a dataset on the network, and how they are opened.

    Args:
        text: a folder, a file, a pattern or a URL; or `@handle/name`, `at://…`.
        credentials: a `.env` file with the credentials for the place.
    """
    if is_account(text):
        ds = dataset_at(text, None)
        assert ds.located is not None
        return ds.located, ds.opening
    opening = Opening(None if credentials is None else _s3_store(text, credentials))
    return locate(text, opening), opening


def destination(url: str, credentials: Path | None = None) -> tuple[DataStore, str]:
    """The store and the prefix that a folder or URL means as a place to write to.

    Raises:
        StoreError: it is no folder, or nothing can be written there.
    """
    path = local_path(url)
    if path is not None and credentials is None:
        whole = Path(os.path.realpath(path))
        if whole.is_file() or not whole.name:
            raise StoreError("the destination is not a folder of its own; give another", url=url)
        return LocalDiskStore(whole.parent), whole.name
    if url.startswith("at://"):
        from atdata.atmosphere.client import Atmosphere

        store = open_store(url, client=Atmosphere.login())
    else:
        store = open_store(url) if credentials is None else _s3_store(url, credentials)
    if isinstance(store, HttpDataStore):
        raise StoreError("web servers are read, not written: give a folder, s3://, gs://, az:// or at://", url=url)
    prefix = url.partition("://")[2].partition("/")[2]
    if not prefix.strip("/"):
        start = "/".join(url.split("/")[:3])
        raise StoreError(f"give a folder in it too, for example {start}/training/v1", url=url)
    return store, prefix


def _s3_store(url: str, credentials: Path) -> DataStore:
    if not url.startswith("s3://"):
        raise StoreError("a file of credentials is for s3:// only", url=url)
    return open_store(url, credentials=credentials)
