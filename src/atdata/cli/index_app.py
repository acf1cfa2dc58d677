"""The commands about an index and their options; see `atdata.cli.app`."""

from __future__ import annotations

from typing import Annotated

import typer

from atdata.cli.options import Every, Index, Json, Yes, age
from atdata.cli.reporting import reporting

__all__ = ["COMMANDS", "copy", "migrate", "schema_diff", "schema_ls", "schema_show"]

Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF",
        help="A dataset: name, name@1.0.0, name@label, or a content identifier; of an account, @handle/name.",
    ),
]


def ls(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="List the versions of this dataset; @handle lists what an account has published."
        ),
    ] = None,
    index: Index = None,
    every: Every = False,
    json: Json = False,
) -> None:
    """List the datasets in an index, or of an account.

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

    Schemas, lenses, datasets with all versions, and labels; shards stay where they are. FROM is not changed, nothing in
    TO is replaced, and the same command goes on with a copy that was interrupted. Shards that FROM knows no digest of
    are read once. Exits with 1 when something was left out, and says what.
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


def publish(
    ref: Annotated[
        str, typer.Argument(metavar="NAME", help="A dataset of the index (name, name@1.0.0), or a folder or URL.")
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="ACCOUNT", help="The account, which has to be the one that is logged in.")
    ] = "@me",
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Its name there; needed for a folder or URL.")
    ] = None,
    blobs: Annotated[
        bool, typer.Option("--blobs", help="Put the shards into the account, too, instead of leaving them in place.")
    ] = False,
    description: Annotated[str | None, typer.Option("--description", metavar="TEXT", help="What it is.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A word to find it by; may be repeated.")] = None,
    license: Annotated[str | None, typer.Option("--license", metavar="NAME", help="Such as CC-BY-4.0.")] = None,
    index: Index = None,
    json: Json = False,
) -> None:
    """Publish a dataset in an account of the network.

    Anyone can then find it as @handle/NAME, and prove that it is what the account signed. Shards on S3 or the web stay
    where they are; those on this machine need --blobs, or `atdata cp` to such a place first. The same command goes on
    with what was interrupted.
    """
    with reporting(json) as report:
        from atdata.cli.sharing import publish as run

        details = {"description": description, "tags": tag, "license": license}
        run(report, index, ref, to, name, details, blobs=blobs)


def pull(
    ref: Annotated[str, typer.Argument(metavar="REF", help="A dataset of an account: @handle/name, at://….")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="FOLDER", help="A folder, or s3:// with a prefix; the dataset gets a folder of its name."
        ),
    ] = ".",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset that is there.")] = False,
    json: Json = False,
) -> None:
    """Copy a dataset from an account of the network.

    Its record is proved to be what the account signed, and every file is checked against its digest on the way. The
    same command goes on with a copy that was interrupted.
    """
    with reporting(json) as report:
        from atdata.cli.sharing import pull as run

        run(report, ref, to, overwrite=overwrite)


def unpublish(
    ref: Annotated[
        str, typer.Argument(metavar="NAME", help="A dataset of the account that is logged in: name, name@1.0.0.")
    ],
    blobs: Annotated[
        bool, typer.Option("--blobs", help="Drop the shards, too, that the account keeps for no other version.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Take a dataset, or a version, out of the own account.

    Asks before, on a terminal. What others have copied stays with them.
    """
    with reporting(json) as report:
        from atdata.cli.sharing import unpublish as run

        run(report, ref, blobs=blobs, yes=yes)


COMMANDS = (ls, search, show, diff, rm, gc, publish, pull, unpublish)
