from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from clients.file import Line, play
from clients.playback import ECHO_S, Playback, open_recording
from clients.realtime import ClientError, connect
from tests.agent.harness import running
from tests.agent.scripted import ScriptedEngine, ScriptedVoice

SECOND = np.full(24_000, 8_192, "<i2").tobytes()  # of a quarter of full scale


def test_replies_are_played_in_their_order_and_then_there_is_silence() -> None:
    playback = Playback(24_000)
    assert not playback.sounding
    playback.put("a", SECOND)
    playback.finish("a")
    playback.put("b", SECOND)
    playback.finish("b")
    assert playback.sounding
    played = np.concatenate([playback.take(1_000) for _ in range(50)])
    assert played.shape == (50_000,)
    np.testing.assert_allclose(played[100:23_900], 0.25, atol=0.01)
    np.testing.assert_allclose(played[24_100:47_900], 0.25, atol=0.01)
    assert not played[48_000:].any()


def test_the_rate_of_the_device_is_met() -> None:
    playback = Playback(48_000)
    playback.put("a", SECOND)
    playback.finish("a")
    played = playback.take(60_000)
    assert np.count_nonzero(played > 0.2) == pytest.approx(48_000, abs=100)


def test_it_sounds_until_the_echo_is_gone() -> None:
    playback = Playback(24_000, latency_s=0.1)
    playback.put("a", SECOND)
    playback.finish("a")
    playback.take(24_000)
    playback.take(round((ECHO_S + 0.1) * 24_000) - 100)
    assert playback.sounding
    playback.take(200)
    assert not playback.sounding


def test_what_is_cut_off_is_told_with_what_was_heard_of_it() -> None:
    playback = Playback(48_000, latency_s=0.1)
    for name in ("heard", "begun", "waiting"):
        playback.put(name, SECOND)
        playback.finish(name)
    playback.take(48_000 + 24_000)
    assert playback.drop() == [("begun", pytest.approx(400, abs=30)), ("waiting", 0)]
    assert not playback.take(48_000).any()
    assert playback.drop() == []


def test_a_reply_that_still_comes_is_cut_where_its_audio_ends() -> None:
    playback = Playback(24_000)
    playback.put("a", SECOND)
    playback.take(48_000)
    ((item_id, heard_ms),) = playback.drop()
    assert item_id == "a"
    assert 900 < heard_ms <= 1_000


def test_of_a_reply_that_was_cut_off_nothing_more_is_played() -> None:
    """Though some of it was under way; the next one is."""
    playback = Playback(24_000)
    playback.put("cut", SECOND)
    playback.take(2_400)
    assert playback.drop() == [("cut", 100)]
    playback.put("cut", SECOND)
    playback.finish("cut")
    assert not playback.take(24_000).any() and playback.drop() == []
    playback.put("next", SECOND)
    playback.finish("next")
    assert playback.take(24_000)[100:23_900].min() > 0.2


async def test_spoken_replies_go_into_a_file(tmp_path: Path) -> None:
    engine, path = ScriptedEngine(), tmp_path / "replies.wav"
    engine.words = ["One latte. ", "Bye."]
    console = Console(file=io.StringIO(), width=100)
    async with running(engine, voice=ScriptedVoice()) as port:
        url = f"ws://127.0.0.1:{port}/v1/realtime"
        turns = await play([Line(text="hello"), Line(text="and")], console, url, voice_out=path)
    assert [turn.reply for turn in turns] == ["One latte. Bye."] * 2
    samples, sample_rate = soundfile.read(path, dtype="int16")
    assert sample_rate == 24_000
    assert samples.astype("<i2").tobytes() == 2 * ScriptedVoice.sound("One latte. Bye.")


async def test_a_server_without_a_voice_is_told_from_one_with_a_voice(tmp_path: Path) -> None:
    async with running(ScriptedEngine()) as port:
        url = f"ws://127.0.0.1:{port}/v1/realtime"
        async with connect(url, spoken=True) as conversation:
            assert not conversation.spoken
        with pytest.raises(ClientError, match="has no voice"):
            await play([Line(text="hello")], Console(file=io.StringIO()), url, voice_out=tmp_path / "replies.wav")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["replies.mp4", "replies", "no such folder/replies.wav", "."])
async def test_a_file_that_cannot_be_written_is_told_before_anything_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClientError, match="cannot be written as sound"), open_recording(tmp_path / name):
        pass
    engine = ScriptedEngine()
    async with running(engine, voice=ScriptedVoice()) as port:
        url = f"ws://127.0.0.1:{port}/v1/realtime"
        with pytest.raises(ClientError, match="cannot be written"):
            await play([Line(text="x")], Console(file=io.StringIO()), url, voice_out=tmp_path / name)
    assert engine.asked == []
