"""Names, versions, references, words: what they mean, for any input."""

from __future__ import annotations

import functools
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdata.errors import EntryFormError
from atdata.index.names import Ref, check_label, check_name, parse_ref, parse_schema_ref, schema_ref
from atdata.index.versions import Version
from atdata.index.words import words_in
from atdata.testing.indexes import HOSTILE_NAMES, HOSTILE_VERSIONS

# The order that https://semver.org/spec/v2.0.0.html, section 11, gives, and where it says nothing, that of the text.
IN_ORDER = (
    "0.0.1", "0.1.0-a", "0.1.0", "1.0.0-0", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.1.1",
    "1.0.0-alpha.beta", "1.0.0-alpha-1", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
    "1.0.0-rc.20261123031516", "1.0.0", "1.0.0+build", "1.0.0+build.2", "1.0.1", "1.2.0", "1.10.0", "2.0.0", "10.0.0",
    "123456789012345678901234567890.0.0",
)  # fmt: skip

numbers = st.integers(0, 10**12).map(str)
words = st.from_regex(r"[0-9]*[A-Za-z-][0-9A-Za-z-]{0,5}", fullmatch=True)
versions = st.builds(
    lambda core, pre: ".".join(core) + (f"-{'.'.join(pre)}" if pre else ""),
    st.tuples(numbers, numbers, numbers),
    st.lists(numbers | words, max_size=3),
).map(Version)


def test_versions_are_in_the_order_of_the_standard() -> None:
    for before, after in itertools.pairwise(IN_ORDER):
        assert Version(before) < Version(after), (before, after)
    assert sorted(IN_ORDER, key=Version) == list(IN_ORDER)


def precedence(one: Version, other: Version) -> int:
    """As the standard says it, step by step."""
    if one.core != other.core:
        return -1 if one.core < other.core else 1
    if None in (one.pre, other.pre):
        return (one.pre is None) - (other.pre is None)
    for a, b in zip(one.pre.split("."), other.pre.split("."), strict=False):
        if a == b:
            continue
        if a.isdigit() and b.isdigit():
            return -1 if int(a) < int(b) else 1
        if a.isdigit() != b.isdigit():
            return -1 if a.isdigit() else 1
        return -1 if a < b else 1
    return (len(one.pre) > len(other.pre)) - (len(one.pre) < len(other.pre))


@given(st.lists(versions, min_size=2, max_size=6))
def test_text_sorts_as_versions_do(some: list[Version]) -> None:
    assert [v.text for v in sorted(some)] == [v.text for v in sorted(some, key=functools.cmp_to_key(precedence))]
    default = max(some, key=lambda version: version.rank.encode())
    released = [version for version in some if version.pre is None]
    assert default.text == max(released or some).text
    assert len({version.rank for version in some}) == len({version.text for version in some})


@given(versions, st.sampled_from(["patch", "minor", "major"]))
def test_the_next_version_is_higher_and_released(version: Version, change: str) -> None:
    following = version.after(change)  # type: ignore[arg-type]
    assert following > version
    assert following.pre is None


@pytest.mark.parametrize("text", HOSTILE_VERSIONS)
def test_what_is_no_version(text: str) -> None:
    assert not Version.valid(text)
    with pytest.raises(EntryFormError):
        Version(text)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(EntryFormError) as caught:
        check_name(name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "name", ["a", "0", "_", "mnist", "a/b/c", "a.b-c_d", "2024-01", "x" * 100, "A", "local", "a/local/b"]
)
def test_what_is_a_name(name: str) -> None:
    assert check_name(name) == name
    assert parse_ref(name) == Ref(name)
    assert parse_ref(f"@local/{name}@1.0.0") == Ref(name, version="1.0.0")
    assert parse_ref(f"local/{name}@stable") == Ref(name, label="stable")
    assert parse_ref(f"atdata://local/dataset/{name}@latest") == Ref(name)


def test_a_refused_name_comes_with_one_that_could_be_used() -> None:
    with pytest.raises(EntryFormError, match="for example 'my-dataset-v2'"):
        check_name("my dataset (v2)")


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    for parse in (parse_ref, parse_schema_ref, check_name, check_label, Version):
        try:
            found = parse(text)
        except EntryFormError:
            continue
        if parse is parse_ref:
            assert parse_ref(str(found)) == found


@pytest.mark.parametrize(
    ("ref", "found"),
    [
        ("Digit", ("Digit", None)),
        ("Digit@latest", ("Digit", None)),
        ("Digit@1.2.3", ("Digit", "1.2.3")),
        (schema_ref("Digit", "1.0.0"), ("Digit", "1.0.0")),
        ("atdata://local/schema/Digit", ("Digit", None)),
        ("atdata://local/sampleSchema/Digit@1.0.0", ("Digit", "1.0.0")),
        ("local://schemas/package.module.Digit@1.0.0", ("Digit", "1.0.0")),
    ],
)
def test_references_to_schemas(ref: str, found: tuple[str, str | None]) -> None:
    assert parse_schema_ref(ref) == found


@given(st.text(max_size=200))
def test_words_are_letters_and_digits_in_one_form(text: str) -> None:
    found = words_in([text])
    assert all(word.isalnum() and 0 < len(word) <= 64 for word in found)
    assert words_in(found) == found
    assert words_in([text.upper()]) == words_in([text.upper().lower()])
