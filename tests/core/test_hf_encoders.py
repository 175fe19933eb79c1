"""Our Whisper and WavLM against transformers' own, and padded batches against each row alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import WavLMConfig, WavLMModel, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as TheirWhisperEncoder

from tests.core.tiny_hf import LARGE, WAVLM, WHISPER
from wavllm_core.acoustic import relative_buckets
from wavllm_core.hf.wavlm import WavLM
from wavllm_core.hf.whisper import WhisperEncoder

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
WAVEFORM = torch.randn(1, 21_000, generator=torch.Generator().manual_seed(0)) * 0.1
LOG_MEL = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(1))


def shake(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def wavlm_pair(large: bool) -> tuple[WavLMModel, WavLM]:
    config = WavLMConfig(**WAVLM, **(LARGE if large else {}))
    theirs, ours = WavLMModel(config).eval(), WavLM(config).eval()
    shake(theirs)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("large", [False, True])
@torch.no_grad()
def test_wavlm_equals_transformers(large: bool) -> None:
    theirs, ours = wavlm_pair(large)
    expected = theirs(WAVEFORM, output_hidden_states=True)
    states, lengths = ours(WAVEFORM)
    assert lengths is None
    for state, wanted in zip(states[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(state, wanted, **CLOSE)
    torch.testing.assert_close(states[-1], expected.last_hidden_state, **CLOSE)


@pytest.mark.parametrize("large", [False, True])
@torch.no_grad()
def test_a_padded_row_of_wavlm_equals_the_row_alone(large: bool) -> None:
    _, ours = wavlm_pair(large)
    samples = 9_000
    both = torch.cat([nn.functional.pad(WAVEFORM[:, :samples], (0, 12_000)), WAVEFORM])
    states, lengths = ours(both, torch.tensor([samples, 21_000]))
    alone, _ = ours(WAVEFORM[:, :samples])
    assert lengths is not None and lengths.tolist() == [alone[0].shape[1], states[0].shape[1]]
    for state, wanted in zip(states, alone, strict=True):
        torch.testing.assert_close(state[:1, : wanted.shape[1]], wanted, **CLOSE)


def test_relative_buckets_are_those_of_transformers() -> None:
    attention = WavLMModel(WavLMConfig(**WAVLM)).encoder.layers[0].attention
    distance = torch.arange(-3000, 3001)
    assert torch.equal(relative_buckets(distance, 320, 800), attention._relative_positions_bucket(distance))


@torch.no_grad()
def test_whisper_equals_transformers_on_its_window() -> None:
    config = WhisperConfig(**WHISPER)
    theirs, ours = TheirWhisperEncoder(config).eval(), WhisperEncoder(config).eval()
    shake(theirs)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(LOG_MEL), theirs(LOG_MEL).last_hidden_state, **CLOSE)


@pytest.mark.parametrize("frames", [1, 333, 334])
@torch.no_grad()
def test_a_padded_row_of_whisper_equals_the_row_alone(frames: int) -> None:
    ours = WhisperEncoder(WhisperConfig(**WHISPER)).eval()
    shake(ours)
    alone = ours(LOG_MEL[..., :frames])
    both = torch.cat([nn.functional.pad(LOG_MEL[..., :frames], (0, 600 - frames)), LOG_MEL[..., :600]])
    states = ours(both, torch.tensor([frames, 600]))
    assert alone.shape[1] == (frames + 1) // 2
    torch.testing.assert_close(states[:1, : alone.shape[1]], alone, **CLOSE)


def test_other_activations_are_refused() -> None:
    with pytest.raises(ValueError, match="semantic_config: only encoders with activation_function gelu"):
        WhisperEncoder(WhisperConfig(**WHISPER, activation_function="relu"))
    with pytest.raises(ValueError, match="acoustic_config: only hidden_act"):
        WavLM(WavLMConfig(**WAVLM, hidden_act="relu"))
