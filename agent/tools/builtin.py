"""The functions that come with the server: what time it is, and timers.

Timers belong to one conversation, and end with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final

from agent.errors import ToolError
from agent.tools.registry import Output, Tool

MAX_TIMERS: Final = 16
MAX_TIMER_S: Final = 24 * 3600
NO_ARGUMENTS: Final = {"type": "object", "properties": {}, "additionalProperties": False}
TIMER: Final = {
    "type": "object",
    "properties": {
        "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMER_S},
        "name": {"type": "string", "maxLength": 60},
    },
    "required": ["seconds"],
    "additionalProperties": False,
}
NAMED: Final = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 60}},
    "required": ["name"],
    "additionalProperties": False,
}


def tell_time(now: Callable[[], datetime]) -> Tool:
    """What time it is where the server is."""

    async def run(arguments: Mapping[str, Any]) -> Output:
        moment = now()
        return {"time": moment.isoformat(timespec="seconds"), "say": f"It is {moment:%H:%M}."}

    return Tool("get_time", "Tells the time and date.", NO_ARGUMENTS, run)


class Timers:
    """Of one conversation; `rang` is told the sentence to say."""

    def __init__(self, tasks: asyncio.TaskGroup, rang: Callable[[str], Awaitable[None]]) -> None:
        self._tasks, self._rang = tasks, rang
        self._running: dict[str, asyncio.Task[None]] = {}

    def tools(self) -> list[Tool]:
        """What can be done with them."""
        return [
            Tool("set_timer", "Rings after so many seconds.", TIMER, self._set),
            Tool("cancel_timer", "Stops a timer by its name.", NAMED, self._cancel),
        ]

    async def _set(self, arguments: Mapping[str, Any]) -> Output:
        if len(self._running) >= MAX_TIMERS:
            raise ToolError(f"{MAX_TIMERS} timers are running already", "too_many")
        name, seconds = arguments.get("name") or f"timer {len(self._running) + 1}", arguments["seconds"]
        if name in self._running:
            raise ToolError(f"there is a timer {name!r} already", "exists")
        self._running[name] = self._tasks.create_task(self._wait(name, seconds), name=f"timer {name}")
        return {"name": name, "seconds": seconds, "say": f"{name.capitalize()}: {_spoken(seconds)}."}

    async def _cancel(self, arguments: Mapping[str, Any]) -> Output:
        name = arguments["name"]
        if name not in self._running:
            raise ToolError(f"there is no timer {name!r}", "unknown")
        self._running.pop(name).cancel()
        return {"name": name, "say": f"{name.capitalize()} is cancelled."}

    async def _wait(self, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        del self._running[name]
        await self._rang(f"{name.capitalize()} is over.")


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    parts = [
        f"{amount} {unit}{'s' * (amount != 1)}" for amount, unit in ((minutes, "minute"), (rest, "second")) if amount
    ]
    return " and ".join(parts) or "at once"
