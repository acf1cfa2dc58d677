"""What lies in a store and no version of an index refers to."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from atdata.errors import CommitRecordError, DatasetNotFoundError, StoreBusyError
from atdata.index.backend import Backend
from atdata.index.survey import refs_in
from atdata.stores.disk import LocalDiskStore, local_path
from atdata.stores.inventory import Found, inventory
from atdata.stores.opening import Opening
from atdata.stores.record import RECORD_NAME, CommitRecord

if TYPE_CHECKING:
    from atdata.stores.pds import PDSBlobStore

__all__ = ["Garbage", "collect"]


class Garbage(msgspec.Struct, frozen=True):
    """Something in a store that no version refers to.

    Attributes:
        url: the folder's path or URL.
        kind: a dataset that is complete, or a write that was never finished.
        size: of the dataset's files in bytes; None for an unfinished write.
        changed: when it was written.
        removed: whether it was removed.
    """

    url: str
    kind: Literal["dataset", "unfinished write"]
    size: int | None
    changed: datetime
    removed: bool = False


def collect(backend: Backend, store: Any, prefix: str, grace: timedelta, *, dry_run: bool) -> list[Garbage]:
    """See `LocalIndex.gc`."""
    if grace < timedelta(0):
        raise ValueError(f"the grace period is a time span of 0 or more, not {grace}")
    before = datetime.now(UTC) - grace
    old = [found for found in inventory(store, prefix) if found.changed <= before]
    # Looked up after the store: what is recorded in between is in use.
    used = _Used(backend, store)
    garbage = []
    for found in old:
        item = _unfinished(found) if not found.finished else None if used(found) else _dataset(store, found)
        if item is None:
            continue
        if not dry_run:
            if found.finished and _Used(backend, store, found.url)(found):
                continue  # recorded a moment ago
            if not _remove(store, found):
                continue
            item = msgspec.structs.replace(item, removed=True)
        garbage.append(item)
    return garbage


class _Used:
    """Which folders the versions of an index refer to, by whatever path or URL.

    Args:
        backend: the index.
        store: the store that is looked through.
        start: only folders that begin so, in the store's own spelling.
    """

    def __init__(self, backend: Backend, store: Any, start: str = "") -> None:
        self._local = isinstance(store, LocalDiskStore)
        self._account = _account(store)
        self._folders: set[str] = set()
        self._web: set[str] = set()
        if self._account is not None:  # whose blobs are all in one folder, wherever the datasets are
            parts = backend.all_parts(f"at://{self._account.did}/blob/")
            self._blobs = {ref.url for ref in refs_in(list(parts))}
            return
        for folder in {part.folder for part in backend.all_parts(start)}:
            if self._local:
                path = local_path(folder)
                if path is not None:
                    self._folders.add(os.path.realpath(path))
            elif folder.lower().startswith(("http://", "https://")):
                self._web.add(folder)
            else:
                self._folders.add(folder)

    def __call__(self, found: Found) -> bool:
        if self._account is not None:
            try:
                return not self._blobs.isdisjoint(self._account.record(found.prefix)[1])
            except DatasetNotFoundError:
                return False
            except CommitRecordError:
                return True  # nobody knows of what
        if self._local:
            return os.path.realpath(found.url) in self._folders
        # A bucket's objects may have been recorded by their web address.
        return found.url in self._folders or any(folder.endswith(f"/{found.prefix}/") for folder in self._web)


def _account(store: Any) -> PDSBlobStore | None:
    """The store, when it is in an account of the AT Protocol."""
    from atdata.stores.pds import PDSBlobStore  # which brings a client with it

    return store if isinstance(store, PDSBlobStore) else None


def _unfinished(found: Found) -> Garbage:
    return Garbage(found.url, "unfinished write", None, found.changed)


def _dataset(store: Any, found: Found) -> Garbage | None:
    try:
        account = _account(store)
        if account is not None:
            record = account.record(found.prefix)[0]
        else:
            data = Opening(store).read(found.url + RECORD_NAME)
            if data is None:
                return None
            record = CommitRecord.from_bytes(data)
    except DatasetNotFoundError:
        return None
    except CommitRecordError:
        return None  # nobody knows which files it spoke for
    size = sum(shard.size + (shard.manifest.size if shard.manifest else 0) for shard in record.shards)
    return Garbage(found.url, "dataset", size, found.changed)


def _remove(store: Any, found: Found) -> bool:
    """Remove it by the store's own means; False when a writer is at work there, or it is gone."""
    with contextlib.suppress(StoreBusyError, DatasetNotFoundError):
        if found.finished:
            store.delete(found.prefix)
        else:
            store.begin(found.prefix, overwrite=True).abort()  # which sweeps away what writers that are gone have left
        return True
    return False
