"""The real echo canceller, in a room that is made up."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from clients.demo.run import FOLDER
from clients.echo import EchoCanceller
from clients.file import read_sound
from clients.realtime import SAMPLE_RATE, ClientError, Waveform

BLOCK = 512


def room(waveform: Waveform, delay_samples: int) -> Waveform:
    """What a microphone hears of a loudspeaker: later, quieter, and with reverberation."""
    reverberation = np.exp(-np.arange(1_600) / 300) * np.random.default_rng(0).standard_normal(1_600) / 20
    reverberation[0] = 0.5
    echo = np.convolve(waveform, reverberation)
    return np.concatenate([np.zeros(delay_samples), echo])[: len(waveform)].astype(np.float32)


def power_db(waveform: Waveform) -> float:
    return float(10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)) + 1e-12))


@pytest.mark.needs("livekit")
def test_the_reply_is_taken_out_and_whoever_interrupts_is_heard() -> None:
    reply = np.concatenate([read_sound(FOLDER / "clips" / f"s2i_{name}.flac") for name in ("16245b86", "8c59cf3c")])
    interruption = np.zeros_like(reply)
    word = read_sound(FOLDER / "clips" / "fsdd_3_jackson_2.flac")
    interruption[13 * SAMPLE_RATE :][: len(word)] = word
    heard = room(reply, delay_samples=SAMPLE_RATE // 12) + interruption
    canceller, cleaned = EchoCanceller(SAMPLE_RATE, delay_s=1 / 12), []
    for start in range(0, len(reply), BLOCK):
        canceller.played(reply[start : start + BLOCK])
        cleaned.append(canceller.clean(heard[start : start + BLOCK]))
    clean = np.concatenate(cleaned)
    assert len(reply) - len(clean) < SAMPLE_RATE // 100
    echo = slice(8 * SAMPLE_RATE, 12 * SAMPLE_RATE)
    assert power_db(heard[echo]) - power_db(clean[echo]) > 20
    spoken = slice(13 * SAMPLE_RATE, 13 * SAMPLE_RATE + len(word))
    assert abs(power_db(interruption[spoken]) - power_db(clean[spoken])) < 6


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit", None)
    with pytest.raises(ClientError, match=r"pip install 'wavllm-agent\[echo\]'"):
        EchoCanceller(SAMPLE_RATE, 0)
