"""Voices: what the real one says, and what becomes of one that is missing, fails, hangs or raves."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import aclosing
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soxr

from agent.config import VoiceConfig
from agent.errors import VoiceError
from agent.speech.voice import BYTES_PER_S, EspeakVoice, Voice, find_voice, library_command, plain, program_command

TEXT = "Two large cappuccinos with oat milk, please."


async def spoken(voice: Voice, text: str = TEXT) -> bytes:
    async with aclosing(voice.speak(text)) as pieces:
        return b"".join([piece async for piece in pieces])


def program(folder: Path, script: str) -> str:
    path = folder / "voice"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def espeak(words_per_minute: int = 170, language: str = "en-us", library: bool = False) -> EspeakVoice:
    command = program_command("espeak-ng", language, words_per_minute)
    if library:
        packaged = library_command(language, words_per_minute)
        assert packaged
        command = packaged
    return EspeakVoice(command, language, 2)


EITHER = pytest.mark.parametrize(
    "library",
    [
        pytest.param(False, marks=pytest.mark.needs("espeak-ng"), id="program"),
        pytest.param(True, marks=pytest.mark.needs("espeakng_loader"), id="library"),
    ],
)


@EITHER
async def test_espeak_speaks_as_long_as_the_text_takes(library: bool) -> None:
    samples = np.frombuffer(await spoken(espeak(library=library)), "<i2") / 32_768
    seconds = len(samples) / 24_000
    level_db = 20 * np.log10(np.sqrt(np.mean(samples**2)))
    assert len(TEXT) / 25 < seconds < len(TEXT) / 8
    assert -35 < level_db < -10
    assert 0.1 < np.abs(samples).max() < 1
    slower = len(await spoken(espeak(100, library=library))) / BYTES_PER_S
    assert slower > 1.3 * seconds
    twice = len(await spoken(espeak(library=library), f"{TEXT} {TEXT}")) / BYTES_PER_S
    assert 1.7 * seconds < twice < 2.3 * seconds


@pytest.mark.needs("espeak-ng")
async def test_nothing_is_lost_or_stretched_on_the_way_to_24_khz() -> None:
    command = program_command("espeak-ng", "en-us", 170)
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    wav, _ = await process.communicate(TEXT.encode())
    original, sample_rate = np.frombuffer(wav[44:], "<i2"), int.from_bytes(wav[24:28], "little")
    expected = soxr.resample(original.astype(np.float64), sample_rate, 24_000)
    samples = np.frombuffer(await spoken(espeak()), "<i2")
    assert sample_rate != 24_000
    assert len(samples) == pytest.approx(len(expected), abs=24)
    shared = min(len(samples), len(expected))
    assert np.corrcoef(samples[:shared], expected[:shared])[0, 1] > 0.999


@EITHER
@pytest.mark.parametrize(
    "text", ["[[h@l'oU]]", "\x01100S hello", "--help", "-v de", "<break time='60s'/> hi", "½ 😀 é"]
)
async def test_text_is_never_a_command(text: str, library: bool) -> None:
    seconds = len(await spoken(espeak(library=library), text)) / BYTES_PER_S
    assert 0.2 < seconds < 6


def test_plain_text_stays_and_commands_go() -> None:
    assert plain("Hello, [you]. ") == "Hello, [you]."
    assert "[[" not in plain("[[[h@]]]")
    assert plain("a\x01\x00b\nc") == "a  b c"


@EITHER
async def test_an_unknown_language_is_told_in_the_words_of_the_program(library: bool) -> None:
    with pytest.raises(VoiceError, match=r"espeak-ng failed: .*voice does not exist"):
        await spoken(espeak(language="nonsense", library=library))


async def test_the_library_takes_the_place_of_a_program_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = ModuleType("espeakng_loader")
    vars(loader).update(get_library_path=lambda: "/a/library.so", get_data_path=lambda: "/no/data")
    monkeypatch.setitem(sys.modules, "espeakng_loader", loader)
    monkeypatch.setenv("PATH", "/nowhere")
    voice = find_voice(VoiceConfig())
    assert voice
    with pytest.raises(VoiceError, match=r"espeak-ng failed: .*/a/library\.so"):
        await spoken(voice)


async def test_a_missing_program_is_told_when_it_is_looked_for_and_when_it_is_needed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    voice = find_voice(VoiceConfig(program="no-such-voice"))
    assert "no-such-voice is not installed" in caplog.text
    assert voice
    with pytest.raises(VoiceError, match="no-such-voice is not installed"):
        await spoken(voice)
    assert find_voice(VoiceConfig(program=None)) is None


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("exit 0", "failed: it gave no reason"),
        ("echo out of order >&2; exit 3", "failed: out of order"),
        ("printf RIFF; exit 0", "failed: it gave no reason"),
        ("head -c 100 /dev/zero", "something else than 16-bit mono WAV"),
        ("cat; echo nothing but an echo of what I was told, which is long enough", "something else"),
    ],
)
async def test_broken_programs_are_told(tmp_path: Path, script: str, fault: str) -> None:
    with pytest.raises(VoiceError, match=fault):
        await spoken(EspeakVoice([program(tmp_path, script)], "en", 1))


async def test_a_file_that_is_no_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "voice").write_text("text")
    with pytest.raises(VoiceError, match="cannot be started: Permission denied"):
        await spoken(EspeakVoice([str(tmp_path / "voice")], "en", 1))


@pytest.mark.parametrize("script", ["exec sleep 1000", "espeak-ng --stdout hello; exec cat /dev/zero"])
async def test_a_voice_that_hangs_or_never_stops_is_killed_when_it_is_given_up(tmp_path: Path, script: str) -> None:
    voice = EspeakVoice([program(tmp_path, f"echo $$ > {tmp_path}/pid; {script}")], "en", 1)
    with pytest.raises((TimeoutError, VoiceError)):
        async with asyncio.timeout(0.5), aclosing(voice.speak(TEXT)) as pieces:
            async for _ in pieces:
                await asyncio.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_no_more_processes_than_allowed(tmp_path: Path) -> None:
    """Each adds a line when it begins and when it ends; never more than two have begun and not ended."""
    log = tmp_path / "log"
    voice = EspeakVoice([program(tmp_path, f"echo + >> {log}; sleep 0.05; echo - >> {log}; exit 1")], "en", 2)

    async def fail() -> None:
        with pytest.raises(VoiceError):
            await spoken(voice)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(fail())
    under_way = np.cumsum([1 if line == "+" else -1 for line in log.read_text().split()])
    assert under_way.max() <= 2
    assert len(under_way) == 12
