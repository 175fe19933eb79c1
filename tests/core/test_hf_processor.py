"""Prompts as published, and every way in which sound and words can be out of bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.core.tiny_hf import VOCAB, noise, tiny_processor
from wavllm_core.errors import InputError
from wavllm_core.hf.processor import WavLLMFeatureExtractor

OPENING = (
    "[INST]<<SYS>>\nAs a helpful language and speech assistant, you are able to understand the speech content provided "
    "by the user, and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n<SPEECH>"
)


def test_the_prompt_is_the_published_one(tmp_path: Path) -> None:
    processor = tiny_processor(tmp_path)
    ids = processor(text="be short", audio=noise(1.0), sampling_rate=16_000)["input_ids"][0].tolist()
    at = ids.index(VOCAB)
    assert processor.tokenizer.decode(ids[:at]) == "<s>" + OPENING
    assert processor.tokenizer.decode(ids[at + 1 :]) == " </SPEECH> be short [/INST]"
    assert processor.tokenizer.decode(processor.instruction_ids("be short")) == '"be short"'


def test_the_published_profile_starts_answers_with_bos(tmp_path: Path) -> None:
    """And only answers: what is trained on keeps the true first token."""
    processor = tiny_processor(tmp_path, profile="published")
    true = tiny_processor(tmp_path)(text="x", audio=noise(1.0), sampling_rate=16_000)["input_ids"][0]
    asked = processor(text="x", audio=noise(1.0), sampling_rate=16_000)["input_ids"][0]
    learnt = processor(text="x", audio=noise(1.0), target=["y"], sampling_rate=16_000)["input_ids"][0]
    at = true.tolist().index(VOCAB)
    assert asked[at + 1] == processor.tokenizer.bos_token_id != true[at + 1]
    assert asked[at + 2 :].tolist() == true[at + 2 :].tolist()
    assert learnt[: len(true)].tolist() == true.tolist()


def test_labels_are_the_target_and_its_end(tmp_path: Path) -> None:
    processor = tiny_processor(tmp_path)
    made = processor(text=["x", "y"], audio=[noise(1.0), None], target=["three", "a mocha"], sampling_rate=16_000)
    for row, target in zip(made["labels"], ("three", "a mocha"), strict=True):
        assert processor.tokenizer.decode(row[row != -100]) == f"{target}</s>"
    assert made["samples"].tolist() == [16_000]
    assert made["input_ids"].shape == made["labels"].shape == made["attention_mask"].shape


def test_a_row_of_text_has_no_speech_marks(tmp_path: Path) -> None:
    processor = tiny_processor(tmp_path)
    said = processor.tokenizer.decode(processor(text="be short")["input_ids"][0])
    assert said.endswith("<</SYS>>\n\nbe short [/INST]") and "SPEECH" not in said


@pytest.mark.parametrize(
    ("seconds", "windows", "frames", "shape"),
    [
        (1.0, "padded", [100], (1, 80, 3000)),
        (1.0001, "unpadded", [101], (1, 80, 101)),
        (30.0, "padded", [3000], (1, 80, 3000)),
        (61.5, "padded", [3000, 3000, 150], (3, 80, 3000)),
        (61.5, "unpadded", [3000, 3000, 150], (3, 80, 3000)),
        (30.0001, "unpadded", [3000, 1], (2, 80, 3000)),
    ],
)
def test_windows(seconds: float, windows: Any, frames: list[int], shape: tuple[int, ...]) -> None:
    made = WavLLMFeatureExtractor(windows=windows)([noise(seconds)], 16_000)
    assert made["segment_frames"].tolist() == frames
    assert made["row_segments"].tolist() == [len(frames)]
    assert made["input_features"].shape == shape


def test_waveforms_are_normalised_where_the_checkpoint_wants_it() -> None:
    clip = noise(1.0) + np.float32(0.3)
    plain = WavLLMFeatureExtractor()([clip], 16_000)["input_values"][0]
    normal = WavLLMFeatureExtractor(normalize_waveform=True)([clip], 16_000)["input_values"][0]
    assert torch.equal(plain, torch.from_numpy(clip))
    assert abs(float(normal.mean())) < 1e-4 and abs(float(normal.var()) - 1) < 1e-3


@pytest.mark.parametrize(
    ("clip", "rate", "message"),
    [
        (np.zeros(0), 16_000, "audio 0: 0 samples; at least 400 are needed"),
        (np.zeros(399), 16_000, "audio 0: 399 samples; at least 400"),
        (np.zeros(200 * 16_000), 16_000, r"audio 0: 200\.0 s; at most 120 s are possible"),
        (np.zeros((2, 16_000)), 16_000, r"audio 0: shape \(2, 16000\); one channel is needed"),
        (np.zeros(8_000), 8_000, "sampling_rate 8000 Hz; 16000 Hz is needed"),
        (np.full(800, np.nan), 16_000, "audio 0: samples that are no numbers"),
    ],
)
def test_audio_out_of_bounds(tmp_path: Path, clip: Any, rate: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_processor(tmp_path)(text="x", audio=clip, sampling_rate=rate)


def test_words_out_of_bounds(tmp_path: Path) -> None:
    processor = tiny_processor(tmp_path, max_instruction_tokens=20)
    with pytest.raises(InputError, match="instruction: 32 tokens; at most 20 are possible"):
        processor(text="z" * 30)
    with pytest.raises(InputError, match="sampling_rate: is needed with audio"):
        processor(text="x", audio=noise(1.0))
    with pytest.raises(InputError, match="2 instructions, 1 audios, 0 targets"):
        processor(text=["x", "y"], audio=[noise(1.0)], sampling_rate=16_000)
    with pytest.raises(InputError, match="1 instructions, 1 audios, 2 targets"):
        processor(text="x", audio=None, target=["a", "b"])
