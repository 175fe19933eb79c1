"""Rolling equals offline, by any chunking; nothing looks ahead past its block; states can be kept and reused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.core.tiny import tiny_model
from wavllm_core.model import RollingWavLLM
from wavllm_core.speech import Encoded, SpeechState

MODEL = tiny_model()
BLOCK = MODEL.config.block_samples
EXACT = {"rtol": 1e-5, "atol": 1e-5}


def noise(samples: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed)) * 0.3


def roll(model: RollingWavLLM, chunks: list[Tensor]) -> tuple[SpeechState, list[Encoded]]:
    state, parts = model.init_state(chunks[0].shape[0]), []
    for chunk in chunks:
        state, encoded = model.step(state, chunk)
        parts += [encoded] if encoded else []
    state, encoded = model.flush(state)
    return state, parts + ([encoded] if encoded else [])


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 3 * BLOCK), min_size=1, max_size=8))
def test_any_chunking_equals_offline(sizes: list[int]) -> None:
    waveform = noise(sum(sizes))
    whole = MODEL.encode(waveform)
    state, parts = roll(MODEL, list(waveform.split(sizes, dim=-1)))
    torch.testing.assert_close(torch.cat([p.speech_embeds for p in parts], 1), whole.speech_embeds, **EXACT)
    torch.testing.assert_close(torch.cat([p.semantic_frames for p in parts], 1), whole.semantic_frames, **EXACT)
    vector = MODEL.speaker_head.vector
    torch.testing.assert_close(vector(state.pool), vector(whole.pool), **EXACT)


def test_a_block_by_hand_equals_the_mask() -> None:
    """A reference not built on `step`: full attention inside a first block, masked scores elsewhere."""
    frames = MODEL.semantic.layers[0].self_attn
    x = torch.randn(1, 10, 16, generator=torch.Generator().manual_seed(1))
    from wavllm_core.layers import block_layout

    mask = block_layout(10, 0, block_frames=4, left_blocks=1).mask
    attended = frames.step(frames.init_state(1), x, mask, 8)[1]
    queries, keys, values = (frames.split(p(x)) for p in (frames.q_proj, frames.k_proj, frames.v_proj))
    for at, seen in ((0, range(4)), (3, range(4)), (5, range(8)), (9, range(4, 10))):
        chosen = list(seen)
        scores = queries[:, :, at : at + 1] @ keys[:, :, chosen].transpose(-1, -2) / frames.head_dim**0.5
        expected = frames.out_proj((scores.softmax(-1) @ values[:, :, chosen]).transpose(1, 2).flatten(2))
        torch.testing.assert_close(attended[:, at : at + 1], expected, **EXACT)


@pytest.mark.parametrize("block", [0, 2, 4])
def test_no_output_depends_on_audio_after_its_block(block: int) -> None:
    waveform = noise(6 * BLOCK).requires_grad_()
    vectors = MODEL.config.block_frames // MODEL.config.frames_per_vector
    embeds = MODEL.encode(waveform).speech_embeds
    embeds[:, : (block + 1) * vectors].square().sum().backward()
    assert waveform.grad is not None
    future = waveform.grad[:, (block + 1) * BLOCK :]
    assert future.abs().max() == 0
    assert waveform.grad[:, block * BLOCK : (block + 1) * BLOCK].abs().max() > 0


def test_a_kept_state_can_be_rolled_from_again() -> None:
    start, first, second = noise(2 * BLOCK), noise(3 * BLOCK, seed=1), noise(3 * BLOCK, seed=2)
    kept, _ = MODEL.step(MODEL.init_state(), start)
    before = dict(vars(kept))
    once = MODEL.step(kept, first)[1]
    MODEL.step(kept, second)
    again = MODEL.step(kept, first)[1]
    assert once is not None and again is not None
    assert torch.equal(once.speech_embeds, again.speech_embeds)
    assert all(getattr(kept, field.name) is before[field.name] for field in dataclasses.fields(kept))


def test_batched_streams_equal_each_alone() -> None:
    both = noise(4 * BLOCK + 700, batch=2)
    _, together = roll(MODEL, list(both.split(BLOCK, dim=-1)))
    for row in range(2):
        _, alone = roll(MODEL, list(both[row : row + 1].split(BLOCK, dim=-1)))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a.speech_embeds[row : row + 1], b.speech_embeds, **EXACT)


@pytest.mark.parametrize("samples", [1, 1279, 1280, BLOCK + 1, 3 * BLOCK])
def test_padding_of_a_batch_changes_nothing(samples: int) -> None:
    short, long = noise(samples), noise(5 * BLOCK, seed=3)
    padded = torch.cat([torch.nn.functional.pad(short, (0, 5 * BLOCK - samples)), long])
    batch = MODEL.encode(padded, torch.tensor([samples, 5 * BLOCK]))
    alone = MODEL.encode(short)
    assert batch.vectors is not None
    vectors = int(batch.vectors[0])
    assert vectors == alone.speech_embeds.shape[1] == -(-samples // MODEL.config.vector_samples)
    torch.testing.assert_close(batch.speech_embeds[0, :vectors], alone.speech_embeds[0], **EXACT)
    vector = MODEL.speaker_head.vector
    torch.testing.assert_close(vector(batch.pool)[0], vector(alone.pool)[0], **EXACT)


def test_state_stays_bounded_over_a_long_stream() -> None:
    state = MODEL.init_state()
    sizes = []
    for _ in range(3):
        for _ in range(8):
            state, _ = MODEL.step(state, noise(BLOCK))
        sizes.append(state.semantic.layers[0].keys.shape[2])
    assert sizes == [MODEL.config.left_blocks * MODEL.config.block_frames] * 3


def test_a_window_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match=r"801.* frames in a window of 800|80\d frames in a window of 800"):
        MODEL.encode(noise(801 * MODEL.config.frame_samples))
