"""How the demo tells what it does: numbered steps, with the source of the code that runs."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

from atdata.cli.demo import digits
from atdata.cli.reporting import Report, clean

__all__ = ["PREFIX", "Telling"]

PREFIX = "digits/v1"


class Telling:
    """What the parts of the story have in common.

    Attributes:
        report: where it is told.
        step: the number of the last step.
    """

    def __init__(self, report: Report, step: int = 0) -> None:
        self.report = report
        self.step = step

    def title(self, text: str, *, number: bool = True) -> None:
        """The heading of a step."""
        from rich.text import Text

        self.step += number
        self.report.print(Text(f"\n{self.step}. {text}\n" if number else f"\n{text}\n", "bold"))

    def code(self, *parts: Any, folder: str | None = None, handle: str | None = None) -> None:
        """Show the source of a class, or of the bodies of functions, with these values in it."""
        source = "\n".join(_source(part) for part in parts).rstrip("\n")
        if digits.Digit in parts:
            source = f"import atdata\nimport numpy as np\nfrom numpy.typing import NDArray\n\n{source}"
        if folder is not None:
            source = source.replace(
                'f"{folder}/digits/v1"', json.dumps(os.path.join(folder, PREFIX), ensure_ascii=False)
            )
            source = source.replace(
                "LocalDiskStore(folder)", f"LocalDiskStore({json.dumps(folder, ensure_ascii=False)})"
            )
        if handle is not None:
            source = (
                source.replace("{handle}", handle).replace("(handle", f'("{handle}"').replace("=handle", f'="{handle}"')
            )
            source = source.replace('f"@', '"@').replace(", password)", ', "app-password")')
        self.report.code(textwrap.indent(source, "    "))
        self.report.print("")

    def shown(self, path: Path) -> str:
        """The path as it can be pasted into a shell in this folder."""
        return shlex.quote(clean(str(path)))


def _source(part: Any) -> str:
    """A class as it stands; of a function, its body without the docstring and the last return."""
    text = re.sub(r"  # type: ignore.*", "", textwrap.dedent(inspect.getsource(part)))
    if inspect.isclass(part):
        return text
    lines = text.split("\n")
    body = lines[next(i for i, line in enumerate(lines) if line.rstrip().endswith('"""')) + 1 :]
    while body and (not body[-1].strip() or body[-1].startswith("    return ")):
        body.pop()
    return textwrap.dedent("\n".join(body)).strip("\n") + "\n"
