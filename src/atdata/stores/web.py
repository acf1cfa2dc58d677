"""`HttpDataStore`: shards on a plain web server, for reading."""

from __future__ import annotations

from collections.abc import Iterator

from atdata.errors import StoreError, UnsafeNameError
from atdata.stores.base import DataStore, Transaction
from atdata.stores.http import HttpObject, Web, public_url

__all__ = ["HttpDataStore"]


class HttpDataStore(DataStore):
    """A data store on a web server: what lies there is read by its URL, and nothing is written.

    Args:
        base: the `https://` or `http://` URL of the folder, or of the whole server.

    Example:
        >>> store = HttpDataStore("https://example.org/data")
        >>> store.read_url("https://example.org/data/v1/shard-000000.tar")
        'https://example.org/data/v1/shard-000000.tar'
    """

    def __init__(self, base: str) -> None:
        if not base.lower().startswith(("http://", "https://")):
            raise StoreError("a web server's URL begins with https:// or http://", url=base)
        self.base = base.rstrip("/") + "/"
        self._web = Web()
        HttpObject(self.base)  # refuses a URL with a password

    def __repr__(self) -> str:
        return f"HttpDataStore({public_url(self.base)!r})"

    def supports_streaming(self) -> bool:
        """True: bytes are used as they arrive."""
        return True

    def read_url(self, url: str) -> str:
        """The URL itself; anything can read it."""
        path = url.partition("?")[0].removeprefix(self.base)
        if (
            not url.startswith(self.base)
            or any(part in (".", "..") for part in path.split("/"))
            or any(ord(char) < 32 for char in url)
        ):
            raise UnsafeNameError(f"the URL does not belong to this store ({self.base})", url=public_url(url))
        return url

    def open(self, url: str) -> HttpObject:
        """Open the file at `url` for reading; see `DataStore.open`."""
        found = HttpObject(self.read_url(url), web=self._web)
        found.size  # noqa: B018  (asks the server, and so finds out whether there is one)
        return found

    def list(self, prefix: str = "") -> Iterator[str]:
        """Refused: web servers cannot be listed."""
        raise StoreError("web servers cannot be listed: give braces or a list of URLs", url=self.base + prefix)

    def begin(self, prefix: str, *, overwrite: bool) -> Transaction:
        """Refused: web servers are read, not written."""
        raise StoreError("web servers are read, not written", url=self.base + prefix)

    def delete(self, prefix: str) -> None:
        """Refused: web servers are read, not written."""
        raise StoreError("web servers are read, not written", url=self.base + prefix)
