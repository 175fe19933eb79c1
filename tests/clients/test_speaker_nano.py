"""The smart speaker with the shipped model: recorded people call it, and order."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from clients.demo.run import FOLDER
from clients.file import read_sound
from clients.realtime import SAMPLE_RATE, Waveform
from tests.clients.nano import server_running
from tests.clients.sounds import until
from tests.clients.test_speaker import speaker_running
from wavllm_core.checkpoint import NANO
from wavllm_core.engine.live import LiveEngine


@pytest.fixture
def engine() -> LiveEngine:
    """Loaded before there is an event loop that it would block."""
    return LiveEngine.load(NANO)


def clip(name: str) -> Waveform:
    """As the microphone of a `Room` hears it, with a pause after it."""
    waveform = read_sound(FOLDER / "clips" / name)
    silence = np.zeros(SAMPLE_RATE, np.float32)
    heard: Waveform = soxr.resample(np.concatenate([waveform, silence]), SAMPLE_RATE, 24_000)
    return heard


async def test_called_by_its_name_it_takes_an_order(engine: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        server_running(engine) as url,
        speaker_running(url, monkeypatch, wake_phrases=("computer",)) as home,
    ):
        await home.room.stream(clip("fsdd_3_jackson_2.flac"))
        await until(lambda: "not meant  three" in home.printed)
        await home.room.stream(clip("wake_computer.flac"))
        await until(lambda: "Computer is listening." in home.printed)
        while home.room.hear(24_000).any():  # where there is a voice
            pass
        await home.room.stream(clip("s2i_90a00f8a.flac"))
        await until(lambda: "espresso" in home.printed.rpartition("assistant")[2])
    assert "assistant" not in home.printed.partition("not meant  three")[0]
    assert home.printed.count("assistant") == 2
