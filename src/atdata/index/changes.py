"""What changed from one version to the next, told by digests alone."""

from __future__ import annotations

from collections import Counter

from atdata.datasets.sources import Located
from atdata.index.versions import Change
from atdata.samples.evolution import compare

__all__ = ["change_between"]


def change_between(old: Located, new: Located) -> Change:
    """The same data is a patch; where all of the old data is still there and can be read, a minor change; else major.

    Args:
        old: shards and schema of the earlier version.
        new: those of the later one.
    """
    if (old.schema is None) != (new.schema is None):
        return "major"
    evolved = None if old.schema is None or new.schema is None else compare(old.schema, new.schema).change
    if evolved == "major":
        return "major"
    before, after = (Counter(ref.info.sha256 for ref in at.shards if ref.info is not None) for at in (old, new))
    if before - after:
        return "major"
    return evolved or ("minor" if after - before else "patch")
