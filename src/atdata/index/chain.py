"""The chain by which a dataset is held against what was recorded of it, and what came out link by link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from atdata.datasets.audit import Depth
from atdata.datasets.shard_check import Problem, ShardFindings
from atdata.datasets.sources import Located
from atdata.errors import StoreError
from atdata.stores.http import public_url

__all__ = ["ChainLink", "Verification", "shard_links"]

_SHOWN = 20
_SIGNS = {"ok": "✓", "broken": "✗", "unchecked": "·"}


class ChainLink(msgspec.Struct):
    """One link of the chain.

    Attributes:
        name: what it is: "account", "signed commit", "record" (on the network), "index", "commit record", "shards",
            "manifests" or "samples".
        state: "ok", "broken", or "unchecked" where there is nothing to check by, or it was not asked for.
        checked: what was held against what, in words.
        problems: all that is wrong with it.
    """

    name: str
    state: Literal["ok", "broken", "unchecked"] = "unchecked"
    checked: str = ""
    problems: list[Problem] = []

    def __str__(self) -> str:
        return f"{_SIGNS[self.state]} {self.name:<13} {self.checked}".rstrip()


class Verification(msgspec.Struct):
    """What came out of `atdata.verify`.

    Attributes:
        ref: what was asked about.
        cid: the identifier of the content; None where nothing says what belongs to it.
        depth: how deep the shards were looked into: "sizes", "digests" or "samples".
        chain: the links, from what is trusted at first down to the samples.
        shards: what came out for each shard, in order.
        notes: what is no problem and yet worth knowing.
    """

    ref: str
    cid: str | None
    depth: Depth
    chain: list[ChainLink]
    shards: list[ShardFindings]
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.broken is None

    @property
    def broken(self) -> ChainLink | None:
        """The first link that does not hold."""
        return next((link for link in self.chain if link.state == "broken"), None)

    @property
    def problems(self) -> list[Problem]:
        """All that is wrong, in the order of the links."""
        return [problem for link in self.chain for problem in link.problems]

    def __str__(self) -> str:
        lines = [self.ref]
        for link in self.chain:
            lines.append(str(link))
            lines += [f"    {problem.error()}" for problem in link.problems[:_SHOWN]]
            if len(link.problems) > _SHOWN:
                lines.append(f"    … and {len(link.problems) - _SHOWN:,} more")
        return "\n".join(lines)


def shard_links(
    located: Located, found: Sequence[ShardFindings], depth: Depth, *, stopped: bool = False
) -> list[ChainLink]:
    """What came out for the shards, sorted by the links that it is about: shards, manifests, samples.

    Args:
        located: the shards.
        found: what came out for each, in order; for fewer where their server was lost.
        depth: how deep they were looked into.
        stopped: whether it was ended on purpose where there are fewer.
    """
    shards, manifests, samples = links = [ChainLink(name) for name in ("shards", "manifests", "samples")]
    for each in found:
        for problem in each.problems:
            (manifests if problem.url in each.beside else shards if problem.key is None else samples).problems.append(
                problem
            )
    total, left = len(located.shards), len(located.shards) - len(found)
    if left and not stopped:
        many = "1 more shard was" if left == 1 else f"{left:,} more shards were"
        gone = StoreError(f"{many} not checked: their server cannot be read")
        shards.problems.insert(0, Problem.of(gone, public_url(located.shards[len(found)].url)))
    infos = [ref.info for ref in located.shards if ref.info is not None]
    whole = len(infos) == total > 0
    pinned = whole and all(info.manifest is not None for info in infos)
    if not total:
        return [ChainLink(link.name, checked="not reached") for link in links]
    shards.state = "ok"
    if depth == "sizes":
        shards.checked = f"{len(found):,} of {total:,} there" + (", as long as recorded" if whole else "")
    elif all(ref.digest is not None for ref in located.shards):
        shards.checked = f"{len(found):,} of {total:,}, SHA-256 as recorded"
    else:
        shards.checked = f"{len(found):,} of {total:,} whole; no digest is recorded for some"
    if depth != "sizes" and pinned:
        manifests.state, manifests.checked = "ok", "SHA-256 as recorded"
    if depth == "samples":
        read = sum(each.samples or 0 for each in found)
        of = f" of {sum(info.samples for info in infos):,}" if whole else ""
        samples.state = "ok"
        samples.checked = f"{read:,}{of} read" + (", SHA-256 as the manifests say" if pinned else "")
    for link in links:
        if link.problems:
            link.state = "broken"
            where = len({problem.url for problem in link.problems})
            link.checked = (
                f"{len(link.problems):,} problems in {where:,} files" if len(link.problems) > 1 else "1 problem"
            )
        elif link.state == "unchecked":
            link.checked = "not looked at" if depth == "sizes" or link is samples else "not recorded"
    return links
