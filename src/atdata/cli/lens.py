"""`atdata lens`: the lenses of an index, and those that lead from one sample type to another."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from atdata.cli.options import Every, Index, Json
from atdata.cli.reporting import Report, reporting

__all__ = ["ls", "path", "run", "show"]


def _named(text: str) -> str:
    module, colon, name = text.partition(":")
    if not (module and name) and (colon or not text.partition("@")[0].isidentifier()):
        raise typer.BadParameter(f"{text!r} is not of the form module:Class, and no type of an index (Name@1.0.0)")
    return text


def ls(
    account: Annotated[
        str | None, typer.Argument(metavar="[@HANDLE]", help="List what this account has published, not an index.")
    ] = None,
    index: Index = None,
    every: Every = False,
    json: Json = False,
) -> None:
    """List the lenses of an index, or of an account.

    Name, types, whether the lens is declared or only refers to code, and the reference.
    """
    with reporting(json) as report:
        from atdata.cli.lenses import listing

        listing(report, index, account, every=every)


def show(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="A lens: its name or reference; of an account, @handle/name.")
    ],
    index: Index = None,
    json: Json = False,
) -> None:
    """Say what a lens does.

    What a declared lens does to each field; of one that is code, where the code is. Nothing of it is run.
    """
    with reporting(json) as report:
        from atdata.cli.lenses import show as run

        run(report, index, ref)


Class = Annotated[
    str,
    typer.Argument(metavar="CLASS", parser=_named, help="A sample class, as module:Class, or a type of the index."),
]


def path(
    source: Class,
    view: Class,
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="A module that defines lenses; may be given several times."),
    ] = None,
    index: Index = None,
    json: Json = False,
) -> None:
    """Show the lenses that lead from one type to another.

    Imports the modules of both classes, from the current folder too, so that the lenses in them are known. With
    --index, or where a type is one of the index (Name@1.0.0), the lenses that the index holds are gone through as well.
    Exits with 1 when no lens leads there, or several do.
    """
    with reporting(json) as report:
        run(report, source, view, modules or [], index)


def run(report: Report, source: str, view: str, modules: list[str], index: str | None) -> None:
    """Show the path from `source` to `view`."""
    import importlib
    import sys

    from atdata.lenses.network import registered

    if "" not in sys.path:
        sys.path.insert(0, "")
    for module in modules:
        importlib.import_module(module)
    if index is not None or not (":" in source and ":" in view):
        lens, steps = _in_index(index, source, view)
    else:
        lens = registered.find(_class(source), _class(view))
        steps = [_step(part) for part in lens.parts]
    reads = None if lens.reads is None else sorted(lens.reads)
    report.document({"source": source, "view": view, "steps": steps, "reads": reads, "editable": lens.editable})
    for step in steps:
        report.print(f"{step['source']} -> {step['view']}: {step['name']} ({step['how']})")
    report.print(
        f"reads {'every field' if reads is None else ', '.join(reads) or 'no field'} of {lens.source.__name__}"
    )
    report.print("can be written back" if lens.editable else "cannot be written back: a putter is missing")


def _in_index(url: str | None, source: str, view: str) -> tuple[Any, list[dict[str, Any]]]:
    """The lens through which data of an index is seen as another type, and its steps."""
    from atdata.cli.catalog import found_index
    from atdata.index.views import reading_of
    from atdata.lenses.composition import Identity
    from atdata.lenses.references import schema_cid
    from atdata.samples.schema import Schema

    with found_index(url) as (index, _, _):
        schema = Schema.of(_class(source)) if ":" in source else index.get_schema(source)
        wanted = _class(view) if ":" in view else index.get_schema(view).sample_type()
        reading = reading_of(schema, wanted, index=index)
    read = reading.sample_type or wanted
    lens = reading.lens or Identity(read)
    steps = [] if reading.lens is None else [_step(part) for part in lens.parts]
    if schema_cid(read) != schema.cid:
        first = _step(Identity(read)) | {"name": "fields", "source": schema.name, "how": "follows from the fields"}
        steps.insert(0, first)
    return lens, steps


def _class(name: str) -> Any:
    import importlib

    from atdata.errors import LensError

    module, _, qualname = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        if not hasattr(found, part):
            raise LensError(f"the module {module} has no {qualname}")
        found = getattr(found, part)
    return found


def _step(lens: Any) -> dict[str, Any]:
    how = f"code in {lens.__module__}" if lens.functions else "declared, or follows from the fields"
    if lens.__module__ == "the index":
        how = "declared in the index"
    return {
        "name": lens.name,
        "source": lens.source.__name__,
        "view": lens.view.__name__,
        "how": how,
        "reads": None if lens.reads is None else sorted(lens.reads),
        "editable": lens.editable,
    }
