"""The commands and their options. What they do is imported when they run, so that `atdata --help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atdata.cli import index_app, lens, login
from atdata.cli.options import Index, Json, age
from atdata.cli.reporting import reporting

__all__ = ["app"]

_CONTEXT = {"help_option_names": ["-h", "--help"]}

# Help is plain text: drawing it with rich takes three times as long as everything else in `atdata --help`.
app = typer.Typer(
    name="atdata",
    help="Typed datasets in plain WebDataset tar shards. URL is a folder with an atdata.json, a tar file, a glob "
    "('data/*.tar') or a brace pattern ('shard-{000000..000009}.tar'), here or under s3://, gs://, az:// or https://; "
    "credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT, AWS_PROFILE, …).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_CONTEXT,
)
manifests = typer.Typer(
    help="Make manifests, which make reading fast.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=_CONTEXT,
)
app.add_typer(manifests, name="manifest")
caches = typer.Typer(
    help="Look after the cache of shards.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=_CONTEXT,
)
app.add_typer(caches, name="cache")
schemas = typer.Typer(
    help="Show and compare sample types.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=_CONTEXT,
)
app.add_typer(schemas, name="schema")
indexes = typer.Typer(
    help="Look after an index.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=_CONTEXT,
)
app.add_typer(indexes, name="index")
lenses = typer.Typer(
    help="List, show and find lenses between sample types.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=_CONTEXT,
)
app.add_typer(lenses, name="lens")

Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="A folder with an atdata.json, a tar file, a glob, or a brace pattern."),
]
Folder = Annotated[
    Path | None, typer.Option("--cache", metavar="FOLDER", help="The cache; else the folder that ATDATA_CACHE names.")
]


def _version(value: bool) -> None:
    if value:
        from atdata import __version__

        typer.echo(f"atdata {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="The folder to write to.", show_default=True)
    ] = Path("demo-data"),
    network: Annotated[
        bool,
        typer.Option(
            "--network", help="Go on: publish, find, verify and stream them on a network that runs on this machine."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Show the library at work on 1,797 real handwritten digits."""
    with reporting(json) as report:
        from atdata.cli.demo.story import run

        run(report, to, network=network)


@app.command()
def inspect(
    url: Url,
    every: Annotated[bool, typer.Option("--all", help="List every shard, however many there are.")] = False,
    json: Json = False,
) -> None:
    """Say what a dataset is, and what is missing.

    Type, content identifier, fields with their statistics, shards. What is recorded is shown; shards are not read
    through (`atdata verify` does that), only the headers of plain tar files that have no record.
    """
    with reporting(json) as report:
        from atdata.cli.inspect import run

        run(report, url, every=every)


@app.command()
def head(
    url: Url,
    count: Annotated[int, typer.Option("-n", "--count", min=1, metavar="N", help="How many samples.")] = 5,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw image-like arrays, on a terminal that can.")
    ] = True,
    json: Json = False,
) -> None:
    """Show the first samples.

    Arrays are shown as dtype and shape, with a small picture of those that look like images where the terminal can.
    """
    with reporting(json) as report:
        from atdata.cli.head import run

        run(report, url, count, pictures=pictures)


@app.command()
def verify(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="A folder with an atdata.json, a tar file, a glob, a dataset's name in an index, or @HANDLE/NAME.",
        ),
    ],
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte, also of what an account has published.")
    ] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Check digests only; decode no samples.")] = False,
    index: Index = None,
    json: Json = False,
) -> None:
    """Check every byte and read every sample.

    Shards against the digests in the commit record or the index, manifests against the record, samples against the
    manifests, and every sample is decoded (encoded images are left as they are). Lists all problems; exits with 1 when
    there is one. Without a record, the structure of the archives and the samples in them are checked.

    Of what an account of the AT Protocol network has published (@HANDLE/NAME), it is proved that the account signed it,
    and that all shards are there; --deep and --fast read them, too.
    """
    with reporting(json) as report:
        from atdata.cli.verify import run

        run(report, ref, index, fast=fast, deep=deep)


@app.command()
def cp(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A folder with an atdata.json, a tar file, a glob, or a brace pattern.")
    ],
    to: Annotated[str, typer.Argument(metavar="DST", help="A folder, or s3://, gs:// or az:// with a prefix.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset that is there.")] = False,
    source_env: Annotated[
        Path | None, typer.Option("--source-env", metavar="FILE", help="A .env file with the credentials for SRC.")
    ] = None,
    to_env: Annotated[
        Path | None, typer.Option("--to-env", metavar="FILE", help="A .env file with the credentials for DST.")
    ] = None,
    json: Json = False,
) -> None:
    """Copy a dataset to another place.

    Shards and manifests keep every byte, and each is checked against its digest on the way. The commit record comes
    last, so that DST is a dataset only when it is whole. The same command goes on with a copy that was interrupted.
    """
    with reporting(json) as report:
        from atdata.cli.copy import run

        run(report, source, to, overwrite=overwrite, source_env=source_env, to_env=to_env)


@manifests.command("build")
def build(
    url: Url,
    force: Annotated[bool, typer.Option("--force", help="Replace manifests that are there already.")] = False,
    json: Json = False,
) -> None:
    """Write the manifest beside each shard.

    For plain tar files with one .msgpack member for each sample, from atdata or other tools. A manifest that the
    commit record names is only written when it comes out the same, byte for byte.
    """
    with reporting(json) as report:
        from atdata.cli.manifest import run

        run(report, url, force=force)


@caches.command("ls")
def cache_ls(cache: Folder = None, json: Json = False) -> None:
    """List the shards in the cache.

    Digest, size and last use of each, the most recently used first.
    """
    with reporting(json) as report:
        from atdata.cli.cache import listing

        listing(report, cache)


@caches.command("clear")
def cache_clear(
    cache: Folder = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", metavar="AGE", parser=age, help="Only what was not used for so long: 30m, 12h, 7d, 2w."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove shards from the cache.

    Nothing else that lies in the folder is touched. Asks before, on a terminal.
    """
    with reporting(json) as report:
        from atdata.cli.cache import clear

        clear(report, cache, older_than=older_than, yes=yes)


@caches.command("verify")
def cache_verify(cache: Folder = None, json: Json = False) -> None:
    """Hash every shard in the cache.

    Those that are damaged are reported and removed; exits with 1 when there is one.
    """
    with reporting(json) as report:
        from atdata.cli.cache import verify

        verify(report, cache)


for _command in (*index_app.COMMANDS, *login.COMMANDS):
    app.command()(_command)
schemas.command("show")(index_app.schema_show)
schemas.command("diff")(index_app.schema_diff)
schemas.command("ls")(index_app.schema_ls)
indexes.command("migrate")(index_app.migrate)
indexes.command("copy")(index_app.copy)
lenses.command("ls")(lens.ls)
lenses.command("show")(lens.show)
lenses.command("path")(lens.path)
