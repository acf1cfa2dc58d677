"""A local cache of whole shards, addressed by what they contain.

```
{root}/sha256/ab/ab12…            one file for each digest, read-only
{root}/lock/ab12…                 held (flock) while that digest is fetched
{root}/new/…                      files that are not whole yet, held (flock) while they are written
```

A name cannot lie here: `train/000000.tar` and `val/000000.tar` have different digests. Files are checked when they
come in, fetched by one process at a time, and the least recently used ones go when the limit is passed. Nothing else
that may lie in the folder is ever touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from atdata.errors import IntegrityError, StoreError

__all__ = ["Cache", "CachedShard"]

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LIMIT = 64 << 30
_YOUNG = 60.0  # seconds; a file that its writer has just made may not be locked yet


class CachedShard(NamedTuple):
    """One file of the cache."""

    sha256: str
    size: int
    used: float


class Cache:
    """Whole shards in a local folder, by digest.

    Args:
        root: the folder; made when it is first needed.
        limit: most bytes it may hold; the least recently used files go first.
    """

    def __init__(self, root: str | os.PathLike[str], limit: int = _LIMIT) -> None:
        self.root = Path(root).expanduser().absolute()
        self.limit = limit

    def __repr__(self) -> str:
        return f"Cache({str(self.root)!r}, limit={self.limit})"

    def path(self, sha256: str) -> Path:
        """Where the file with that digest lies, whether it is there or not."""
        if not _DIGEST.fullmatch(sha256):
            raise StoreError(f"{sha256!r} is not a SHA-256 in hex")
        return self.root / "sha256" / sha256[:2] / sha256

    def find(self, sha256: str) -> Path | None:
        """The file with that digest, marked as just used; None when it is not there."""
        path = self.path(sha256)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError:  # a cache others own can be read, only not marked
            return path if path.exists() else None
        return path

    def add(self, sha256: str, chunks: Callable[[], Iterable[bytes | memoryview]], *, url: str) -> Path:
        """The file with that digest, from what `chunks` gives unless another process brings it meanwhile.

        What comes with another digest is asked for once more.

        Raises:
            IntegrityError: the chunks have another digest, both times; nothing is kept of them.
        """
        with self._lock(sha256):
            path = self.find(sha256)
            if path is None:
                try:
                    path = self._add(sha256, chunks(), url)
                except IntegrityError:
                    path = self._add(sha256, chunks(), url)
        self._shrink(keep=sha256)
        return path

    def _add(self, sha256: str, chunks: Iterable[bytes | memoryview], url: str) -> Path:
        new = self.root / "new" / uuid.uuid4().hex
        try:
            new.parent.mkdir(parents=True, exist_ok=True)
            hasher = hashlib.sha256()
            with new.open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                for chunk in chunks:
                    hasher.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                if hasher.hexdigest() != sha256:
                    raise IntegrityError(
                        "the shard's bytes are not those that were written (SHA-256 differs)",
                        url=url,
                        expected=sha256,
                        got=hasher.hexdigest(),
                    )
                new.chmod(0o444)
                path = self.path(sha256)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(new, path)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"the cache cannot be written: {error.strerror}", url=str(self.root)) from error
        finally:
            new.unlink(missing_ok=True)
        return path

    def shards(self) -> Iterator[CachedShard]:
        """The files of the cache, most recently used first."""
        found = []
        for path in self.root.glob("sha256/??/*"):
            if _DIGEST.fullmatch(path.name) and path.name.startswith(path.parent.name):
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        found.append(CachedShard(path.name, status.st_size, status.st_mtime))
        yield from sorted(found, key=lambda shard: -shard.used)

    def sound(self, sha256: str) -> bool:
        """Whether the file with that digest has it; True when it is gone meanwhile. Does not count as a use."""
        try:
            with self.path(sha256).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return True
        except OSError as error:
            raise StoreError(f"the file cannot be read: {error.strerror}", url=str(self.path(sha256))) from None

    def sweep(self) -> None:
        """Remove what processes that were killed left of files they fetched."""
        for path in self.root.glob("new/" + "[0-9a-f]" * 32):
            with contextlib.suppress(OSError), path.open("rb") as file:  # it became whole, or is another user's
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer is alive
                if time.time() - os.fstat(file.fileno()).st_mtime > _YOUNG:
                    path.unlink()

    def remove(self, sha256: str) -> None:
        """Forget one file; readers that have it open keep it."""
        self.path(sha256).unlink(missing_ok=True)
        (self.root / "lock" / sha256).unlink(missing_ok=True)

    def _shrink(self, keep: str) -> None:
        self.sweep()
        total = 0
        for shard in self.shards():
            total += shard.size
            if total > self.limit and shard.sha256 != keep:
                self.remove(shard.sha256)

    @contextlib.contextmanager
    def _lock(self, sha256: str) -> Iterator[None]:
        path = self.root / "lock" / sha256
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreError(f"the cache cannot be written: {error.strerror}", url=str(self.root)) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # as long as another process fetches the same shard
            yield
        finally:
            # A process forked meanwhile has the file open too, so that closing it here would not free it.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
