"""What an index promises, and the entry that ours give."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from atdata.datasets.sources import Located, ShardRef
from atdata.samples.schema import Schema

if TYPE_CHECKING:
    from atdata.datasets.dataset import Dataset
    from atdata.datasets.opener import Verify
    from atdata.stores.cache import Cache

__all__ = ["AbstractIndex", "DatasetEntry", "IndexEntry"]


@runtime_checkable
class IndexEntry(Protocol):
    """One version of a dataset, as any index gives it."""

    @property
    def name(self) -> str:
        """The dataset's name."""

    @property
    def version(self) -> str:
        """`major.minor.patch`."""

    @property
    def schema_ref(self) -> str | None:
        """What `get_schema` and `decode_schema` of the same index take; None when no schema is known."""

    @property
    def data_urls(self) -> list[str]:
        """Where the shards lie, in order."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the author added, as JSON values."""

    @property
    def cid(self) -> str:
        """The identifier of the content, the same wherever the shards lie."""

    @property
    def created_at(self) -> datetime:
        """When the version was made, in UTC."""


@runtime_checkable
class AbstractIndex(Protocol):
    """The public contract of an index of datasets."""

    def insert_dataset(
        self,
        ds: Dataset[Any],
        *,
        name: str,
        version: str | None = None,
        schema_ref: str | None = None,
        description: str | None = None,
        tags: Iterable[str] = (),
        license: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> IndexEntry:
        """Record a dataset whose shards lie somewhere already, as a new version of `name`."""

    def get_dataset(self, ref: str) -> IndexEntry:
        """The version that `ref` names: `name` (the latest), `name@1.2.0`, or a CID."""

    def list_datasets(self) -> Iterator[IndexEntry]:
        """The latest version of every dataset, page by page as it is iterated."""

    def search(self, text: str = "", *, tags: Iterable[str] = (), schema: str | None = None) -> Iterator[IndexEntry]:
        """The latest versions that have all words of `text`, all `tags`, and that schema."""

    def delete_dataset(self, ref: str) -> None:
        """Forget a dataset or one version of it; its shards stay where they are."""

    def publish_schema(self, sample_type: type, *, version: str | None = None) -> str:
        """Record a sample type's schema; returns the reference to it."""

    def get_schema(self, ref: str) -> Schema:
        """The schema that `ref` names."""

    def list_schemas(self) -> Iterator[Schema]:
        """Every version of every schema."""

    def decode_schema(self, ref: str) -> type:
        """A sample type built in memory from a stored schema; no code is executed."""


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetEntry:
    """One version of a dataset; it never changes.

    The list of shards, which can be long, is fetched from the index when it is first asked for.

    Attributes:
        name: the dataset's name.
        version: `major.minor.patch`.
        cid: the identifier of the content: of the schema and the shards' digests.
        schema_ref: the schema's reference in the index; None when no schema is known.
        parent: the version this one was made from; None for the first.
        description: free text.
        tags: words to find it by.
        license: the licence's SPDX identifier or name.
        metadata: what the author added, as JSON values.
        created_at: when the version was made, in UTC.
        samples: number of samples in all shards; None where another tool's entry on the network does not say.
        size: size of all shards in bytes; None likewise.
    """

    name: str
    version: str
    cid: str
    schema_ref: str | None
    parent: str | None
    description: str | None
    tags: tuple[str, ...]
    license: str | None
    metadata: Mapping[str, Any]
    created_at: datetime
    samples: int | None
    size: int | None
    _locate: Callable[[], Located] = dataclasses.field(repr=False)
    _store: Any = dataclasses.field(default=None, repr=False)  # the index's; it stays in its process

    @functools.cached_property
    def located(self) -> Located:
        """The shards with what is recorded of each, and the schema."""
        return self._locate()

    @property
    def schema(self) -> Schema | None:
        """The schema of the samples; None when no schema is known."""
        return self.located.schema

    @property
    def shards(self) -> tuple[ShardRef, ...]:
        """Where each shard lies, with its size, sample count, SHA-256 and manifest."""
        return self.located.shards

    @property
    def data_urls(self) -> list[str]:
        """Where the shards lie, in order."""
        return [shard.url for shard in self.located.shards]

    def dataset(
        self,
        sample_type: type | None = None,
        *,
        store: Any = None,
        verify: Verify = "first",
        cache: str | os.PathLike[str] | Cache | None = None,
    ) -> Dataset[Any]:
        """The samples of this version.

        Args:
            sample_type: the class of the samples; by default built from the schema.
            store: a store whose credentials are used for the shards that lie in it, and for no others; by default
                that of the index.
            verify: see `Dataset`.
            cache: see `Dataset`.
        """
        from atdata.index.routing import dataset_of

        store = self._store if store is None else store
        return dataset_of(self.located, sample_type, store=store, verify=verify, cache=cache)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatasetEntry) and self._plain == other._plain

    def __hash__(self) -> int:
        return hash((self.name, self.version, self.cid))

    @property
    def _plain(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.name.startswith("_")}

    def __reduce__(self) -> tuple[Any, ...]:
        return (_entry, (self._plain, self.located))


def _entry(plain: dict[str, Any], located: Located) -> DatasetEntry:
    return DatasetEntry(**plain, _locate=lambda: located)
