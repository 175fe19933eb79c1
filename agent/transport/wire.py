"""One connection, bounded in what it may cost: how fast it sends, how slowly it reads, how long it is silent.

Owns the goodbye, too. Knows no events but the one that says: slower.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final

from websockets.asyncio.server import ServerConnection

from agent.protocol import server_events as events
from agent.protocol.errors import ProtocolError

GOING_AWAY: Final = 1001
POLICY_VIOLATION: Final = 1008
INTERNAL_ERROR: Final = 1011
TRY_AGAIN_LATER: Final = 1013
CLOSE_S: Final = 2
MAX_REASON_BYTES: Final = 123  # of a close frame


@dataclass(frozen=True, slots=True)
class WireLimits:
    """What the operator decides about connections."""

    send_timeout_s: float  # a client that takes nothing for so long is let go
    ping_s: float  # between signs of life that are asked for
    pong_s: float  # in which one must come


class Bucket:
    """So many messages a second, and as many at once after a pause; those that share it share that."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._left, self._since_s = per_s, float("-inf")

    def take(self, now_s: float) -> float:
        """Take one; returns how many seconds to wait before it may be used."""
        self._left = min(self.per_s, self._left + (now_s - self._since_s) * self.per_s) - 1
        self._since_s = now_s
        return max(0.0, -self._left / self.per_s)


class Wire:
    """A WebSocket with limits."""

    def __init__(
        self,
        connection: ServerConnection,
        limits: WireLimits,
        bucket: Bucket,
        on_wait: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_wait` is told of every message that came too fast."""
        self._connection, self._limits, self._bucket = connection, limits, bucket
        self._on_wait, self._clock = on_wait, clock
        self._messages = 0  # received
        self._warned = False  # that it sends too fast
        self._busy = False  # with a message; others may wait behind it

    async def send(self, text: str) -> None:
        """Raises ConnectionClosed when the client is gone, or reads so slowly that it is let go."""
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                await self._connection.send(text)
        except TimeoutError:
            seconds = self._limits.send_timeout_s
            await self.close(POLICY_VIOLATION, f"the client reads too slowly: nothing for {seconds:g} s")

    async def messages(self) -> AsyncGenerator[str | bytes, None]:
        """What the client sends, no faster than it may. While nobody asks, the client cannot send either."""
        async for message in self._connection:
            self._messages += 1
            self._busy = True
            if wait_s := self._bucket.take(self._clock()):
                self._on_wait()
                if not self._warned:
                    self._warned = True
                    why = f"more than {self._bucket.per_s:g} messages a second; they are taken more slowly"
                    await self.send(events.encode(events.error(ProtocolError("rate_limit_exceeded", why))))
                await asyncio.sleep(wait_s)
            yield message
            self._busy = False

    async def watch(self) -> None:
        """Let go a client that shows no sign of life: neither an answer to a ping, nor any message.

        A pong behind audio that nobody has taken yet is not late, so a busy conversation lives on.
        """
        while True:
            await asyncio.sleep(self._limits.ping_s)
            before = self._messages
            try:
                async with asyncio.timeout(self._limits.pong_s):
                    await (await self._connection.ping())
            except TimeoutError:
                if self._messages == before and not self._busy:
                    break
        await self.close(INTERNAL_ERROR, f"no sign of life for {self._limits.pong_s:g} s")

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye; hang up on a client that does not even take that, on which a socket alone would wait."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._connection.close(code, reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore"))
        except TimeoutError:
            self._connection.transport.abort()
