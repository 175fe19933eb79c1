"""Text to speech: what a voice is, and the one that comes with most systems, espeak-ng.

A voice is given a sentence and gives audio. It knows no reply and no client, and keeps nothing between sentences.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Final, Protocol

from agent.config import VoiceConfig
from agent.errors import VoiceError
from agent.hearing.listener import Resampler
from agent.speech import espeak_library

ESPEAK: Final = "espeak-ng"
VOICE_RATE: Final = 24_000
BYTES_PER_S: Final = 2 * VOICE_RATE
READ_BYTES: Final = 2**14
WAV_HEADER_BYTES: Final = 44
KILL_S: Final = 1

log = logging.getLogger(__name__)


class Voice(Protocol):
    """Something that speaks; sentences of all conversations may be spoken at once."""

    @property
    def name(self) -> str:
        """As clients are told."""

    def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        """16-bit little-endian mono PCM at 24 kHz in pieces, none empty; closing the generator stops the work.

        Whoever iterates limits time and length. Raises VoiceError when the text cannot be spoken.
        """


def find_voice(config: VoiceConfig) -> Voice | None:
    """The voice of a server; None where it is to have none. A missing one is logged here, and fails when it is used."""
    if config.program is None:
        return None
    command = program_command(config.program, config.language, config.words_per_minute)
    if shutil.which(config.program) is None:
        packaged = library_command(config.language, config.words_per_minute)
        if packaged is None or config.program != ESPEAK:
            log.info("replies cannot be spoken: %s", _missing(config.program))
        else:
            command = packaged
    return EspeakVoice(command, config.language, config.processes)


def program_command(program: str, language: str, words_per_minute: int) -> list[str]:
    """How the program of the system is started."""
    return [program, "-v", language, "-s", str(words_per_minute), "-b", "1", "--stdin", "--stdout"]


def library_command(language: str, words_per_minute: int) -> list[str] | None:
    """How the library of the package espeakng-loader is started; None where that is not installed."""
    try:
        import espeakng_loader as loader
    except ModuleNotFoundError:
        return None
    script, library, data = espeak_library.__file__, loader.get_library_path(), loader.get_data_path()
    return [sys.executable, "-I", "-S", script, library, data, language, str(words_per_minute)]


class EspeakVoice:
    """espeak-ng, one process for each sentence, so that nothing it does outlives a reply or blocks another."""

    def __init__(self, command: Sequence[str], language: str, processes: int) -> None:
        """command: reads a text from its standard input, and writes 16-bit mono WAV"""
        self.name = f"espeak-ng {language}"
        self._command = command
        self._places = asyncio.Semaphore(processes)  # whoever finds none waits, within the patience of its reply

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        async with self._places:
            process = await self._start()
            try:
                header = await _ask(process, plain(text))
                if len(header) == WAV_HEADER_BYTES:
                    async with aclosing(_read(process, _sample_rate(header))) as pieces:
                        async for pcm in pieces:
                            yield pcm
                _, complaint = await process.communicate()
                if process.returncode or len(header) < WAV_HEADER_BYTES:
                    raise VoiceError(f"espeak-ng failed: {_last_line(complaint)}")
            finally:
                await _end(process)

    async def _start(self) -> Process:
        try:
            return await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        except FileNotFoundError as error:
            raise VoiceError(_missing(self._command[0])) from error
        except OSError as error:
            raise VoiceError(f"{self._command[0]} cannot be started: {error.strerror}") from error


def plain(text: str) -> str:
    """The text without what espeak-ng takes for commands: control characters, and phonemes in [[ ]]."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return re.sub(r"\[(?=\[)", "[ ", printable).strip()


async def _ask(process: Process, text: str) -> bytes:
    """Say what to speak; returns the header of the WAV file, or what there is of it."""
    assert process.stdin and process.stdout
    process.stdin.write(text.encode(errors="replace"))  # fits into the pipe
    process.stdin.close()
    try:
        return await process.stdout.readexactly(WAV_HEADER_BYTES)
    except asyncio.IncompleteReadError as ended:
        return ended.partial


async def _read(process: Process, sample_rate: int) -> AsyncGenerator[bytes, None]:
    assert process.stdout
    resampler, rest = Resampler(sample_rate, VOICE_RATE), b""
    while data := await process.stdout.read(READ_BYTES):
        data = rest + data
        even = len(data) - len(data) % 2
        rest = data[even:]
        if pcm := resampler.push(data[:even]):
            yield pcm
    if pcm := resampler.flush():
        yield pcm


def _sample_rate(header: bytes) -> int:
    """Of a 16-bit mono WAV file; its length is not known when it begins. Raises VoiceError when it is another."""
    kind = header[:4] + header[8:16] + header[36:40]
    channels, rate = int.from_bytes(header[22:24], "little"), int.from_bytes(header[24:28], "little")
    bits = int.from_bytes(header[34:36], "little")
    if kind != b"RIFFWAVEfmt data" or (channels, bits) != (1, 16) or not 8_000 <= rate <= 48_000:
        raise VoiceError("the voice gave something else than 16-bit mono WAV of 8 to 48 kHz")
    return rate


async def _end(process: Process) -> None:
    """Leave no process behind, however far it came."""
    with suppress(ProcessLookupError):
        process.kill()
    with suppress(TimeoutError):
        async with asyncio.timeout(KILL_S):
            await process.communicate()  # to the end, which frees the pipes


def _missing(program: str) -> str:
    return (
        f"{program} is not installed; on Debian: apt install espeak-ng, elsewhere: pip install 'wavllm-agent[espeak]'"
    )


def _last_line(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it gave no reason"
