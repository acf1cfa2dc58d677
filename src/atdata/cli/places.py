"""What several commands ask of a dataset's place."""

from __future__ import annotations

from pathlib import Path

from atdata.datasets.sources import Located, ShardRef
from atdata.errors import StoreError
from atdata.samples.dictsample import DictSample
from atdata.stores.disk import local_path

__all__ = ["local_file", "type_of"]


def type_of(located: Located) -> type:
    """The class stored with a dataset, `DictSample` where there is none."""
    return DictSample if located.schema is None else located.schema.sample_type()


def local_file(ref: ShardRef) -> Path:
    """The shard's path.

    Raises:
        StoreError: it does not lie on the local disk.
    """
    path = local_path(ref.url)
    if path is None:
        raise StoreError("this command works on local files only; copy the shards here first", url=ref.url)
    return path
