"""Stock encoders while somebody speaks: log-mel by any chunking, commits that stay, an exact end."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.core.tiny_hf import noise, tiny_wavllm
from wavllm_core.errors import InputError
from wavllm_core.hf import live as module
from wavllm_core.hf.live import MARGIN_SECONDS, LiveStockEncoders, OpenTurn
from wavllm_core.hf.log_mel import LiveLogMel, log_mel
from wavllm_core.hf.processor import WavLLMFeatureExtractor

FILTERS = torch.from_numpy(WavLLMFeatureExtractor().mel_filters)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=8))
def test_log_mel_of_what_was_said_so_far(sizes: list[int]) -> None:
    waveform = torch.from_numpy(noise(1.0))[: sum(sizes)]
    waveform = waveform * torch.linspace(0.01, 3, len(waveform))  # louder and louder: the floor rises
    live, said = LiveLogMel(FILTERS), 0
    for chunk in waveform.split(sizes):
        live.push(chunk)
        said += len(chunk)
        torch.testing.assert_close(live.frames(), log_mel(waveform[:said], FILTERS), **CLOSE)


@cache
def encoders() -> LiveStockEncoders:
    return LiveStockEncoders(tiny_wavllm(windows="unpadded"), WavLLMFeatureExtractor(windows="unpadded"))


def offline(waveform: Tensor) -> Tensor:
    features = encoders().features([waveform.numpy()], 16_000)
    with torch.no_grad():
        return encoders().model.encode(**features)[0][0]


@pytest.mark.timeout(60)  # many turns of seconds, on a machine that others use too
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) >= 400))
def test_an_exact_end_equals_offline_by_any_chunking(sizes: list[int]) -> None:
    waveform = torch.from_numpy(noise(sum(sizes) / 16_000 + 0.01))[: sum(sizes)]
    live, turn = encoders(), OpenTurn()
    for chunk in waveform.split(sizes):
        live.push(turn, chunk)
        live.hop([turn])
    torch.testing.assert_close(live.finish([turn])[0], offline(waveform), **CLOSE)


@pytest.mark.parametrize("samples", [30 * 16_000 + 1, 30 * 16_000 + 200, 31 * 16_000])
def test_turns_of_several_windows(samples: int) -> None:
    waveform = torch.from_numpy(noise(samples / 16_000 + 0.01))[:samples]
    turn = OpenTurn()
    for chunk in waveform.split(100_000):
        encoders().push(turn, chunk)
    assert len(turn.windows) == 2
    torch.testing.assert_close(encoders().finish([turn])[0], offline(waveform), **CLOSE)


def test_what_is_committed_stays_and_keeps_its_distance() -> None:
    """Without an exact pass the committed vectors are those of their hops, the rest is as heard at the end."""
    waveform = torch.from_numpy(noise(4.0))
    live, turn, before = encoders(), OpenTurn(), torch.empty(0, 64)
    for i, chunk in enumerate(waveform.split(8_000), start=1):
        live.push(turn, chunk)
        live.hop([turn])
        settled = max(0, 8_000 * i - int(MARGIN_SECONDS * 16_000)) // 1280
        now = torch.empty(0, 64) if turn.committed is None else turn.committed
        assert len(now) == settled
        assert torch.equal(now[: len(before)], before)
        before = now
    exact, kept = live.finish([turn])[0], live.finish([turn], exact=False)[0]
    assert torch.equal(kept[: len(before)], before)
    torch.testing.assert_close(kept[len(before) :], exact[len(before) :], **CLOSE)
    assert not torch.allclose(before, exact[: len(before)], **CLOSE)  # or there would be no need of an exact pass


def test_turns_encoded_together_equal_each_alone() -> None:
    live = encoders()
    clips = [torch.from_numpy(noise(seconds, seed)) for seed, seconds in enumerate((1.7, 1.9, 6.3))]
    together, alone = [OpenTurn() for _ in clips], [OpenTurn() for _ in clips]
    for turns in (together, alone):
        for turn, clip in zip(turns, clips, strict=True):
            live.push(turn, clip)
    live.hop(together)
    for turn in alone:
        live.hop([turn])
    for one, other in zip(together, alone, strict=True):
        assert one.committed is not None and other.committed is not None
        torch.testing.assert_close(one.committed, other.committed, **CLOSE)
    for one, vectors in zip(live.finish(together), (live.finish([turn])[0] for turn in alone), strict=True):
        torch.testing.assert_close(one, vectors, **CLOSE)


def test_turns_longer_than_any_bucket_are_encoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature extractor may allow more than the longest bucket holds."""
    monkeypatch.setattr(module, "BUCKET_SECONDS", (1,))
    live = encoders()
    clips = [torch.from_numpy(noise(seconds, seed)) for seed, seconds in enumerate((0.8, 1.7, 2.2))]
    turns = [OpenTurn() for _ in clips]
    for turn, clip in zip(turns, clips, strict=True):
        live.push(turn, clip)
    for vectors, clip in zip(live.finish(turns), clips, strict=True):
        torch.testing.assert_close(vectors, offline(clip), **CLOSE)


def test_the_margin_covers_what_the_positional_convolution_looks_ahead() -> None:
    model = encoders().model
    reach = model.config.acoustic_config.num_conv_pos_embeddings // 2 * 320  # frames of 20 ms
    assert encoders().margin_samples > reach + 400 + 3 * 320  # and a front-end window, and the subsampler


def test_bounds() -> None:
    live, turn = encoders(), OpenTurn()
    live.push(turn, torch.zeros(399))
    with pytest.raises(InputError, match="an utterance of 399 samples; at least 400 are needed"):
        live.finish([turn])
    with pytest.raises(InputError, match="an utterance of more than 120 s"):
        live.push(turn, torch.zeros(120 * 16_000))
    with pytest.raises(ValueError, match="live encoding needs windows: unpadded"):
        LiveStockEncoders(tiny_wavllm(), WavLLMFeatureExtractor())
