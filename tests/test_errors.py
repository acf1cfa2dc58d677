"""The tree of errors: as documented, picklable, and saying where."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator

import pytest

from atdata import errors
from atdata.errors import AtdataError, IntegrityError, SampleKeyError, ShardFormatError, StepError

CLASSES = [getattr(errors, name) for name in errors.__all__]
LINE = re.compile(r"^(?P<indent>[│ ]*)(?:[├└]── )?(?P<name>\w+)(?: +(?P<text>\S.*))?$")


def documented() -> Iterator[tuple[str, str | None, list[str]]]:
    """Each class of the tree in the module's docstring: name, parent, and what it also is."""
    assert errors.__doc__ is not None
    tree = errors.__doc__.split("```")[1].strip().splitlines()
    above: dict[int, str] = {}
    for line in tree:
        match = LINE.match(line)
        assert match, line
        depth = len(line[: match.start("name")]) // 4
        also = re.search(r"\(also (\w+(?:, \w+)*)\)", match["text"] or "")
        above[depth] = match["name"]
        yield match["name"], above[depth - 1] if depth else None, also[1].split(", ") if also else []


def test_the_documented_tree_is_the_classes() -> None:
    seen = set()
    for name, parent, also in documented():
        cls = getattr(errors, name)
        seen.add(name)
        bases = [base.__name__ for base in cls.__bases__]
        assert bases == [parent or "Exception", *also], name
        assert cls.__doc__
    assert seen == set(errors.__all__)
    assert list(errors.__all__) == sorted(errors.__all__)
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined == seen


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_survive_pickling_and_copying(cls: type[AtdataError]) -> None:
    error = cls("something is wrong", url="a.tar", offset=512, key="k", field="T.f")
    error.add_note("a note")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert again.__notes__ == ["a note"]


def test_an_integrity_error_keeps_what_was_expected() -> None:
    error = IntegrityError("differs", expected=3, got="4", url="u")
    again = pickle.loads(pickle.dumps(error))
    assert (again.expected, again.got, again.url) == (3, "4", "u")
    assert (IntegrityError("x").expected, IntegrityError("x").got) == (None, None)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_message_says_what_and_where(cls: type[AtdataError]) -> None:
    assert str(cls("it broke")) == "it broke"
    assert str(cls("it broke", url="u")) == "it broke [u]"
    assert str(cls("it broke", offset=0)) == "it broke [at byte 0]"
    assert str(cls("it broke", key="")) == "it broke [sample '']"
    assert str(cls("it broke", url="u", offset=5, key="k")) == "it broke [u, at byte 5, sample 'k']"
    assert str(cls("it broke", field="T.f")) == "T.f: it broke"
    assert str(cls("T.f: it broke", field="T.f", key="k")) == "T.f: it broke [sample 'k']"


def test_the_place_is_filled_in_from_the_inside_out() -> None:
    error = ShardFormatError("bad header", offset=512)
    assert error.at(url="a.tar", offset=99, key="k") is error
    assert error.at(url="b.tar") is error
    assert (error.url, error.offset, error.key) == ("a.tar", 512, "k")
    zero = ShardFormatError("bad header", offset=0)
    zero.at(offset=7)
    assert zero.offset == 0


def test_a_key_error_is_not_shown_in_quotes() -> None:
    assert str(SampleKeyError("no sample has this key", key="a")) == "no sample has this key [sample 'a']"


def test_the_builtin_kinds_catch_them_too() -> None:
    for name, _, also in documented():
        for builtin in also:
            kind = {"TypeError": TypeError, "ValueError": ValueError, "KeyError": KeyError, "IndexError": IndexError,
                    "FileNotFoundError": FileNotFoundError, "FileExistsError": FileExistsError,
                    "PermissionError": PermissionError, "LookupError": LookupError}[builtin]  # fmt: skip
            with pytest.raises(kind):
                raise getattr(errors, name)("it broke")


def test_a_cause_stays_chained() -> None:
    try:
        try:
            raise ZeroDivisionError("inner")
        except ZeroDivisionError as error:
            raise StepError("outer") from error
    except StepError as error:
        caught = error
    assert isinstance(caught.__cause__, ZeroDivisionError)


def test_os_errors_of_ours_do_not_confuse_their_arguments() -> None:
    for name in ("DatasetNotFoundError", "DatasetExistsError"):
        error = getattr(errors, name)("there is none", url="/x")
        assert error.errno is None
        assert error.filename is None
        assert error.args == ("there is none",)
