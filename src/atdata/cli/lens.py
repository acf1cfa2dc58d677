"""`atdata lens`: the lenses of an index, and those that lead from one sample type to another."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from atdata.cli.options import Every, Index, Json
from atdata.cli.reporting import Report, reporting

__all__ = ["ls", "path", "run", "show"]


def _named(text: str) -> str:
    module, _, name = text.partition(":")
    if not (module and name):
        raise typer.BadParameter(f"{text!r} is not of the form module:Class")
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


Class = Annotated[str, typer.Argument(metavar="CLASS", parser=_named, help="A sample class, as module:Class.")]


def path(
    source: Class,
    view: Class,
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="A module that defines lenses; may be given several times."),
    ] = None,
    json: Json = False,
) -> None:
    """Show the lenses that lead from one type to another.

    Imports the modules of both classes, from the current folder too, so that the lenses in them are known. Exits with 1
    when no lens leads there, or several do.
    """
    with reporting(json) as report:
        run(report, source, view, modules or [])


def run(report: Report, source: str, view: str, modules: list[str]) -> None:
    """Show the path from `source` to `view`."""
    import importlib
    import sys

    from atdata.lenses.network import registered

    if "" not in sys.path:
        sys.path.insert(0, "")
    for module in modules:
        importlib.import_module(module)
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
    code = bool(lens.functions)
    return {
        "name": lens.name,
        "source": lens.source.__name__,
        "view": lens.view.__name__,
        "how": f"code in {lens.__module__}" if code else "declared, or follows from the fields",
        "reads": None if lens.reads is None else sorted(lens.reads),
        "editable": lens.editable,
    }
