from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from clients.file import Line, parse_lines, play, read_sound
from clients.realtime import ClientError, Waveform
from tests.agent.harness import running
from tests.agent.scripted import ScriptedEngine
from tests.clients.scripted_server import ScriptedServer


def tone(seconds: float, sample_rate: int = 16_000) -> Waveform:
    waveform: Waveform = 0.5 * np.sin(2 * np.pi * 440 / sample_rate * np.arange(round(seconds * sample_rate)))
    return waveform.astype(np.float32)


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 24_000, 44_100])
def test_any_rate_becomes_16_khz_mono(tmp_path: Path, sample_rate: int) -> None:
    path = tmp_path / "tone.wav"
    left = tone(0.5, sample_rate)
    soundfile.write(path, np.stack([left, left], axis=1), sample_rate)
    waveform = read_sound(path)
    assert waveform.dtype == np.float32
    assert waveform.shape == (8_000,)
    np.testing.assert_allclose(waveform[1000:-1000], tone(0.5)[1000:-1000], atol=0.01)


def test_bad_files_are_named_with_their_fault(tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"these are not samples" * 10)
    (tmp_path / "zero.wav").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(99, np.nan, np.float32), 16_000, subtype="FLOAT")
    faults = {
        "missing.wav": "no such file",
        ".": "no such file",
        "noise.wav": "not a sound file",
        "zero.wav": "not a sound file",
        "empty.wav": "holds no audio",
        "nan.wav": "not numbers",
    }
    for name, fault in faults.items():
        with pytest.raises(ClientError, match=fault) as caught:
            read_sound(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_a_clip_of_one_sample_is_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "click.wav", np.ones(1, np.float32), 16_000)
    assert len(read_sound(tmp_path / "click.wav")) == 1


def test_files_and_typed_lines_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(0.1), 16_000)
    lines = parse_lines([str(path), "--text", "and then", str(path)])
    assert [line.text for line in lines] == [None, "and then", None]
    for arguments in (["--text"], ["--text", " "], ["--fast"]):
        with pytest.raises(ClientError):
            parse_lines(arguments)


async def test_a_conversation_of_speech_and_text() -> None:
    console = Console(file=io.StringIO(), width=100)
    lines = [Line(waveform=tone(0.1), caption="tone.wav"), Line(text="hello")]
    async with ScriptedServer(spoken=[("computer", "yes?")]).running() as server:
        turns = await play(lines, console, server.url)
    assert [turn.complete for turn in turns] == [True, True]
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in (
        "tone.wav",
        "speaker 1  computer",
        "assistant  yes?",
        "you typed  hello",
        "you wrote hello",
    ):
        assert expected in printed
    assert "VAD wait 100 ms · first token 20 ms · total 50 ms" in printed


async def test_a_conversation_with_the_real_server() -> None:
    console = Console(file=io.StringIO(), width=100)
    lines = [Line(waveform=0.2 * np.ones(4_800, np.float32)), Line(text="hello")]
    async with running(ScriptedEngine()) as port:
        spoken, typed = await play(lines, console, f"ws://127.0.0.1:{port}/v1/realtime")
    assert spoken.complete and typed.complete
    assert spoken.speaker == "speaker 1"
    assert spoken.transcript.startswith("voice 2 for")
    assert spoken.reply.startswith("answer 1 to")
    assert typed.reply == "answer 2 to hello"
    assert spoken.latency is not None and typed.latency is not None
    assert spoken.latency.vad_wait_ms == 500
    assert typed.latency.vad_wait_ms is None


async def test_silence_is_reported_and_left_behind() -> None:
    console = Console(file=io.StringIO(), width=100)
    async with ScriptedServer().running() as server:
        assert await play([Line(waveform=np.zeros(160, np.float32))], console, server.url) == []
    assert "no speech" in console.file.getvalue()  # type: ignore[attr-defined]


async def test_a_turn_without_an_answer_is_left_behind() -> None:
    console = Console(file=io.StringIO(), width=100)
    async with ScriptedServer(mute=True).running() as server:
        (turn,) = await play([Line(text="hello")], console, server.url, patience_seconds=0.1)
    assert not turn.complete
    assert "no answer within 0.1 s" in console.file.getvalue()  # type: ignore[attr-defined]


async def test_a_server_that_leaves_is_told() -> None:
    console = Console(file=io.StringIO())
    async with ScriptedServer(leave_after="input_audio_buffer.speech_started").running() as server:
        with pytest.raises(ClientError, match=r"the server (closed|ended)"):
            await play([Line(waveform=tone(0.1))], console, server.url)
