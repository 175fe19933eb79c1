"""Where everything that a session acts on arrives, one thing at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

MAILBOX_MESSAGES: Final = 64  # then whoever delivers waits, and so does the client
LARGE_MESSAGE_CHARS: Final = 2**18  # one at a time, so that a mailbox stays small in bytes too


class Mailbox(Protocol):
    """What a session needs of it."""

    now_s: float  # when the last thing was taken

    @property
    def empty(self) -> bool:
        """Whether there is nothing to act on."""

    async def deliver(self, message: str | bytes) -> None:
        """Put a message of the client in; waits while there is enough to do."""

    async def report(self, report: Any) -> None:
        """Put a report of the session's own tasks in; waits likewise."""

    async def take(self) -> Any:
        """The next message or report; what was taken before is done with."""

    async def sleep(self, seconds: float) -> None:
        """For whoever reports that time has passed."""


class LiveMailbox:
    """In the order in which things arrive."""

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        taken: Callable[[Any, float], None] = lambda what, now_s: None,
    ) -> None:
        """taken: is told everything that is taken, and when"""
        self.now_s = clock()
        self._clock, self._taken = clock, taken
        self._queue: asyncio.Queue[Any] = asyncio.Queue(MAILBOX_MESSAGES)
        self._at_work = False

    @property
    def empty(self) -> bool:
        return self._queue.empty()

    async def deliver(self, message: str | bytes) -> None:
        await self._queue.put(message)
        if len(message) > LARGE_MESSAGE_CHARS:
            await self._queue.join()

    async def report(self, report: Any) -> None:
        await self._queue.put(report)

    async def take(self) -> Any:
        if self._at_work:
            self._queue.task_done()
            self._at_work = False
        what = await self._queue.get()
        self._at_work = True
        self.now_s = self._clock()
        self._taken(what, self.now_s)
        return what

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
