"""What the model writes for one reply, kept until it is told: it can be told in two goes, where speech comes between.

Whoever writes never waits for whoever reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from agent.errors import ToolCallError
from agent.sessions.tool_calls import Call
from wavllm_core.errors import CoreError


@dataclass(frozen=True, slots=True)
class Told:
    """How much of a draft the client knows."""

    chars: int = 0
    calls: int = 0


NOTHING_TOLD: Final = Told()


class Draft:
    """Grows to the tokens of one reply at most."""

    def __init__(self) -> None:
        self.writer: asyncio.Task[None] | None = None  # at work on it
        self.ended = False  # it is whole
        self.failure: str | None = None  # or as whole as it gets, and why
        self._found: list[str | Call] = []
        self._more = asyncio.Event()

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(found for found in self._found if isinstance(found, str))

    def rest(self, told: Told) -> Told | None:
        """The same place, or behind the space that follows; None: nothing is left that could be said."""
        if self.failure is not None:
            return None
        text = self.text
        words = text[told.chars :].lstrip()
        calls = sum(isinstance(found, Call) for found in self._found) - told.calls
        left = not self.ended or calls > 0 or any(character.isalnum() for character in words)
        return Told(len(text) - len(words), told.calls) if left else None

    async def write(self, reply: AsyncGenerator[str | Call, None]) -> None:
        """Keep everything as it comes, to the end or to a fault of the model."""
        try:
            async with aclosing(reply) as pieces:
                async for found in pieces:
                    self._found.append(found)
                    self._more.set()
        except (CoreError, ToolCallError) as fault:
            self.failure = str(fault)
        self.ended = True
        self._more.set()

    async def read(self, told: Told) -> AsyncGenerator[str | Call, None]:
        """What follows, piece by piece as it was written, waiting for what is not there yet."""
        chars, calls, number = told.chars, told.calls, 0
        while True:
            while number < len(self._found):
                found = self._found[number]
                number += 1
                if isinstance(found, Call):
                    calls -= 1
                    if calls < 0:
                        yield found
                else:
                    skipped = min(chars, len(found))
                    chars -= skipped
                    if skipped < len(found):
                        yield found[skipped:]
            if self.ended:
                return
            self._more.clear()
            await self._more.wait()

    def drop(self) -> None:
        """Write no more; harmless when it is whole."""
        if self.writer:
            self.writer.cancel()
