"""One version of a dataset on the network, as an index gives it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

from atdata.atmosphere.client import Atmosphere
from atdata.datasets.dataset import Dataset
from atdata.datasets.opener import Verify
from atdata.datasets.sources import Located
from atdata.errors import RecordError
from atdata.index.base import DatasetEntry
from atdata.index.network_places import Found
from atdata.index.network_reading import NetworkStore
from atdata.stores.cache import Cache

__all__ = ["AtmosphereEntry", "entry_with"]


def _unknown() -> Found:
    raise AssertionError("an entry without a way to its shards")


@dataclasses.dataclass(frozen=True, eq=False)
class AtmosphereEntry(DatasetEntry):
    """One version of a dataset that an account has published.

    What `list_datasets` and `search` say of it is what the account's server says. When its shards are asked for, the
    record is proved to be what the account signed, and to be the one that was listed.

    Attributes:
        uri: the record, `at://did/science.alt.dataset.entry/…`.
        record_cid: the identifier of the record's content.
        schema_name: name and version of the schema, as `Name@1.0.0`, where the entry says so.
    """

    uri: str = ""
    record_cid: str = ""
    schema_name: str | None = None
    _find: Callable[[], Found] = dataclasses.field(default=_unknown, repr=False)
    _client: Any = dataclasses.field(default=None, repr=False)

    @functools.cached_property
    def found(self) -> Found:
        """Where the shards lie, and what is needed to read them."""
        return self._find()

    @property
    def located(self) -> Located:
        """The shards with what is recorded of each, and the schema."""
        return self.found.located

    def _stored(
        self,
        sample_type: type | None,
        *,
        store: Any = None,
        verify: Verify = "first",
        cache: str | os.PathLike[str] | Cache | None = None,
    ) -> Dataset[Any]:
        """The samples, read as a class that reads their bytes.

        Shards in buckets are read without credentials, unless `store` (or that of the index) is that very bucket.

        Raises:
            RecordError: the entry has digests that cannot be checked, and `verify` is not "never".
        """
        found = self.found
        if found.unchecked and verify != "never":
            raise RecordError(
                f"the digests of {self.name} are by {', '.join(sorted(found.unchecked))}, which this atdata cannot "
                "check; verify='never' reads without",
                url=self.uri,
            )
        reading = NetworkStore(self._client, found.buckets, self._store if store is None else store)
        return Dataset(found.located, sample_type=sample_type, store=reading, verify=verify, cache=cache)

    def _known_by(self) -> Any:
        from atdata.index.atmosphere import AtmosphereIndex

        return AtmosphereIndex(self._client, repo=self.uri.removeprefix("at://").partition("/")[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return (entry_with, (self._plain, self.found, self._client))


def entry_with(
    plain: dict[str, Any], found: Found | Callable[[], Found], client: Atmosphere, store: Any = None
) -> AtmosphereEntry:
    """An entry of these attributes, whose shards are known, or found when they are asked for."""
    find = found if callable(found) else lambda: found
    return AtmosphereEntry(**plain, _locate=lambda: find().located, _store=store, _find=find, _client=client)
