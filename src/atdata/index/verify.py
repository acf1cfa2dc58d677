"""`verify`: a dataset held against what was recorded of it, link by link, down to its bytes.

Each link vouches for the next: an account's key for the commit that it signed, the commit for the record in its tree,
the record for the commit record; that, or an index, for shards and manifests, by their digests; a manifest for single
samples. The first link that does not hold is where the data are no longer what was recorded.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from atdata.datasets.audit import Depth, audit
from atdata.datasets.dataset import Dataset
from atdata.datasets.shard_check import Problem, ShardFindings
from atdata.datasets.sources import Located, ShardRef, is_source, locate
from atdata.errors import AtdataError, CatalogError, CommitRecordError, DatasetNotFoundError
from atdata.index.base import AbstractIndex, DatasetEntry, IndexEntry
from atdata.index.chain import ChainLink, Verification, shard_links
from atdata.index.load import existing_index, find_named, is_place, is_published, network_index
from atdata.index.routing import store_for
from atdata.samples.dictsample import DictSample
from atdata.stores.cache import Cache
from atdata.stores.opening import Opening
from atdata.stores.progress import Progress
from atdata.stores.record import RECORD_NAME

if TYPE_CHECKING:
    from atdata.index.atmosphere import AtmosphereIndex

__all__ = ["verify"]

_NOTED = 3  # further problems that are named beside the first


def verify(
    ref: Any,
    *,
    deep: bool | Literal["digests"] = False,
    index: AbstractIndex | None = None,
    store: Any = None,
    on_error: Literal["raise", "report"] = "raise",
    progress: bool = False,
) -> Verification:
    """Hold a dataset against what was recorded of it, link by link.

    Args:
        ref: a folder, prefix, pattern, URL or list of shards; a name, `name@version`, `name@label` or content
            identifier of an index; what an account has published, `@handle/name` or `at://…`; an entry of an index;
            or a `Dataset`.
        deep: read every byte, and every sample. With "digests", every byte but no sample by itself; without it, only
            whether every shard is there, and as long as recorded.
        index: where names are looked up; by default `LocalIndex()`, if there is one, and for what accounts have
            published an anonymous `AtmosphereIndex()`.
        store: a store whose credentials are used for what lies in it.
        on_error: "raise" the first thing that is wrong, or "report" all that is.
        progress: show on the terminal how far it got.

    Returns:
        What was checked. Where something cannot be checked for lack of a record, its link is "unchecked".

    Raises:
        IntegrityError: bytes are not those that were recorded. As with all errors here, `url`, `key` and `offset` say
            where, and notes on the error which link it is, and what else is wrong.
        CommitRecordError: the commit record was altered.
        ProofError: the record is not what the account signed.
        RecordError: what the account signed makes no sense.
        DatasetNotFoundError: there is nothing at that place, or a shard is missing.
        EntryNotFoundError: the index has no such dataset.

    Example:
        >>> import atdata
        >>> ds = atdata.Dataset.from_samples([atdata.DictSample(a=n) for n in range(3)], atdata.DictSample)
        >>> _ = atdata.LocalDiskStore("checked").write_shards(ds, prefix="v1")
        >>> print(atdata.verify("checked/v1", deep=True))
        checked/v1
        ✓ commit record atdata.json is whole
        ✓ shards        1 of 1, SHA-256 as recorded
        ✓ manifests     SHA-256 as recorded
        ✓ samples       3 of 3 read, SHA-256 as the manifests say
    """
    if on_error not in ("raise", "report"):
        raise ValueError(f"on_error is 'raise' or 'report', not {on_error!r}")
    depth: Depth = "digests" if deep == "digests" else "samples" if deep else "sizes"
    return _Verifying(depth, index, store, on_error == "raise").run(ref, progress)


class _Verifying:
    """One call of `verify`."""

    def __init__(self, depth: Depth, index: Any, store: Any, raising: bool) -> None:
        self._depth: Depth = depth
        self._index = index
        self._store = store
        self._raising = raising
        self._chain: list[ChainLink] = []
        self._notes: list[str] = []

    def run(self, ref: Any, progress: bool) -> Verification:
        # What was read before, and kept, says nothing of what others get now.
        with contextlib.ExitStack() as self._stack:
            self._cache = Cache(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="atdata-verify-")))
            located, opening = self._located(ref)
            found = self._audited(located, opening, progress)
        return self._made(ref, located, found)

    def _made(self, ref: Any, located: Located, found: list[ShardFindings]) -> Verification:
        self._chain += shard_links(located, found, self._depth, stopped=self._raising)
        cid = None if located.record is None else located.record.cid
        notes = self._notes + [note for each in found for note in each.notes]
        made = Verification(_text(ref), cid, self._depth, self._chain, found, notes)
        if self._raising and made.broken is not None:
            raise _error_of(made.broken, made.problems)
        return made

    # -- what is meant ---------------------------------------------------------------------------------------

    def _located(self, ref: Any) -> tuple[Located, Opening]:
        if isinstance(ref, Dataset):
            if ref.located is None or is_source(ref.source):
                raise DatasetNotFoundError(
                    "only what lies in a store can be verified: samples in memory, and what a source object gives, "
                    "have no record"
                )
            store = ref.opening.store
            fresh = store.through(self._cache) if callable(getattr(store, "through", None)) else store
            return self._recorded(ref.located), Opening(fresh, self._cache)
        if isinstance(ref, str) and is_published(ref):
            return self._on_network(ref)
        if isinstance(ref, str) and (ref.startswith(("@local/", "atdata://")) or not is_place(ref)):
            return self._named(ref)
        if isinstance(ref, str | os.PathLike | Sequence):
            return self._at(ref)
        if isinstance(ref, DatasetEntry | IndexEntry):
            return self._entry(ref, self._index)
        raise TypeError(
            "a dataset is verified by its path, URL or name, a list of shard URLs, an entry of an index, or as a "
            f"Dataset, not as {type(ref).__name__}"
        )

    def _on_network(self, text: str) -> tuple[Located, Opening]:
        from atdata.index.atmosphere import AtmosphereIndex

        index = network_index(self._index, self._store)
        if not isinstance(index, AtmosphereIndex):  # a stranger's, which means something of its own by such names
            return self._entry(index.get_dataset(text), index)
        if index is not self._index:
            self._stack.enter_context(index)
        return self._published(text, index)

    def _published(self, text: str, index: AtmosphereIndex) -> tuple[Located, Opening]:
        """The shards of a dataset that an account has published, with the links of its proof."""
        from atdata.index.network_chain import BrokenLinkError, NetworkChain
        from atdata.index.network_reading import NetworkStore

        chain = NetworkChain(index.client)
        self._chain += chain.links
        try:
            found = chain.follow(lambda: index.get_dataset(text)).found
        except BrokenLinkError as broken:
            self._break(broken.link, broken.error, text)
            return Located(()), Opening()
        if found.unchecked:
            self._notes.append(f"digests by {', '.join(sorted(found.unchecked))} cannot be checked")
        store = self._store or index.store
        return found.located, Opening(NetworkStore(index.client, found.buckets, store, cache=self._cache))

    def _named(self, text: str) -> tuple[Located, Opening]:
        if self._index is not None:
            return self._in(self._index, text)
        index = existing_index()
        if index is None:
            return self._at(text)
        with index:
            return self._in(index, text)

    def _in(self, index: Any, text: str) -> tuple[Located, Opening]:
        entry = find_named(text, index, self._store)
        return self._at(text) if entry is None else self._entry(entry, index)

    def _entry(self, entry: Any, index: Any) -> tuple[Located, Opening]:
        """The shards that an index has recorded, with the link that it is."""
        network = sys.modules.get("atdata.index.network_entry")  # without it, there is no such entry
        if network is not None and isinstance(entry, network.AtmosphereEntry):
            from atdata.index.atmosphere import AtmosphereIndex

            asked = index if isinstance(index, AtmosphereIndex) else AtmosphereIndex(entry._client)
            return self._published(entry.uri, asked)
        link = self._begin("index")
        name = f"{entry.name}@{entry.version}"
        known = isinstance(entry, DatasetEntry)
        try:
            located = entry.located if known else locate(list(entry.data_urls))
        except CatalogError as error:
            self._break(link, error, name)
            return Located(()), Opening()
        link.checked = f"{name}, {entry.cid}"
        if known:
            link.state = "ok"
            link.checked += " is what its shards' digests give"
        store = self._store or getattr(entry, "_store", None) or getattr(index, "store", None)
        return located, Opening(store_for(store, [ref.url for ref in located.shards]))

    def _at(self, place: Any) -> tuple[Located, Opening]:
        opening = Opening(self._store, self._cache)
        try:
            return self._recorded(locate(place, opening)), opening
        except CommitRecordError as error:
            self._break(self._begin("commit record"), error, _text(place))
            # What the record said is lost, but not what can be seen without it.
            return _without_record(_text(place), opening), opening

    def _recorded(self, located: Located) -> Located:
        link = self._begin("commit record")
        if located.record is not None:
            link.state, link.checked = "ok", f"{RECORD_NAME} is whole"
        else:
            link.checked = "there is none"
            self._notes.append(
                f"no {RECORD_NAME} is about exactly these shards: whether any is missing cannot be known"
            )
        return located

    def _begin(self, name: str) -> ChainLink:
        self._chain.append(ChainLink(name))
        return self._chain[-1]

    def _break(self, link: ChainLink, error: AtdataError, url: str) -> None:
        link.state = "broken"
        link.problems.append(Problem.of(error, url))
        if self._raising:
            error.add_note(_note(link))
            raise error

    # -- shards ----------------------------------------------------------------------------------------------

    def _audited(self, located: Located, opening: Opening, progress: bool) -> list[ShardFindings]:
        """What came out for each shard; where errors are raised, up to the first that has one."""
        expected = [ref.info.samples for ref in located.shards if ref.info is not None]
        total: int | None = len(located.shards)
        if self._depth == "samples":
            total = sum(expected) if len(expected) == total else None
        sample_type = DictSample if located.schema is None else located.schema.sample_type()
        found = []
        unit = "samples" if self._depth == "samples" else "shards"
        with Progress("checking", total, show=progress, unit=unit) as bar:
            for each in audit(located, opening, sample_type, self._depth, bar.advance):
                found.append(each)
                if self._raising and each.problems:
                    break
        return found


def _error_of(link: ChainLink, problems: Sequence[Problem]) -> AtdataError:
    """The first problem as an error, with others beside it."""
    error = problems[0].error()
    for problem in problems[1 : 1 + _NOTED]:
        error.add_note(f"also: {problem.error()}")
    error.add_note(_note(link))
    return error


def _note(link: ChainLink) -> str:
    return f"the chain is broken at this link: {link.name}"


def _text(ref: Any) -> str:
    """What was asked about, as a text."""
    if isinstance(ref, str | os.PathLike):
        return os.fspath(ref)
    if isinstance(ref, DatasetEntry | IndexEntry):
        return f"{ref.name}@{ref.version}"
    urls = ref.list_shards() if isinstance(ref, Dataset) else [os.fspath(url) for url in ref]
    return urls[0] if len(urls) == 1 else f"{urls[0]} … ({len(urls)} shards)"


def _without_record(url: str, opening: Opening) -> Located:
    """The shards that a damaged record may have spoken for."""
    path, store = opening.path(url), opening.object_store(url)
    if path is not None:
        return Located(tuple(ShardRef(str(shard.absolute())) for shard in sorted(path.glob("*.tar"))))
    if store is None:
        return Located(())
    folder = url.rstrip("/") + "/"
    found = (u for u in store.list(store.key(folder)) if u.rpartition("/")[0] + "/" == folder)
    return Located(tuple(ShardRef(shard) for shard in found if shard.endswith(".tar")))
