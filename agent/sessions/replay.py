"""A recorded session once more: the same messages and reports in the same order, at the times of the recording.

With a model that says the same again, every byte that is sent is the same; the first that is not is told. A voice
that is another program cuts its audio elsewhere each time, so replies that it spoke differ in their first audio.
"""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict, deque
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from agent.errors import SessionOver
from agent.sessions.generation import SpokenPiece
from agent.sessions.names import Names
from agent.sessions.recording import Recording, label
from agent.sessions.session import Session, SessionOptions
from wavllm_core.engine.api import Engine

PATIENCE_S: Final = 30.0  # for a report that the recording has
FAR_AHEAD_S: Final = 1e6  # per look at the clock: audio is never too early


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a replay leaves its recording."""

    line: int  # of the file
    recorded: str | None  # None: the recording had no more
    replayed: str | None  # None: nothing came


class ReplayMailbox:
    """See `Mailbox`; gives out what the recording says, whatever comes first."""

    def __init__(self, recording: Recording, patience_s: float = PATIENCE_S) -> None:
        self.now_s = 0.0
        self.line = 1  # of the file, that was given out last
        self.missing: str | None = None  # a report that did not come
        self._patience_s = patience_s
        self._lines = deque((n, line) for n, line in enumerate(recording.lines, 2) if "out" not in line)
        self._reports: dict[str, deque[Any]] = defaultdict(deque)
        self._came = asyncio.Event()

    @property
    def empty(self) -> bool:
        return not self._lines

    async def deliver(self, message: str | bytes) -> None:
        raise ValueError("a replay takes no messages")

    async def report(self, report: Any) -> None:
        if isinstance(report, SpokenPiece):
            report.taken.set()  # the voice runs ahead: when its sentences were made is the recording's to say
        self._reports[label(report)].append(report)
        self._came.set()

    async def take(self) -> Any:
        """Raises SessionOver at the end of the recording."""
        if not self._lines or "cut" in self._lines[0][1]:
            raise SessionOver("the recording ends here")
        self.line, line = self._lines.popleft()
        self.now_s = line["at"]
        if "report" in line:
            return await self._reported(line["report"])
        message = line["in"]
        return base64.b64decode(message["binary"]) if isinstance(message, dict) else message

    async def sleep(self, seconds: float) -> None:
        """What the recording says is when time has passed."""

    async def _reported(self, name: str) -> Any:
        try:
            async with asyncio.timeout(self._patience_s):
                while not self._reports[name]:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            self.missing = name
            raise SessionOver(f"{name} did not come") from None
        return self._reports[name].popleft()


async def replay(
    recording: Recording, engine: Engine, options: SessionOptions, patience_s: float = PATIENCE_S
) -> Difference | None:
    """Hold the session again; None when it was the same to the last byte."""
    recorded = deque((n, line["out"]) for n, line in enumerate(recording.lines, 2) if "out" in line)
    differences: list[Difference] = []
    mailbox = ReplayMailbox(recording, patience_s)

    async def send(text: str) -> None:
        line, wanted = recorded.popleft() if recorded else (mailbox.line, None)
        if text != wanted:
            differences.append(Difference(line, wanted, text))
            raise SessionOver("the replay has left the recording")

    ticks = count()
    session = Session(
        engine,
        options,
        send,
        lambda: FAR_AHEAD_S * next(ticks),
        mailbox=mailbox,
        handshake=recording.handshake,
        wall_clock=lambda: recording.began_s,
        new_id=Names(recording.seed),
    )
    with closing(session):
        try:
            await session.run()
        except* SessionOver:
            pass
    if mailbox.missing:
        differences.append(Difference(mailbox.line, mailbox.missing, None))
    if recorded and not differences:
        differences.append(Difference(*recorded[0], None))
    return differences[0] if differences else None
