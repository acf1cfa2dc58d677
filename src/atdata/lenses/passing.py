"""Lenses that pass fields on and do nothing else: what a getter's bytecode proves, and what follows from that.

Such a lens is as good as a table of fields, so that the bytes of a sample can be decoded as its view at once, and a
column of views is a column of the samples. A getter is one when its code, followed instruction by instruction, can do
nothing but read fields of its sample, bind them to names, and give them, or constants, to the view's class. What is not
known for certain proves nothing: any other instruction, a name that means another class by now, or a class that does
more than keep what it is given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import dis
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.packable import only_keeps

__all__ = ["Passing", "Proof", "prove"]

_PLAIN = (type(None), bool, int, float, str, bytes)
_FACTORIES = (list, dict, tuple)
_SPECIAL = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)
# What neither puts on the stack nor takes from it, as far as it matters here: NULL is left out everywhere.
_NOTHING = {"RESUME", "CACHE", "NOP", "PRECALL", "COPY_FREE_VARS", "PUSH_NULL", "EXTENDED_ARG"}


@dataclasses.dataclass(frozen=True)
class Passing:
    """What a lens passes on.

    Attributes:
        source: the class that is read.
        view: the class that is made.
        fields: the fields of the view that are a field of the source, and which.
        made: those that are not, and what makes the value of each; it is the same every time.
    """

    source: type
    view: type
    fields: Mapping[str, str]
    made: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)

    def then(self, after: Passing) -> Passing:
        """What is passed on by this lens and then another."""
        fields = {name: self.fields[origin] for name, origin in after.fields.items() if origin in self.fields}
        made = {name: self.made[origin] for name, origin in after.fields.items() if origin in self.made}
        return Passing(self.source, after.view, fields, {**made, **after.made})


class _Value(NamedTuple):
    """Something on the stack, or bound to a name.

    Attributes:
        kind: "sample"; "field" of it, by name; "constant"; "object" that a name outside means; "view", made of
            arguments.
        of: what the kind says.
    """

    kind: str
    of: Any


class Proof(NamedTuple):
    """What was proved of a getter, for as long as its code is the same and its names mean the same.

    Attributes:
        passing: what it passes on; None when it does more than that, or nobody can tell.
        code: the code that this was proved of.
        names: the names outside that it uses, with what they mean.
    """

    passing: Passing | None
    code: types.CodeType
    names: tuple[tuple[Callable[[Any], Any], Any], ...]

    def holds(self, getter: Any) -> bool:
        """Whether it is so still."""
        if getter.__code__ is not self.code:
            return False
        try:
            for look, meant in self.names:
                if look(getter) is not meant:
                    return False
        except (KeyError, ValueError, IndexError):
            return False
        return True


def prove(getter: Any, source: type, view: type) -> Proof:
    """What a getter passes on, as far as its code proves it."""
    code: types.CodeType = getter.__code__
    following = _Following(getter, source, view)
    passing = None
    plain = code.co_argcount == 1 and not (code.co_kwonlyargcount or code.co_cellvars or code.co_exceptiontable)
    classes = not any(issubclass(cls, DictSample) or not only_keeps(cls) for cls in (source, view))
    if plain and not code.co_flags & _SPECIAL and classes:
        with contextlib.suppress(_UnprovenError):
            passing = following.follow()
    return Proof(passing, code, tuple(following.names))


class _UnprovenError(Exception):
    """The code does something else."""


class _Following:
    """Goes through the code of a getter."""

    def __init__(self, getter: Any, source: type, view: type) -> None:
        self._getter = getter
        self._source = source
        self._view = view
        self._stack: list[_Value] = []
        self._bound = {getter.__code__.co_varnames[0]: _Value("sample", None)}
        self._keywords: tuple[str, ...] = ()
        self.names: list[tuple[Callable[[Any], Any], Any]] = []

    def follow(self) -> Passing:
        code = self._getter.__code__
        for step in dis.get_instructions(code):
            if step.opname == "RETURN_VALUE":
                found = self._stack.pop()
                if found.kind != "view" or self._stack:
                    raise _UnprovenError
                return self._passing(*found.of)
            self._step(step, code)
        raise _UnprovenError

    def _step(self, step: dis.Instruction, code: types.CodeType) -> None:
        match step.opname:
            case name if name in _NOTHING:
                return
            case "LOAD_FAST" | "LOAD_FAST_CHECK" | "LOAD_FAST_BORROW":
                self._stack.append(self._variable(step.argval))
            case "LOAD_FAST_LOAD_FAST" | "LOAD_FAST_BORROW_LOAD_FAST_BORROW":
                self._stack += map(self._variable, step.argval)
            case "STORE_FAST":
                self._bound[step.argval] = self._pop()
            case "LOAD_GLOBAL":
                self._outside(_Global(step.argval))
            case "LOAD_DEREF":
                self._outside(_Free(step.argval))
            case "LOAD_CONST" if type(step.argval) in (*_PLAIN, tuple):
                self._stack.append(_Value("constant", step.argval))
            case "LOAD_ATTR" | "LOAD_METHOD":
                self._attribute(step.argval)
            case "KW_NAMES" if step.arg is not None:
                self._keywords = code.co_consts[step.arg]
            case "CALL" if step.arg is not None:
                self._call(step.arg)
            case "CALL_KW" if step.arg is not None:
                self._keywords = self._pop().of
                self._call(step.arg)
            case _:
                raise _UnprovenError

    def _pop(self) -> _Value:
        if not self._stack:
            raise _UnprovenError
        return self._stack.pop()

    def _variable(self, name: str) -> _Value:
        if name not in self._bound:
            raise _UnprovenError
        return self._bound[name]

    def _outside(self, look: Callable[[Any], Any]) -> None:
        try:
            found = look(self._getter)
        except (KeyError, ValueError):
            raise _UnprovenError from None
        self.names.append((look, found))
        self._stack.append(_Value("object", (look, found)))

    def _attribute(self, name: str) -> None:
        value = self._pop()
        if value.kind == "sample" and name in codec.plan(self._source).nodes:
            self._stack.append(_Value("field", name))
        elif value.kind == "object" and type(value.of[1]) is types.ModuleType:
            self._outside(_Member(value.of[0], name))
        else:
            raise _UnprovenError

    def _call(self, count: int) -> None:
        arguments = [self._pop() for _ in range(count)][::-1]
        called = self._pop()
        if called.kind != "object" or called.of[1] is not self._view:
            raise _UnprovenError
        if any(argument.kind not in ("field", "constant") for argument in arguments):
            raise _UnprovenError
        by_place = len(arguments) - len(self._keywords)
        self._stack.append(
            _Value("view", (arguments[:by_place], dict(zip(self._keywords, arguments[by_place:], strict=True))))
        )
        self._keywords = ()

    def _passing(self, by_place: list[_Value], by_name: dict[str, _Value]) -> Passing:
        """What the arguments of the view's class come to."""
        fields = codec.plan(self._view).fields
        places = [f.name for f in fields if not f.kw_only]
        if len(by_place) > len(places):
            raise _UnprovenError
        given = dict(zip(places, by_place, strict=False))
        if given.keys() & by_name.keys() or not by_name.keys() <= {f.name for f in fields}:
            raise _UnprovenError
        given |= by_name
        passed: dict[str, str] = {}
        made: dict[str, Callable[[], Any]] = {}
        defaults = {f.name: f for f in dataclasses.fields(self._view)}
        for f in fields:
            value = given.get(f.name)
            if value is None:
                made[f.name] = _default(defaults[f.name])
            elif value.kind == "field":
                passed[f.name] = value.of
            elif type(value.of) in _PLAIN:
                made[f.name] = Same(value.of)
            else:
                raise _UnprovenError
        return Passing(self._source, self._view, passed, made)


def _default(field: dataclasses.Field[Any]) -> Callable[[], Any]:
    if field.default is not dataclasses.MISSING:
        return Same(field.default)
    if field.default_factory in _FACTORIES:
        factory: Callable[[], Any] = field.default_factory
        return factory
    raise _UnprovenError


@dataclasses.dataclass(frozen=True)
class Same:
    """Makes one value."""

    value: Any

    def __call__(self) -> Any:
        return self.value


@dataclasses.dataclass(frozen=True)
class _Global:
    """What a global name, or else a built-in one, means to a getter."""

    name: str

    def __call__(self, getter: Any) -> Any:
        names = getter.__globals__
        if type(names) is not dict:
            raise KeyError(self.name)
        return names[self.name] if self.name in names else getter.__builtins__[self.name]


@dataclasses.dataclass(frozen=True)
class _Free:
    """What a name of a function around it means to a getter."""

    name: str

    def __call__(self, getter: Any) -> Any:
        return getter.__closure__[getter.__code__.co_freevars.index(self.name)].cell_contents


@dataclasses.dataclass(frozen=True)
class _Member:
    """What a name in a module means."""

    module: Callable[[Any], Any]
    name: str

    def __call__(self, getter: Any) -> Any:
        return vars(self.module(getter))[self.name]
