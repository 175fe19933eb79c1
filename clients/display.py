"""How a conversation looks on a terminal, live and afterwards. Knows events and turns, not sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clients.realtime import ClientError, Event
from clients.turns import Latency, Turn, TurnLog

LABEL_WIDTH = 12
COLOURS = ("cyan", "magenta", "yellow", "blue", "bright_red", "bright_cyan")


def turn_lines(turn: Turn) -> RenderableType:
    """A turn as it stands now: who said what, the reply, what went wrong, where the time went."""
    if turn.ignored:
        return _lines([("not meant", "dim", turn.transcript, "dim")])
    said = (_who(turn), _colour(turn.speaker), turn.transcript + ("" if turn.heard else " …"), "")
    lines = [] if turn.unasked else [said]
    lines += [("function", "magenta", call, "") for call in turn.calls]
    if turn.reply or turn.answered:
        lines.append(("assistant", "green", turn.reply + ("" if turn.answered else " …"), ""))
    if turn.problem:
        lines.append(("problem", "red", turn.problem, ""))
    if turn.latency:
        lines.append(("", "", latency_line(turn.latency), "dim"))
    return _lines(lines)


def latency_line(latency: Latency) -> str:
    """The three latencies in words; a typed turn has no VAD wait."""
    wait = "" if latency.vad_wait_ms is None else f"VAD wait {latency.vad_wait_ms:.0f} ms · "
    return f"{wait}first token {latency.first_token_ms:.0f} ms · total {latency.total_ms:.0f} ms"


def summary(turns: Sequence[Turn]) -> Table:
    """Median and 95th percentile of the latencies of all answered turns."""
    latencies = [turn.latency for turn in turns if turn.latency]
    table = Table("latency", "turns", "p50", "p95", title="Latencies, as the server measured them")
    _row(table, "VAD wait: last word → end confirmed", [figures.vad_wait_ms for figures in latencies])
    _row(table, "confirmed → first token", [figures.first_token_ms for figures in latencies])
    _row(table, "last word → reply complete", [figures.total_ms for figures in latencies])
    return table


@asynccontextmanager
async def follow(
    events: AsyncIterable[Event],
    console: Console,
    status: Callable[[TurnLog], RenderableType] | None = None,
    max_turns: int | None = None,
) -> AsyncIterator[TurnLog]:
    """Take in events in the background and show what they amount to: open turns live, finished ones for good.

    status: a line below the open turns, asked for some times a second
    max_turns: finished ones that are remembered; None: all
    The end of `events` ends the block: raises what they raise, or ClientError when they just end.
    """
    log = TurnLog(max_turns=max_turns)

    def now() -> RenderableType:
        below = [status(log)] if status else []
        return Group(*[turn_lines(turn) for turn in log.turns if not turn.complete], *below)

    try:
        with Live(console=console, transient=True, auto_refresh=status is not None, get_renderable=now) as live:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(_show(events, log, live), name="show events")
                try:
                    yield log
                finally:
                    reader.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def _show(events: AsyncIterable[Event], log: TurnLog, live: Live) -> None:
    shown: set[Turn] = set()
    shown_problems = 0
    async for event in events:
        log.apply(event)
        for turn in log.turns:
            if turn.complete and turn not in shown:
                live.console.print(turn_lines(turn))
                shown.add(turn)
        shown.intersection_update(log.turns)
        for problem in log.problems[shown_problems:]:
            live.console.print(_lines([("error", "red", problem, "")]))
        shown_problems = len(log.problems)
        live.refresh()
    raise ClientError("the server ended the conversation")


def _lines(lines: Iterable[tuple[str, str, str, str]]) -> Table:
    """Rows of label, its style, text, its style; long texts wrap beside their label."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", width=LABEL_WIDTH)
    table.add_column(overflow="fold")
    for label, label_style, text, text_style in lines:
        table.add_row(Text(label, label_style), Text(text, text_style))
    return table


def _who(turn: Turn) -> str:
    return "you typed" if not turn.spoken else turn.speaker or "…"


def _colour(speaker: str | None) -> str:
    digits = "".join(filter(str.isdigit, speaker or ""))
    return COLOURS[int(digits) % len(COLOURS)] if digits else "bold"


def _row(table: Table, name: str, figures_ms: Sequence[float | None]) -> None:
    known = [figure for figure in figures_ms if figure is not None]
    p50, p95 = np.percentile(known, [50, 95], method="higher") if known else (None, None)
    table.add_row(name, str(len(known)), _milliseconds(p50), _milliseconds(p95))


def _milliseconds(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.0f} ms"
