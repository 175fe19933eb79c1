"""Replies on their way to the loudspeaker of a site: in chunks that a small device can hold, two at a time.

Knows neither broker nor session: it is given a way to send a chunk, and told what was played.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

RATE_HZ: Final = 24_000  # of replies
CHUNK_BYTES: Final = RATE_HZ  # half a second
MAX_AHEAD: Final = 2  # chunks that a site has and has not played
GRACE_S: Final = 3.0  # after a chunk's length; then it counts as played, as some sites never tell
STALL_S: Final = 15.0  # nothing more of a reply, as the server was lost; then that was all of it
MAX_WAITING_BYTES: Final = 2 * 60 * RATE_HZ  # a minute of one reply; what is more is not played


@dataclass(slots=True)
class _Reply:
    waiting: bytearray = field(default_factory=bytearray)
    chunks: int = 0  # sent
    ended: bool = False  # all of it has come


class Player:
    """Plays one reply after the other."""

    def __init__(
        self,
        send: Callable[[str, bytes], Awaitable[None]],
        played: Callable[[str], Awaitable[None]],
        grace_s: float = GRACE_S,
    ) -> None:
        """send: takes the id of a request and 16-bit mono samples at RATE_HZ
        played: told of a reply when all of it was heard, or was to be
        """
        self._send, self._played, self._grace_s = send, played, grace_s
        self._replies: OrderedDict[str, _Reply] = OrderedDict()
        self._ahead: deque[tuple[str, float]] = deque()  # request, seconds; at most MAX_AHEAD
        self._changed = asyncio.Event()

    def put(self, reply_id: str, pcm: bytes) -> None:
        """Take more of a reply; never waits."""
        reply = self._replies.setdefault(reply_id, _Reply())
        if len(reply.waiting) + len(pcm) <= MAX_WAITING_BYTES:
            reply.waiting += pcm
        self._changed.set()

    def end(self, reply_id: str) -> None:
        """No more of a reply follows; there may have been nothing."""
        self._replies.setdefault(reply_id, _Reply()).ended = True
        self._changed.set()

    def finished(self, request_id: str | None) -> None:
        """A site has played a chunk, and those before it."""
        if request_id in [request for request, _ in self._ahead]:
            while self._ahead.popleft()[0] != request_id:
                pass
            self._changed.set()

    def drop(self) -> list[str]:
        """Play no more of what has come; returns the replies that this was of, and nobody else is told of them."""
        dropped = list(self._replies)
        self._replies.clear()
        self._ahead.clear()
        self._changed.set()
        return dropped

    async def run(self) -> None:
        """Play until cancelled."""
        while True:
            self._changed.clear()
            if not await self._step():
                await self._wait()

    async def _step(self) -> bool:
        """Send a chunk, or tell that a reply was played; returns whether there was something to do."""
        if not self._replies:
            return False
        reply_id, reply = next(iter(self._replies.items()))
        full = len(reply.waiting) >= CHUNK_BYTES
        if len(self._ahead) < MAX_AHEAD and (full or (reply.ended and reply.waiting)):
            pcm, request_id = bytes(reply.waiting[:CHUNK_BYTES]), f"{reply_id}-{reply.chunks}"
            del reply.waiting[:CHUNK_BYTES]
            reply.chunks += 1
            self._ahead.append((request_id, len(pcm) / (2 * RATE_HZ)))
            await self._send(request_id, pcm)
            return True
        if reply.ended and not reply.waiting and not self._ahead:
            del self._replies[reply_id]
            await self._played(reply_id)
            return True
        return False

    async def _wait(self) -> None:
        """Until something changes, a chunk must have been played by now, or nothing more of a reply comes."""
        patience_s = self._ahead[0][1] + self._grace_s if self._ahead else STALL_S if self._replies else None
        try:
            async with asyncio.timeout(patience_s):
                await self._changed.wait()
        except TimeoutError:
            if self._ahead:
                self._ahead.popleft()
            else:
                next(iter(self._replies.values())).ended = True
