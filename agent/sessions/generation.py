"""Has one reply written, and spoken where that is wanted, and reports what comes of it.

Knows nothing but its question. Every report names its response, so that those of one that is over can be dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from agent.errors import ToolCallError
from agent.sessions.tool_calls import Call, CallReader
from agent.speech.sentences import read_sentences
from agent.speech.speaking import Spoken
from wavllm_core.errors import CoreError


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


async def write_reply(response_id: str, reply: AsyncGenerator[str | Call, None], report: Report) -> None:
    """Report every piece as the model writes it."""

    async def take(found: str | Call) -> None:
        await report(ReplyCall(response_id, found) if isinstance(found, Call) else ReplyPiece(response_id, found))

    await report(ReplyEnded(response_id, await _hand_on(reply, take)))


async def speak_reply(response_id: str, reply: AsyncGenerator[str | Call, None], speak: Speak, report: Report) -> None:
    """Report what is spoken; it is spoken while the model writes on, which never waits for the voice.

    Calls follow when all is said, as a client acts on them when the response is over.
    """
    written: asyncio.Queue[str | None] = asyncio.Queue()  # holds no more than the tokens of one reply
    calls: list[Call] = []
    begun = False

    async def take(found: str | Call) -> None:
        nonlocal begun
        if not begun:
            begun = True
            await report(ReplyBegun(response_id))
        if isinstance(found, Call):
            calls.append(found)
        else:
            written.put_nowait(found)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_say(response_id, written, speak, report), name=f"say {response_id}")
        failure = await _hand_on(reply, take)
        written.put_nowait(None)
    for call in calls:
        await report(ReplyCall(response_id, call))
    await report(ReplyEnded(response_id, failure))


async def _say(response_id: str, written: asyncio.Queue[str | None], speak: Speak, report: Report) -> None:
    async with aclosing(read_sentences(_until_none(written))) as sentences, aclosing(speak(sentences)) as pieces:
        async for spoken in pieces:
            taken = asyncio.Event()
            await report(SpokenPiece(response_id, spoken, taken))
            await taken.wait()


async def _hand_on(
    reply: AsyncGenerator[str | Call, None], take: Callable[[str | Call], Awaitable[None]]
) -> str | None:
    """Give everything away as it comes; returns why the model failed, if it did."""
    try:
        async with aclosing(reply) as pieces:
            async for piece in pieces:
                await take(piece)
    except (CoreError, ToolCallError) as fault:
        return str(fault)
    return None


async def _until_none(queue: asyncio.Queue[str | None]) -> AsyncGenerator[str, None]:
    while (piece := await queue.get()) is not None:
        yield piece
