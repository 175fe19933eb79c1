"""Silero's detector is what its makers ship, and streams that share it share nothing but weights."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch.nn import functional

from agent.errors import AgentError
from agent.hearing import silero
from agent.hearing.listener import Listener
from agent.hearing.silero import HANGOVER_FRAMES, WEIGHTS, WINDOW_SAMPLES, SileroModel, SileroVad, load_silero
from agent.hearing.turns import SpeechStarted, TurnRules
from agent.hearing.vad import FRAME_BYTES, WebRtcVad, find_vad

CLIPS = sorted((Path(__file__).parents[2] / "clients/demo/clips").glob("*.flac"))


@pytest.fixture(scope="module")
def model() -> SileroModel:
    return load_silero()


def spoken(clip: Path) -> np.ndarray:
    return soundfile.read(clip, dtype="float32")[0]


def torch_probabilities(waveform: np.ndarray) -> list[float]:
    """The same network in torch's layers, as its makers write it down."""
    spec = find_spec("silero_vad")
    assert spec and spec.submodule_search_locations
    tensors = load_file(Path(spec.submodule_search_locations[0]) / WEIGHTS)
    lstm = torch.nn.LSTMCell(128, 128)
    lstm.load_state_dict({name.removeprefix("lstm_cell."): tensors[name] for name in tensors if "lstm" in name})
    padded, state, found = torch.from_numpy(np.pad(waveform, (64, 0))), None, []
    for start in range(0, len(waveform) - WINDOW_SAMPLES + 1, WINDOW_SAMPLES):
        window = functional.pad(padded[None, None, start : start + WINDOW_SAMPLES + 64], (0, 64), "reflect")
        waves = functional.conv1d(window, tensors["stft_conv.weight"], stride=128)
        features = torch.hypot(waves[:, :129], waves[:, 129:])
        for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
            weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            features = functional.conv1d(features, weight, bias, stride, padding=1).relu()
        state = lstm(features[:, :, 0], state)
        hidden = state[0][:, :, None].relu()
        found.append(
            float(functional.conv1d(hidden, tensors["final_conv.weight"], tensors["final_conv.bias"]).sigmoid())
        )
    return found


@torch.no_grad()
def test_it_says_what_the_original_says(model: SileroModel) -> None:
    waveform = np.concatenate([spoken(CLIPS[0]), np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)])
    expected = torch_probabilities(waveform)
    assert max(expected) > 0.9 > 0.1 > min(expected)
    np.testing.assert_allclose(model.probabilities(waveform), expected, atol=1e-5)


def test_streams_do_not_hear_each_other(model: SileroModel) -> None:
    first = soundfile.read(CLIPS[0], dtype="int16")[0].tobytes()
    second = bytes(20 * FRAME_BYTES) + soundfile.read(CLIPS[1], dtype="int16")[0].tobytes()
    frames = min(len(first), len(second)) // FRAME_BYTES

    def flags(vad: SileroVad, pcm: bytes) -> list[bool]:
        return [vad.is_speech(pcm[at * FRAME_BYTES : (at + 1) * FRAME_BYTES]) for at in range(frames)]

    alone = flags(SileroVad(model, 0.5), first), flags(SileroVad(model, 0.5), second)
    ours, theirs, mixed = SileroVad(model, 0.5), SileroVad(model, 0.5), []
    for at in range(frames):
        piece = slice(at * FRAME_BYTES, (at + 1) * FRAME_BYTES)
        mixed.append((ours.is_speech(first[piece]), theirs.is_speech(second[piece])))
    assert [list(flag) for flag in zip(*mixed, strict=True)] == list(alone)
    assert any(alone[0]) and alone[0] != alone[1]


def test_a_step_leaves_its_state_alone(model: SileroModel) -> None:
    waveform = spoken(CLIPS[0])[2_000 : 2_000 + WINDOW_SAMPLES]
    state, _ = model.step(model.init_state(), waveform)
    once, again = model.step(state, waveform), model.step(state, waveform)
    assert once[1] == again[1]
    np.testing.assert_array_equal(once[0].hidden, again[0].hidden)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.stem)
def test_people_are_heard(model: SileroModel, clip: Path) -> None:
    pcm = np.pad(soundfile.read(clip, dtype="int16")[0], 16_000).tobytes()
    events = list(Listener(SileroVad(model, 0.5), TurnRules(), 0).feed(pcm))
    assert any(isinstance(event, SpeechStarted) for event in events)


def test_loud_noise_opens_no_turn_where_webrtc_opens_one(model: SileroModel) -> None:
    """Bursts of hiss: a tap, a fan, a frying pan."""
    rng = np.random.default_rng(3)
    swell = np.repeat(rng.uniform(0.01, 0.3, 40), 8_000)  # every half second another level
    pcm = (np.clip(rng.normal(0, 1, len(swell)) * swell, -1, 1) * 32_767).astype("<i2").tobytes()

    def turns(vad: SileroVad | WebRtcVad) -> int:
        return sum(isinstance(event, SpeechStarted) for event in Listener(vad, TurnRules(), 0).feed(pcm))

    assert turns(SileroVad(model, 0.5)) == 0 < turns(WebRtcVad(0.5))


class Constant(SileroModel):
    """Says what it is told to."""

    def __init__(self, says: list[float]) -> None:
        self.says = says

    def init_state(self) -> None:  # type: ignore[override]
        return None

    def step(self, state: None, window: object) -> tuple[None, float]:  # type: ignore[override]
        return None, self.says.pop(0)


def test_speech_goes_on_a_little_below_the_threshold_and_a_little_longer() -> None:
    vad = SileroVad(Constant([0.45, 0.5, 0.36, 0.34, *[0.0] * 9]), 0.5)
    flags = [vad.is_speech(bytes(FRAME_BYTES)) for _ in range(16)]
    windows = [1, 3, 4, 6]  # the frames with which the first windows are full: 512, 1024, 1536, 2048 samples of 320
    voiced = [windows[1] <= at < windows[3] + HANGOVER_FRAMES for at in range(16)]
    assert flags == voiced


def test_without_the_weights_webrtc_does_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(silero, "find_spec", lambda name: None)
    assert find_vad("silero") is WebRtcVad
    assert [(record.levelno, "silero-vad is not installed" in record.message) for record in caplog.records] == [
        (logging.WARNING, True)
    ]
    monkeypatch.setattr(silero, "WEIGHTS", "absent")
    monkeypatch.undo()
    monkeypatch.setattr(silero, "WEIGHTS", "data/__init__.py")
    with pytest.raises(AgentError, match="cannot be used"):
        load_silero()
