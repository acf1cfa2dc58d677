"""`check_laws`: whether a lens keeps what it is given, tried on samples of every kind.

The laws are those of J. N. Foster et al., "Combinators for bidirectional tree transformations", ACM TOPLAS 29(3), 2007,
https://doi.org/10.1145/1232420.1232424.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from atdata.errors import LensError, LensLawError, LensValueError, SampleError
from atdata.lenses.lens import Lens
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.packable import equal_values, pack
from atdata.testing.strategies import samples as generated

__all__ = ["Law", "LawReport", "check_laws"]

S = TypeVar("S")
V = TypeVar("V")

_TEXTS = {
    "Get": "every sample has a view that can be stored",
    "GetPut": "put(get(s), s) == s: writing back what was read changes nothing",
    "PutGet": "get(put(v, s)) == v: what was written is what is read",
    "PutPut": "put(v2, put(v1, s)) == put(v2, s): the last writing counts",
}


@dataclasses.dataclass(frozen=True)
class Law:
    """What was found about one law.

    Attributes:
        name: "Get", "GetPut", "PutGet" or "PutPut".
        examples: how many samples it was tried on.
        problem: how the smallest example breaks it; None when it holds.
        example: the smallest example, by name (`s`, `v`, …), with what came of it.
    """

    name: str
    examples: int
    problem: str | None = None
    example: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether no example broke it."""
        return self.problem is None

    def __str__(self) -> str:
        if self.problem is None:
            return f"{self.name:6} holds on {self.examples} examples: {_TEXTS[self.name]}"
        lines = [f"{self.name:6} is broken: {_TEXTS[self.name]}", f"    {self.problem}"]
        lines += [f"    {name} = {_show(value)}" for name, value in self.example.items()]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class LawReport:
    """What `check_laws` found, law by law.

    Attributes:
        lens: the lens, as text.
        laws: each law that was tried.
    """

    lens: str
    laws: tuple[Law, ...]

    def __getitem__(self, name: str) -> Law:
        return next(law for law in self.laws if law.name == name)

    @property
    def broken(self) -> tuple[Law, ...]:
        """The laws that do not hold."""
        return tuple(law for law in self.laws if not law.holds)

    def __str__(self) -> str:
        return "\n".join([self.lens, *(f"  {line}" for law in self.laws for line in str(law).split("\n"))])


def check_laws(lens: Lens[S, V], examples: int = 100, *, samples: Iterable[S] = ()) -> LawReport:
    """Try whether a lens obeys the laws of lenses, on samples generated from its types.

    GetPut: `put(get(s), s) == s`. PutGet: `get(put(v, s)) == v`. PutPut: `put(v2, put(v1, s)) == put(v2, s)`. Before
    them, that every sample has a view, and that neither getter nor putter changes what it is given; of a lens without a
    putter only that. Samples are compared field by field: arrays by dtype, shape and content, NaN equal to NaN.

    A value that the lens refuses with `LensValueError` counts as no example.

    Args:
        lens: the lens; both its types have declared fields.
        examples: how many samples each law is tried on, the same ones every time.
        samples: try it on these samples, for a lens that few of those generated would suit.

    Raises:
        LensLawError: a law does not hold; the message shows the smallest example, and `report` has all that was found.
        LensError: no samples can be generated for a type.
        ImportError: Hypothesis is missing (`pip install hypothesis`).

    Example:
        >>> import atdata
        >>> @atdata.packable
        ... class Photo:
        ...     label: str
        ...     iso: int
        >>> @atdata.packable
        ... class Labelled:
        ...     label: str
        >>> def simplify(src: Photo) -> Labelled:
        ...     return Labelled(src.label)
        >>> def forget(view: Labelled, src: Photo) -> Photo:
        ...     return Photo(view.label, 0)
        >>> try:
        ...     check_laws(atdata.Lens(simplify, forget))
        ... except atdata.AtdataError as error:
        ...     print(error.report["GetPut"])
        GetPut is broken: put(get(s), s) == s: writing back what was read changes nothing
            different in iso
            s = Photo(label='', iso=1)
            get(s) = Labelled(label='')
            put(get(s), s) = Photo(label='', iso=0)
    """
    for cls in (lens.source, lens.view):
        if issubclass(cls, DictSample):
            raise LensError(f"{lens.name}: the laws are tried on classes with declared fields, and DictSample has none")
    names = list(_TEXTS) if lens.editable else ["Get"]
    given = list(samples)
    report = LawReport(
        f"{lens.name}: {lens.source.__name__} -> {lens.view.__name__}",
        tuple(_Trial(lens, name, given).run(examples) for name in names),
    )
    if report.broken:
        raise LensLawError(str(report), report=report)
    return report


class _Broken(Exception):
    """An example breaks the law."""

    def __init__(self, problem: str, example: dict[str, Any]) -> None:
        super().__init__(problem)
        self.problem = problem
        self.example = example


class _Trial:
    """One law, tried on one example after another."""

    def __init__(self, lens: Lens[Any, Any], name: str, given: list[Any]) -> None:
        self._lens = lens
        self._name = name
        self._given = given
        self._tried = 0
        self._refused: LensValueError | None = None

    def run(self, examples: int) -> Law:
        """What is found on that many examples."""
        try:
            import hypothesis
        except ImportError:
            raise ImportError("generating samples needs Hypothesis: pip install hypothesis") from None
        from hypothesis import strategies as st

        law = getattr(self, f"_{self._name.lower()}")
        self._views = generated(self._lens.view)
        self._changed = st.sets(st.sampled_from([f.name for f in codec.plan(self._lens.view).fields]))
        # Copies, so that what is found wrong with one is not found with the next.
        self._sources = st.sampled_from(self._given).map(copy.deepcopy) if self._given else generated(self._lens.source)

        def example(data: Any) -> None:
            found: dict[str, Any] = {}
            try:
                law(data, found)
            except LensValueError as error:
                self._refused = error
                hypothesis.reject()
            self._tried += 1

        run = hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=True,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
            verbosity=hypothesis.Verbosity.quiet,
        )(hypothesis.given(st.data())(example))
        try:
            run()
        except _Broken as broken:
            return Law(self._name, self._tried, broken.problem, broken.example)
        except hypothesis.errors.Unsatisfiable:
            problem = f"could not be tried, as all samples were refused, the last with: {self._refused}"
            return Law(self._name, 0, f"{problem}; give samples that suit it: check_laws(lens, samples=[...])")
        except hypothesis.errors.Flaky:
            return Law(self._name, self._tried, "the same sample gave another result the next time")
        return Law(self._name, self._tried)

    # -- the laws --------------------------------------------------------------------------------------------

    def _get(self, data: Any, found: dict[str, Any]) -> None:
        self._read(self._draw(data, "s", found), "get(s)", found)

    def _getput(self, data: Any, found: dict[str, Any]) -> None:
        s = self._draw(data, "s", found)
        self._compare(s, self._write(self._read(s, "get(s)", found), s, "put(get(s), s)", found), found)

    def _putget(self, data: Any, found: dict[str, Any]) -> None:
        s = self._draw(data, "s", found)
        v = self._edit(data, s, "v", found)
        self._compare(v, self._read(self._write(v, s, "put(v, s)", found), "get(put(v, s))", found), found)

    def _putput(self, data: Any, found: dict[str, Any]) -> None:
        s = self._draw(data, "s", found)
        v1, v2 = self._edit(data, s, "v1", found), self._edit(data, s, "v2", found)
        last = self._write(v2, s, "put(v2, s)", found)
        both = self._write(v2, self._write(v1, s, "put(v1, s)", found), "put(v2, put(v1, s))", found)
        self._compare(last, both, found)

    def _compare(self, wanted: Any, got: Any, found: dict[str, Any]) -> None:
        if names := _differing(wanted, got):
            raise _Broken(f"different in {', '.join(names)}", found)

    # -- their parts -----------------------------------------------------------------------------------------

    def _draw(self, data: Any, name: str, found: dict[str, Any]) -> Any:
        found[name] = sample = data.draw(self._sources)
        return sample

    def _edit(self, data: Any, source: Any, name: str, found: dict[str, Any]) -> Any:
        """The view of `source` with some fields changed: other values for what cannot be edited are soon refused."""
        seen = self._read(source, f"get(s) before {name}", {**found})
        changed, other = data.draw(self._changed), data.draw(self._views)
        fields = codec.plan(self._lens.view).fields
        found[name] = view = self._lens.view(
            **{f.name: getattr(other if f.name in changed else seen, f.name) for f in fields}
        )
        return view

    def _read(self, source: Any, name: str, found: dict[str, Any]) -> Any:
        return self._call(self._lens.get, (source,), name, found)

    def _write(self, view: Any, source: Any, name: str, found: dict[str, Any]) -> Any:
        return self._call(self._lens.put, (view, source), name, found)

    def _call(self, function: Callable[..., Any], samples: tuple[Any, ...], name: str, found: dict[str, Any]) -> Any:
        before = copy.deepcopy(samples)
        try:
            result = function(*samples)
        except LensValueError:
            raise
        except Exception as error:
            raise _Broken(f"{name} raised {type(error).__name__}: {error}", found) from error
        for was, now in zip(before, samples, strict=True):
            if names := _differing(was, now):
                found.update({key: was for key, value in found.items() if value is now})
                raise _Broken(f"{name} changed {', '.join(names)} of the {type(was).__name__} it was given", found)
        found[name] = result
        try:
            pack(result)
        except SampleError as error:
            raise _Broken(f"{name} cannot be stored: {error}", found) from error
        return result


def _differing(a: Any, b: Any) -> list[str]:
    """The fields in which two samples differ."""
    names = [f.name for f in codec.plan(type(a)).fields]
    return [name for name in names if not equal_values(getattr(a, name), getattr(b, name))]


def _show(value: Any) -> str:
    """A sample in one line, arrays in short."""
    if isinstance(value, np.ndarray):
        with np.printoptions(threshold=12, edgeitems=2, linewidth=10_000):
            text = " ".join(np.array2string(value, separator=", ").split())
        return f"{value.dtype} {value.shape} {text}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init)
        return f"{type(value).__name__}({', '.join(f'{name}={_show(item)}' for name, item in fields)})"
    if isinstance(value, list | tuple):
        left, right = ("[", "]") if isinstance(value, list) else ("(", ")")
        return f"{left}{', '.join(map(_show, value))}{right}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_show(item)}' for key, item in value.items())}}}"
    return repr(value)
