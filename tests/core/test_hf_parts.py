"""Models from parts on disk: other people's encoders and language models, through transformers' loaders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, WavLMModel, WhisperModel

from tests.core.tiny_hf import BETWEEN, noise, write_parts
from wavllm_core.errors import CheckpointError
from wavllm_core.hf.answer import PublishedAnswerer
from wavllm_core.hf.parts import from_parts, processor_of


@pytest.mark.parametrize(
    ("llm", "options", "gate_width"),
    [
        ("llama", {"num_key_value_heads": 4}, 64),
        ("qwen2", {"tie_word_embeddings": True}, 64 + 32),
        ("qwen3", {"head_dim": 24}, 96 + 48 + 64),
    ],
)
def test_any_language_model(tmp_path: Path, llm: str, options: dict[str, object], gate_width: int) -> None:
    semantic, acoustic, language = write_parts(tmp_path, llm, **options)
    model, processor = from_parts(semantic, acoustic, language, **BETWEEN)
    assert model.gate_views()[0] == gate_width
    assert processor.feature_extractor.normalize_waveform  # as the preprocessor beside the WavLM says
    base = AutoModelForCausalLM.from_pretrained(language)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        gate = model.gate_for(ids, torch.ones_like(ids))
        torch.testing.assert_close(model(ids, gate=gate).logits, base(ids).logits)
    for part, theirs in (
        (model.semantic, WhisperModel.from_pretrained(semantic).encoder),
        (model.acoustic, WavLMModel.from_pretrained(acoustic)),
    ):
        assert all(torch.equal(value, part.state_dict()[name]) for name, value in theirs.state_dict().items())
    model.save_pretrained(tmp_path / "made")
    processor.save_pretrained(tmp_path / "made")
    answerer = PublishedAnswerer(tmp_path / "made", max_new_tokens=4)
    inputs = processor(text="what did i order", audio=noise(1.0), sampling_rate=16_000)
    expected = processor.decode(model.generate(**inputs, max_new_tokens=4, do_sample=False)[0])
    assert answerer.answer(noise(1.0), "what did i order") == expected
    assert isinstance(answerer.answer(None, "what did i order"), str)


def test_a_part_that_does_not_fit_is_named(tmp_path: Path) -> None:
    semantic, acoustic, language = write_parts(tmp_path)
    with pytest.raises(CheckpointError, match=r"semantic: .*: a wavlm, not a whisper"):
        from_parts(acoustic, acoustic, language)
    with pytest.raises(CheckpointError, match=r"acoustic: .*: a whisper, not a wavlm"):
        from_parts(semantic, semantic, language)
    with pytest.raises(CheckpointError, match=r"llm: .*nowhere: no such folder"):
        from_parts(semantic, acoustic, tmp_path / "nowhere")
    (semantic / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"semantic: .*: cannot be loaded"):
        from_parts(semantic, acoustic, language)


def test_a_truncated_part_is_named(tmp_path: Path) -> None:
    semantic, acoustic, language = write_parts(tmp_path)
    weights = acoustic / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"acoustic: .*: cannot be loaded"):
        from_parts(semantic, acoustic, language, **BETWEEN)


def test_a_language_model_without_the_projections_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    semantic, acoustic, language = write_parts(tmp_path)
    shutil.rmtree(language)
    GPT2LMHeadModel(GPT2Config(vocab_size=304, n_embd=32, n_layer=1, n_head=2)).save_pretrained(language)
    with pytest.raises(CheckpointError, match=r"llm: .*: a gpt2 without k_proj, o_proj, q_proj, v_proj"):
        from_parts(semantic, acoustic, language)


def test_a_tokenizer_with_too_many_words_is_refused(tmp_path: Path) -> None:
    semantic, acoustic, language = write_parts(tmp_path, vocab_size=299)
    with pytest.raises(CheckpointError, match="a tokenizer with id 299 for a language model of 299 tokens"):
        from_parts(semantic, acoustic, language, **BETWEEN)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    semantic, acoustic, language = write_parts(tmp_path)
    model, _ = from_parts(semantic, acoustic, language, **BETWEEN)
    with torch.no_grad():
        model.gate.fc_1.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "made")
    with pytest.raises(CheckpointError, match=r"no processor_config\.json"):
        PublishedAnswerer(tmp_path / "made")
    processor_of(model.config, language).save_pretrained(tmp_path / "made")
    with pytest.raises(CheckpointError, match=r"gate\.fc_1\.weight: not finite"):
        PublishedAnswerer(tmp_path / "made")
