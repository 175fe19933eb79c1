"""The functions that come with the server: what time it is, and timers.

Timers belong to one conversation, and end with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from agent.errors import FunctionError
from agent.functions.registry import Asked, Function, Values

MAX_TIMERS: Final = 16
MAX_TIMER_S: Final = 24 * 3600
NAME: Final = {"type": "string", "minLength": 1, "maxLength": 60}
SECONDS: Final = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMER_S}

Status = Literal["set", "cancelled", "over"]


def time_functions() -> list[Function]:
    """What time it is where the server is."""

    async def tell(arguments: Values, asked: Asked) -> Values:
        moment = datetime.fromtimestamp(asked.now_s).astimezone()
        return {
            "time": moment.isoformat(timespec="seconds"),
            "weekday": f"{moment:%A}",
            "say": f"It is {moment:%H:%M}.",
        }

    return [Function("get_time", "Tells the time and date.", _parameters(), tell)]


@dataclass(frozen=True, slots=True)
class TimerNews:
    """Report: something has become of a timer."""

    call_id: str  # that did it; of one that is over: that set it
    name: str
    status: Status
    left_s: float = 0.0

    @property
    def output(self) -> Values:
        """Of one that is over: what came of the call that set it, at last."""
        return {"timer": self.name, "status": self.status, "say": f"{_begin(self.name)} is over."}


@dataclass(frozen=True, slots=True)
class _Timer:
    call_id: str
    name: str
    due_s: float  # Unix time
    task: asyncio.Task[None]


class Timers:
    """Of one conversation, which alone knows the order of things, so it says by `end` when one is over."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        sleep: Callable[[float], Awaitable[None]],
        report: Callable[[TimerNews], Coroutine[Any, Any, None]],
    ) -> None:
        """sleep: takes seconds"""
        self._tasks, self._sleep, self._report = tasks, sleep, report
        self._running: dict[str, _Timer] = {}  # by name, whatever its case

    def functions(self) -> list[Function]:
        """What can be done with them."""
        setting = _parameters("seconds", seconds=SECONDS, name=NAME)
        return [
            Function("set_timer", "Sets a timer, which speaks up after so many seconds.", setting, self._set),
            Function("list_timers", "Tells which timers are running.", _parameters(), self._list),
            Function("cancel_timer", "Stops a timer by its name.", _parameters("name", name=NAME), self._cancel),
        ]

    def end(self, news: TimerNews) -> bool:
        """Take one that is over off the list; False: it was cancelled at the last moment."""
        timer = self._running.get(news.name.casefold())
        if timer is None or timer.call_id != news.call_id:
            return False
        del self._running[news.name.casefold()]
        return True

    async def _set(self, arguments: Values, asked: Asked) -> Values:
        if len(self._running) >= MAX_TIMERS:
            raise FunctionError("too_many", f"{MAX_TIMERS} timers are running already")
        seconds, name = arguments["seconds"], arguments.get("name", "").strip() or self._free_name()
        if name.casefold() in self._running:
            raise FunctionError("exists", f"there is a timer {name!r} already")
        self._tell(TimerNews(asked.call_id, name, "set", seconds))
        task = self._tasks.create_task(self._wait(asked.call_id, name, seconds), name=f"timer {name}")
        self._running[name.casefold()] = _Timer(asked.call_id, name, asked.now_s + seconds, task)
        return {"name": name, "seconds": seconds, "say": f"{_begin(name)}: {_spoken(seconds)}."}

    async def _list(self, arguments: Values, asked: Asked) -> Values:
        left = {timer.name: max(0.0, round(timer.due_s - asked.now_s, 1)) for timer in self._running.values()}
        said = ". ".join(f"{_begin(name)}: {_spoken(seconds)} left" for name, seconds in left.items())
        timers = [{"name": name, "seconds_left": seconds} for name, seconds in left.items()]
        return {"timers": timers, "say": f"{said or 'No timer is running'}."}

    async def _cancel(self, arguments: Values, asked: Asked) -> Values:
        wanted = arguments["name"].strip()
        timer = self._running.pop(wanted.casefold(), None)
        if timer is None:
            running = ", ".join(timer.name for timer in self._running.values()) or "none"
            raise FunctionError("unknown", f"there is no timer {wanted!r}; running: {running}")
        timer.task.cancel()
        self._tell(TimerNews(asked.call_id, timer.name, "cancelled"))
        return {"name": timer.name, "say": f"{_begin(timer.name)} is cancelled."}

    async def _wait(self, call_id: str, name: str, seconds: float) -> None:
        await self._sleep(seconds)
        await self._report(TimerNews(call_id, name, "over"))

    def _tell(self, news: TimerNews) -> None:
        """In a task, as nothing that was done may be called off because whoever is told is busy."""
        self._tasks.create_task(self._report(news), name=f"tell of timer {news.name}")

    def _free_name(self) -> str:
        return next(name for number in range(1, MAX_TIMERS + 1) if (name := f"timer {number}") not in self._running)


def _parameters(*required: str, **properties: Any) -> Values:
    """The JSON schema of these arguments alone."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _begin(name: str) -> str:
    """A sentence with it."""
    return name[:1].upper() + name[1:]


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [
        f"{amount} {unit}{'s' * (amount != 1)}"
        for amount, unit in ((hours, "hour"), (minutes, "minute"), (rest, "second"))
        if amount
    ]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "less than a second"
