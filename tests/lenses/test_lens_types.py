"""What mypy makes of lenses: both sides are known, and mistakes are found before the program runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import atdata

PROGRAM = """\
from __future__ import annotations
import dataclasses
import atdata

@atdata.packable
class Photo:
    label: str
    iso: int

@atdata.packable
class Labelled:
    label: str

@atdata.packable
class Short:
    letter: str

@atdata.lens
def simplify(src: Photo) -> Labelled:
    return Labelled(label=src.label)

@simplify.putter
def _(view: Labelled, src: Photo) -> Photo:
    return dataclasses.replace(src, label=view.label)

def cut(src: Labelled) -> Short:
    return Short(src.label[:1])

shorten = atdata.Lens(cut)
declared = atdata.Lens.fields(Photo, Labelled, drop=["iso"])
reveal_type(simplify)                                  # Lens[Photo, Labelled]
reveal_type(shorten)                                   # Lens[Labelled, Short]
reveal_type(declared.get(Photo("a", 1)))               # Labelled
reveal_type(simplify | shorten)                        # Lens[Photo, Short]
reveal_type(shorten @ simplify)                        # Lens[Photo, Short]
reveal_type(simplify.put(Labelled("a"), Photo("b", 1)))    # Photo
reveal_type(simplify(Photo("b", 1)))                   # Labelled
reveal_type(atdata.Lens.identity(Photo))               # Lens[Photo, Photo]
reveal_type(atdata.lens(declared))                     # Lens[Photo, Labelled]
reveal_type(atdata.LensNetwork().find(Photo, Short))   # Lens[Photo, Short]
atdata.check_laws(simplify)
simplify.get(Labelled("a"))                            # error: arg-type
simplify.put(Photo("b", 1), Labelled("a"))             # error: arg-type
shorten | simplify                                     # error: operator
simplify @ shorten                                     # error: operator
atdata.Lens.fields(Photo, Labelled, scale={"iso": "2"})    # error: dict-item

@simplify.putter                                       # error: arg-type
def swapped(src: Photo, view: Labelled) -> Photo:
    return src
"""


@pytest.mark.slow
def test_mypy_knows_both_sides(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    source = Path(atdata.__file__).parent.parent
    done = subprocess.run(
        # With what is known of NumPy and the package from the last time, this takes a tenth of the time.
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(source.parent / ".mypy_cache"), "program.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    said: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"program\.py:(\d+): (?:note: Revealed type is \"(.*)\"|error: .*\[(.*)\])$", line):
            kind = match[2] and re.sub(r"\b(?:atdata\.lenses\.\w+|program)\.", "", match[2])
            said[int(match[1])] = kind or f"error: {match[3]}"
    wanted = {
        number: line.rpartition("# ")[2].strip()
        for number, line in enumerate(PROGRAM.splitlines(), 1)
        if "  # " in line
    }
    assert said == wanted, done.stdout + done.stderr
