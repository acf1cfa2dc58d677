"""What only a terminal gets to see: progress, pictures, colours. And Ctrl-C."""

from __future__ import annotations

import signal

import numpy as np
import pytest

import atdata


def test_pictures_appear_on_a_colour_terminal_only(run, terminal, dataset):
    shown = terminal("head", dataset, "-n", "2").finish()
    assert shown.code == 0
    assert "▀" in shown.out
    assert "\x1b[" in shown.out
    assert "uint8 8×8" in shown.out  # noqa: RUF001
    plain = run("head", dataset, "-n", "2").out
    assert "▀" not in plain
    assert "\x1b" not in plain
    assert "▀" not in terminal("head", dataset, "--no-pictures").finish().out
    assert "▀" not in terminal("head", dataset, TERM="dumb").finish().out


def test_pictures_without_colour_are_shades(terminal, dataset):
    shown = terminal("head", dataset, "-n", "2", NO_COLOR="1").finish().out
    assert "▀" not in shown
    assert "▓" in shown


def test_progress_appears_on_a_terminal_only_and_only_on_stderr(run, terminal, dataset):
    both = terminal("verify", dataset, streams=("stderr",)).finish()
    assert both.code == 0
    assert "checking" in both.out
    assert "checking" not in both.err  # which is stdout, through a pipe
    assert "all as recorded" in both.err
    assert "checking" not in terminal("verify", dataset, streams=("stdout",)).finish().out
    assert run("verify", dataset).err == ""


def test_json_is_the_same_on_a_terminal(run, terminal, dataset):
    shown = terminal("head", dataset, "--json", streams=("stdout",)).finish()
    assert shown.out.replace("\r\n", "\n") == run("head", dataset, "--json").out


@pytest.fixture
def large(tmp_path):
    """A dataset that takes seconds to verify."""
    samples = (atdata.DictSample(x=i, a=np.arange(4)) for i in range(100_000))
    ds = atdata.Dataset.from_samples(samples, atdata.DictSample)
    atdata.LocalDiskStore(tmp_path).write_shards(ds, prefix="large", maxcount=50_000)
    return tmp_path / "large"


@pytest.mark.parametrize("moment", [rb"checking", rb"[1-9][\d,]* samples"], ids=["at the start", "in the middle"])
def test_ctrl_c_ends_with_a_short_line(terminal, large, moment):
    running = terminal("verify", large)
    running.until(moment)
    running.process.send_signal(signal.SIGINT)
    shown = running.finish()
    assert shown.code == 130
    assert "\natdata: interrupted" in shown.out
    assert "\x1b[?25h" in shown.out  # the cursor is back
    assert "Traceback" not in shown.out
    assert "✓" not in shown.out
