"""What changed from one version to the next, and so which part of its number rises."""

from __future__ import annotations

from collections import Counter
from typing import Any

from atdata.datasets.sources import Located
from atdata.errors import AtdataError, CatalogError
from atdata.index.diff import diff
from atdata.index.routing import dataset_of
from atdata.index.versions import Change
from atdata.samples.evolution import compare

__all__ = ["change_between"]


def change_between(old: Located, new: Located, store: Any) -> Change:
    """The same data is a patch; where all of the old data is still there and can be read, a minor change; else major.

    The shards' digests tell in most cases; else samples are compared, by their manifests where there are any.

    Args:
        old: shards and schema of the earlier version.
        new: those of the later one.
        store: what shards are read with that lie in it.

    Raises:
        CatalogError: samples have to be compared, and cannot be read.
    """
    if (old.schema is None) != (new.schema is None):
        return "major"
    evolved = None if old.schema is None or new.schema is None else compare(old.schema, new.schema).change
    if evolved == "major":
        return "major"
    before, after = (Counter(ref.info.sha256 for ref in at.shards if ref.info is not None) for at in (old, new))
    if not before - after:
        return evolved or ("minor" if after - before else "patch")
    try:
        return diff(dataset_of(old, store=store), dataset_of(new, store=store)).change or "patch"
    except AtdataError as error:
        raise CatalogError(
            f"the version cannot be counted, because the samples cannot be compared with those of the latest one: "
            f"{error}. Give a version to go without that"
        ) from error
