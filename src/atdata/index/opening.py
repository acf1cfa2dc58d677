"""Which database an index is kept in: told by its URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from atdata.errors import CatalogError
from atdata.index.backend import Backend

if TYPE_CHECKING:
    from atdata.index.redis_backend import RedisBackend

__all__ = ["open_backend"]


def open_backend(url: str | os.PathLike[str]) -> tuple[Backend, str, bool]:
    """The backend, its URL for messages, and whether it is a file of this machine.

    Raises:
        CatalogError: the database cannot be opened, or its kind is not known.
    """
    text = os.fspath(url)
    scheme, colon, rest = text.partition("://")
    from atdata.index.sql import SqlBackend  # takes a while to import

    if not colon or scheme == "sqlite":
        path = rest.removeprefix("/") if colon else text
        if not path or path == ":memory:":
            raise CatalogError("an index is kept in a file: sqlite:///relative.db or sqlite:////absolute.db", url=text)
        made = SqlBackend(Path(path).expanduser().absolute())
        return made, made.url, True
    if scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        made = SqlBackend.on_server(text)
        return made, made.url, False
    if scheme in ("redis", "rediss"):
        in_redis = _in_redis(text)
        return in_redis, in_redis.url, False
    raise CatalogError(
        f"no index is known for {scheme}:// URLs; known are paths, sqlite:///, postgresql:// and redis://",
        url=f"{scheme}://…",
    )


def _in_redis(url: str) -> RedisBackend:
    try:
        from atdata.index.redis_backend import RedisBackend
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise CatalogError("an index in Redis needs a driver: pip install 'atdata[redis]'") from None
    return RedisBackend(url)
