"""An index in Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from atdata.errors import CatalogError, CatalogVersionError, EntryExistsError, EntryNotFoundError
from atdata.index.backend import LensRow, Part, SchemaRow, VersionRow
from atdata.index.names import Ref
from atdata.index.redis_server import RedisServer
from atdata.index.versions import rank_of
from atdata.index.words import words_in

__all__ = ["RedisBackend"]

FORMAT = 1  # of the keys; see redis_scripts
_FORMAT_KEY = "atdata:format"
_PARTS = 100  # of one answer
_STEPS = 2000  # names that one answer of a search looks at, so that other users of the server wait some ms at most
_ALL = 1_000_000_000
# Made here, as threads cannot have msgspec learn a class together (see stores/record.py).
_schema_in = msgspec.json.Decoder(SchemaRow).decode
_version_in = msgspec.json.Decoder(VersionRow).decode


class RedisBackend:
    """An index in a Redis database; see `Backend`. What was added is as safe as the server keeps its data.

    Args:
        url: `redis://` or `rediss://`.

    Raises:
        CatalogError: the URL is malformed, the server refuses, or it may drop what it was given.
        CatalogBusyError: the server cannot be reached.
        CatalogVersionError: the index was made by another version of atdata.
    """

    def __init__(self, url: str) -> None:
        self._server = RedisServer(url)
        try:
            self._prepare()
        except BaseException:
            self._server.close()
            raise

    @property
    def url(self) -> str:
        """The server's URL, without a password."""
        return self._server.url

    def _prepare(self) -> None:
        found: Any = self._server.ask(lambda client: client.get(_FORMAT_KEY))
        if found is None:
            self._refuse_forgetful()
            self._server.ask(lambda client: client.set(_FORMAT_KEY, FORMAT, nx=True))
            found = self._server.ask(lambda client: client.get(_FORMAT_KEY))
        if found != str(FORMAT).encode():
            said = found[:20].decode(errors="replace")
            raise CatalogVersionError(
                f"the index was made by a newer atdata (its keys have format {said!r}, this one knows {FORMAT}); "
                "update with: pip install --upgrade atdata",
                url=self.url,
            )

    def _refuse_forgetful(self) -> None:
        """No index is made where the server throws away what was not used for a while."""
        try:
            memory: Any = self._server.ask(lambda client: client.info("memory"))
        except CatalogError as error:
            if "does not let this user" not in str(error):
                raise
            return  # it keeps its settings to itself
        policy = str(memory.get("maxmemory_policy", ""))
        if policy.startswith("allkeys") and memory.get("maxmemory"):
            raise CatalogError(
                f"the server removes keys when its memory is full (maxmemory-policy {policy}), and would remove parts "
                "of an index; set it to noeviction or volatile-lru",
                url=self.url,
            )

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    # -- adding ----------------------------------------------------------------------------------------------

    def add(self, versions: Sequence[VersionRow], schemas: Sequence[SchemaRow] = ()) -> None:
        """See `Backend.add`."""
        seen = set()
        for row in versions:
            if (row.name, row.rank) in seen:
                raise EntryExistsError(f"{row.name}@{row.version} is given twice; nothing was added")
            seen.add((row.name, row.rank))
        status, *rest = self._server.write(
            "add",
            [[f"{row.name}\0{row.rank}", msgspec.json.encode(row).decode()] for row in schemas],
            [_version_values(row) for row in versions],
            {part.digest.hex(): [part.folder, part.shards] for row in versions for part in row.parts},
        )
        if status == b"schema is there":
            key = rest[0].decode()
            schema = next(row for row in schemas if f"{row.name}\0{row.rank}" == key)
            raise EntryExistsError(f"the index has schema {schema.name}@{schema.version} already")
        if status == b"taken":
            there = [(versions[place], cid.decode()) for place, cid in rest[0]]
            first, cid = min(there, key=lambda pair: (pair[0].name, pair[0].rank))
            same = "with the same content " if cid == first.cid else ""
            raise EntryExistsError(
                f"the index has {first.name}@{first.version} already {same}and versions never change; nothing was "
                "added. Choose another version, or give none to have the next one"
            )
        if status == b"no schema":
            name, version = next(row.schema for row in versions if row.schema and _schema_key(row) == rest[0].decode())
            raise EntryNotFoundError(f"the index has no schema {name}@{version}; publish it first")

    # -- finding ---------------------------------------------------------------------------------------------

    def find(self, refs: Sequence[Ref]) -> list[VersionRow | None]:
        """See `Backend.find`."""
        found = self._server.read("find", [_asked(ref) for ref in refs])
        return [
            None
            if one is None
            else _version_row(
                one[0], one[1], tuple(Part(folder.decode(), shards.decode()) for folder, shards in one[2])
            )
            for one in found
        ]

    def parts(self, name: str, version: str) -> tuple[Part, ...] | None:
        """See `Backend.parts`."""
        (found,) = self.find([Ref(name, version=version)])
        return None if found is None else found.parts

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
        terms = [f"tag:{tag}" for tag in tags]
        if schema is not None:
            name, version = schema
            terms.append(f"of:{name}" if version is None else f"of:{name}\0{rank_of(version)}")
        rows: list[VersionRow] = []
        start = after.encode()
        while True:
            found, start = self._server.read("latest", [start.decode(), limit - len(rows), _STEPS, list(words), terms])
            rows += [_version_row(name, row) for name, row in found]
            if not start or len(rows) >= limit:
                return rows

    def versions(self, name: str, below: str | None, limit: int) -> list[VersionRow]:
        """See `Backend.versions`."""
        found = self._server.read("versions", [name, below or "", limit])
        return [_version_row(name.encode(), row) for row in found]

    def names(self, after: str, limit: int) -> list[str]:
        """See `Backend.names`."""
        found: Any = self._server.ask(
            lambda client: client.zrangebylex("atdata:names", f"({after}", "+", start=0, num=limit)
        )
        return [name.decode() for name in found]

    def schemas(self, name: str, version: str | None = None) -> list[SchemaRow]:
        """See `Backend.schemas`."""
        if version is None:
            return self._schema_rows(f"({name}\0", f"({name}\1", _ALL)
        key = f"[{name}\0{rank_of(version)}"
        return self._schema_rows(key, key, 1)

    def all_schemas(self, after: tuple[str, str], limit: int) -> list[SchemaRow]:
        """See `Backend.all_schemas`."""
        name, rank = after
        return self._schema_rows(f"({name}\0{rank}", "+", limit)

    def _schema_rows(self, first: str, last: str, limit: int) -> list[SchemaRow]:
        found = self._server.read("schemas", [first, last, limit])
        return [_schema_in(row) for row in found]

    def all_parts(self, start: str) -> Iterator[Part]:
        """See `Backend.all_parts`."""
        last = ""
        while page := self._server.read("parts", [start, last, _PARTS]):
            for _, folder, shards in page:
                yield Part(folder.decode(), shards.decode())
            last = page[-1][0].decode()

    def labels(self, name: str) -> dict[str, str]:
        """See `Backend.labels`."""
        return {label.decode(): version.decode() for label, version in self._server.read("labels", [name])}

    # -- lenses ----------------------------------------------------------------------------------------------

    def add_lens(self, row: LensRow) -> None:
        """See `Backend.add_lens`."""
        ends = {key: f"{each.name}\0{each.rank}" for key, each in (("source", row.source), ("view", row.view))}
        values = {"name": row.name, "record": row.record, "created": str(row.created_at), **ends}
        status, *rest = self._server.write("add_lens", row.cid, values)
        if status == b"no schema":
            schema = row.source if rest[0].decode() == ends["source"] else row.view
            raise EntryNotFoundError(f"the index has no schema {schema.name}@{schema.version}; publish it first")

    def lens(self, cid: str) -> LensRow | None:
        """See `Backend.lens`."""
        return next(iter(self._lens_rows([cid])), None)

    def lenses(self, after: tuple[str, str], limit: int, *, name: str | None = None) -> list[LensRow]:
        """See `Backend.lenses`."""
        first = "-" if after == ("", "") else f"({after[0]}\0{after[1]}"
        last = "+" if name is None else f"({name}\1"
        if name is not None and after[0] < name:
            first = f"({name}\0"
        return self._lens_rows([], first, last, limit)

    def _lens_rows(self, *asked: Any) -> list[LensRow]:
        found = self._server.read("lenses", asked)
        return [
            LensRow(cid.decode(), name.decode(), _schema_in(source), _schema_in(view), record.decode(), int(created))
            for cid, name, record, created, source, view in found
        ]

    # -- changing --------------------------------------------------------------------------------------------

    def set_label(self, name: str, label: str, version: str | None) -> None:
        """See `Backend.set_label`."""
        status, *_ = self._server.write("set_label", name, label, "" if version is None else rank_of(version))
        _raise_missing(status, name, version)
        if status == b"no label":
            raise EntryNotFoundError(f"{name} has no label {label!r}")

    def delete(self, name: str, version: str | None) -> None:
        """See `Backend.delete`."""
        status, *rest = self._server.write("delete", name, "" if version is None else rank_of(version))
        _raise_missing(status, name, version)
        if status == b"labelled":
            labels = ", ".join(sorted(label.decode() for label in rest[0]))
            raise EntryExistsError(
                f"{name}@{version} is what these labels mean: {labels}. Set them to another version or remove them, "
                "then delete"
            )

    def rename(self, old: str, new: str) -> None:
        """See `Backend.rename`."""
        status, *_ = self._server.write("rename", old, new, _word_terms([new]))
        _raise_missing(status, old, None)
        if status == b"taken":
            raise EntryExistsError(f"the index has a dataset {new!r} already; nothing was renamed")


def _raise_missing(status: bytes, name: str, version: str | None) -> None:
    if status == b"no dataset":
        raise EntryNotFoundError(f"the index has no dataset {name!r}")
    if status == b"no version":
        raise EntryNotFoundError(f"{name} has no version {version}")


def _asked(ref: Ref) -> tuple[str, str, str]:
    if ref.name is None:
        return "cid", "", ref.cid or ""
    if ref.version is not None:
        return "rank", ref.name, rank_of(ref.version)
    return ("name", ref.name, "") if ref.label is None else ("label", ref.name, ref.label)


def _word_terms(texts: Sequence[str | None]) -> list[str]:
    return [f"word:{word}" for word in words_in(texts)]


def _schema_key(row: VersionRow) -> str:
    return "" if row.schema is None else f"{row.schema[0]}\0{rank_of(row.schema[1])}"


def _version_values(row: VersionRow) -> dict[str, Any]:
    schema = None if row.schema is None else row.schema[0]
    terms = _word_terms([row.description, *row.tags, schema]) + [f"tag:{tag}" for tag in row.tags]
    if schema is not None:
        terms += [f"of:{schema}", f"of:{_schema_key(row)}"]
    return {
        "name": row.name,
        "own": _word_terms([row.name]),
        "version": row.version,
        "rank": row.rank,
        "cid": row.cid,
        "created": str(row.created_at),
        "schema": _schema_key(row),
        # A dataset can be renamed, and versions share parts: both are kept beside it.
        "row": msgspec.json.encode(msgspec.structs.replace(row, name="", parts=())).decode(),
        "parts": [part.digest.hex() for part in row.parts],
        "terms": terms,
    }


def _version_row(name: bytes, row: bytes, parts: tuple[Part, ...] = ()) -> VersionRow:
    return msgspec.structs.replace(_version_in(row), name=name.decode(), parts=parts)
