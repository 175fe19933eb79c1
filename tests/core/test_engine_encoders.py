"""Many rolling streams in one step: each equals the whole clip encoded alone, by any chunking, in any company."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.core.tiny import tiny_model
from wavllm_core.engine.encoders import RollingEncoders, Stream
from wavllm_core.errors import CapacityError

MODEL = tiny_model()
BLOCK = MODEL.config.block_samples
EXACT = {"rtol": 1e-5, "atol": 1e-5}


def noise(samples: int, seed: int = 0) -> Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.3


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_streams_in_any_company_equal_the_whole_clip_alone(data: st.DataObject) -> None:
    """Utterances begin and end while others go on; long ones outgrow their place in the store and are moved."""
    encoders = RollingEncoders(MODEL, streams=3)
    waiting = [
        noise(samples, i) for i, samples in enumerate(data.draw(st.lists(st.integers(1, 12 * BLOCK), max_size=6)))
    ]
    live: list[tuple[Stream, list[Tensor], list[Tensor], Tensor]] = []
    while waiting or live:
        while waiting and encoders.open_streams < 3:
            clip = waiting.pop()
            live.append((encoders.open(), list(clip.split(BLOCK)), [], clip))
        turn = data.draw(st.lists(st.booleans(), min_size=len(live), max_size=len(live)))
        chosen = [row for row, goes in zip(live, turn, strict=True) if goes] or live[:1]
        outs = encoders.step([row[0] for row in chosen], [row[1].pop(0) for row in chosen])
        for (stream, blocks, parts, clip), out in zip(chosen, outs, strict=True):
            parts.append(out)
            if not blocks:
                whole = MODEL.encode(clip[None])
                torch.testing.assert_close(torch.cat(parts), whole.speech_embeds[0], **EXACT)
                vector = encoders.speaker_vector(stream.state)
                torch.testing.assert_close(vector, MODEL.speaker_head.vector(whole.pool)[0], **EXACT)
                encoders.close(stream)
        live = [row for row in live if row[1]]
    assert encoders.open_streams == 0


def test_the_voice_of_a_single_frame_is_the_same_in_company() -> None:
    """Where there is no deviation, its square root would show the rounding of the sums."""
    encoders = RollingEncoders(MODEL, streams=3)
    clips = [noise(1255, 2), noise(1, 1)]
    streams = [encoders.open() for _ in clips]
    encoders.step(streams, clips)
    for stream, clip in zip(streams, clips, strict=True):
        alone = MODEL.speaker_head.vector(MODEL.encode(clip[None]).pool)[0]
        torch.testing.assert_close(encoders.speaker_vector(stream.state), alone, **EXACT)


@pytest.mark.parametrize("blocks", [0, 2, 5, 6, 7, 11])
def test_a_tail_can_be_taken_back_and_the_stream_goes_on(blocks: int) -> None:
    """As speculation does it, at every place where the store is moved or not."""
    encoders = RollingEncoders(MODEL, streams=1)
    stream, clip = encoders.open(), noise((blocks + 3) * BLOCK)
    parts = [encoders.step([stream], [block])[0] for block in clip[: blocks * BLOCK].split(BLOCK) if len(block)]
    before = stream.state
    tail = clip[blocks * BLOCK : blocks * BLOCK + 700]
    once = encoders.step([stream], [tail])[0]
    stream.state = before
    assert torch.equal(encoders.step([stream], [tail])[0], once)
    stream.state = before
    parts += [encoders.step([stream], [block])[0] for block in clip[blocks * BLOCK :].split(BLOCK)]
    torch.testing.assert_close(torch.cat(parts), MODEL.encode(clip[None]).speech_embeds[0], **EXACT)


def test_more_streams_than_there_are_is_refused() -> None:
    encoders = RollingEncoders(MODEL, streams=1)
    stream = encoders.open()
    with pytest.raises(CapacityError, match="1 utterances"):
        encoders.open()
    encoders.close(stream)
    with pytest.raises(ValueError, match="closed"):
        encoders.close(stream)
    encoders.open()


def test_an_utterance_past_the_window_moves_nothing() -> None:
    encoders = RollingEncoders(MODEL, streams=2)
    long, other = encoders.open(), encoders.open()
    long.state = type(long.state)(long.state.tails, MODEL.config.semantic.max_frames)
    with pytest.raises(ValueError, match="804 frames in a window of 800"):
        encoders.step([other, long], [noise(BLOCK), noise(BLOCK)])
    assert other.state.frames == 0
