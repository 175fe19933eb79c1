from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import pytest
from rich.console import Console, RenderableType

from clients.display import follow, summary, turn_lines
from clients.realtime import ClientError, Event
from clients.turns import Latency, Turn
from tests.clients.scripted_server import spoken_turn


def printed(renderable: RenderableType, width: int = 100) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(renderable)
    return output.getvalue()


def test_a_turn_under_way_shows_what_is_there() -> None:
    text = printed(turn_lines(Turn(spoken=True, transcript="a large", speaker="speaker 2")))
    assert "speaker 2  a large …" in text
    assert "assistant" not in text


def test_texts_are_printed_as_they_are() -> None:
    turn = Turn(spoken=False, transcript="[bold]x[/bold] :smile:", heard=True, answered=True, problem="[1]")
    text = printed(turn_lines(turn))
    assert "[bold]x[/bold] :smile:" in text
    assert "problem  [1]" in text


def test_long_replies_wrap_beside_their_label() -> None:
    turn = Turn(spoken=False, transcript="q", reply="word " * 30, heard=True, answered=True)
    lines = printed(turn_lines(turn), width=60).splitlines()
    assert len(lines) > 2
    assert all(line.startswith(" " * 14 + "word") for line in lines[2:])


async def test_what_is_shown_already_is_not_gone_through_at_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    class Watched(Turn):
        __hash__ = Turn.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

    async def events() -> AsyncIterator[Event]:
        for number in range(40):
            for event in spoken_turn(number, "computer", "yes"):
                yield event

    monkeypatch.setattr("clients.turns.Turn", Watched)
    output = io.StringIO()
    with pytest.raises(ClientError, match="the server ended"):
        async with follow(events(), Console(file=output, width=80)):
            await asyncio.Event().wait()
    assert output.getvalue().count("computer") == 40
    assert compared == 0


def test_summary_counts_only_what_was_measured() -> None:
    turns = [Turn(spoken=True, latency=Latency(100.0 * n, 10.0 * n, 20.0 * n)) for n in range(1, 20)]
    turns += [Turn(spoken=False, latency=Latency(None, 200.0, 400.0)), Turn(spoken=True)]
    wait, first, total = printed(summary(turns)).splitlines()[4:7]
    rows = [[cell.strip() for cell in row.split("│")[2:5]] for row in (wait, first, total)]
    assert rows == [["19", "1000 ms", "1900 ms"], ["20", "110 ms", "200 ms"], ["20", "220 ms", "400 ms"]]


def test_summary_of_nothing() -> None:
    assert "–" in printed(summary([]))
