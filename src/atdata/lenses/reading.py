"""Which fields of the sample a getter's code reads, seen in its bytecode; the getter does not run.

A sample may only be used as `src.field`: whatever else is done with it (handing it on, `getattr`, `vars`, a method,
assigning it) could read any field. Code that looks at its own variables is left alone altogether.
"""

from __future__ import annotations

import dis
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any

from atdata.samples import codec
from atdata.samples.packable import only_keeps

__all__ = ["fields_read"]

# What could reach the sample without naming the parameter.
_LOOKS_AROUND = {"locals", "vars", "dir", "eval", "exec", "_getframe", "currentframe", "stack"}
_VARIABLE = re.compile(r"FAST|DEREF|CLOSURE|MAKE_CELL")
_LOADS = ("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_DEREF")


def fields_read(getter: Any, sample_type: type) -> frozenset[str]:
    """The fields that `getter` can read of its sample; all of them where that cannot be known."""
    names = frozenset(f.name for f in codec.plan(sample_type).fields)
    code = getter.__code__
    plain = code.co_argcount == 1 and not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    if not plain or not only_keeps(sample_type):
        return names
    found: set[str] = set()
    for name in _attributes(code, code.co_varnames[0]):
        if name not in names:
            return names
        found.add(name)
    return frozenset(found)


def _attributes(code: types.CodeType, sample: str) -> Iterator[str | None]:
    """The attributes of the variable `sample` that the code names; None for every other use of it."""
    if _LOOKS_AROUND & {*code.co_names}:
        yield None
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType) and sample in c.co_freevars]
    shared = sample in code.co_cellvars or sample in code.co_freevars
    steps = list(dis.get_instructions(code))
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if not _VARIABLE.search(step.opname):
            continue
        used = step.argval if isinstance(step.argval, tuple) else (step.argval,)
        if sample not in used:
            continue
        if shared and (step.opname in ("LOAD_CLOSURE", "MAKE_CELL") or (step.opname == "LOAD_FAST" and inner)):
            continue  # handed to a function inside, which is looked at itself
        if used[-1] == sample and sample not in used[:-1] and step.opname.endswith(_LOADS):
            yield after.argval if after is not None and after.opname in ("LOAD_ATTR", "LOAD_METHOD") else None
        else:
            yield None
    for function in inner:
        yield from _attributes(function, sample)
