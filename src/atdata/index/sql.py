"""An index in SQL: one set of statements for SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from atdata.errors import CatalogError, EntryExistsError, EntryNotFoundError
from atdata.index import tables
from atdata.index.backend import LensRow, Part, SchemaRow, VersionRow
from atdata.index.bulk import Look, changes
from atdata.index.engine import Database
from atdata.index.fulltext import full_text
from atdata.index.migration import prepare
from atdata.index.names import Ref
from atdata.index.sql_lenses import LensTable
from atdata.index.versions import rank_of

__all__ = ["SqlBackend"]

T = TypeVar("T")

_datasets, _versions, _schemas = tables.datasets, tables.versions, tables.schemas
_parts, _version_parts = tables.parts, tables.version_parts
_labels, _tags = tables.labels, tables.tags

_ROWS = 500  # rows of one statement, far below what the engines allow
_tags_in = msgspec.json.Decoder(tuple[str, ...]).decode
_LAST = "\U0010ffff"  # sorts after every other character, byte by byte too

_COLUMNS = (
    _versions.c.id,
    _datasets.c.name,
    _versions.c.version,
    _versions.c.cid,
    _schemas.c.name.label("schema_name"),
    _schemas.c.version.label("schema_version"),
    _versions.c.parent,
    _versions.c.description,
    _versions.c.tags,
    _versions.c.license,
    _versions.c.metadata,
    _versions.c.created_at,
    _versions.c.samples,
    _versions.c.size,
)


def _rows(on: Any) -> sa.Select[Any]:
    joined = _datasets.join(_versions, on).outerjoin(_schemas, _versions.c.schema_id == _schemas.c.id)
    return sa.select(*_COLUMNS).select_from(joined)


_LATEST = _rows(_versions.c.id == _datasets.c.latest)
_ALL = _rows(_versions.c.dataset_id == _datasets.c.id)
_NAMED = _LATEST.where(_datasets.c.name.in_(sa.bindparam("names", expanding=True)))
_NUMBERED = _ALL.where(_datasets.c.name == sa.bindparam("name"), _versions.c.rank == sa.bindparam("rank"))
_LABELLED = _ALL.join(_labels, _labels.c.version_id == _versions.c.id).where(
    _datasets.c.name == sa.bindparam("name"), _labels.c.label == sa.bindparam("label")
)
_WITH_CID = _ALL.where(_versions.c.cid == sa.bindparam("cid")).order_by(_versions.c.id.desc()).limit(1)
_PAGE = (
    _LATEST.where(_datasets.c.name > sa.bindparam("after"))
    .order_by(_datasets.c.name)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_PARTS_OF = (
    sa.select(_version_parts.c.version_id, _parts.c.folder, _parts.c.shards)
    .join(_parts, _parts.c.digest == _version_parts.c.digest)
    .where(_version_parts.c.version_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(_version_parts.c.version_id, _version_parts.c.position)
)
_ANY_LOCKED = (
    sa.select(_datasets.c.id, _datasets.c.name, _datasets.c.latest, _versions.c.rank)
    .select_from(_datasets.outerjoin(_versions, _versions.c.id == _datasets.c.latest))
    .order_by(_datasets.c.name)  # all take locks in one order, so that none waits for another in a circle
    .with_for_update(of=_datasets)
)
_LOCKED = _ANY_LOCKED.where(_datasets.c.name.in_(sa.bindparam("names", expanding=True)))
_TAKEN = sa.select(_versions.c.dataset_id, _versions.c.rank, _versions.c.cid, _versions.c.created_at).where(
    _versions.c.dataset_id.in_(sa.bindparam("ids", expanding=True)),
    _versions.c.rank.in_(sa.bindparam("ranks", expanding=True)),
)
_SCHEMAS = sa.select(*(_schemas.c[name] for name in SchemaRow.__struct_fields__)).order_by(
    _schemas.c.name, _schemas.c.rank
)
_SCHEMA = _SCHEMAS.where(_schemas.c.name == sa.bindparam("name"), _schemas.c.rank == sa.bindparam("rank"))
_SCHEMA_IDS = sa.select(_schemas.c.id, _schemas.c.name, _schemas.c.version)
_DROP_TAGS = sa.delete(_tags).where(_tags.c.dataset_id.in_(sa.bindparam("of", expanding=True)))


class SqlBackend:
    """An index in a SQLite file or a PostgreSQL database; see `Backend`.

    Args:
        target: the file, or the server's URL.

    Raises:
        CatalogError: it cannot be opened.
        CatalogVersionError: it was made by another version of atdata.
    """

    def __init__(self, target: Path | sa.URL) -> None:
        self._database = Database(target)
        dialect = self._database.dialect
        self._text = full_text(dialect)
        self._lenses = LensTable(self._database)
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
        self._many = changes(dialect)
        self._named = Look(dialect, _LATEST, _datasets.c.name)
        self._locked = Look(dialect, _ANY_LOCKED, _datasets.c.name)
        self._schema_ids_named = Look(dialect, _SCHEMA_IDS, _schemas.c.name)
        self._schemas_named = Look(dialect, _SCHEMAS, _schemas.c.name)
        self._add_schema = insert(_schemas).on_conflict_do_nothing().returning(_schemas.c.id)
        try:
            prepare(self._database)
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def on_server(cls, url: str) -> SqlBackend:
        """An index in the PostgreSQL database at a URL.

        Raises:
            CatalogError: the URL is malformed, or the database cannot be opened.
        """
        try:
            return cls(sa.make_url(url).set(drivername="postgresql"))
        except (sa.exc.ArgumentError, ValueError):
            raise CatalogError(
                "the URL of the index cannot be read; write postgresql://user@host:port/database, with special "
                "characters of the password percent-encoded"
            ) from None

    @property
    def url(self) -> str:
        """The file or the server's URL, without a password."""
        return self._database.url

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    # -- adding ----------------------------------------------------------------------------------------------

    def add(self, versions: Sequence[VersionRow], schemas: Sequence[SchemaRow] = ()) -> None:
        """See `Backend.add`."""

        def work(connection: sa.Connection, again: bool) -> None:
            for row in schemas:
                self._put_schema(connection, row, again)
            if versions:
                self._put_versions(connection, versions, again)

        self._database.write(work)

    def _put_schema(self, connection: sa.Connection, row: SchemaRow, again: bool) -> None:
        values = {**msgspec.structs.asdict(row), "rank": row.rank}
        if connection.execute(self._add_schema, values).scalar() is None:
            there = self._schema_rows(connection, row.name, row.rank)
            if not (again and there == [row]):
                raise EntryExistsError(f"the index has schema {row.name}@{row.version} already")

    def _put_versions(self, connection: sa.Connection, rows: Sequence[VersionRow], again: bool) -> None:
        names = sorted({row.name for row in rows})
        self._many.datasets.execute(connection, [{"name": name} for name in names])
        found = [d for some in _chunks(names) for d in self._locked.rows(connection, some)]
        ids = {d.name: d.id for d in found}
        if self._taken(connection, rows, ids, [d.id for d in found if d.latest is not None], again):
            return
        schema_ids = self._schema_ids(connection, {row.schema for row in rows if row.schema is not None})
        values = [_version_values(row, ids[row.name], schema_ids) for row in rows]
        added = {
            (dataset_id, rank): version_id
            for version_id, dataset_id, rank in self._many.versions.execute(connection, values)
        }
        version_ids = [added[ids[row.name], row.rank] for row in rows]
        unique = {part.digest: part for row in rows for part in row.parts}
        self._many.parts.execute(
            connection,
            [{"digest": d, "folder": unique[d].folder, "shards": unique[d].shards} for d in sorted(unique)],
        )
        self._many.version_parts.execute(
            connection,
            [
                {"version_id": version_id, "position": position, "digest": part.digest}
                for version_id, row in zip(version_ids, rows, strict=True)
                for position, part in enumerate(row.parts)
            ],
        )
        latest: dict[str, tuple[str, int, VersionRow]] = {}
        for version_id, row in zip(version_ids, rows, strict=True):
            if row.name not in latest or latest[row.name][0] < row.rank:
                latest[row.name] = row.rank, version_id, row
        old = {d.name: d.rank for d in found}
        raised = {name: new for name, new in latest.items() if old[name] is None or old[name] < new[0]}
        self._show_latest(
            connection,
            [(ids[name], version_id, row) for name, (_, version_id, row) in raised.items()],
            replaced=[ids[name] for name in raised if old[name] is not None],
        )

    def _taken(
        self,
        connection: sa.Connection,
        rows: Sequence[VersionRow],
        ids: dict[str, int],
        old: list[int],
        again: bool,
    ) -> bool:
        """Whether just these rows were added by us; raises when others are in their place. Datasets are locked."""
        wanted: dict[tuple[int, str], VersionRow] = {}
        for row in rows:
            key = ids[row.name], row.rank
            if key in wanted:
                raise EntryExistsError(f"{row.name}@{row.version} is given twice; nothing was added")
            wanted[key] = row
        there = [
            (wanted[t.dataset_id, t.rank], t)
            for some in _chunks(old)
            for ranks in _chunks(sorted({row.rank for row in rows}))
            for t in connection.execute(_TAKEN, {"ids": some, "ranks": ranks})
            if (t.dataset_id, t.rank) in wanted
        ]
        if again and len(there) == len(rows) and all((t.cid, t.created_at) == (r.cid, r.created_at) for r, t in there):
            return True
        if there:
            row, first = min(there, key=lambda pair: (pair[0].name, pair[0].rank))
            same = "with the same content " if first.cid == row.cid else ""
            raise EntryExistsError(
                f"the index has {row.name}@{row.version} already {same}and versions never change; nothing was added. "
                "Choose another version, or give none to have the next one"
            )
        return False

    def _schema_ids(self, connection: sa.Connection, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for some in _chunks(sorted({name for name, _ in wanted})):
            found.update(((s.name, s.version), s.id) for s in self._schema_ids_named.rows(connection, some))
        for name, version in wanted:
            if (name, version) not in found:
                raise EntryNotFoundError(f"the index has no schema {name}@{version}; publish it first")
        return found

    def _show_latest(
        self, connection: sa.Connection, new: Sequence[tuple[int, int, VersionRow]], *, replaced: Sequence[int]
    ) -> None:
        """Make versions the latest of their datasets, which are found by what these say."""
        self._many.latest.execute(connection, [{"of": of, "latest": latest} for of, latest, _ in new])
        for some in _chunks(replaced):
            connection.execute(_DROP_TAGS, {"of": some})
        tags = [{"tag": tag, "dataset_id": of} for of, _, row in new for tag in row.tags]
        self._many.tags.execute(connection, tags)
        self._text.put.execute(connection, [{"id": of, "words": " ".join(row.words())} for of, _, row in new])

    # -- finding ---------------------------------------------------------------------------------------------

    def find(self, refs: Sequence[Ref]) -> list[VersionRow | None]:
        """See `Backend.find`."""
        return self._database.read(lambda connection: self._find(connection, refs))

    def _find(self, connection: sa.Connection, refs: Sequence[Ref]) -> list[VersionRow | None]:
        by_name: dict[str, Any] = {}
        plain = sorted({ref.name for ref in refs if ref.name is not None and not (ref.version or ref.label)})
        for some in _chunks(plain):
            by_name.update((row.name, row) for row in self._named.rows(connection, some))
        found = []
        for ref in refs:
            if ref.name is None:
                found.append(connection.execute(_WITH_CID, {"cid": ref.cid}).first())
            elif ref.version is not None:
                rank = rank_of(ref.version)
                found.append(connection.execute(_NUMBERED, {"name": ref.name, "rank": rank}).first())
            elif ref.label is not None:
                found.append(connection.execute(_LABELLED, {"name": ref.name, "label": ref.label}).first())
            else:
                found.append(by_name.get(ref.name))
        parts = self._parts_of(connection, [row.id for row in found if row is not None])
        return [None if row is None else _version_row(row, parts[row.id]) for row in found]

    def parts(self, name: str, version: str) -> tuple[Part, ...] | None:
        """See `Backend.parts`."""
        (found,) = self.find([Ref(name, version=version)])
        return None if found is None else found.parts

    def _parts_of(self, connection: sa.Connection, ids: Iterable[int]) -> dict[int, tuple[Part, ...]]:
        found: dict[int, list[Part]] = {}
        for some in _chunks(sorted(set(ids))):
            for row in connection.execute(_PARTS_OF, {"ids": some}):
                found.setdefault(row.version_id, []).append(Part(row.folder, row.shards))
        return {version_id: tuple(parts) for version_id, parts in found.items()}

    def latest(
        self,
        after: str,
        limit: int,
        *,
        words: Sequence[str] = (),
        tags: Sequence[str] = (),
        schema: tuple[str, str | None] | None = None,
    ) -> list[VersionRow]:
        """See `Backend.latest`."""
        query, values = _PAGE, {"after": after, "limit": limit}
        if words:
            query = query.where(_datasets.c.id.in_(self._text.matching))
            values["query"] = self._text.query(words)
        for tag in tags:
            query = query.where(_datasets.c.id.in_(sa.select(_tags.c.dataset_id).where(_tags.c.tag == tag)))
        if schema is not None:
            name, version = schema
            of_name = sa.select(_schemas.c.id).where(_schemas.c.name == name)
            if version is not None:
                of_name = of_name.where(_schemas.c.rank == rank_of(version))
            query = query.where(_versions.c.schema_id.in_(of_name))
        return self._page(query, values)

    def versions(self, name: str, below: str | None, limit: int) -> list[VersionRow]:
        """See `Backend.versions`."""
        query = _ALL.where(_datasets.c.name == name).order_by(_versions.c.rank.desc()).limit(limit)
        return self._page(query if below is None else query.where(_versions.c.rank < below), {})

    def _page(self, query: sa.Select[Any], values: dict[str, Any]) -> list[VersionRow]:
        return [_version_row(row, ()) for row in self._selected(query, values)]

    def _selected(self, query: sa.Select[Any], values: dict[str, Any] | None = None) -> Sequence[Any]:
        return self._database.read(lambda connection: connection.execute(query, values or {}).all())

    def names(self, after: str, limit: int) -> list[str]:
        """See `Backend.names`."""
        query = sa.select(_datasets.c.name).where(_datasets.c.name > after).order_by(_datasets.c.name).limit(limit)
        return self._database.read(lambda connection: list(connection.execute(query).scalars()))

    def schemas(self, name: str, version: str | None = None) -> list[SchemaRow]:
        """See `Backend.schemas`."""
        rank = None if version is None else rank_of(version)
        return self._database.read(lambda connection: self._schema_rows(connection, name, rank))

    def all_schemas(self, after: tuple[str, str], limit: int) -> list[SchemaRow]:
        """See `Backend.all_schemas`."""
        name, rank = after
        later = sa.or_(_schemas.c.name > name, sa.and_(_schemas.c.name == name, _schemas.c.rank > rank))
        return [SchemaRow(*row) for row in self._selected(_SCHEMAS.where(later).limit(limit))]

    def _schema_rows(self, connection: sa.Connection, name: str, rank: str | None) -> list[SchemaRow]:
        if rank is None:
            return [SchemaRow(*row) for row in self._schemas_named.rows(connection, [name])]
        return [SchemaRow(*row) for row in connection.execute(_SCHEMA, {"name": name, "rank": rank})]

    def all_parts(self, start: str) -> Iterator[Part]:
        """See `Backend.all_parts`."""
        first = sa.select(_parts.c.folder, _parts.c.digest, _parts.c.shards).where(
            _parts.c.folder >= start, _parts.c.folder < start + _LAST
        )
        query = first.order_by(_parts.c.folder, _parts.c.digest).limit(_ROWS)
        page = self._selected(query)
        while page:
            for row in page:
                yield Part(row.folder, row.shards)
            last = page[-1]
            later = sa.or_(
                _parts.c.folder > last.folder, sa.and_(_parts.c.folder == last.folder, _parts.c.digest > last.digest)
            )
            page = self._selected(query.where(later))

    # -- lenses ----------------------------------------------------------------------------------------------

    def add_lens(self, row: LensRow) -> None:
        """See `Backend.add_lens`."""
        self._lenses.add(row)

    def lens(self, cid: str) -> LensRow | None:
        """See `Backend.lens`."""
        return self._lenses.one(cid)

    def lenses(self, after: tuple[str, str], limit: int, *, name: str | None = None) -> list[LensRow]:
        """See `Backend.lenses`."""
        return self._lenses.page(after, limit, name)

    # -- changing --------------------------------------------------------------------------------------------

    def set_label(self, name: str, label: str, version: str | None) -> None:
        """See `Backend.set_label`."""

        def work(connection: sa.Connection, again: bool) -> None:
            dataset = _lock(connection, name)
            there = sa.and_(_labels.c.dataset_id == dataset.id, _labels.c.label == label)
            if version is None:
                if not connection.execute(sa.delete(_labels).where(there)).rowcount and not again:
                    raise EntryNotFoundError(f"{name} has no label {label!r}")
                return
            found = _id_of(connection, dataset.id, name, version)
            connection.execute(sa.delete(_labels).where(there))
            connection.execute(sa.insert(_labels), {"dataset_id": dataset.id, "label": label, "version_id": found})

        self._database.write(work)

    def labels(self, name: str) -> dict[str, str]:
        """See `Backend.labels`."""
        query = (
            sa.select(_labels.c.label, _versions.c.version)
            .join(_versions, _versions.c.id == _labels.c.version_id)
            .join(_datasets, _datasets.c.id == _labels.c.dataset_id)
            .where(_datasets.c.name == name)
            .order_by(_labels.c.id)
        )
        return self._database.read(lambda connection: {row.label: row.version for row in connection.execute(query)})

    def delete(self, name: str, version: str | None) -> None:
        """See `Backend.delete`."""

        def work(connection: sa.Connection, again: bool) -> None:
            try:
                dataset = _lock(connection, name)
                if version is None:
                    self._remove(connection, dataset.id, None)
                else:
                    found = _id_of(connection, dataset.id, name, version)
                    self._refuse_labelled(connection, found, f"{name}@{version}")
                    self._remove(connection, dataset.id, found)
                    if found == dataset.latest:
                        self._find_latest(connection, dataset.id)
            except EntryNotFoundError:
                if not again:
                    raise

        self._database.write(work)

    def _refuse_labelled(self, connection: sa.Connection, version_id: int, ref: str) -> None:
        query = sa.select(_labels.c.label).where(_labels.c.version_id == version_id).order_by(_labels.c.label)
        labels = connection.execute(query).scalars().all()
        if labels:
            raise EntryExistsError(
                f"{ref} is what these labels mean: {', '.join(labels)}. Set them to another version or remove them, "
                "then delete"
            )

    def _remove(self, connection: sa.Connection, dataset_id: int, version_id: int | None) -> None:
        """Remove one version or, with None, the dataset with all of them, and the parts that no other version has."""
        those = _versions.c.dataset_id == dataset_id if version_id is None else _versions.c.id == version_id
        ids = sa.select(_versions.c.id).where(those)
        digests = sa.select(_version_parts.c.digest).where(_version_parts.c.version_id.in_(ids)).distinct()
        shared = connection.execute(digests).scalars().all()
        connection.execute(sa.delete(_version_parts).where(_version_parts.c.version_id.in_(ids)))
        for some in _chunks(shared):
            still = sa.select(_version_parts.c.digest).where(_version_parts.c.digest == _parts.c.digest)
            connection.execute(sa.delete(_parts).where(_parts.c.digest.in_(some), ~still.exists()))
        if version_id is None:
            connection.execute(sa.delete(_labels).where(_labels.c.dataset_id == dataset_id))
        connection.execute(sa.delete(_versions).where(those))
        if version_id is None:
            self._drop_dataset(connection, dataset_id)

    def _drop_dataset(self, connection: sa.Connection, dataset_id: int) -> None:
        connection.execute(_DROP_TAGS, {"of": [dataset_id]})
        connection.execute(self._text.remove, {"id": dataset_id})
        connection.execute(sa.delete(_datasets).where(_datasets.c.id == dataset_id))

    def _find_latest(self, connection: sa.Connection, dataset_id: int) -> None:
        """After the latest version was removed: the next one takes its place, or the dataset goes too."""
        query = _ALL.where(_datasets.c.id == dataset_id).order_by(_versions.c.rank.desc()).limit(1)
        row = connection.execute(query).first()
        if row is None:
            self._drop_dataset(connection, dataset_id)
        else:
            self._show_latest(connection, [(dataset_id, row.id, _version_row(row, ()))], replaced=[dataset_id])

    def rename(self, old: str, new: str) -> None:
        """See `Backend.rename`."""

        def work(connection: sa.Connection, again: bool) -> None:
            found = {row.name: row for row in connection.execute(_LOCKED, {"names": [old, new]})}
            if new in found:
                if again and old not in found:
                    return
                raise EntryExistsError(f"the index has a dataset {new!r} already; nothing was renamed")
            if old not in found:
                raise EntryNotFoundError(f"the index has no dataset {old!r}")
            dataset = found[old]
            connection.execute(sa.update(_datasets).where(_datasets.c.id == dataset.id).values(name=new))
            row = connection.execute(_NAMED, {"names": [new]}).one()
            self._show_latest(connection, [(dataset.id, row.id, _version_row(row, ()))], replaced=[dataset.id])

        self._database.write(work)


def _lock(connection: sa.Connection, name: str) -> Any:
    row = connection.execute(_LOCKED, {"names": [name]}).first()
    if row is None:
        raise EntryNotFoundError(f"the index has no dataset {name!r}")
    return row


def _id_of(connection: sa.Connection, dataset_id: int, name: str, version: str) -> int:
    query = sa.select(_versions.c.id).where(_versions.c.dataset_id == dataset_id, _versions.c.rank == rank_of(version))
    found: int | None = connection.execute(query).scalar()
    if found is None:
        raise EntryNotFoundError(f"{name} has no version {version}")
    return found


def _version_values(row: VersionRow, dataset_id: int, schemas: dict[tuple[str, str], int]) -> dict[str, Any]:
    return {
        "dataset_id": dataset_id,
        "version": row.version,
        "rank": row.rank,
        "cid": row.cid,
        "schema_id": None if row.schema is None else schemas[row.schema],
        "parent": row.parent,
        "description": row.description,
        "tags": msgspec.json.encode(row.tags).decode(),
        "license": row.license,
        "metadata": row.metadata,
        "created_at": row.created_at,
        "samples": row.samples,
        "size": row.size,
    }


def _version_row(row: Any, parts: tuple[Part, ...]) -> VersionRow:
    # In the order of _COLUMNS; by their names it would take twice as long.
    _, name, version, cid, schema_name, schema_version, parent, text, tags, rights, extra, created, samples, size = row
    schema = None if schema_name is None else (schema_name, schema_version)
    try:
        words = _tags_in(tags)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CatalogError(f"the tags of {name}@{version} in the index were altered: {error}") from None
    return VersionRow(name, version, cid, schema, parent, text, words, rights, extra, created, samples, size, parts)


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for at in range(0, len(values), _ROWS):
        yield values[at : at + _ROWS]
