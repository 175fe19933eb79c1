"""Messages on their way to the broker, kept until it has confirmed them, over any number of connections."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from clients.mqtt.topics import Message

WINDOW: Final = 20  # messages under way, not yet confirmed


class Outbox:
    """Delivers in order, at least once. When it is full, `put` waits and `offer` drops and counts."""

    def __init__(self, max_messages: int = 1024) -> None:
        self.dropped = 0
        self._max_messages = max_messages
        self._waiting: deque[Message] = deque()  # overflow: see `put` and `offer`
        self._under_way: dict[int, Message] = {}  # oldest first
        self._numbers = itertools.count()
        self._arrived, self._confirmed = asyncio.Event(), asyncio.Event()

    @property
    def empty(self) -> bool:
        return not self._waiting and not self._under_way

    @property
    def _full(self) -> bool:
        return len(self._waiting) + len(self._under_way) >= self._max_messages

    async def put(self, message: Message) -> None:
        """Take a message; wait while there is no room."""
        while self._full:
            self._confirmed.clear()
            await self._confirmed.wait()
        self._append(message)

    def offer(self, message: Message) -> None:
        """Take a message that is not worth waiting for."""
        if self._full:
            self.dropped += 1
        else:
            self._append(message)

    async def deliver(self, publish: Callable[[Message], Awaitable[None]]) -> None:
        """Publish over one connection until cancelled, what an earlier one left unconfirmed before all else.

        publish: returns when the broker has confirmed; what it raises is raised here, and nothing is lost
        """
        self._waiting.extendleft(reversed(self._under_way.values()))
        self._under_way.clear()
        window = asyncio.Semaphore(WINDOW)

        async def confirm(number: int, message: Message) -> None:
            await publish(message)
            del self._under_way[number]
            if message.confirmed:
                message.confirmed()
            self._confirmed.set()
            window.release()

        async with asyncio.TaskGroup() as tasks:
            while True:
                await window.acquire()
                while not self._waiting:
                    self._arrived.clear()
                    await self._arrived.wait()
                number, message = next(self._numbers), self._waiting.popleft()
                self._under_way[number] = message
                tasks.create_task(confirm(number, message), name=f"publish {message.topic}")

    def _append(self, message: Message) -> None:
        self._waiting.append(message)
        self._arrived.set()
