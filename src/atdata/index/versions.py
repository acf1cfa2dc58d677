"""Version numbers: https://semver.org/spec/v2.0.0.html."""

from __future__ import annotations

import functools
import re
from typing import Literal

from atdata.errors import EntryFormError

__all__ = ["FIRST", "Change", "Version", "rank_of"]

# What changed from one version to the next, by the part of the number that it raises.
Change = Literal["patch", "minor", "major"]

_MAX = 100
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_PRE}(?:\.{_PRE})*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)


@functools.total_ordering
class Version:
    """A version number such as `1.2.0` or `2.0.0-rc.1`.

    Versions compare by semver's precedence; build parts (`+…`), which have none there, break ties by their text.

    Args:
        text: `major.minor.patch`, with optional pre-release and build parts; at most 100 characters.

    Raises:
        EntryFormError: it is something else.

    Example:
        >>> Version("1.10.0") > Version("1.9.3") > Version("1.9.3-rc.1")
        True
        >>> str(Version("1.2.3").after("minor"))
        '1.3.0'
    """

    __slots__ = ("build", "core", "pre", "text")

    def __init__(self, text: str) -> None:
        match = _SEMVER.fullmatch(text) if isinstance(text, str) and len(text) <= _MAX else None
        if match is None:
            raise EntryFormError(
                f"{text!r:.120} is not a version: write major.minor.patch, for example 1.0.0 or 2.0.0-rc.1"
            )
        self.text = text
        self.core = int(match[1]), int(match[2]), int(match[3])
        self.pre = match[4]
        self.build = match[5]

    @staticmethod
    def valid(text: str) -> bool:
        """Whether `text` is a version number."""
        return len(text) <= _MAX and _SEMVER.fullmatch(text) is not None

    @property
    def rank(self) -> str:
        """Text whose order, byte by byte, puts the version to be taken by default last: releases after pre-releases.

        A database can sort and search by it without knowing about versions.
        """
        return ("0" if self.pre else "1") + self._order

    @property
    def _order(self) -> str:
        """Text in the order of precedence. Numbers are led by their length, and so sort by size."""
        core = "".join(_sized(str(n)) for n in self.core)
        # `!` sorts before everything that a part may hold, so that a shorter list comes first; `~` after it.
        pre = "~" if self.pre is None else "".join(f"{_part(part)}!" for part in self.pre.split("."))
        return f"{core}{pre}{'' if self.build is None else '+' + self.build}"

    def after(self, change: Change) -> Version:
        """The next version for a change of that kind."""
        major, minor, patch = self.core
        if self.pre is not None and (change == "patch" or (patch == 0 and (change == "minor" or minor == 0))):
            return Version(f"{major}.{minor}.{patch}")  # the release that the pre-release came before
        if change == "major":
            return Version(f"{major + 1}.0.0")
        return Version(f"{major}.{minor + 1}.0" if change == "minor" else f"{major}.{minor}.{patch + 1}")

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Version({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.text == other.text

    def __lt__(self, other: Version) -> bool:
        return self._order < other._order

    def __hash__(self) -> int:
        return hash(self.text)


FIRST = "1.0.0"


@functools.lru_cache(10_000)
def rank_of(text: str) -> str:
    """The rank of a version number; see `Version.rank`."""
    return Version(text).rank


def _sized(digits: str) -> str:
    return f"{len(digits):02}{digits}"


def _part(part: str) -> str:
    """Numbers come before words."""
    return f"0{_sized(part)}" if part.isdigit() else f"1{part}"
