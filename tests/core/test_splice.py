"""Orders made of recorded phrases: words part into phrases, sounds are found in time, joined words match the slots."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wavllm_core.train import synthesis
from wavllm_core.train.corpus import Clip, Corpus
from wavllm_core.train.orders import Order, random_order, random_spoken_form
from wavllm_core.train.splice import FADE_SAMPLES, HEAD, Phrase, Pieces, aligned, joined, phrases_of, quietest


@given(seed=st.integers(0, 10_000))
def test_every_order_of_the_grammar_parts_into_its_slots(seed: int) -> None:
    rng = random.Random(seed)
    order = random_order(rng)
    words = random_spoken_form(order, rng)
    found = phrases_of(words)
    assert " ".join(phrase.spoken for phrase in found) == words
    assert {phrase.kind: phrase.words for phrase in found if phrase.kind != HEAD} == order.slots()


@pytest.mark.parametrize("words", ["hello there", "get me a tea", "get me a mocha with lots of tea"])
def test_words_that_are_no_order_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match="no phrase of an order"):
        phrases_of(words)


def test_alignment_finds_the_frames_of_each_symbol() -> None:
    heard = [0, 3, 3, 0, 0, 3, 1, 0, 2, 0]  # two 3s with a blank between
    log_probs = torch.full((len(heard), 4), -9.0)
    log_probs[range(len(heard)), heard] = -0.1
    log_probs[2, 3] = -0.05  # the second frame of the first 3 is the surer one
    assert aligned(log_probs, [3, 3, 1, 2]) == [2, 5, 6, 8]
    with pytest.raises(ValueError, match="4 frames are too few for 3 symbols"):
        aligned(log_probs[:4], [3, 3, 3])


def test_cuts_are_where_it_is_quiet() -> None:
    pcm = np.full(16_000, 3000, np.int16)
    pcm[8_000:8_400] = 10
    assert 8_000 <= quietest(pcm, 4_000, 12_000) <= 8_400
    assert 4_000 <= quietest(pcm, 4_000, 4_000) <= 4_100


def test_joined_pieces_overlap_by_their_fade_and_never_click() -> None:
    parts = [np.full(1_000, 1_000, np.int16), np.full(50, 1_000, np.int16), np.full(1_000, 1_000, np.int16)]
    whole = joined(parts)
    assert len(whole) == 2_050 - FADE_SAMPLES - 50
    assert np.abs(np.diff(whole.astype(int))).max() < 100


def test_a_spliced_order_says_what_its_slots_hold() -> None:
    pieces = Pieces()
    words = "get me a large dark roast double shot mocha with soy milk and sugar"
    other = "brew a small light roast single shot latte with some sugar and cream"
    for text, level in ((words, 100), (other, 200)):
        found = phrases_of(text)
        places = [(phrase, 1_000 * i + 100, 1_000 * i + 900) for i, phrase in enumerate(found)]
        pcm = np.full(1_000 * len(found), level, np.int16)
        pieces.add(pcm, (0, len(pcm)), places, torch.tensor([1.0, 0.0]))
    rng = random.Random(3)
    for _ in range(30):
        order, said, pcm = pieces.order(rng)
        assert Order(**{p.kind: p.words for p in phrases_of(said) if p.kind != HEAD}) == order
        assert len(pcm) > 700 * len(phrases_of(said))
    assert pieces.found[(HEAD, "")][0].phrase == Phrase(HEAD, "get me a")


def test_a_corpus_grows_without_moving_and_without_new_phonemes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(synthesis, "phonemes", lambda texts: [list(text) for text in texts])
    first = np.arange(1_000, dtype=np.int16)
    Corpus.write(tmp_path, [(Clip("", "s2i", "train", "abc"), first)])
    reader = Corpus(tmp_path)  # as a training that runs has it
    sounds = [np.full(2_000, i, np.int16) for i in (7, 8)]
    clips = [(Clip("", "more", "train", "cab"), sounds[0]), (Clip("", "more", "train", "xyz"), sounds[1])]
    assert Corpus.extend(tmp_path, clips) == 1
    assert "'xyz'" in caplog.text
    grown = Corpus(tmp_path)
    assert [clip.text for clip in grown.clips] == ["abc", "cab"] and grown.symbol_ids == reader.symbol_ids
    assert np.array_equal(grown.pcm(0), first) and np.array_equal(grown.pcm(1), sounds[0])
    assert np.array_equal(reader.pcm(0), first)
