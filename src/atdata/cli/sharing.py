"""`atdata publish`, `pull` and `unpublish`: datasets into an account of the network, from one, and out of it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atdata.cli.accounts import MINE, is_account, logged_in, parted
from atdata.cli.catalog import ask, opened
from atdata.cli.changes import dataset_at
from atdata.cli.copy import copied, say_copied
from atdata.cli.places import destination, located_at
from atdata.cli.reporting import Report, clean, count, size
from atdata.datasets.dataset import Dataset
from atdata.errors import DatasetNotFoundError, EntryExistsError, EntryFormError, EntryNotFoundError
from atdata.index.base import DatasetEntry
from atdata.index.load import is_place
from atdata.index.names import check_name
from atdata.stores.base import WrittenShards

if TYPE_CHECKING:
    from atdata.atmosphere.client import Atmosphere
    from atdata.index.atmosphere import AtmosphereIndex
    from atdata.index.network_entry import AtmosphereEntry
    from atdata.stores.pds import PDSBlobStore

__all__ = ["publish", "pull", "unpublish"]


def publish(
    report: Report,
    url: str | None,
    ref: str,
    to: str,
    name: str | None,
    details: dict[str, Any],
    *,
    blobs: bool,
) -> None:
    """Publish a dataset of the local index, or one at a place, in the account that is logged in."""
    from atdata.index.atmosphere import AtmosphereIndex

    ds, known = _to_publish(ref, url)
    if name is None and known is None:
        raise EntryFormError("what shall it be called there? Give --as NAME", url=ref)
    name = check_name(name or (known.name if known is not None else ""))
    with logged_in() as client:
        _check_own(client, to)
        if blobs:
            ds = _as_blobs(report, client, ds, name)
        index = AtmosphereIndex(client)
        given = _details(known) | {key: value for key, value in details.items() if value is not None}
        version = None if known is None else known.version
        try:
            entry = index.insert_dataset(ds, name=name, version=version, **given)
            said = "published"
        except EntryExistsError:
            entry = index.get_dataset(f"{name}@{version}")
            if entry.cid != ds.cid:
                raise
            said = "was published already:"
        place = f"@{client.handle or client.did}/{name}"
    report.document({"name": name, "version": entry.version, "ref": place, "uri": entry.uri, "cid": entry.cid})
    report.print(f"{said} {clean(place)}@{entry.version}")
    report.print(f"record  {entry.uri}\ncid     {entry.cid}")
    report.print(f'read it with  atdata.load_dataset("{clean(place)}")')


def _to_publish(ref: str, url: str | None) -> tuple[Dataset[Any], DatasetEntry | None]:
    """The dataset that is meant, and what the local index says of it."""
    if is_account(ref):
        raise EntryFormError("this is on the network already; `atdata pull` copies it, and the copy can be published")
    if is_place(ref) and url is None:
        return dataset_at(ref, None), None
    with opened(url) as index:
        entry = index.get_dataset(ref)
        return entry.dataset(), entry


def _details(known: DatasetEntry | None) -> dict[str, Any]:
    if known is None:
        return {}
    return {
        "description": known.description,
        "tags": known.tags,
        "license": known.license,
        "metadata": dict(known.metadata),
    }


def _check_own(client: Atmosphere, to: str) -> None:
    """Refuse every account but the one that is logged in."""
    if to == MINE:
        return
    if not to.startswith("@") or "/" in to:
        raise EntryFormError(f"{to!r:.120} is no account: write --to @me, or the @HANDLE that is logged in")
    if client.resolve(to).did != client.did:
        raise EntryFormError(
            f"{clean(to)} is not logged in here, and {clean(client.handle or client.did or '')} is: only an account's "
            "owner publishes in it (`atdata login`)"
        )


def _as_blobs(report: Report, client: Atmosphere, ds: Dataset[Any], name: str) -> Dataset[Any]:
    """The same samples as blobs in the account; those that were sent before are not sent again."""
    from atdata.stores.pds import PDSBlobStore

    store = PDSBlobStore(client)
    prefix = f"{name}/{ds.cid}"  # so that the same command finds what it sent before
    try:
        record, urls = store.record(prefix)
        return Dataset(WrittenShards(urls, record), store=store)
    except DatasetNotFoundError:
        pass
    if _fit(store, ds):
        assert ds.located is not None
        done = copied(report, ds.located, ds.opening, store, prefix)
        assert done.record is not None
        return Dataset(WrittenShards(done.urls, done.record), store=store)
    report.print(f"the shards are larger than the {size(store.shard_size)} that the account's server takes: cut anew")
    return Dataset(store.write_shards(ds, prefix=prefix, progress=not report.json), store=store)


def _fit(store: PDSBlobStore, ds: Dataset[Any]) -> bool:
    """Whether every file can be a blob as it is."""
    located = ds.located
    if located is None or located.record is None:
        return False
    return all(
        info.size <= store.shard_size and (info.manifest is None or info.manifest.size <= store.shard_size)
        for info in located.record.shards
    )


def pull(report: Report, ref: str, to: str, *, overwrite: bool) -> None:
    """Copy a dataset from the network to a folder or prefix, under its name."""
    if not is_account(ref):
        raise EntryFormError(f"{ref!r:.120} is not on the network: write @HANDLE/NAME; `atdata cp` copies from places")
    located, opening = located_at(ref)
    with_name = f"{to.rstrip('/') or '/'}/{_plain_name(ref)}"
    store, prefix = destination(with_name)
    say_copied(report, ref, with_name, copied(report, located, opening, store, prefix, overwrite=overwrite))


def _plain_name(ref: str) -> str:
    """The dataset's own name, which may be that of a folder."""
    if not ref.startswith("at://"):
        return check_name(parted(ref)[1].partition("@")[0])
    from atdata.index.atmosphere import AtmosphereIndex

    with AtmosphereIndex() as index:
        return check_name(index.get_dataset(ref).name)


def unpublish(report: Report, ref: str, *, blobs: bool, yes: bool) -> None:
    """Take a dataset, or one version of it, out of the account that is logged in."""
    from atdata.index.atmosphere import AtmosphereIndex
    from atdata.stores.pds import PDSBlobStore

    with logged_in() as client:
        account, rest = parted(ref) if is_account(ref) else (MINE, ref)
        _check_own(client, account)
        if not rest or rest.startswith("at://"):
            raise EntryFormError("say which dataset by its name: NAME, or NAME@1.0.0 for one version")
        index = AtmosphereIndex(client)
        name, _, version = rest.partition("@")
        going = [index.get_dataset(rest)] if version else list(index.list_versions(name))
        what = rest if version else f"{name} with {count(len(going), 'version')}"
        question = f"Take {clean(what)} out of {clean(client.handle or client.did or MINE)}?"
        ask(question, f"{what} would be unpublished", yes, MINE)
        index.delete_dataset(rest)
        dropped = _drop_blobs(PDSBlobStore(client), index, name, going) if blobs else []
    report.document({"name": name, "versions": [entry.version for entry in going], "blobs_of": dropped})
    report.print(f"unpublished {clean(what)}")
    if dropped:
        report.print(f"and the blobs of {count(len(dropped), 'dataset')}")
    elif any(u.startswith("at://") for entry in going for u in _urls(entry)):
        report.print("its blobs stay in the account (`atdata unpublish --blobs` drops them, too)")


def _urls(entry: DatasetEntry) -> Sequence[str]:
    """Where the shards of an entry are that was just deleted, as far as that was looked up before."""
    return entry.data_urls if "found" in vars(entry) else ()


def _drop_blobs(store: PDSBlobStore, index: AtmosphereIndex, name: str, gone: Sequence[AtmosphereEntry]) -> list[str]:
    """Let go of the blobs that only these versions had; returns their prefixes in the store."""
    try:
        kept = {entry.cid for entry in index.list_versions(name)}
    except EntryNotFoundError:
        kept = set()
    cids = {entry.cid for entry in gone} - kept
    dropped = []
    for prefix in [prefix for prefix, _, done in store.prefixes(name) if done]:
        if store.record(prefix)[0].cid in cids:
            store.delete(prefix)
            dropped.append(prefix)
    return dropped
