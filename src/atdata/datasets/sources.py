"""From what a user gives (a path, a pattern, a list, a source object) to the list of shards it means."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import msgspec

from atdata.errors import DatasetNotFoundError, StoreError, UnsafeNameError
from atdata.samples.schema import Schema
from atdata.stores.base import WrittenShards
from atdata.stores.disk import local_path, recover
from atdata.stores.record import RECORD_NAME, CommitRecord, ShardInfo

__all__ = ["DataSource", "Located", "ShardRef", "expand_braces", "is_source", "locate"]

_MAX_EXPANSION = 1_000_000


@runtime_checkable
class DataSource(Protocol):
    """Anything a `Dataset` can read: named shards, each a stream of tar bytes."""

    def list_shards(self) -> list[str]:
        """The shards' names, in order."""

    def open_shard(self, shard_id: str) -> IO[bytes]:
        """The shard's bytes from the beginning; KeyError when there is no such shard."""

    @property
    def shards(self) -> Iterator[tuple[str, IO[bytes]]]:
        """Name and stream of each shard, in order."""


class ShardRef(msgspec.Struct, frozen=True):
    """One shard: where it lies, and what its dataset's commit record says of it."""

    url: str
    info: ShardInfo | None = None


class Located(msgspec.Struct, frozen=True):
    """The shards of a dataset, the stored schema, and the record they come from when they are all of it."""

    shards: tuple[ShardRef, ...]
    schema: Schema | None = None
    record: CommitRecord | None = None


def locate(source: Any, resolve: Any = None) -> Located:
    """The shards that `source` means.

    Args:
        source: URLs or paths in a list, a brace pattern, a glob, a folder with an `atdata.json`, one tar file, or a
            `DataSource`.
        resolve: a function from a URL to what can be opened, where a store is given.

    Raises:
        DatasetNotFoundError: there is nothing there.
    """
    if isinstance(source, WrittenShards) and _as_written(source):
        for url in source:
            path = local_path(url if resolve is None else resolve(url))
            if path is not None and not os.path.isfile(path):
                raise DatasetNotFoundError("there is no such file", url=url)
        refs = tuple(ShardRef(url, info) for url, info in zip(source, source.shards, strict=True))
        return Located(refs, source.record.schema, source.record)
    if isinstance(source, str | os.PathLike):
        return _from_text(os.fspath(source), resolve)
    if isinstance(source, Sequence):
        if not source:
            raise DatasetNotFoundError("the list of shards is empty")
        return _from_list([os.fspath(url) for url in source], resolve)
    if is_source(source):
        names = source.list_shards()
        if not names:
            raise DatasetNotFoundError("the source has no shards")
        return Located(tuple(ShardRef(name) for name in names))
    raise TypeError(
        "a dataset is read from a path, a pattern, a list of shard URLs, or an object with list_shards and open_shard, "
        f"not from {type(source).__name__}; samples in memory: Dataset.from_samples(samples, SampleType)"
    )


def is_source(source: Any) -> bool:
    """Whether `source` can be read as a `DataSource`; the two methods are all that is used."""
    return all(callable(getattr(source, name, None)) for name in ("list_shards", "open_shard"))


def _as_written(urls: WrittenShards) -> bool:
    """Whether the list still says what its record says; it is a list, so that people sort and cut it."""
    return [url.rpartition("/")[2] for url in urls] == [shard.name for shard in urls.shards]


def _from_text(text: str, resolve: Any) -> Located:
    path = local_path(resolve(text) if resolve is not None and "{" not in text else text)
    if path is not None and os.path.exists(path):  # False too for what is too long to be a name
        return _from_folder(path) if os.path.isdir(path) else _from_list([text], resolve)
    if "{" in text:
        return _from_list(list(itertools.chain.from_iterable(map(_glob, expand_braces(text)))), resolve)
    return _from_list(_glob(text), resolve)


def _glob(text: str) -> list[str]:
    path = local_path(text)
    if path is None or not glob.has_magic(text) or os.path.exists(path):
        return [text]
    # What is there by that very name is no pattern, also when it has brackets: `runs[1]/*.tar`.
    there = next((parent for parent in path.parents if os.path.exists(parent)), Path())
    found = sorted(glob.glob(str(path.relative_to(there)), root_dir=there))
    found = [str(there / name) for name in found]
    if not found:
        raise DatasetNotFoundError("no file matches the pattern", url=text)
    return found


def _from_folder(folder: Path) -> Located:
    record = _record_in(folder)
    if record is None:
        tars = sum(1 for name in os.listdir(folder) if ".tar" in name)
        hint = f"; it holds {tars} tar files: name them as '{folder}/*.tar'" if tars else ""
        raise DatasetNotFoundError(f"there is no dataset in this folder (no {RECORD_NAME}){hint}", url=str(folder))
    refs = tuple(ShardRef(str(folder.absolute() / info.name), info) for info in record.shards)
    return Located(refs, record.schema, record)


def _from_list(urls: list[str], resolve: Any) -> Located:
    records: dict[Path, CommitRecord | None] = {}
    refs = []
    for url in urls:
        path = local_path(url if resolve is None else resolve(url))
        if path is None:
            raise StoreError("URLs of this kind cannot be read; a local path or file:// URL can", url=url)
        if not os.path.isfile(path):
            raise DatasetNotFoundError(
                "this is a folder, not a shard" if os.path.isdir(path) else "there is no such file", url=url
            )
        folder = path.absolute().parent
        if folder not in records:
            records[folder] = _record_in(folder)
        record = records[folder]
        info = None
        if record is not None:
            info = next((shard for shard in record.shards if shard.name == path.name), None)
        refs.append(ShardRef(url if resolve is not None else str(path.absolute()), info))
    known = [record for record in records.values() if record is not None]
    schema = known[0].schema if known and len(known) == len(records) else None
    if schema is not None and any(r.schema is None or r.schema.cid != schema.cid for r in known):
        schema = None
    whole = known[0] if len(records) == 1 and known and known[0].shards == tuple(r.info for r in refs) else None
    return Located(tuple(refs), schema, whole)


def _record_in(folder: Path) -> CommitRecord | None:
    path = folder / RECORD_NAME
    if not path.exists():
        recover(folder)
    try:
        return CommitRecord.from_bytes(path.read_bytes(), url=str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"the commit record cannot be read: {error.strerror}", url=str(path)) from None


_BRACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(pattern: str, limit: int = _MAX_EXPANSION) -> list[str]:
    """`shard-{000..002}.tar` as three names; `{a,b}` as two; several braces multiply.

    Raises:
        UnsafeNameError: the pattern means more than `limit` names, or its braces do not pair.

    Example:
        >>> expand_braces("{train,test}-{8..10}.tar")[:4]
        ['train-8.tar', 'train-9.tar', 'train-10.tar', 'test-8.tar']
    """
    pieces: list[list[str] | range] = []
    widths: list[int] = []
    at = count = 0
    count = 1
    for match in _BRACE.finditer(pattern):
        pieces.append([pattern[at : match.start()]])
        widths.append(0)
        found = _RANGE.fullmatch(match[1])
        if found:
            first, last = int(found[1]), int(found[2])
            pieces.append(range(first, last + 1) if first <= last else range(first, last - 1, -1))
            widths.append(max(len(found[1]), len(found[2])) if found[1][0] == "0" or found[2][0] == "0" else 0)
        else:
            pieces.append(match[1].split(","))
            widths.append(0)
        count *= len(pieces[-1])
        if count > limit:
            raise UnsafeNameError(f"the pattern means more than {limit} names", url=pattern)
        at = match.end()
    pieces.append([pattern[at:]])
    widths.append(0)
    if any(mark in piece for part in pieces if isinstance(part, list) for piece in part for mark in "{}"):
        raise UnsafeNameError("the braces of the pattern do not pair, or are nested", url=pattern)
    return [
        "".join(str(p).zfill(w) if isinstance(p, int) else str(p) for p, w in zip(parts, widths, strict=True))
        for parts in itertools.product(*pieces)
    ]
