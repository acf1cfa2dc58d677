"""The code in README.md (and docs/) does what it says: every block runs, in order, as a reader would run it.

Blocks of one file share one namespace and one empty folder. A ```python block is executed; each line of a ```console
block that begins with `$ ` goes through the shell and must end with exit code 0. On the line before a block
`<!-- run by tests/… -->` names the tests that run it where it needs a server, and `<!-- no-run -->` leaves it out,
which at most one block of a file may ask for.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))) if path.exists() and path.stat().st_size
]
MAX_NOT_RUN = 1
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w+-]*) *$")
_MARK = re.compile(r"<!-- (?:no-run|run by (?P<tests>tests/\w+/\w+\.py)) -->")


class Block(NamedTuple):
    """A fenced block: language, text, the line it begins on, whether it is to be run here, or by which tests."""

    language: str
    text: str
    line: int
    runs: bool
    tests: str | None = None


def blocks(markdown: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = markdown.splitlines()
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        if opening is None:
            at += 1
            continue
        begin = at + 1
        indent, ticks = len(opening["indent"]), opening["ticks"]
        end = next((n for n in range(begin, len(lines)) if lines[n].strip() == ticks), None)
        assert end is not None, f"the block on line {at + 1} has no end"
        text = "\n".join(line[indent:] if line[:indent].isspace() else line for line in lines[begin:end])
        mark = _MARK.fullmatch(lines[at - 1].strip()) if at > 0 else None
        yield Block(opening["language"], text, begin + 1, mark is None, mark["tests"] if mark is not None else None)
        at = end + 1


def commands(text: str) -> list[str]:
    """The commands of a console block; a line that ends with a backslash goes on."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line[2:] for line in lines if line.startswith("$ ")]


def run_page(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the page in `folder`; returns the number of blocks that ran."""
    work, bin_folder = folder / "work", folder / "bin"
    work.mkdir()
    bin_folder.mkdir()
    (work / "src").symlink_to(ROOT / "src")  # where coverage looks for it in the workers of a DataLoader
    script = bin_folder / "atdata"  # whether the package is installed or not
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m atdata "$@"\n')
    script.chmod(0o755)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(folder))
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), environment.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    )
    module = types.ModuleType(f"page_{path.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    ran = 0
    for block in blocks(path.read_text(encoding="utf-8")):
        if not block.runs or block.language not in ("python", "console"):
            continue
        ran += 1
        if block.language == "python":
            # Behind as many empty lines as the page has, so that tracebacks name the page's own lines.
            source = "\n" * (block.line - 1) + block.text
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # pages show other packages that leave files open
                exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
            continue
        for command in commands(block.text):
            done = subprocess.run(command, shell=True, cwd=work, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, (
                f"{path.name}:{block.line}: `{command}` ended with {done.returncode}\n{done.stdout}{done.stderr}"
            )
            assert "Traceback" not in done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        vars(module).clear()
        gc.collect()
    return ran


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(blocks(path.read_text(encoding="utf-8")))
    runnable = [b for b in found if b.language in ("python", "console")]
    assert sum(not b.runs and b.tests is None for b in runnable) <= MAX_NOT_RUN
    for tests in {b.tests for b in runnable if b.tests is not None}:
        assert f"{path.name}" in (ROOT / tests).read_text(encoding="utf-8"), f"{tests} runs nothing of {path.name}"
    for block in runnable:
        if block.language == "console" and block.runs:
            assert commands(block.text), f"{path.name}:{block.line}: a console block without a `$ ` line"
    assert run_page(path, tmp_path, monkeypatch) == sum(b.runs for b in runnable)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), target


# -- the collector itself ------------------------------------------------------------------------------------

PAGE = """\
# Title
```python
from pathlib import Path
x = 1
```
- in a list
  ```python
  x += 1
  Path("made").write_text(str(x))
  ```
<!-- no-run -->
```python
raise SystemExit
```
```
not a language
```
```console
$ test "$(cat made)" = 2
output is not run
$ echo a \\
  b > more
```
````python
y = '''
```
'''
````
<!-- run by tests/index/test_it.py -->
```python
raise SystemExit
```
"""


def test_blocks_are_found() -> None:
    found = list(blocks(PAGE))
    assert [(b.language, b.line, b.runs, b.tests) for b in found] == [
        ("python", 3, True, None), ("python", 8, True, None), ("python", 13, False, None), ("", 16, True, None),
        ("console", 19, True, None), ("python", 25, True, None), ("python", 31, False, "tests/index/test_it.py"),
    ]  # fmt: skip
    assert found[1].text == 'x += 1\nPath("made").write_text(str(x))'
    assert commands(found[4].text) == ['test "$(cat made)" = 2', "echo a    b > more"]


def test_pages_run_in_order_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert run_page(page, tmp_path, monkeypatch) == 4
    assert (tmp_path / "work" / "more").read_text() == "a b\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\n1 / 0\n```\n", ZeroDivisionError),
        ("```console\n$ false\n```\n", AssertionError),
        ("```console\n$ atdata inspect not-there\n```\n", AssertionError),
        ("```python\nx = 1\n", AssertionError),
    ],
)
def test_pages_that_are_wrong_fail(
    text: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"\n\n{text}")
    with pytest.raises(error) as caught:
        run_page(page, tmp_path, monkeypatch)
    if error is ZeroDivisionError:
        assert caught.traceback[-1].lineno == 3
        assert caught.traceback[-1].path == page
