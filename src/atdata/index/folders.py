"""Folders and prefixes that are no dataset themselves: shards that somebody put there, or splits in folders below."""

from __future__ import annotations

import os
import re

from atdata.datasets.sources import Located, locate
from atdata.errors import DatasetNotFoundError
from atdata.index.splits import splits_in
from atdata.stores.opening import Opening
from atdata.stores.record import RECORD_NAME

__all__ = ["is_archive", "parts_in"]

_ARCHIVE = re.compile(r"[^/]\.(tar(\.(gz|zst|bz2|xz))?|tgz|tzst|tbz2|txz)\Z", re.IGNORECASE)
_SHOWN = 5


def is_archive(name: str) -> bool:
    """Whether the name of a file is that of a shard: `.tar`, also compressed."""
    return _ARCHIVE.search(name) is not None


def parts_in(folder: str, opening: Opening) -> list[Located]:
    """The shards in a folder without a record, and what lies in the folders below whose names say a split.

    Args:
        folder: a local folder, or a prefix on object storage; with or without the last slash.
        opening: how URLs are opened.

    Raises:
        DatasetNotFoundError: there is nothing of that; the message says what there is.
    """
    base = folder.rstrip("/") + "/"
    files = _files(base, opening)
    parts = []
    for name, inside in sorted(files.items()):
        place = f"{base}{name}/" if name else base
        shards = [place + file for file in sorted(inside) if is_archive(file)]
        if name and not splits_in(name):
            continue
        if RECORD_NAME in inside:
            parts.append(locate(place, opening))
        elif shards:
            parts.append(locate(shards, opening))
    if not parts:
        raise DatasetNotFoundError(
            f"there is no dataset here: no {RECORD_NAME}, no tar files, and no folders with these that are named after "
            f"splits (train, validation, test){_instead(files)}",
            url=folder,
        )
    return parts


def _instead(files: dict[str, list[str]]) -> str:
    """What else there is."""
    found = [n for n, inside in sorted(files.items()) if n and any(f == RECORD_NAME or is_archive(f) for f in inside)]
    if found:
        return f". There are datasets in {', '.join(found[:_SHOWN])}{', …' if len(found) > _SHOWN else ''}: name one"
    return "" if any(files.values()) else ". It is empty"


def _files(base: str, opening: Opening) -> dict[str, list[str]]:
    """The names of the files in a folder (under "") and in each folder directly in it, hidden ones left out."""
    files: dict[str, list[str]] = {"": []}
    path = opening.path(base)
    if path is not None:
        for entry in os.scandir(path):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                files[entry.name] = os.listdir(entry.path)
            else:
                files[""].append(entry.name)
        return files
    store = opening.object_store(base)
    if store is None:
        raise DatasetNotFoundError(f"there is no {RECORD_NAME} here, and web servers cannot be listed", url=base)
    prefix = store.key(base).rstrip("/")
    for url in store.list(prefix):
        place, _, name = url.removeprefix(base).rpartition("/")
        if "/" not in place and not name.startswith("."):
            files.setdefault(place, []).append(name)
    return files
