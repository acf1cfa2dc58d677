"""The commands and their options. What they do is imported when they run, so that `atdata --help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atdata.cli.reporting import reporting

__all__ = ["app"]

_CONTEXT = {"help_option_names": ["-h", "--help"]}

# Help is plain text: drawing it with rich takes three times as long as everything else in `atdata --help`.
app = typer.Typer(
    name="atdata",
    help="Typed datasets in plain WebDataset tar shards. URL is a folder with an atdata.json, a tar file, a glob "
    "('data/*.tar') or a brace pattern ('shard-{000000..000009}.tar').",
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

Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="A folder with an atdata.json, a tar file, a glob, or a brace pattern."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


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
    json: Json = False,
) -> None:
    """Show the library at work on 1,797 real handwritten digits."""
    with reporting(json) as report:
        from atdata.cli.demo.story import run

        run(report, to)


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
    url: Url,
    fast: Annotated[bool, typer.Option("--fast", help="Check digests only; decode no samples.")] = False,
    json: Json = False,
) -> None:
    """Check every byte and read every sample.

    Shards against the digests in the commit record, manifests against the record, samples against the manifests, and
    every sample is decoded (encoded images are left as they are). Lists all problems; exits with 1 when there is one.
    Without a record, the structure of the archives and the samples in them are checked.
    """
    with reporting(json) as report:
        from atdata.cli.verify import run

        run(report, url, fast=fast)


@app.command()
def schema(url: Url, json: Json = False) -> None:
    """Show the sample type as a class definition.

    With --json, the stored record.
    """
    with reporting(json) as report:
        from atdata.cli.schema import run

        run(report, url)


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
