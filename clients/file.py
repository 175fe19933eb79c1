"""`wavllm play`: sound files and typed lines as the turns of one conversation, in real time.

Owns reading files and the pace of streaming. What the server makes of it is told by `turns`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from rich.console import Console

from clients.display import follow
from clients.playback import open_recording, record_replies
from clients.realtime import DEFAULT_URL, SAMPLE_RATE, ClientError, Conversation, Waveform, connect
from clients.turns import Turn, TurnLog

CHUNK_SAMPLES: Final = SAMPLE_RATE * 32 // 1000
LEAD_SECONDS: Final = 0.4  # of silence before a file: some begin in the middle of a sound
NOTICE_SECONDS: Final = 0.6  # of silence, after which a server has noticed that somebody spoke


@dataclass(frozen=True, eq=False)
class Line:
    """One thing to say to the assistant."""

    text: str | None = None  # typed, or
    waveform: Waveform | None = None  # spoken
    caption: str = ""  # printed above the turn


def read_sound(path: Path) -> Waveform:
    """Any sound file that libsndfile reads, as mono at 16 kHz. Raises ClientError with the reason."""
    if not path.is_file():
        raise ClientError(f"{path}: no such file")
    try:
        channels, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)  # (samples, channels)
    except soundfile.LibsndfileError as error:
        raise ClientError(f"{path}: not a sound file that can be decoded ({error.error_string})") from error
    if not len(channels):
        raise ClientError(f"{path}: holds no audio")
    if not np.isfinite(channels).all():
        raise ClientError(f"{path}: holds samples that are not numbers")
    waveform: Waveform = soxr.resample(channels.mean(axis=1), sample_rate, SAMPLE_RATE)
    return waveform


def parse_lines(arguments: Sequence[str]) -> list[Line]:
    """What the command line asks to say, in its order: FILE, or --text followed by what is typed."""
    lines: list[Line] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--text":
            text = next(remaining, "")
            if not text.strip():
                raise ClientError("--text needs something to say")
            lines.append(Line(text=text))
        elif argument.startswith("-") and not Path(argument).exists():
            raise ClientError(f"no such option: {argument}")
        else:
            path = Path(argument)
            lines.append(Line(waveform=read_sound(path), caption=path.name))
    return lines


async def play(
    lines: Sequence[Line],
    console: Console,
    url: str = DEFAULT_URL,
    patience_seconds: float = 20.0,
    voice_out: Path | None = None,
) -> list[Turn]:
    """Say all lines, each after the answer to the one before, and print the conversation as it goes.

    A line that is not answered within the patience, counted from its end, is left behind.
    voice_out: a sound file to be written, with the spoken replies one after the other
    Raises ClientError when the server is not there, leaves, or has no voice where one is wanted.
    """
    async with connect(url, spoken=voice_out is not None) as conversation:
        if voice_out and not conversation.spoken:
            raise ClientError(f"the server at {url} has no voice, so there is nothing to write to {voice_out}")
        with open_recording(voice_out) if voice_out else nullcontext() as file:
            events = record_replies(conversation, file) if file else conversation
            async with follow(events, console) as log:
                for line in lines:
                    await _take_turn(line, conversation, log, console, patience_seconds)
    return log.turns


async def _take_turn(
    line: Line, conversation: Conversation, log: TurnLog, console: Console, patience_seconds: float
) -> None:
    if line.caption:
        console.print(f"\n{line.caption}", style="dim")
    before = len(log.turns)
    await _say(line, conversation, log, patience_seconds)
    if len(log.turns) == before:
        console.print("no speech was heard in it", style="red")
    elif not log.settled:
        console.print(f"no answer within {patience_seconds:g} s", style="red")


async def _say(line: Line, conversation: Conversation, log: TurnLog, patience_seconds: float) -> None:
    """Type or speak one line, then stream silence, as a microphone would, until it is answered."""
    if line.text is not None:
        log.typed(line.text)
        await conversation.send_text(line.text)
    elif line.waveform is not None:
        lead = np.zeros(round(LEAD_SECONDS * SAMPLE_RATE), np.float32)
        await stream(conversation, chunks(np.concatenate([lead, line.waveform])))

    def quiet() -> Iterator[Waveform]:
        seconds = 0.0
        while seconds < NOTICE_SECONDS or (seconds < patience_seconds and not log.settled):
            yield np.zeros(CHUNK_SAMPLES, np.float32)
            seconds += CHUNK_SAMPLES / SAMPLE_RATE

    await stream(conversation, quiet())


async def stream(conversation: Conversation, pieces: Iterable[Waveform], speed: float = 1.0) -> None:
    """Send each piece when a microphone would have it: once its last sample has been spoken; or faster than that."""
    clock = asyncio.get_running_loop().time
    due = clock()
    for chunk in pieces:
        due += len(chunk) / SAMPLE_RATE / speed
        await asyncio.sleep(due - clock())
        await conversation.send_audio(chunk)


def chunks(waveform: Waveform) -> Iterator[Waveform]:
    """As a microphone gives it away."""
    return (waveform[start : start + CHUNK_SAMPLES] for start in range(0, len(waveform), CHUNK_SAMPLES))
