"""Utterances for stock encoders: committed while they last, exact in the end, by any chunking and in any company."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.tiny_hf import noise, tiny_wavllm
from wavllm_core.engine.api import Heard
from wavllm_core.engine.exact import ExactHearings, ExactLimits
from wavllm_core.engine.utterances import Hearing
from wavllm_core.errors import CoreError, InputError
from wavllm_core.hf.live import MARGIN_SECONDS, LiveStockEncoders
from wavllm_core.hf.processor import WavLLMFeatureExtractor

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ONE_VOICE = np.float32([1, 0])


@cache
def encoders() -> LiveStockEncoders:
    return LiveStockEncoders(tiny_wavllm(windows="unpadded"), WavLLMFeatureExtractor(windows="unpadded"))


def offline(waveform: np.ndarray) -> torch.Tensor:
    features = encoders().features([waveform], 16_000)
    with torch.no_grad():
        return encoders().model.encode(**features)[0][0]


class Bench:
    """Hearings whose queue wait the test sets; notes the names that were told."""

    def __init__(self, limits: ExactLimits | None = None) -> None:
        self.wait_ms, self.now, self.told = 0.0, 0.0, []
        self.hearings = ExactHearings(
            encoders(), lambda _: ONE_VOICE, lambda: self.now, lambda: self.wait_ms, limits or ExactLimits()
        )

    def listen(self) -> Hearing:
        hearing = Hearing(lambda hearing: self.told.append(list(hearing.names)))
        self.hearings.open.append(hearing)
        return hearing

    def work(self) -> int:
        steps = 0
        while self.hearings.due() is not None:
            self.hearings.step()
            self.now += 0.01
            steps += 1
        return steps

    def hear(self, hearing: Hearing) -> Heard | CoreError:
        said: list[Heard | CoreError] = []
        self.hearings.ask(hearing, said.append)
        self.work()
        return said[0]


def heard(bench: Bench, hearing: Hearing) -> Heard:
    said = bench.hear(hearing)
    assert isinstance(said, Heard)
    return said


@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) >= 400))
def test_the_end_is_exact_by_any_chunking(sizes: list[int]) -> None:
    waveform = noise(sum(sizes) / 16_000 + 0.01)[: sum(sizes)]
    bench, at = Bench(), 0
    hearing = bench.listen()
    for size in sizes:
        bench.hearings.push(hearing, waveform[at : at + size])
        bench.work()
        at += size
    said = heard(bench, hearing)
    torch.testing.assert_close(said.speech_embeds, offline(waveform), **CLOSE)
    assert said.vector_names == tuple(hearing.names) and len(hearing.names) == len(said.speech_embeds)
    assert bench.hear(hearing) is said


def test_what_is_committed_is_told_once_and_only_grows() -> None:
    bench = Bench()
    hearing = bench.listen()
    for chunk in np.split(noise(4.0), 40):  # 100 ms
        bench.hearings.push(hearing, chunk)
        bench.work()
    assert len(bench.told) > 3
    assert all(new[: len(old)] == old for old, new in zip(bench.told, bench.told[1:], strict=False))
    assert len(hearing.names) == len(hearing.embeds) == int((4.0 - MARGIN_SECONDS) / 0.08)


@pytest.mark.parametrize("busy", [False, True])
def test_an_exact_end_is_all_new_and_a_hasty_one_keeps_what_was_read(busy: bool) -> None:
    bench = Bench()
    hearing = bench.listen()
    for chunk in np.split(noise(4.0), 8):
        bench.hearings.push(hearing, chunk)
        bench.work()
    committed, embeds = list(hearing.names), hearing.embeds.clone()
    bench.wait_ms = 1_000.0 if busy else 0.0
    said = heard(bench, hearing)
    assert (list(said.vector_names[: len(committed)]) == committed) == busy
    assert torch.equal(said.speech_embeds[: len(committed)], embeds) == busy
    assert len(set(said.vector_names)) == len(said.vector_names) == len(said.speech_embeds) > len(committed)
    torch.testing.assert_close(said.speech_embeds[len(committed) :], offline(noise(4.0))[len(committed) :], **CLOSE)


def test_a_busy_machine_encodes_less_often() -> None:
    steps = []
    for wait_ms in (0.0, 1_000.0):
        bench = Bench()
        bench.wait_ms = wait_ms
        hearing = bench.listen()
        for chunk in np.split(noise(8.0), 80):
            bench.hearings.push(hearing, chunk)
            bench.work()
        steps.append(len(bench.told))
    assert steps[1] <= steps[0] / 3


def test_more_audio_takes_the_end_back() -> None:
    bench, waveform = Bench(), noise(4.0)
    hearing = bench.listen()
    bench.hearings.push(hearing, waveform[:40_000])
    bench.work()
    committed = list(hearing.names)
    heard(bench, hearing)
    bench.hearings.push(hearing, waveform[40_000:])
    assert bench.told[-1] == committed == hearing.names
    torch.testing.assert_close(heard(bench, hearing).speech_embeds, offline(waveform), **CLOSE)


def test_ends_go_before_hops_and_together() -> None:
    bench = Bench()
    clips = [noise(1.0 + 0.3 * i, seed=i) for i in range(4)]
    talking = [bench.listen() for _ in clips]
    for hearing, clip in zip(talking, clips, strict=True):
        bench.hearings.push(hearing, clip)
    said: list[Heard | CoreError] = []
    for hearing in talking[1:]:
        bench.hearings.ask(hearing, said.append)
    bench.hearings.step()
    assert len(said) == 3
    for one, clip in zip(said, clips[1:], strict=True):
        assert isinstance(one, Heard)
        torch.testing.assert_close(one.speech_embeds, offline(clip), **CLOSE)


@pytest.mark.parametrize("end", ["pushed", "committed", "asked", "heard", "gone on"])
def test_who_is_gone_in_the_middle_of_a_turn_leaves_nothing(end: str) -> None:
    bench, said = Bench(), []
    hearing = bench.listen()
    bench.hearings.push(hearing, noise(4.0))
    if end != "pushed":
        bench.work()
        assert hearing.names
    if end == "asked":
        bench.hearings.ask(hearing, said.append)
    if end in ("heard", "gone on"):
        heard(bench, hearing)
    if end == "gone on":
        bench.hearings.push(hearing, noise(1.0))
    bench.hearings.close(hearing)
    kept = bench.hearings
    assert not (kept.open or kept._turns or kept._encoded or kept._committed or hearing.parts or hearing.names)
    assert [str(one) for one in said] == ["the utterance was cancelled"] * (end == "asked")
    assert bench.work() == 0


def test_bad_audio_fails_alone_and_nothing_is_left() -> None:
    bench = Bench()
    good, short, stereo, long, gone = (bench.listen() for _ in range(5))
    bench.hearings.push(good, noise(1.0))
    bench.hearings.push(short, noise(1.0)[:10])
    bench.hearings.push(stereo, np.zeros((9, 2), np.float32))
    for _ in range(5):
        bench.hearings.push(long, np.zeros(30 * 16_000, np.float32))
    said: list[Heard | CoreError] = []
    for hearing in (good, short, stereo, long):
        bench.hearings.ask(hearing, said.append)
    bench.hearings.close(gone)
    bench.hearings.ask(gone, said.append)
    bench.work()
    complaints = sorted(str(one) for one in said if isinstance(one, InputError))
    wanted = [
        "an utterance of 10 samples",
        "an utterance of more than 120 s",
        "audio is (samples,)",
        "the utterance was",
    ]
    assert len(said) == 5 and [text[: len(start)] for text, start in zip(complaints, wanted, strict=True)] == wanted
    for hearing in (good, short, stereo, long, gone):
        bench.hearings.close(hearing)
    assert not bench.hearings.open and not bench.hearings._turns
