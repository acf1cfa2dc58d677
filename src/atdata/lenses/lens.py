"""`Lens`: one sample type seen as another, and edited through it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from atdata.errors import LensError
from atdata.lenses.columns import count, field_names, parts_of, stack, wanted
from atdata.lenses.passing import Passing, Proof, prove
from atdata.lenses.reading import fields_read
from atdata.lenses.references import CodeReference, LensReference
from atdata.lenses.signatures import check_putter, getter_types, local_names
from atdata.samples.dictsample import DictSample
from atdata.samples.packable import keeps_values

if TYPE_CHECKING:
    from atdata.lenses.declaration import Amount
    from atdata.lenses.fields import FieldsLens

__all__ = ["Lens"]

S = TypeVar("S")
V = TypeVar("V")
A = TypeVar("A")
B = TypeVar("B")


class Lens(Generic[S, V]):
    """A source type seen as a view type, and, with a putter, edited through it.

    A lens reads: `get(source)` gives the view. With a putter it also writes: `put(view, source)` gives a source that
    looks like `view`, and is otherwise as it was. `atdata.check_laws` tries whether getter and putter agree. `a | b` is
    `a` and then `b`; `a @ b` is `b` and then `a`.

    `atdata.lens` makes a lens and registers it; `Lens.fields` declares one without code.

    Args:
        getter: a function of one parameter, with annotations: `def simplify(src: Photo) -> Labelled`.
        putter: a function of view and source that gives a source; can also be added with `putter`.

    Attributes:
        source: the class that is read.
        view: the class that it is seen as.

    Raises:
        LensDefinitionError: the functions do not have such parameters and annotations.

    Example:
        >>> import atdata, dataclasses
        >>> @atdata.packable
        ... class Photo:
        ...     label: str
        ...     iso: int
        >>> @atdata.packable
        ... class Labelled:
        ...     label: str
        >>> @atdata.lens
        ... def simplify(src: Photo) -> Labelled:
        ...     return Labelled(src.label)
        >>> @simplify.putter
        ... def _(view: Labelled, src: Photo) -> Photo:
        ...     return dataclasses.replace(src, label=view.label)
        >>> simplify.get(Photo("cat", 100))
        Labelled(label='cat')
        >>> simplify.put(Labelled("dog"), Photo("cat", 100))
        Photo(label='dog', iso=100)
        >>> simplify.reads
        frozenset({'label'})
    """

    source: type[S]
    view: type[V]

    def __init__(self, getter: Callable[[S], V], putter: Callable[[V, S], S] | None = None) -> None:
        self._define(getter, putter, local_names(sys._getframe(1)))

    @classmethod
    def of_function(cls, getter: Callable[[S], V], names: dict[str, Any]) -> Lens[S, V]:
        """The lens of a getter whose annotations may use the given local names."""
        made = cls.__new__(cls)
        made._define(getter, None, names)
        return made

    def _define(self, getter: Any, putter: Any, names: dict[str, Any]) -> None:
        self.source, self.view = getter_types(getter, names)
        self._getter: Callable[[S], V] = getter
        self._putter: Callable[[V, S], S] | None = None
        self._reads: frozenset[str] | None = None
        self._proof: Proof | None = None
        # As of the function that it stands for.
        self.__name__: str = getter.__name__
        self.__qualname__: str = getter.__qualname__
        self.__module__: str = getter.__module__
        self.__doc__ = getter.__doc__
        if putter is not None:
            check_putter(putter, names, self.name, self.source, self.view)
            self._putter = putter

    @staticmethod
    def identity(sample_type: type[A]) -> Lens[A, A]:
        """The lens that sees every sample of a class as it is."""
        from atdata.lenses.composition import Identity

        return Identity(sample_type)

    @staticmethod
    def fields(
        source: type[A],
        view: type[B],
        *,
        rename: Mapping[str, str] | None = None,
        drop: Collection[str] = (),
        default: Mapping[str, Any] | None = None,
        cast: Collection[str] = (),
        nest: Mapping[str, Collection[str]] | None = None,
        unnest: Collection[str] = (),
        scale: Mapping[str, Amount] | None = None,
    ) -> FieldsLens[A, B]:
        """A lens that is declared, not programmed, so that it can be stored and published.

        Fields of one name and type stay as they are; every other field of either class has to be accounted for. A part
        of a nested sample is named with dots: `box.x`. Writing back refuses a view with a change that the source cannot
        hold (`LensValueError`), and so never loses anything.

        Args:
            source: the class that is read.
            view: the class that it is seen as.
            rename: `{"lbl": "label"}`: the source's `lbl` is the view's `label`; also into and out of nested samples.
            drop: fields of the source that the view does not have; writing back leaves them as they were.
            default: values of the view's fields that the source does not have; they can be seen, and not changed.
            cast: fields of the view with another type than in the source. Numbers keep their value, or are refused;
                only floats are rounded where the view's are narrower.
            nest: `{"box": ["x", "y"]}`: these fields of the source become those of the view's nested sample `box`.
            unnest: `["box"]`: the fields of the source's nested sample `box` become fields of the view.
            scale: `{"length": 1000}`: the view's number is the source's times that; `0.001` means 1/1000.

        Raises:
            LensDefinitionError: a field is not there, is left over, or has a type that does not fit; the message names
                it, and the names that are near.

        Example:
            >>> import atdata
            >>> @atdata.packable
            ... class Old:
            ...     lbl: str
            ...     length: int
            >>> @atdata.packable
            ... class New:
            ...     label: str
            ...     length: float
            ...     split: str
            >>> new = Lens.fields(
            ...     Old, New, rename={"lbl": "label"}, default={"split": "train"},
            ...     cast=["length"], scale={"length": 0.01},
            ... )
            >>> new.get(Old("cat", 250))
            New(label='cat', length=2.5, split='train')
            >>> new.put(New("dog", 3.0, "train"), Old("cat", 250))
            Old(lbl='dog', length=300)
        """
        from atdata.lenses.declaration import Declaration
        from atdata.lenses.fields import FieldsLens

        declared = Declaration.of(
            view, rename=rename, drop=drop, default=default, cast=cast, nest=nest, unnest=unnest, scale=scale
        )
        return FieldsLens(source, view, declared)

    def putter(self, function: Callable[[V, S], S]) -> Callable[[V, S], S]:
        """Make `function` the lens's putter, in place of any before; a decorator.

        Raises:
            LensDefinitionError: it is no function of view and source, in this order.
        """
        check_putter(function, local_names(sys._getframe(1)), self.name, self.source, self.view)
        self._putter = function
        return function

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What messages call it: the name of its getter."""
        return self.__name__

    @property
    def place(self) -> str:
        """Where it comes from: module and name."""
        return f"{self.__module__}.{self.__qualname__}"

    @property
    def parts(self) -> tuple[Lens[Any, Any], ...]:
        """The lenses that it is composed of, in the order of reading; a lens that is not composed is its only part."""
        return (self,)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The getter and, where there is one, the putter; none when it is not made of functions itself."""
        return (self._getter,) if self._putter is None else (self._getter, self._putter)

    @property
    def editable(self) -> bool:
        """Whether `put` is possible: there is a putter."""
        return self._putter is not None

    @property
    def reads(self) -> frozenset[str] | None:
        """The fields of the source that `get` needs; None when the source is a `DictSample`, whose fields are open.

        Exact for a declared lens. Of a getter that is code, the fields that it names (`src.label`, on whichever
        branch); all of them, where it does anything else with the sample, such as handing it to another function.
        """
        return self.reads_for(None)

    def reads_for(self, fields: Collection[str] | None) -> frozenset[str] | None:
        """The fields of the source that only these fields of the view need (None: all of them); as `reads`."""
        if self._reads is None and not issubclass(self.source, DictSample):
            self._reads = fields_read(self._getter, self.source)
        return self._reads

    @property
    def passing(self) -> Passing | None:
        """What the lens passes on, when it does nothing else; None when it does, or nobody can tell."""
        if type(self) is not Lens:
            return None
        proof = self._proof
        if proof is not None and proof.holds(self._getter):
            return proof.passing
        self._proof = prove(self._getter, self.source, self.view)
        return self._proof.passing

    @property
    def by_columns(self) -> bool:
        """Whether `get_columns` is possible: it is unless a class that code reads computes its fields when made."""
        return issubclass(self.source, DictSample) or keeps_values(self.source)

    def __repr__(self) -> str:
        return f"<Lens {self.name}: {self.source.__name__} -> {self.view.__name__}>"

    # -- what it does ----------------------------------------------------------------------------------------

    def get(self, source: S) -> V:
        """The view of a sample.

        Raises:
            LensError: `source` is not of the source class, or the getter gave something that is not of the view class.
            LensValueError: a declared lens cannot carry a value over.
        """
        if not isinstance(source, self.source):
            raise LensError(f"{self.name} reads {self.source.__name__}, not {type(source).__name__}")
        return self._checked(self._see(source))

    __call__ = get

    def get_partial(self, source: Any) -> V:
        """The view of an object of any class (`DictSample` for those) that has the fields of `reads`, maybe no others.

        Raises:
            LensError: the getter asked for another field after all, or gave something that is not of the view class.
        """
        try:
            view = self._see(source)
        except AttributeError as error:
            self._explain(error, source)
            raise
        return self._checked(view)

    def _explain(self, error: AttributeError, source: Any) -> None:
        """Say so, when what a getter raised was for a field that it reads, and that was not there."""
        if error.obj is source and self.reads is not None and error.name in field_names(self.source):
            raise LensError(
                f"{self.name} reads the field {error.name!r}, which its code does not show; name it in the getter "
                f"itself as src.{error.name}",
                field=f"{self.source.__name__}.{error.name}",
            ) from None

    def reader(self, *, partial: bool = False) -> Callable[[Any], Any]:
        """A function like `get`, or `get_partial`, for many samples: it has less to do for each."""
        whole = self.get_partial if partial else self.get
        if type(self) is not Lens:
            return whole
        getter, source, view = self._getter, self.source, self.view

        def read(sample: Any) -> Any:
            if not partial and not isinstance(sample, source):
                return whole(sample)
            try:
                seen = getter(sample)
            except AttributeError as error:
                self._explain(error, sample)
                raise
            return seen if type(seen) is view else self._checked(seen)

        return read

    def put(self, view: V, source: S) -> S:
        """`source`, changed so that it looks like `view`.

        Raises:
            LensError: there is no putter, or a sample is not of its class.
            LensValueError: a declared lens cannot carry a value back.
        """
        if not isinstance(view, self.view):
            raise LensError(f"{self.name} writes {self.view.__name__}, not {type(view).__name__}")
        if not isinstance(source, self.source):
            raise LensError(f"{self.name} writes into {self.source.__name__}, not {type(source).__name__}")
        made = self._change(view, source)
        if not isinstance(made, self.source):
            raise LensError(f"the putter of {self.name} gave {type(made).__name__}, not {self.source.__name__}")
        return made

    def get_columns(self, columns: Mapping[str, Any], fields: Iterable[str] | None = None) -> dict[str, Any]:
        """The columns of the views of many samples, as a `SampleBatch` has them.

        The same values as `get` gives sample by sample. A declared lens works on whole columns.

        Args:
            columns: for each field of `reads` (all fields of a `DictSample`), its values: an array of shape
                (samples, …), or a list. One column at least, also where no field is read.
            fields: the fields of the view that are wanted; all by default.

        Returns:
            For each field an array of shape (samples, …) where all values are arrays of one dtype and shape, else a
            list. May share memory with `columns`.

        Raises:
            LensError: it is not `by_columns`.
            LensValueError: a declared lens cannot carry a value over.
        """
        for part in self.parts:
            if not part.by_columns:
                raise LensError(
                    f"{part.name} cannot read columns: {part.source.__name__} computes its fields when it is made, and "
                    "so cannot be made of them again; read it sample by sample"
                )
        asked = None if fields is None else list(fields)
        return self._columns(columns, count(columns, self.reads_for(asked) or ()), asked)

    def _columns(self, columns: Mapping[str, Any], size: int, fields: Collection[str] | None) -> dict[str, Any]:
        """`get_columns` of `size` samples."""
        parts: Iterable[Any] = parts_of(columns, columns if self.reads is None else self.reads, size)
        if issubclass(self.source, DictSample):
            parts = map(DictSample, parts)
        else:
            whole = self.reads == frozenset(field_names(self.source))
            parts = ((self.source if whole else _Part)(**part) for part in parts)
        views = [self.get_partial(part) for part in parts]
        if issubclass(self.view, DictSample):
            names = dict.fromkeys(name for view in views for name in view) if fields is None else fields  # type: ignore[attr-defined]
            return {name: stack([view[name] for view in views]) for name in names}  # type: ignore[index]
        return {name: stack([getattr(view, name) for view in views]) for name in wanted(self.view, fields)}

    def _see(self, source: Any) -> V:
        return self._getter(source)

    def see_only(self, source: Any, fields: Collection[str] | None) -> Any:
        """The view, or an object with no more than these fields of it: a part of a composed lens's reading."""
        return self.get_partial(source)

    def _change(self, view: V, source: S) -> S:
        if self._putter is None:
            raise LensError(
                f"{self.name} has no putter, so nothing can be written back: add one with @{self.name}.putter"
            )
        return self._putter(view, source)

    def _checked(self, view: Any) -> V:
        if not isinstance(view, self.view):
            raise LensError(f"{self.name} gave {type(view).__name__}, not {self.view.__name__}")
        return view

    # -- as a record -----------------------------------------------------------------------------------------

    def to_record(self, code: CodeReference | None = None) -> dict[str, Any]:
        """The lens as JSON values: what is declared, or where the code of functions is and the hash of their text.

        Args:
            code: for functions, the repository, commit and file where others find them.

        Raises:
            LensError: it is composed of others (store those), or the text of its functions is not to be had.
        """
        from atdata.lenses.records import record_of

        return record_of(self, code)

    def to_network_record(
        self, source_schema: str, view_schema: str, created_at: str, code: CodeReference | None = None
    ) -> dict[str, Any]:
        """A `science.alt.dataset.lens` record, as JSON values without floats.

        Args:
            source_schema: the AT URI of the source's schema.
            view_schema: the AT URI of the view's schema.
            created_at: an ISO 8601 time with a time zone.
            code: for functions, the repository, commit and file where others find them.

        Raises:
            LensError: as `to_record`; or it is code, and `code` is missing.
        """
        from atdata.lenses.records import network_record_of

        return network_record_of(self, source_schema, view_schema, created_at, code)

    @staticmethod
    def from_record(record: Mapping[str, Any], source: type[A], view: type[B]) -> Lens[A, B] | LensReference:
        """The declared lens in a record; of a lens that is code, a reference that says what to do.

        The record may come from a stranger: only known operations are read, sizes are bounded, and nothing is imported
        or executed.

        Args:
            record: the local or the network form, from this or another implementation.
            source: the class of the source's schema.
            view: the class of the view's schema.

        Raises:
            LensRecordError: the record is malformed, or it is for other classes; the message names the field.
        """
        from atdata.lenses.records import lens_of

        return lens_of(record, source, view)

    # -- composition -----------------------------------------------------------------------------------------

    def __or__(self, other: Lens[V, A]) -> Lens[S, A]:
        if not isinstance(other, Lens):
            return NotImplemented
        from atdata.lenses.composition import compose

        return compose(self, other)

    def __matmul__(self, other: Lens[A, S]) -> Lens[A, V]:
        if not isinstance(other, Lens):
            return NotImplemented
        from atdata.lenses.composition import compose

        return compose(other, self)

    def __eq__(self, other: object) -> bool:
        return type(other) is Lens and self.functions == other.functions

    def __hash__(self) -> int:
        return hash(self._getter)

    def __copy__(self) -> Lens[S, V]:
        return self

    def __deepcopy__(self, memo: Any) -> Lens[S, V]:
        return self

    def __reduce__(self) -> Any:
        # A function under `@atdata.lens` is found by the lens's name, since its own leads to the lens.
        if _is_at(self, self):
            return self.__qualname__
        if all(_is_at(f, f) for f in self.functions):
            return (Lens, self.functions)
        raise LensError(
            f"{self.name} cannot be sent to another process, which would not find it at {self.place}: define it at the "
            "top of a module, and not inside of a function, or declare it with atdata.Lens.fields"
        )


class _Part(types.SimpleNamespace):
    """Some fields of a sample."""


def _is_at(found: Any, named: Any) -> bool:
    """Whether `found` is what the module and name of `named` lead to."""
    at: Any = sys.modules.get(named.__module__)
    for part in named.__qualname__.split("."):
        at = getattr(at, part, None)
    return at is found
