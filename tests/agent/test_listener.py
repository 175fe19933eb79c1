from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.hearing.listener import Listener, Resampler, Speech, to_waveform
from agent.hearing.turns import SpeechPaused, SpeechStarted, SpeechStopped, TurnRules
from agent.hearing.vad import WebRtcVad
from tests.agent.scripted import LoudnessVad, silence, speech

CLIPS = sorted((Path(__file__).parents[2] / "clients/demo/clips").glob("*.flac"))
RULES = TurnRules()


def listen(listener: Listener, pcm: bytes, chunk_bytes: int) -> list[tuple[int, int, bytes]]:
    """Start, end and audio of every turn that is complete."""
    turns, start, said = [], 0, b""
    for offset in range(0, len(pcm), chunk_bytes):
        for event in listener.feed(pcm[offset : offset + chunk_bytes]):
            match event:
                case SpeechStarted(start_sample):
                    start, said = start_sample, b""
                case Speech(more):
                    said += more
                case SpeechPaused(end_sample):
                    assert end_sample == start + len(said) // 2  # all that belongs to the turn if it ends here
                case SpeechStopped(end_sample):
                    turns.append((start, end_sample, said))
    return turns


@settings(max_examples=30)
@given(
    runs=st.lists(st.tuples(st.integers(10, 900), st.booleans()), max_size=8),
    chunk_samples=st.integers(1, 20_000),
    prefix_samples=st.integers(0, 9_000),
)
def test_turns_carry_exactly_their_audio_however_it_comes(
    runs: list[tuple[int, bool]], chunk_samples: int, prefix_samples: int
) -> None:
    noise = np.random.default_rng(0).integers(-50, 50, 16 * sum(ms for ms, _ in runs), "<i2")
    loud = np.frombuffer(b"".join(speech(ms) if voiced else silence(ms) for ms, voiced in runs), "<i2")
    pcm = (noise + loud).astype("<i2").tobytes()
    rules = TurnRules(prefix_samples)
    turns = listen(Listener(LoudnessVad(0.5), rules, 0), pcm, 2 * chunk_samples)
    assert turns == listen(Listener(LoudnessVad(0.5), rules, 0), pcm, len(pcm) or 2)
    for start, end, said in turns:
        assert said == pcm[2 * start : 2 * end]


@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
def test_resampling_in_chunks_equals_resampling_at_once(rate: int) -> None:
    seconds = np.arange(rate) / rate
    pcm = (8_000 * np.sin(2 * np.pi * 440 * seconds)).astype("<i2").tobytes()
    whole, chunked = Resampler(rate), Resampler(rate)
    for _ in range(2):  # a flush leaves the resampler as new
        expected = whole.push(pcm) + whole.flush()
        parts = [chunked.push(pcm[start : start + 974]) for start in range(0, len(pcm), 974)]
        joined = b"".join(parts) + chunked.flush()
        assert len(joined) == len(expected)
        np.testing.assert_allclose(  # 16-bit output is dithered
            np.frombuffer(joined, "<i2"), np.frombuffer(expected, "<i2"), atol=2
        )
        tone = 8_000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
        middle = slice(1_000, -1_000)
        np.testing.assert_allclose(np.frombuffer(expected, "<i2")[middle], tone[middle], atol=30)


def test_a_reset_forgets_audio_but_not_the_time() -> None:
    listener = Listener(LoudnessVad(0.5), RULES, start_sample=3_200)
    assert list(listener.feed(speech(140))) == []
    listener.reset()
    (start, end, said) = listen(listener, speech(300) + silence(600), 640)[0]
    assert (start, end) == (3_200 + 16 * 140, 3_200 + 16 * (140 + 300 + 100))
    assert len(said) == 2 * (end - start)


@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 1])
def test_webrtc_hears_no_turn_in_silence_or_steady_noise(threshold: float) -> None:
    listener = Listener(WebRtcVad(threshold), RULES, 0)
    noise = np.random.default_rng(1).normal(0, 100, 160_000).astype("<i2").tobytes()
    assert listen(listener, silence(5_000) + noise + silence(5_000), 640) == []


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.stem)
def test_webrtc_hears_people(clip: Path) -> None:
    pcm = soundfile.read(clip, dtype="int16")[0].tobytes()
    turns = listen(Listener(WebRtcVad(0.5), RULES, 0), silence(500) + pcm + silence(1_000), 1_280)
    assert len(turns) >= 1
    start, end = turns[0][0], turns[-1][1]
    assert start <= 16 * 500 + len(pcm) // 4  # begins in the first half of the clip at the latest
    assert end - start >= 16 * 300


def test_waveforms_lie_in_the_unit_interval() -> None:
    pcm = np.array([-32_768, 0, 32_767], "<i2").tobytes()
    np.testing.assert_array_equal(to_waveform(pcm), np.float32([-1, 0, 32_767 / 32_768]))
