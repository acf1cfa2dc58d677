"""The commands about an index and their options; see `atdata.cli.app`."""

from __future__ import annotations

from typing import Annotated

import typer

from atdata.cli.options import Every, Index, Json, Yes, age
from atdata.cli.reporting import reporting

__all__ = ["COMMANDS", "copy", "migrate", "schema_diff", "schema_ls", "schema_show"]

Ref = Annotated[
    str,
    typer.Argument(metavar="REF", help="A dataset: name, name@1.0.0, name@label, or a content identifier."),
]


def ls(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="List the versions of this dataset.")] = None,
    index: Index = None,
    every: Every = False,
    json: Json = False,
) -> None:
    """List the datasets in an index.

    The latest version of each, by name; with NAME, every version of that one, the highest first.
    """
    with reporting(json) as report:
        from atdata.cli.catalog import listing

        listing(report, index, name, every=every)


def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORDS]", help="Words, or their beginnings, of name, description, tags or type."),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag that it has; may be repeated.")] = None,
    schema: Annotated[
        str | None, typer.Option("--schema", metavar="NAME", help="The type, as Name or Name@1.0.0.")
    ] = None,
    index: Index = None,
    every: Every = False,
    json: Json = False,
) -> None:
    """Find datasets in an index.

    Those whose latest version has all of the words, all of the tags, and that type.
    """
    with reporting(json) as report:
        from atdata.cli.catalog import search as run

        run(report, index, words or [], tag or [], schema, every=every)


def show(ref: Ref, index: Index = None, every: Every = False, json: Json = False) -> None:
    """Say what an index knows of a dataset.

    Description, type, content identifier, labels, versions, and where its shards lie.
    """
    with reporting(json) as report:
        from atdata.cli.catalog import show as run

        run(report, index, ref, every=every)


Side = Annotated[str, typer.Argument(help="A dataset by name (name@1.0.0), or a folder, glob or URL.")]


def diff(
    old: Side,
    new: Side,
    index: Index = None,
    every: Every = False,
    json: Json = False,
) -> None:
    """Say what changed between two datasets.

    Samples added, removed and changed, by key and digest, told by manifests alone; shards without one are read. Exits
    with 1 when the datasets differ.
    """
    with reporting(json) as report:
        from atdata.cli.changes import run

        run(report, index, old, new, every=every)


def rm(ref: Ref, yes: Yes = False, index: Index = None, json: Json = False) -> None:
    """Let an index forget a dataset, or a version.

    The shards stay where they are; `atdata gc` finds those that no version refers to any more. Asks before, on a
    terminal.
    """
    with reporting(json) as report:
        from atdata.cli.catalog import remove

        remove(report, index, ref, yes=yes)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URL", help="A folder or bucket; else ~/.atdata/data.")
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="Look only under this prefix of the store.")] = "",
    grace: Annotated[
        float,
        typer.Option("--grace", metavar="AGE", parser=age, help="Leave alone what is younger: 30m, 12h, 7d, 2w."),
    ] = "7d",  # type: ignore[assignment]
    yes: Yes = False,
    index: Index = None,
    json: Json = False,
) -> None:
    """Remove shards that no version refers to.

    Looks for datasets that atdata wrote and for writes that were never finished. What is used by its path only, or by
    another index, is not known here. Asks before, on a terminal.
    """
    with reporting(json) as report:
        from atdata.cli.catalog import collect

        collect(report, index, store, prefix, grace, dry_run=dry_run, yes=yes)


def migrate(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="The index; else ATDATA_INDEX, else ~/.atdata/index.db.")
    ] = None,
    json: Json = False,
) -> None:
    """Bring an index of an older atdata up to date."""
    with reporting(json) as report:
        from atdata.cli.catalog import migrate as run

        run(report, url)


def copy(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="An index, file or URL; also one of the public implementation.")
    ],
    to: Annotated[str, typer.Argument(metavar="TO", help="An index, file or URL; made when there is none.")],
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Give a dataset another name; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be copied; read no shard.")] = False,
    json: Json = False,
) -> None:
    """Copy what one index has to another.

    Schemas, datasets with all versions, and labels; shards stay where they are. FROM is not changed, nothing in TO is
    replaced, and the same command goes on with a copy that was interrupted. Shards that FROM knows no digest of are
    read once. Exits with 1 when something was left out, and says what.
    """
    with reporting(json) as report:
        from atdata.cli.index_copy import run

        run(report, source, to, rename or [], dry_run=dry_run)


Type = Annotated[
    str, typer.Argument(metavar="REF", help="A type in the index (Name@1.0.0), or a dataset by name or place.")
]


def schema_show(ref: Type, index: Index = None, json: Json = False) -> None:
    """Show a sample type as a class definition.

    With --json, the stored record.
    """
    with reporting(json) as report:
        from atdata.cli.schema import run
        from atdata.cli.schemas import schema_at

        run(report, schema_at(ref, index))


def schema_diff(old: Type, new: Type, index: Index = None, json: Json = False) -> None:
    """Say what changed from one type to another.

    Field by field, and whether older data can be read. Exits with 1 when there is a change that matters to data.
    """
    with reporting(json) as report:
        from atdata.cli.schemas import difference

        difference(report, index, old, new)


def schema_ls(index: Index = None, json: Json = False) -> None:
    """List the types in an index."""
    with reporting(json) as report:
        from atdata.cli.schemas import listing

        listing(report, index)


COMMANDS = (ls, search, show, diff, rm, gc)
