"""From what a user gives (a path, a pattern, a list, a source object) to the list of shards it means."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from atdata.errors import DatasetNotFoundError, StoreError, UnsafeNameError
from atdata.samples.schema import Schema
from atdata.stores.base import WrittenShards
from atdata.stores.blobs import sha256_in, take_apart
from atdata.stores.disk import local_path, recover
from atdata.stores.http import public_url
from atdata.stores.opening import Opening
from atdata.stores.record import RECORD_NAME, CommitRecord, ShardInfo

if TYPE_CHECKING:
    from atdata.stores.pds import PDSBlobStore

__all__ = ["DataSource", "Located", "ShardRef", "expand_braces", "is_source", "locate"]

_MAX_EXPANSION = 1_000_000
_MAX_DIGITS = 100


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
    """One shard: where it lies, and what is known of it.

    Attributes:
        url: where it lies.
        info: what its dataset's commit record says of it.
        sha256: its SHA-256 in hex, where that is all that is known.
    """

    url: str
    info: ShardInfo | None = None
    sha256: str | None = None

    @property
    def digest(self) -> str | None:
        """The SHA-256 that it has to have, where it is known."""
        return self.sha256 if self.info is None else self.info.sha256


class Located(msgspec.Struct, frozen=True):
    """The shards of a dataset, the stored schema, and the record they come from when they are all of it."""

    shards: tuple[ShardRef, ...]
    schema: Schema | None = None
    record: CommitRecord | None = None


def locate(source: Any, opening: Opening | None = None) -> Located:
    """The shards that `source` means.

    Args:
        source: URLs or paths in a list, a brace pattern, a glob, both in one, a folder or prefix with an `atdata.json`,
            one tar file, or a `DataSource`; what was located before is given back.
        opening: how the URLs are opened; by default by what they are.

    Raises:
        DatasetNotFoundError: there is nothing there.
    """
    opening = opening or Opening()
    if isinstance(source, Located):
        return source
    if isinstance(source, WrittenShards) and _as_written(source):
        for url in source:
            path = opening.path(url)
            if path is not None and not os.path.isfile(path):
                raise DatasetNotFoundError("there is no such file", url=url)
        refs = tuple(ShardRef(url, info) for url, info in zip(source, source.shards, strict=True))
        return Located(refs, source.record.schema, source.record)
    if isinstance(source, str | os.PathLike):
        return _from_text(os.fspath(source), opening)
    if isinstance(source, Sequence):
        if not source:
            raise DatasetNotFoundError("the list of shards is empty")
        return _from_list([os.fspath(url) for url in source], opening)
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
    return len(urls) == len(urls.shards) and all(
        url.rpartition("/")[2] == shard.name or sha256_in(url) == shard.sha256
        for url, shard in zip(urls, urls.shards, strict=True)
    )


def _from_text(text: str, opening: Opening) -> Located:
    account = opening.account_store(text)
    if account is not None:
        return _from_list([text], opening) if take_apart(text) is not None else _from_account(text, account)
    far = opening.far(text)
    path = None if far else local_path(text) if "{" in text else opening.path(text)
    if path is not None and os.path.exists(path):  # False too for what is too long to be a name
        return _from_folder(path) if os.path.isdir(path) else _from_list([text], opening)
    if "{" in text:
        found = [_matching(name, opening) for name in expand_braces(text)]
        return _from_list(list(itertools.chain.from_iterable(found)), opening)
    # On the web, what has a query is a file, whatever its name: no folder can be asked for with one.
    is_file = ".tar" in text.rpartition("/")[2] or public_url(text) != text
    if far and not is_file and not _is_pattern(text, opening):
        return _from_prefix(text, opening)
    return _from_list(_matching(text, opening), opening)


def _is_pattern(url: str, opening: Opening) -> bool:
    """Whether a URL is a glob; on the web, `?` begins a query."""
    return glob.has_magic(url) and (opening.object_store(url) is not None or "?" not in url)


def _matching(text: str, opening: Opening) -> list[str]:
    """What a path or URL without braces means: itself, or what matches it."""
    if not opening.far(text):
        return _glob(text)
    return _listed(text, opening) if _is_pattern(text, opening) else [text]


def _from_prefix(url: str, opening: Opening) -> Located:
    folder = url.rstrip("/") + "/"
    data = opening.read(folder + RECORD_NAME)
    if data is None:
        raise DatasetNotFoundError(f"there is no dataset under this prefix (no {RECORD_NAME})", url=folder)
    record = CommitRecord.from_bytes(data, url=folder + RECORD_NAME)
    return Located(tuple(ShardRef(folder + info.name, info) for info in record.shards), record.schema, record)


def _from_account(url: str, store: PDSBlobStore) -> Located:
    record, urls = store.at(url).record(url.removeprefix("at://").partition("/")[2])
    refs = tuple(ShardRef(url, info) for url, info in zip(urls, record.shards, strict=True))
    return Located(refs, record.schema, record)


def _listed(pattern: str, opening: Opening) -> list[str]:
    """The objects that match a glob."""
    store = opening.object_store(pattern)
    if store is None:
        raise DatasetNotFoundError("web servers cannot be listed: give braces or a list of URLs", url=pattern)
    key = pattern[len(store.base) :]
    wanted = re.compile(glob_to_regex(key))
    listed = store.list(re.split(r"[*?\[]", key, maxsplit=1)[0].rpartition("/")[0])
    found = [url for url in listed if wanted.fullmatch(url[len(store.base) :]) and not _is_beside(url)]
    if "/." not in f"/{key}":  # as on a disk, what is hidden has to be asked for
        found = [url for url in found if "/." not in url[len(store.base) - 1 :]]
    if not found:
        raise DatasetNotFoundError("no object matches the pattern", url=pattern)
    return found


def _is_beside(name: str) -> bool:
    """Whether a file is no shard but what atdata lays beside shards, which `*` matches, too."""
    return name.endswith((".manifest.parquet", ".manifest.json")) or name.rpartition("/")[2] == RECORD_NAME


def glob_to_regex(pattern: str) -> str:
    """The regular expression of a glob.

    `*` and `?` match anything but a slash, `[…]` one of some characters, and `**/` any folders.
    """
    out, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and pattern[at - 1 : at] in ("", "/"):
            out += "(?:[^/]+/)*"
            at += 3
            continue
        char = pattern[at]
        at += 1
        end = pattern.find("]", at + 1)
        if char == "[" and end > 0:
            inner = pattern[at:end].replace("\\", "\\\\")
            out += f"[{'^' + inner[1:] if inner[0] == '!' else inner}]"
            at = end + 1
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char)
    return out


def _glob(text: str) -> list[str]:
    path = local_path(text)
    if path is None or not glob.has_magic(text) or os.path.exists(path):
        return [text]
    # What is there by that very name is no pattern, also when it has brackets: `runs[1]/*.tar`.
    there = next((parent for parent in path.parents if os.path.exists(parent)), Path())
    pattern = path.relative_to(there)
    for folder in glob.iglob(str(pattern.parent), root_dir=there, recursive=True):
        if os.path.isdir(there / folder):
            recover(there / folder)
    found = sorted(glob.glob(str(pattern), root_dir=there, recursive=True))
    found = [str(there / name) for name in found if not _is_beside(name)]
    if not found:
        raise DatasetNotFoundError("no file matches the pattern", url=text)
    return found


def _from_folder(folder: Path) -> Located:
    record = _record_in(folder)
    if record is None:
        tars = sum(1 for name in os.listdir(folder) if ".tar" in name)
        hint = f"; it holds {tars} tar files: name them as '{folder}/*.tar', or use load_dataset" if tars else ""
        raise DatasetNotFoundError(f"there is no dataset in this folder (no {RECORD_NAME}){hint}", url=str(folder))
    refs = tuple(ShardRef(str(folder.absolute() / info.name), info) for info in record.shards)
    return Located(refs, record.schema, record)


def _from_list(urls: list[str], opening: Opening) -> Located:
    records: dict[str, CommitRecord | None] = {}
    refs = []
    for url in urls:
        path = opening.path(url)
        if path is not None:
            if not os.path.isfile(path):
                raise DatasetNotFoundError(
                    "this is a folder, not a shard" if os.path.isdir(path) else "there is no such file", url=url
                )
            folder, name = str(path.absolute().parent), path.name
            if folder not in records:
                records[folder] = _record_in(Path(folder))
            refs.append(
                ShardRef(url if opening.store is not None else str(path.absolute()), _info(records[folder], name))
            )
            continue
        beside = opening.beside(url, RECORD_NAME)
        if beside is None and (digest := sha256_in(url)) is not None:
            refs.append(ShardRef(url, sha256=digest))
            records[url] = None  # which is no part of a dataset that is known
            continue
        folder, name = (beside or url).rpartition("/")[0], url.rpartition("/")[2]
        if folder not in records:
            data = opening.read(beside) if beside is not None else None
            records[folder] = None if data is None else CommitRecord.from_bytes(data, url=beside)
        refs.append(ShardRef(url, _info(records[folder], name)))
    known = [record for record in records.values() if record is not None]
    schema = known[0].schema if known and len(known) == len(records) else None
    if schema is not None and any(r.schema is None or r.schema.cid != schema.cid for r in known):
        schema = None
    whole = known[0] if len(records) == 1 and known and known[0].shards == tuple(r.info for r in refs) else None
    return Located(tuple(refs), schema, whole)


def _info(record: CommitRecord | None, name: str) -> ShardInfo | None:
    return None if record is None else next((shard for shard in record.shards if shard.name == name), None)


def _record_in(folder: Path) -> CommitRecord | None:
    path = folder / RECORD_NAME
    recover(folder)  # a write that was decided counts, also when its files were not moved to their names any more
    try:
        return CommitRecord.from_bytes(path.read_bytes(), url=str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"the commit record cannot be read: {error.strerror}", url=str(path)) from None


def _number(digits: str, pattern: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise UnsafeNameError(f"a number of {len(digits)} digits is too large for a pattern", url=pattern[:200])
    return int(digits)


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
            first, last = _number(found[1], pattern), _number(found[2], pattern)
            if abs(last - first) >= limit:  # before it is counted: a range may have more numbers than can be counted
                raise UnsafeNameError(f"the pattern means more than {limit} names", url=pattern)
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
