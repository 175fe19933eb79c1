"""Tells one reply, in writing or aloud, and reports what comes of it.

Knows nothing but its draft. Every report names its response, so that those of one that is over can be dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from agent.sessions.draft import Draft, Told
from agent.sessions.tool_calls import Call, CallReader
from agent.speech.sentences import read_sentences
from agent.speech.speaking import Spoken


@dataclass(frozen=True, slots=True)
class ReplyPiece:
    """Report: more text."""

    response_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ReplyBegun:
    """Report: of a spoken reply there are the first words."""

    response_id: str


@dataclass(frozen=True, slots=True)
class SpokenPiece:
    """Report: more of a spoken reply."""

    response_id: str
    spoken: Spoken
    taken: asyncio.Event  # until then the next waits, so that an interruption waits for one chunk at most


@dataclass(frozen=True, slots=True)
class ReplyCall:
    """Report: the model calls a function."""

    response_id: str
    call: Call


@dataclass(frozen=True, slots=True)
class ReplyEnded:
    """Report: that was all."""

    response_id: str
    failure: str | None


ReplyReport = ReplyPiece | ReplyBegun | SpokenPiece | ReplyCall | ReplyEnded
Report = Callable[[ReplyReport], Awaitable[None]]
Speak = Callable[[AsyncIterable[str]], AsyncGenerator[Spoken, None]]  # sentence by sentence


async def begin_with(opening: str, rest: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """A reply whose beginning was put into the model's mouth."""
    yield opening
    async with aclosing(rest) as pieces:
        async for piece in pieces:
            yield piece


async def quote(text: str) -> AsyncGenerator[str, None]:
    """A reply that nobody has to think about."""
    yield text


async def read_reply(
    reply: AsyncGenerator[str, None], reader: CallReader, *, parallel_calls: bool
) -> AsyncGenerator[str | Call, None]:
    """What the model says and calls, in its order; without `parallel_calls` the first call is the end."""
    async with aclosing(reply) as pieces:
        async for piece in pieces:
            for found in reader.feed(piece):
                yield found
                if isinstance(found, Call) and not parallel_calls:
                    return
    for found in reader.finish():
        yield found


async def write_reply(response_id: str, draft: Draft, told: Told, report: Report) -> None:
    """Report every piece behind `told` as the model writes it."""
    async with aclosing(draft.read(told)) as rest:
        async for found in rest:
            await report(ReplyCall(response_id, found) if isinstance(found, Call) else ReplyPiece(response_id, found))
    await report(ReplyEnded(response_id, draft.failure))


async def speak_reply(response_id: str, draft: Draft, told: Told, speak: Speak, report: Report) -> None:
    """Report what is spoken behind `told`, while the model writes on.

    Calls follow when all is said, as a client acts on them when the response is over.
    """
    calls: list[Call] = []

    async def words() -> AsyncGenerator[str, None]:
        begun = False
        async with aclosing(draft.read(told)) as rest:
            async for found in rest:
                if not begun:
                    begun = True
                    await report(ReplyBegun(response_id))
                if isinstance(found, Call):
                    calls.append(found)
                else:
                    yield found

    async with (
        aclosing(words()) as written,
        aclosing(read_sentences(written)) as sentences,
        aclosing(speak(sentences)) as pieces,
    ):
        async for spoken in pieces:
            taken = asyncio.Event()
            await report(SpokenPiece(response_id, spoken, taken))
            await taken.wait()
    for call in calls:
        await report(ReplyCall(response_id, call))
    await report(ReplyEnded(response_id, draft.failure))
