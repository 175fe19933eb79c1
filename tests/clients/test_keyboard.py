"""What is typed, at a terminal and from a file."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import sys

import pytest

from clients.keyboard import typed_lines


async def test_lines_come_until_there_are_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("who is there\n\n  /name 1 Anna"))
    assert [line async for line in typed_lines()] == ["who is there", "", "/name 1 Anna"]


async def test_a_terminal_stays_one_that_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed goes to the same file; where that does not block, long texts break off."""
    ours, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        lines = typed_lines()
        os.write(ours, b"\n")
        assert await anext(lines) == ""
        assert not fcntl.fcntl(terminal, fcntl.F_GETFL) & os.O_NONBLOCK
        os.write(ours, b"\x04")  # the end, by its key
        assert [line async for line in lines] == []
    os.close(ours)
