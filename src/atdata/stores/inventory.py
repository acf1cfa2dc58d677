"""What lies in a store: its datasets, and the writes that were begun and never finished."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from atdata.errors import StoreBusyError, StoreError
from atdata.stores.base import check_prefix
from atdata.stores.disk import _STAGING, LocalDiskStore, recover
from atdata.stores.objects import ObjectStore
from atdata.stores.record import RECORD_NAME

if TYPE_CHECKING:
    from atdata.stores.pds import PDSBlobStore

__all__ = ["Found", "inventory"]


class Found(NamedTuple):
    """One prefix where atdata wrote.

    Attributes:
        prefix: below the store's root.
        url: the folder's path or URL, with a slash at its end.
        finished: whether it has a commit record, and so is a dataset.
        changed: when that record was written; of an unfinished write, when anything of it was written last.
    """

    prefix: str
    url: str
    finished: bool
    changed: datetime


def inventory(store: Any, prefix: str = "") -> Iterator[Found]:
    """The datasets and unfinished writes under a prefix of a store; other files are passed over.

    Args:
        store: a store on the local disk, on object storage, or in an account of the AT Protocol.
        prefix: only what lies there or below.

    Raises:
        StoreError: the store is of another kind, or cannot be listed.
    """
    clean = check_prefix(prefix) if prefix else ""
    if isinstance(store, LocalDiskStore):
        return _on_disk(store.root, store.root / clean)
    if isinstance(store, ObjectStore):
        return _in_objects(store, f"{clean}/" if clean else "")
    from atdata.stores.pds import PDSBlobStore  # which brings a client with it

    if isinstance(store, PDSBlobStore):
        return _in_account(store, clean)
    raise StoreError(f"it is not known how to look through a {type(store).__name__}")


def _on_disk(root: Path, folder: Path) -> Iterator[Found]:
    with contextlib.suppress(StoreBusyError):  # whose writer is at work
        recover(folder)
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StoreError(f"the folder cannot be listed: {error.strerror}", url=str(folder)) from None
    prefix, url = str(folder.relative_to(root)), f"{folder}/"
    below = []
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            if entry.name.startswith(_STAGING):
                with contextlib.suppress(FileNotFoundError):  # its writer has just finished
                    yield Found(prefix, url, False, _latest(Path(entry.path)))
            elif not entry.name.startswith(".atdata"):
                below.append(Path(entry.path))
        elif entry.name == RECORD_NAME and entry.is_file(follow_symlinks=False):
            yield Found(prefix, url, True, _time(entry.stat().st_mtime))
    for path in below:
        yield from _on_disk(root, path)


def _latest(staging: Path) -> datetime:
    times = [staging.stat().st_mtime]
    with os.scandir(staging) as entries:
        times += [entry.stat(follow_symlinks=False).st_mtime for entry in entries]
    return _time(max(times))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _in_account(store: PDSBlobStore, prefix: str) -> Iterator[Found]:
    for place, changed, finished in store.prefixes(prefix):
        yield Found(place, f"at://{store.did}/{place}/", finished, changed)


def _in_objects(store: ObjectStore, folder: str) -> Iterator[Found]:
    import obstore

    written: dict[str, datetime] = {}
    begun: dict[str, datetime] = {}
    with store.errors(store.base + folder):
        for page in obstore.list(store.client, folder or None):
            for meta in page:
                key, changed = str(meta["path"]), meta["last_modified"]
                # Claims and what waits beside a dataset; they come before the shards under the same prefix.
                place, mark, _ = key.partition("/.atdata-")
                if not mark:
                    place, _, name = key.rpartition("/")
                    if name == RECORD_NAME and place:
                        written[place] = changed
                if mark or place in begun:
                    begun[place] = max(changed, begun.get(place, changed))
    for place, changed in sorted(written.items()):
        yield Found(place, f"{store.base}{place}/", True, changed)
    for place, changed in sorted(begun.items()):
        if place not in written:
            yield Found(place, f"{store.base}{place}/", False, changed)
