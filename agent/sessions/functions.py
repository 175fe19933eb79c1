"""Which calls of one conversation the server answers itself, and how: its own functions, and refusals of anybody's.

Acts only when its session tells it to. Calls are carried out in a task, one after another, which reports to the
session's mailbox; so do timers when they are due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.functions.builtin import TimerNews, Timers, time_functions
from agent.functions.permissions import Permissions
from agent.functions.registry import Asked, Outcome, Registry
from agent.protocol.tools import FunctionTool
from agent.sessions.conversation import Calling, Item
from agent.sessions.mailbox import Mailbox
from agent.sessions.tool_calls import Call

NOT_ALLOWED: Final = "not_allowed"


@dataclass(frozen=True, slots=True)
class FunctionOptions:
    """What the operator decides about functions."""

    own: Sequence[str] = ()  # time, timers
    permissions: Permissions = field(default_factory=Permissions)  # for clients' functions, too
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class FunctionEnded:
    """Report: a call has come to its outcome."""

    response_id: str
    call_id: str
    outcome: Outcome


class Functions:
    """Those of one conversation."""

    def __init__(
        self,
        options: FunctionOptions,
        person_of: Callable[[Item | None], str | None],
        tasks: asyncio.TaskGroup,
        mailbox: Mailbox,
        now_s: Callable[[], float],
        new_id: Callable[[str], str],
    ) -> None:
        """person_of: under which name whoever said an item was enrolled; now_s: Unix time"""
        self._permissions, self._person_of = options.permissions, person_of
        self._now_s, self._new_id = now_s, new_id
        self._report: Callable[[FunctionEnded | TimerNews], Awaitable[None]] = mailbox.report
        self._timers = Timers(tasks, mailbox.sleep, mailbox.report)
        offers = {"time": time_functions, "timers": self._timers.functions}
        self._own = Registry([one for name in options.own for one in offers[name]()], options.timeout_s)
        self._over: list[TimerNews] = []  # that nobody was told of yet
        self.offered: tuple[FunctionTool, ...] = self._own.offered

    def judge(self, call: Call, asker: Item | None) -> Calling:
        """Whose a call is, and whether whoever said `asker` may have it made; a refusal is the server's answer."""
        refusal = self._permissions.refusal(call.name, self._person_of(asker))
        return Calling(self._new_id("call"), call, call.name in self._own or refusal is not None, refusal)

    async def carry_out(self, response_id: str, callings: Sequence[Calling]) -> None:
        """Report what comes of calls that are the server's."""
        now_s = self._now_s()
        for calling in callings:
            if calling.refusal:
                outcome = Outcome.failure(NOT_ALLOWED, calling.refusal)
            else:
                outcome = await self._own.carry_out(calling.call, Asked(calling.call_id, now_s))
            await self._report(FunctionEnded(response_id, calling.call_id, outcome))

    def note(self, news: TimerNews) -> bool:
        """Remember a timer that is over until somebody is told; False: it was cancelled at the last moment."""
        if news.status != "over":
            return True
        if not self._timers.end(news):
            return False
        self._over.append(news)
        return True

    def take_over(self) -> list[TimerNews]:
        """The timers that are over and of which nobody was told."""
        over, self._over = self._over, []
        return over
