"""Search for words by each engine's own means: FTS5 in SQLite, tsvector in PostgreSQL.

The words come from `atdata.index.words`, so that both find the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from atdata.index.bulk import InFile, Many, OnServer

__all__ = ["FullText", "full_text"]


class FullText(NamedTuple):
    """The statements for one engine.

    Attributes:
        put: sets the words of datasets; takes `id` and `words`, with blanks between them.
        remove: takes `id`.
        matching: the ids of the datasets that match; takes `query`.
        word: how a query says the beginning of a word; filled in by `%`.
        and_: how it says that two words have to be there.
    """

    put: Many
    remove: sa.TextClause
    matching: sa.TextualSelect
    word: str
    and_: str

    def query(self, words: Sequence[str]) -> str:
        """The query for datasets that have, for each of `words`, a word that begins so."""
        return self.and_.join(self.word % word for word in words)


def full_text(dialect: str) -> FullText:
    """The statements for an engine."""
    return _ENGINES[dialect]


_PUT_VECTORS = (
    "INSERT INTO atdata_words (dataset_id, words) %s ON CONFLICT (dataset_id) DO UPDATE SET words = excluded.words"
)
_ENGINES = {
    "sqlite": FullText(
        InFile(sa.text("INSERT OR REPLACE INTO atdata_words (rowid, words) VALUES (:id, :words)")),
        sa.text("DELETE FROM atdata_words WHERE rowid = :id"),
        sa.text("SELECT rowid AS id FROM atdata_words WHERE atdata_words MATCH :query").columns(id=sa.BigInteger),
        '"%s"*',
        " ",
    ),
    "postgresql": FullText(
        OnServer(
            sa.text(_PUT_VECTORS % "VALUES (:id, array_to_tsvector(string_to_array(:words, ' ')))"),
            sa.text(
                _PUT_VECTORS % "SELECT id, array_to_tsvector(string_to_array(words, ' ')) "
                "FROM json_to_recordset(CAST(:rows AS json)) AS document (id bigint, words text)"
            ),
        ),
        sa.text("DELETE FROM atdata_words WHERE dataset_id = :id"),
        sa.text("SELECT dataset_id AS id FROM atdata_words WHERE words @@ CAST(:query AS tsquery)").columns(
            id=sa.BigInteger
        ),
        "'%s':*",
        " & ",
    ),
}
