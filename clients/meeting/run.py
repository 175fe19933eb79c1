"""`wavllm meeting`: shows who says what while people talk, answers questions about it, and keeps minutes.

Owns the order of things. What events mean is in `log`, what is kept in `record`, how it is written in `minutes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from clients.file import CHUNK_SAMPLES, Line, chunks, stream
from clients.keyboard import typed_lines
from clients.meeting.log import MeetingLog
from clients.meeting.minutes import CAUTION, NOT_WRITTEN, clock, write_minutes
from clients.meeting.record import MeetingRecord, SpokenLine
from clients.realtime import DEFAULT_URL, SAMPLE_RATE, ClientError, Conversation, connect
from clients.retry import Backoff, first
from clients.sound import Sound, keep_open

RECORD: Final = "meeting.db"
PAUSE_MS: Final = 300  # that ends a line; people wait less for each other than for an assistant
SETTINGS: Final = {
    "audio": {
        "input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": PAUSE_MS, "create_response": False}}
    },
    "wavllm": {"speakers": {"split_turns": True}},
}


async def hold_meeting(
    lines: Sequence[Line],
    console: Console,
    out: Path,
    url: str = DEFAULT_URL,
    *,
    device: str | None = None,
    speed: float = 1.0,
    patience_seconds: float = 20.0,
) -> list[Path]:
    """Take the minutes of recordings, or of a microphone where there are none, until they end or it is cancelled.

    lines: recordings, and typed questions between them
    out: folder for the record and the minutes
    speed: at which recordings are played, 1 for real time
    Returns the files of the minutes. Raises ClientError when the server is not there or leaves.
    """
    with MeetingRecord(out / RECORD) as record:
        log = MeetingLog(record)
        console.print(CAUTION, style="dim")
        try:
            async with connect(url) as conversation:
                await conversation.send({"type": "session.update", "session": {"type": "realtime", **SETTINGS}})
                if lines:
                    await _attend(conversation, log, console, _play(lines, conversation, log, speed, patience_seconds))
                else:
                    await _attend(conversation, log, console, _listen(conversation, log, console, device))
        finally:
            files = write_minutes(record, out)
    return files


async def _attend(
    conversation: Conversation, log: MeetingLog, console: Console, work: Coroutine[None, None, None]
) -> None:
    """Show what comes while `work` goes on."""
    try:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(_show(conversation, log, live), name="show meeting")
                await work
                reader.cancel()
    except ExceptionGroup as group:
        raise first(group) from group


async def _show(conversation: Conversation, log: MeetingLog, live: Live) -> None:
    problems = 0
    async for event in conversation:
        for told in log.apply(event):
            if isinstance(told, SpokenLine):
                live.console.print(f"{clock(told.start_ms):>8}  {told.speaker}: {told.text or NOT_WRITTEN}")
            else:
                live.console.print(f"{'':>8}  answer: {told}", style="green")
        for problem in log.problems[problems:]:
            live.console.print(f"{'':>8}  error: {problem}", style="red")
        problems = len(log.problems)
        live.update(Text(f"{'':>8}  {log.speaking} …" if log.speaking else "", "dim"), refresh=True)
    raise ClientError("the server ended the meeting")


async def _play(
    lines: Sequence[Line], conversation: Conversation, log: MeetingLog, speed: float, patience_seconds: float
) -> None:
    """Recordings as if they were heard now; each is waited for before what follows it."""
    for line in lines:
        if line.text is not None:
            await conversation.send(log.question(line.text))
        elif line.waveform is not None:
            await stream(conversation, chunks(line.waveform), speed)
        quiet_seconds = 0.0  # that were played; a pause is as long as the server takes it to be, whatever the speed
        while quiet_seconds < patience_seconds * speed and (quiet_seconds < 2 * PAUSE_MS / 1000 or not log.settled):
            await stream(conversation, [np.zeros(CHUNK_SAMPLES, np.float32)], speed)
            quiet_seconds += CHUNK_SAMPLES / SAMPLE_RATE


async def _listen(conversation: Conversation, log: MeetingLog, console: Console, device: str | None) -> None:
    """The microphone, over its losses, and questions from the keyboard."""
    sound, opened = await asyncio.to_thread(Sound, device), asyncio.Event()
    sound.playback = None  # nobody is spoken to
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_open(sound, console.print, Backoff(), opened.set), name="hold the microphone")
        await opened.wait()
        console.print("Listening. Type a question, or /name 1 Anna; Ctrl-C ends the meeting.")
        tasks.create_task(_ask(conversation, log), name="ask what is typed")
        while True:
            if (waveform := await sound.microphone.hear()) is not None:
                await conversation.send_audio(waveform)


async def _ask(conversation: Conversation, log: MeetingLog) -> None:
    async for typed in typed_lines():
        if typed:
            await conversation.send(to_event(typed, log))


def to_event(typed: str, log: MeetingLog) -> dict[str, object]:
    """What a line at the keyboard asks of the server: a question, or a name for a voice."""
    command, _, rest = typed.partition(" ")
    number, _, name = rest.partition(" ")
    if command == "/name" and number.isdecimal() and name:
        return {"type": "wavllm.speaker.name", "number": int(number), "name": name.strip()}
    return log.question(typed)
