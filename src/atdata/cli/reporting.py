"""How every command answers: text or one JSON document on stdout, errors on stderr, and the exit code.

| exit code | meaning                                                  |
|-----------|----------------------------------------------------------|
| 0         | done, and all is well                                    |
| 1         | the thing asked about is wrong or not there              |
| 2         | the command was typed wrongly                            |
| 130       | Ctrl-C                                                   |
| 141       | whoever read the output went away (`| head`)             |
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

import typer

from atdata.cli.interrupt import say_interrupted

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Report", "clean", "count", "reporting", "size"]

_WIDE = 400  # for files and pipes, which have no width of their own


class Report:
    """Where a command's answer goes.

    Attributes:
        json: whether one JSON document is wanted instead of text.
    """

    def __init__(self, json: bool) -> None:
        self.json = json

    @functools.cached_property
    def console(self) -> Console:
        """Text for people, on stdout."""
        return _console(sys.stdout)

    def print(self, *what: Any) -> None:
        """Text or something rich can draw; nothing where JSON is wanted."""
        if not self.json:
            # Lines of text are left to the terminal to wrap, so that they can be copied whole.
            self.console.print(*what, soft_wrap=all(isinstance(w, str) for w in what))

    def code(self, source: str) -> None:
        """Python, in colour where there are colours."""
        if self.json:
            return
        if not self.console.is_terminal or self.console.color_system is None:
            self.print(source)
            return
        from pygments.token import (  # type: ignore[import-untyped]
            Comment,
            Keyword,
            Literal,
            Name,
            Operator,
        )
        from rich.style import Style
        from rich.syntax import ANSISyntaxTheme, Syntax

        # The sixteen colours of the user's own theme, less those that are hard to read on black or on white.
        colors = {
            Keyword: Style(color="magenta"),
            Operator.Word: Style(color="magenta"),
            Name.Decorator: Style(color="cyan"),
            Literal.String: Style(color="green"),
            Literal.Number: Style(color="cyan"),
            Comment: Style(dim=True),
        }
        self.console.print(Syntax(source, "python", theme=ANSISyntaxTheme(colors), background_color="default"))

    def error(self, message: str) -> None:
        """A message on stderr; the command goes on."""
        _say(f"atdata: error: {clean(message)}")

    def document(self, document: dict[str, Any]) -> None:
        """The JSON document; nothing where text is wanted."""
        if self.json:
            # ASCII, because file names may hold what the terminal's encoding cannot say.
            sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with 1
            raise BrokenPipeError

    terminal = stream.isatty()
    return Plain(
        file=stream, width=None if terminal else _WIDE, highlight=False, markup=False, emoji=False, soft_wrap=False
    )


@contextlib.contextmanager
def reporting(json: bool) -> Iterator[Report]:
    """Around the work of one command: turns errors into messages and exit codes."""
    from atdata.errors import AtdataError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    report = Report(json)
    try:
        yield report
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        say_interrupted()
        _notes(stop)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Python would try to write the rest when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (AtdataError, OSError, ImportError) as error:
        _fail(report, error, _message(error))
    except (typer.Exit, typer.Abort):
        sys.stdout.flush()
        raise
    except Exception as error:
        _fail(
            report,
            error,
            f"this is a defect in atdata: {type(error).__name__}: {error}; set ATDATA_DEBUG=1 to see where",
        )


def _message(error: Exception) -> str:
    from atdata.errors import AtdataError

    if isinstance(error, OSError) and not isinstance(error, AtdataError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename is not None else error.strerror
    return str(error)


def _fail(report: Report, error: Exception, message: str) -> None:
    if os.environ.get("ATDATA_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exc()
    place = {name: getattr(error, name, None) for name in ("url", "offset", "key", "field")}
    # The message alone; the place has its own keys.
    text = getattr(error, "message", message)
    with contextlib.suppress(OSError):
        report.document({"error": {"type": type(error).__name__, "message": text, **place}})
        sys.stdout.flush()
    report.error(message)
    _notes(error)
    raise SystemExit(1) from None


def _notes(error: BaseException) -> None:
    for note in getattr(error, "__notes__", ()):
        _say(f"atdata: {clean(note)}")


def _say(line: str) -> None:
    # Not sys.stderr, which a progress line that was interrupted may still have in its hands.
    stream = sys.__stderr__
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.write(line + "\n")
            stream.flush()


_STEERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x2028, 0x2029}


def clean(text: str) -> str:
    """`text` from a stranger, with everything that could steer the terminal written out: `\\x1b`.

    Example:
        >>> clean("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode("ascii")
        if unicodedata.category(c) in ("Cc", "Cs") or ord(c) in _STEERING
        else c
        for c in text
    )


def size(n: int | None) -> str:
    """`n` bytes as people say it; None where nobody knows.

    Example:
        >>> size(999), size(1_873_920), size(20_000_000_000), size(None)
        ('999 B', '1.9 MB', '20.0 GB', '?')
    """
    if n is None:
        return "?"
    if n < 1000:
        return f"{n} B"
    value = float(n)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:,.1f} PB"


def count(n: int | None, what: str) -> str:
    """`n` of `what`; None where nobody knows.

    Example:
        >>> count(1, "shard"), count(1797, "sample"), count(None, "sample"), count(2, "lens")
        ('1 shard', '1,797 samples', '? samples', '2 lenses')
    """
    if n == 1:
        return f"1 {what}"
    return f"{'?' if n is None else f'{n:,}'} {what}{'es' if what.endswith('s') else 's'}"
