"""What a getter and a putter say of themselves: their parameters and annotations, checked when the lens is made."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

from atdata.errors import LensDefinitionError, SchemaError
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.fields import unaliased

__all__ = ["check_putter", "check_sample_type", "getter_types", "local_names"]


def local_names(frame: types.FrameType) -> dict[str, Any]:
    """What annotations that are text may name beside globals: the variables of the function that `frame` runs."""
    return {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)


def check_sample_type(hint: Any, what: str) -> type:
    """`hint` when it is a class that samples can have.

    Raises:
        LensDefinitionError: it is not; the message begins with `what`.
    """
    found = unaliased(hint)
    if isinstance(found, type) and issubclass(found, DictSample):
        return found
    try:
        codec.plan(found)
    except codec.UnknownNameError:
        pass  # a field names a class that comes later: checked on first use
    except SchemaError as error:
        raise LensDefinitionError(f"{what}: {error}") from None
    return typing.cast(type, found)


def getter_types(getter: Any, names: dict[str, Any]) -> tuple[type, type]:
    """The classes that a getter reads and gives, from its annotations.

    Args:
        getter: `def simplify(src: Photo) -> Labelled`.
        names: local names that its annotations may use.

    Raises:
        LensDefinitionError: it is no function of one annotated parameter that gives an annotated result.
    """
    name, parameters = _parameters(getter, "getter")
    if len(parameters) != 1:
        listed = ", ".join(parameters) or "none"
        raise LensDefinitionError(
            f"{name} has {len(parameters)} parameters ({listed}): a getter takes the sample alone"
        )
    hints = _hints(getter, names, name)
    for part in (parameters[0], "return"):
        if part not in hints:
            what = "what it gives" if part == "return" else f"its parameter {part}"
            raise LensDefinitionError(f"{name} does not say the type of {what}: write def {name}(src: A) -> B")
    source = check_sample_type(hints[parameters[0]], f"{name} reads no sample type")
    view = check_sample_type(hints["return"], f"{name} gives no sample type")
    return source, view


def check_putter(putter: Any, names: dict[str, Any], lens: str, source: type, view: type) -> None:
    """Refuse a putter that does not go with its getter; annotations may be left out, but not be wrong.

    Raises:
        LensDefinitionError: it is no function of view and source, in this order.
    """
    name, parameters = _parameters(putter, "putter")
    should = f"a putter of {lens} is def {name}(view: {view.__name__}, src: {source.__name__}) -> {source.__name__}"
    if len(parameters) != 2:
        listed = ", ".join(parameters) or "none"
        raise LensDefinitionError(f"{name} has {len(parameters)} parameters ({listed}): {should}")
    hints = _hints(putter, names, name)
    for part, want in ((parameters[0], view), (parameters[1], source), ("return", source)):
        found = unaliased(hints.get(part, want))
        if found is not want:
            shown = found.__name__ if isinstance(found, type) else str(found)
            raise LensDefinitionError(f"{part} of {name} is {shown}, not {want.__name__}: {should}")


def _parameters(function: Any, what: str) -> tuple[str, list[str]]:
    if not isinstance(function, types.FunctionType):
        raise LensDefinitionError(f"a {what} is a function with annotations, not {function!r:.100}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise LensDefinitionError(f"{function.__name__} is async or yields: a {what} returns a sample")
    parameters = inspect.signature(function).parameters.values()
    for p in parameters:
        if p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            raise LensDefinitionError(
                f"{function.__name__} takes {p}: the parameters of a {what} are given by position"
            )
    return function.__name__, [p.name for p in parameters]


def _hints(function: types.FunctionType, names: dict[str, Any], name: str) -> dict[str, Any]:
    around = dict(names)
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            around[variable] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    try:
        return typing.get_type_hints(function, localns=around)
    except NameError as error:
        raise LensDefinitionError(
            f"an annotation of {name} names {error.name!r}, which is not defined where {name} is"
        ) from None
    except (TypeError, SyntaxError, AttributeError) as error:
        raise LensDefinitionError(f"the annotations of {name} cannot be understood: {error}") from None
