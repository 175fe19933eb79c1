"""Silero's voice detector on plain numpy: one set of weights for all streams, explicit state for each.

The weights come with the package silero-vad, whose own runtimes keep the state inside the model. A window of
32 ms costs some 700,000 multiplications, so that calling another runtime would cost more than it saves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from agent.errors import AgentError

WINDOW_SAMPLES: Final = 512  # 32 ms at 16 kHz
CONTEXT_SAMPLES: Final = 64  # of the window before
KERNEL, STRIDE, PADDING, BANDS = 256, 128, 64, 129  # of the transform; samples, but for the bands
STRIDES: Final = (1, 2)  # of the first two convolutions, which leave two of four frames
KERNEL_FRAMES: Final = 3  # likewise
HALF: Final = np.float32(0.5)
WEIGHTS: Final = "data/silero_vad_16k.safetensors"
LAG_SAMPLES: Final = 640  # a word begins up to a window earlier, and softly
HANGOVER_FRAMES: Final = 2
HYSTERESIS: Final = 0.15  # speech goes on until so much below the threshold

Array = npt.NDArray[np.float32]


def _frames() -> npt.NDArray[np.intp]:
    """Which samples of context and window each frame is made of; at the end the window is mirrored."""
    whole = np.pad(np.arange(CONTEXT_SAMPLES + WINDOW_SAMPLES), (0, PADDING), "reflect")
    return np.array([whole[start : start + KERNEL] for start in range(0, len(whole) - KERNEL + 1, STRIDE)])


FRAMES: Final = _frames()


@dataclass(frozen=True, slots=True)
class SileroState:
    """What one stream remembers between windows."""

    context: Array  # (CONTEXT_SAMPLES,)
    hidden: Array  # (128,)
    cell: Array  # (128,)


class SileroModel:
    """The weights, read-only; any number of streams share them."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self._transform = np.ascontiguousarray(tensors["stft_conv.weight"][:, 0].T)  # (KERNEL, 2 * 129)
        weights = [_flat(tensors[f"conv{number}.weight"]) for number in range(1, 5)]
        biases = [tensors[f"conv{number}.bias"] for number in range(1, 5)]
        self._convolutions = list(zip(weights[:2], biases[:2], STRIDES, strict=True))
        channels = len(weights[2]) // KERNEL_FRAMES
        self._last = [  # of the third, two frames are left and the first tap meets padding; of the fourth, one and both
            (weights[2][channels:], biases[2]),
            (weights[3][channels : 2 * channels], biases[3]),
        ]
        halves = np.repeat(np.array([0.5, 0.5, 1, 0.5], np.float32), len(biases[3]))[:, None]  # of gates: see `step`
        lstm = np.concatenate([tensors["lstm_cell.weight_ih"], tensors["lstm_cell.weight_hh"]], axis=1)
        self._lstm = np.ascontiguousarray((lstm * halves).T)  # (2 * 128, 4 * 128)
        self._lstm_bias = (tensors["lstm_cell.bias_ih"] + tensors["lstm_cell.bias_hh"]) * halves[:, 0]
        self._out = tensors["final_conv.weight"].ravel()
        self._out_bias = float(tensors["final_conv.bias"][0])

    def init_state(self) -> SileroState:
        zeros = np.zeros(self._out.shape, np.float32)
        return SileroState(np.zeros(CONTEXT_SAMPLES, np.float32), zeros, zeros)

    def step(self, state: SileroState, window: Array) -> tuple[SileroState, float]:
        """The probability of speech in (WINDOW_SAMPLES,) in [-1, 1]; `state` is left as it was.

        One tanh does for all gates: sigmoid(x) = 0.5 + 0.5 * tanh(0.5 * x), and the inner half is in the weights.
        """
        waves = np.concatenate([state.context, window])[FRAMES] @ self._transform
        waves *= waves
        features = np.sqrt(waves[:, :BANDS] + waves[:, BANDS:])
        for weight, bias, stride in self._convolutions:
            features = _rectified(_thrice(features, stride) @ weight, bias)
        for weight, bias in self._last:
            features = _rectified(features.ravel() @ weight, bias)
        gates = np.concatenate([features, state.hidden]) @ self._lstm
        gates += self._lstm_bias
        bent = np.tanh(gates, out=gates).reshape(4, -1)
        enter, forget, _, leave = HALF + HALF * bent
        cell = forget * state.cell + enter * bent[2]
        hidden = leave * np.tanh(cell)
        logit = float(np.maximum(hidden, 0) @ self._out) + self._out_bias
        return SileroState(window[-CONTEXT_SAMPLES:], hidden, cell), 1 / (1 + math.exp(-logit))

    def probabilities(self, waveform: Array) -> Array:
        """Of speech in a whole recording, (samples,) in [-1, 1]: (windows,), without what is left at its end."""
        state, found = self.init_state(), []
        for start in range(0, len(waveform) - WINDOW_SAMPLES + 1, WINDOW_SAMPLES):
            state, probability = self.step(state, waveform[start : start + WINDOW_SAMPLES])
            found.append(probability)
        return np.array(found, np.float32)


class SileroVad:
    """One stream: windows are cut from its frames, and a frame gets the verdict on the last whole window.

    It says yes for HANGOVER_FRAMES more, as words end softly.
    """

    lag_samples = LAG_SAMPLES

    def __init__(self, model: SileroModel, threshold: float) -> None:
        self._model, self._threshold = model, threshold
        self._state, self._waiting = model.init_state(), b""
        self._speaking, self._silent_frames = False, HANGOVER_FRAMES + 1

    def is_speech(self, frame: bytes) -> bool:
        self._waiting += frame
        if len(self._waiting) >= 2 * WINDOW_SAMPLES:
            window = np.frombuffer(self._waiting, "<i2", WINDOW_SAMPLES).astype(np.float32) / np.float32(32_768)
            self._waiting = self._waiting[2 * WINDOW_SAMPLES :]
            self._state, probability = self._model.step(self._state, window)
            self._speaking = probability >= self._threshold - (HYSTERESIS if self._speaking else 0)
        self._silent_frames = 0 if self._speaking else self._silent_frames + 1
        return self._silent_frames <= HANGOVER_FRAMES


def load_silero() -> SileroModel:
    """Raises AgentError when the package is not there, or not the one that is known."""
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise AgentError("the package silero-vad is not installed")
    path = Path(spec.submodule_search_locations[0]) / WEIGHTS
    try:
        return SileroModel(load_file(path))
    except (OSError, SafetensorError, KeyError) as error:
        raise AgentError(f"the weights of silero-vad in {path} cannot be used: {error}") from error


def _flat(weight: Array) -> Array:
    """(3 * in_channels, out_channels) of a convolution over three frames."""
    return np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(-1, len(weight)))


def _thrice(features: Array, stride: int) -> Array:
    """Each frame (stride) with its neighbours, side by side; beyond the ends there is nothing."""
    padded = np.zeros((len(features) + 2, features.shape[1]), np.float32)
    padded[1:-1] = features
    return np.concatenate([padded[:-2:stride], padded[1:-1:stride], padded[2::stride]], axis=1)


def _rectified(values: Array, bias: Array) -> Array:
    """In place."""
    values += bias
    return np.maximum(values, 0, out=values)
