"""Shards on the local disk: `LocalDiskStore`.

A write happens in a hidden folder inside the prefix, and its commit record is put there last; from that moment the
write is decided. Publishing then moves the files to their names, the record last. A process killed before the decision
leaves the old state and a hidden folder that the next writer sweeps away; killed after it, whoever comes next finishes
the moves. A lock file, held by `flock` and so released by the kernel whatever happens, keeps writers apart.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from atdata.errors import (
    CommitRecordError,
    DatasetExistsError,
    DatasetNotFoundError,
    StoreBusyError,
    StoreError,
    UnsafeNameError,
)
from atdata.shards.manifest import header_name, manifest_name
from atdata.stores.base import DataStore, Sink, StoredObject, Transaction, check_prefix
from atdata.stores.record import RECORD_NAME, CommitRecord

__all__ = ["LocalDiskStore", "LocalObject", "local_path", "recover"]

_LOCK = ".atdata.lock"
_STAGING = ".atdata-writing-"
_REPLACED = "replaced.json"


class LocalDiskStore(DataStore):
    """A data store in a folder of the local disk.

    Args:
        root: the folder; `~/.atdata/data` by default. It is made when the first dataset is written.

    Example:
        >>> store = LocalDiskStore("data")
        >>> urls = store.write_shards(dataset, prefix="digits/v1")  # doctest: +SKIP
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root if root is not None else "~/.atdata/data").expanduser().absolute()

    def __repr__(self) -> str:
        return f"LocalDiskStore({str(self.root)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalDiskStore) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def read_url(self, url: str) -> str:
        """The path of the file at `url`."""
        return str(self._path(url))

    def supports_streaming(self) -> bool:
        """True: a local file can be read while it is opened."""
        return True

    def begin(self, prefix: str, *, overwrite: bool) -> Transaction:
        """Start writing under `prefix`; see `DataStore.begin`."""
        return _DiskTransaction(self._folder(prefix), overwrite)

    def open(self, url: str) -> LocalObject:
        """Open the file at `url` for reading; see `DataStore.open`."""
        return LocalObject(self._path(url))

    def list(self, prefix: str = "") -> Iterator[str]:
        """Paths of the files under `prefix`, sorted; nothing of unfinished writes."""
        top = self._folder(prefix) if prefix else self.root
        for folder, folders, files in os.walk(top):
            folders[:] = sorted(name for name in folders if not name.startswith(_STAGING))
            for name in sorted(files):
                if not name.startswith(".atdata"):
                    yield os.path.join(folder, name)

    def delete(self, prefix: str) -> None:
        """Remove the dataset at `prefix`; see `DataStore.delete`."""
        folder = self._folder(prefix)
        if not (folder / RECORD_NAME).exists():
            raise DatasetNotFoundError("there is no dataset here", url=str(folder))
        with _errors(folder), _locked(folder):
            names = _files_of((folder / RECORD_NAME).read_bytes())
            (folder / RECORD_NAME).unlink()
            for name in names:
                (folder / name).unlink(missing_ok=True)
        _remove_empty(folder, self.root)

    def _folder(self, prefix: str) -> Path:
        folder = self.root / check_prefix(prefix)
        # A link inside the root may lead out of it.
        if not folder.resolve().is_relative_to(self.root.resolve()):
            raise UnsafeNameError(f"the prefix {prefix!r} leads out of the store", url=str(self.root))
        return folder

    def _path(self, url: str) -> Path:
        path = local_path(url)
        if path is None:
            raise UnsafeNameError("a disk store reads local paths only", url=url)
        if not path.is_absolute():
            path = self.root / path
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise UnsafeNameError(f"the path leads out of the store at {self.root}", url=url)
        return path


def local_path(url: str) -> Path | None:
    """The path that a path or `file://` URL means; None for URLs of other schemes."""
    scheme, colon, _ = url.partition("://")
    if not colon:
        return Path(url)
    if scheme.lower() != "file":
        return None
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UnsafeNameError(f"a file URL names another machine, {parts.netloc!r}", url=url)
    return Path(unquote(parts.path))


class LocalObject(StoredObject):
    """A file open for reading; it stays the same file even when another takes its name."""

    def __init__(self, path: Path) -> None:
        self.url = str(path)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetNotFoundError("there is no such file", url=self.url) from None
        except OSError as error:
            raise StoreError(f"the file cannot be opened: {error.strerror}", url=self.url) from None
        self.stat = os.fstat(self._fd)
        self.size = self.stat.st_size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        pieces = []
        at = start
        while at < stop:
            try:
                piece = os.pread(self._fd, stop - at, at)
            except OSError as error:
                raise StoreError(f"the file cannot be read: {error.strerror}", url=self.url, offset=at) from None
            if not piece:
                raise StoreError(f"the file ends at byte {at}, before byte {stop}", url=self.url, offset=at)
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)

    def stream(self) -> IO[bytes]:
        """The file from the beginning."""
        stream = os.fdopen(os.dup(self._fd), "rb", buffering=1 << 20)
        stream.seek(0)
        return stream

    def map(self) -> memoryview:
        """The whole file as a read-only view of mapped memory; it keeps the file alive."""
        if self.size == 0:
            return memoryview(b"")
        try:
            return memoryview(mmap.mmap(self._fd, self.size, access=mmap.ACCESS_READ))
        except OSError as error:
            raise StoreError(f"the file cannot be mapped: {error.strerror}", url=self.url) from None

    def close(self) -> None:
        """Let go of the file; maps made from it stay."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> LocalObject:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self.close()


class _DiskSink(Sink):
    def __init__(self, path: Path) -> None:
        self._path = path
        with _errors(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        with _errors(self._path):
            while view:
                view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        with _errors(self._path):
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1

    def abort(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink(missing_ok=True)


class _DiskTransaction(Transaction):
    def __init__(self, folder: Path, overwrite: bool) -> None:
        self._folder = folder
        self._made = _make_folders(folder)
        self._lock = contextlib.ExitStack()
        self._staging = folder / f"{_STAGING}{uuid.uuid4().hex[:8]}"
        self._decided = False
        try:
            self._lock.enter_context(_locked(folder))
            _recover(folder)
            for left in folder.glob(f"{_STAGING}*"):  # of writers that were killed: nobody else is here
                shutil.rmtree(left, ignore_errors=True)
            if not overwrite:
                _refuse_existing(folder)
            with _errors(folder):
                self._staging.mkdir()
        except BaseException:
            self._end()
            raise

    def create(self, name: str) -> Sink:
        return _DiskSink(self._staging / name)

    def commit(self, record: CommitRecord) -> list[str]:
        staged = self._staging / RECORD_NAME
        sink = _DiskSink(self._staging / f"{RECORD_NAME}.new")
        sink.write(record.to_bytes())
        sink.close()
        with _errors(self._folder):
            _sync(self._staging)
            os.rename(self._staging / f"{RECORD_NAME}.new", staged)
            _sync(self._staging)
            self._decided = True
            _publish(self._folder, self._staging)
        self._end()
        return [str(self._folder / shard.name) for shard in record.shards]

    def abort(self) -> None:
        if not self._decided:  # a decided write is finished by whoever comes next
            shutil.rmtree(self._staging, ignore_errors=True)
        self._end()

    def _end(self) -> None:
        self._lock.close()
        if not self._decided:
            for made in self._made:
                with contextlib.suppress(OSError):
                    made.rmdir()


def _publish(folder: Path, staging: Path) -> None:
    """Move a decided write to its names. Killed anywhere in here and called again, it goes on where it stopped."""
    current, replaced = folder / RECORD_NAME, staging / _REPLACED
    if current.exists():
        os.replace(current, replaced)
        _sync(folder)
    old = _files_of(replaced.read_bytes()) if replaced.exists() else []
    new = set(_files_of((staging / RECORD_NAME).read_bytes()))
    for path in sorted(staging.iterdir()):
        if path.name not in (RECORD_NAME, _REPLACED):
            os.replace(path, folder / path.name)
    for name in old:
        if name not in new:
            (folder / name).unlink(missing_ok=True)
    _sync(folder)
    os.replace(staging / RECORD_NAME, current)
    _sync(folder)
    shutil.rmtree(staging, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finish a write that was killed between its decision and its last move, if there is one."""
    if _decided_staging(folder) is None:
        return
    try:
        with _locked(folder):
            _recover(folder)
    except OSError as error:
        raise StoreError(
            f"a write was interrupted while its files were moved to their names, and cannot be finished: {error.strerror}"
            "; open the dataset once as a user who may write here",
            url=str(folder),
        ) from None


def _recover(folder: Path) -> None:
    staging = _decided_staging(folder)
    if staging is not None:
        _publish(folder, staging)


def _decided_staging(folder: Path) -> Path | None:
    for staging in folder.glob(f"{_STAGING}*"):
        if (staging / RECORD_NAME).exists():
            return staging
    return None


def _files_of(record: bytes) -> list[str]:
    """The files that a commit record speaks for; none when it cannot be read."""
    try:
        shards = CommitRecord.from_bytes(record).shards
    except CommitRecordError:
        return []
    names = []
    for shard in shards:
        names.append(shard.name)
        names += [n for n in (manifest_name(shard.name), header_name(shard.name)) if n is not None]
    return names


def _refuse_existing(folder: Path) -> None:
    if (folder / RECORD_NAME).exists():
        raise DatasetExistsError(
            "there is a dataset already; choose another prefix, or pass overwrite=True to replace it", url=str(folder)
        )
    for name in sorted(os.listdir(folder)):
        if name.endswith((".tar", ".manifest.parquet", ".manifest.json")):
            raise DatasetExistsError(
                f"{name} is there already, though no dataset is; choose another prefix, or pass overwrite=True",
                url=str(folder),
            )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl

    path = folder / _LOCK
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise StoreError(f"the folder cannot be locked: {error.strerror}", url=str(folder)) from None
            raise StoreBusyError("another process is writing a dataset here; wait for it", url=str(folder)) from None
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                break
        os.close(fd)  # its last holder has removed this file; try the one that is there now
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """The system's errors as ours, with what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        hint = {
            errno.ENOSPC: "the disk is full; free some space and run again",
            errno.EDQUOT: "the quota is used up; free some space and run again",
            errno.EFBIG: "the file would be larger than allowed here; choose a smaller maxsize",
            errno.EACCES: "you may not write here",
            errno.EROFS: "the disk is read-only",
        }.get(error.errno or 0, error.strerror or str(error))
        raise StoreError(f"cannot write: {hint}", url=str(path)) from error


def _make_folders(folder: Path) -> list[Path]:
    """Make `folder`; returns the folders that were made, innermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    with _errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and folder.is_relative_to(root):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
