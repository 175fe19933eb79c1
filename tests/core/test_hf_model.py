"""The model in Hugging Face form: batches, gates, losses, sizes, saving, and what it refuses."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor, DynamicCache

import wavllm_core.hf  # registers the Auto classes
from tests.core.tiny_hf import VOCAB, noise, tiny_config, tiny_processor, tiny_wavllm
from wavllm_core.errors import CheckpointError, CoreError, InputError
from wavllm_core.gate import PromptGate, gate_statistics
from wavllm_core.hf.config import WavLLMConfig
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.lora import lora_layers

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LOGITS = {"rtol": 1e-4, "atol": 1e-4}
CLIPS = (noise(1.3), noise(2.71, seed=1))
QUESTIONS = ["what did i order", "say it"]


@cache
def model() -> WavLLMForConditionalGeneration:
    return tiny_wavllm()


def given(folder: Path, clips: Any = CLIPS, text: Any = QUESTIONS, **options: Any) -> dict[str, Tensor]:
    target = options.pop("target", None)
    processor = tiny_processor(folder, **options)
    return dict(processor(text=text, audio=list(clips), target=target, sampling_rate=16_000))


@pytest.mark.timeout(60)  # more than half a minute of audio, on a machine that others use too
@pytest.mark.parametrize("windows", ["padded", "unpadded"])
@pytest.mark.parametrize("clips", [CLIPS, (noise(31.7), CLIPS[0]), (CLIPS[0], None)], ids=["two", "window", "text"])
@torch.no_grad()
def test_a_batch_equals_each_row_alone(tmp_path: Path, clips: Any, windows: str) -> None:
    both = tiny_wavllm(windows=windows)
    together = both(**given(tmp_path, clips, windows=windows))
    answers = both.generate(**given(tmp_path, clips, windows=windows), max_new_tokens=6, do_sample=False)
    for row in range(2):
        one = given(tmp_path, clips[row : row + 1], QUESTIONS[row : row + 1], windows=windows)
        alone = both(**one)
        positions = alone.logits.shape[1]
        torch.testing.assert_close(together.logits[row, :positions], alone.logits[0], **LOGITS)
        torch.testing.assert_close(together.gate[row], alone.gate[0], **CLOSE)
        answer = both.generate(**one, max_new_tokens=6, do_sample=False)
        assert answers[row, : answer.shape[1]].tolist() == answer[0].tolist()


@torch.no_grad()
def test_generate_is_greedy_over_whole_passes(tmp_path: Path) -> None:
    """A reference without cache, padding on the left or `generate`."""
    inputs = given(tmp_path, CLIPS[:1], QUESTIONS[:1])
    answer = model().generate(**inputs, max_new_tokens=5, do_sample=False)[0].tolist()
    for token in answer:
        assert token == int(model()(**inputs).logits[0, -1].argmax())
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    assert len(set(answer)) > 1


@torch.no_grad()
def test_audio_and_instruction_matter(tmp_path: Path) -> None:
    one = model()(**given(tmp_path, CLIPS[:1], QUESTIONS[:1]))
    other = model()(**given(tmp_path, (CLIPS[0][::-1].copy(),), QUESTIONS[:1]))
    gate = model()(**given(tmp_path, CLIPS[:1], QUESTIONS[1:])).gate
    assert not torch.allclose(one.logits, other.logits, atol=0.1)
    assert torch.equal(one.gate, other.gate)
    assert not torch.allclose(one.gate, gate, atol=0.01)


@torch.no_grad()
def test_a_gate_may_change_along_the_sequence(tmp_path: Path) -> None:
    """One pass with a gate a position equals chunks with a gate each, by cached keys and values."""
    ids = torch.randint(5, 250, (1, 12), generator=torch.Generator().manual_seed(0))
    width = model().gate_views()[0]
    first, second = torch.rand(2, 1, width, generator=torch.Generator().manual_seed(1)) * 3
    along = torch.cat([first.expand(5, -1), second.expand(7, -1)])[None]
    whole = model()(ids, gate=along).logits
    cache = DynamicCache(config=model().config.text_config)
    parts = [
        model()(ids[:, :5], gate=first, past_key_values=cache, use_cache=True).logits,
        model()(ids[:, 5:], gate=second, past_key_values=cache, use_cache=True).logits,
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, **LOGITS)
    assert not torch.allclose(whole[:, 5:], model()(ids, gate=first).logits[:, 5:], atol=1e-3)


def test_grouped_queries_have_gate_channels_of_their_own() -> None:
    width, views = model().gate_views()
    assert width == 64 + 32
    assert views["q_proj"].tolist() == views["o_proj"].tolist() == list(range(64))
    assert views["k_proj"].tolist() == views["v_proj"].tolist() == list(range(64, 96))
    interleaved = tiny_wavllm(gate_order="interleaved", llm={"num_key_value_heads": 4}).gate_views()
    assert interleaved[0] == 64
    assert interleaved[1]["q_proj"][:16].tolist() == [*range(0, 16, 2), *range(1, 16, 2)]
    assert interleaved[1]["v_proj"].tolist() == list(range(64))


def test_loss_counts_targets_alone(tmp_path: Path) -> None:
    inputs = given(tmp_path, target=["three", "a mocha please"])
    out = model()(**inputs)
    log_probs = out.logits[:, :-1].log_softmax(-1)
    wanted = out.labels[:, 1:]
    picked = [log_probs[i, j, wanted[i, j]] for i, j in (wanted != -100).nonzero().tolist()]
    assert len(picked) == int((inputs["labels"] != -100).sum())
    torch.testing.assert_close(out.loss, -torch.stack(picked).mean(), **CLOSE)
    published = tiny_wavllm(loss_normaliser="labels")(**inputs).loss
    after_audio = [row.tolist().index(VOCAB) for row in inputs["input_ids"]]
    labels = sum(int(m.sum()) - at - 2 for m, at in zip(inputs["attention_mask"], after_audio, strict=True))
    torch.testing.assert_close(published * labels, out.loss * len(picked), **LOGITS)


def test_training_moves_what_wavllm_trains_and_nothing_else(tmp_path: Path) -> None:
    trained = tiny_wavllm()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    inputs = given(tmp_path, target=["three", "four"])
    optimizer = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(6):
        loss = trained(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    moved = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    heads = {name.split(".")[0] for name in moved if ".lora_" not in name}
    assert heads == {"semantic_adapter", "acoustic_adapter", "layer_mix", "projection", "gate"}
    assert {name.split(".")[-3] for name in moved if ".lora_" in name} == {"lora_A", "lora_B"}


def test_a_fresh_model_is_the_language_model_with_its_gate_near_one() -> None:
    fresh = WavLLMForConditionalGeneration(tiny_config()).eval()
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        gate = fresh.gate_for(ids, torch.ones_like(ids))
        torch.testing.assert_close(fresh(ids, gate=gate).logits, fresh.llm(ids).logits, **CLOSE)
    assert gate is not None and 0.5 < gate.mean() < 1.5
    near_zero = WavLLMForConditionalGeneration(tiny_config(gate_init="linear")).eval()
    with torch.no_grad():
        low = near_zero.gate_for(ids, torch.ones_like(ids))
    assert low is not None and low.mean() < 0.5
    statistics = gate_statistics(torch.tensor([[0.0, 1.0, 3.0, 2.0]]), gate_max=3.0)
    assert statistics == {"gate_mean": 1.5, "gate_shut": 0.25, "gate_full": 0.25}


@pytest.mark.parametrize(("init", "bound"), [("published", 1 / 2), ("peft", 1 / 8)])
def test_lora_starts_as_wide_as_configured(init: str, bound: float) -> None:
    fresh = WavLLMForConditionalGeneration(tiny_config(lora_init=init))
    for _, layer in lora_layers(fresh.llm):
        assert 0.9 * bound < layer.lora_A["default"].weight.abs().max() <= bound
        assert not layer.lora_B["default"].weight.any()


def test_published_sizes() -> None:
    """The table of the release, at full size on the meta device; its dead `audio_proj` is not built."""
    with torch.device("meta"):
        full = WavLLMForConditionalGeneration(WavLLMConfig())
        first_stage = WavLLMForConditionalGeneration(WavLLMConfig(use_gate=False))

    def count(*prefixes: str, lora: bool = False, of: WavLLMForConditionalGeneration = full) -> int:
        parts = {n: p.numel() for n, p in of.named_parameters() if n.startswith(prefixes)}
        return sum(size for name, size in parts.items() if (".lora_" in name) == lora)

    assert count("llm.") == 6_738_415_616
    assert count("llm.", lora=True) == 33_554_432
    assert count("gate.") == 8_397_825
    assert count("semantic.") == 636_784_640
    assert count("semantic_adapter.") == 12_002_048
    assert count("acoustic.") == 94_381_936
    assert count("acoustic_adapter.", "layer_mix") == 5_906_445
    assert count("projection.") == 16_781_312
    assert sum(p.numel() for p in full.parameters()) == 7_554_616_958 - 8_392_704
    trained = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (full, first_stage)]
    assert trained == [76_642_062, 68_244_237]


def test_save_and_load_through_the_auto_classes(tmp_path: Path) -> None:
    tied = tiny_wavllm(llm={"tie_word_embeddings": True})
    processor = tiny_processor(tmp_path / "tokenizer", profile="published", windows="unpadded")
    tied.save_pretrained(tmp_path / "saved", max_shard_size="200KB")
    processor.save_pretrained(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 2
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "saved")
    assert isinstance(loaded, WavLLMForConditionalGeneration) and not loaded.training
    assert isinstance(AutoModel.from_pretrained(tmp_path / "saved"), WavLLMForConditionalGeneration)
    assert isinstance(AutoConfig.from_pretrained(tmp_path / "saved"), WavLLMConfig)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in tied.state_dict().items())
    assert loaded.llm.get_output_embeddings().weight is loaded.llm.get_input_embeddings().weight
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in tied.named_parameters() if p.requires_grad
    }
    again = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert isinstance(again, wavllm_core.hf.WavLLMProcessor)
    assert (again.profile, again.audio_token_id, again.feature_extractor.windows) == ("published", VOCAB, "unpadded")
    wanted = processor(text="say it", audio=CLIPS[0], sampling_rate=16_000)
    made = again(text="say it", audio=CLIPS[0], sampling_rate=16_000)
    assert all(torch.equal(made[name], value) for name, value in wanted.items())


def test_a_folder_that_does_not_fit_its_configuration_is_refused(tmp_path: Path) -> None:
    tiny_wavllm(use_gate=False).save_pretrained(tmp_path)
    for before, after, message in (
        ('"use_gate": false', '"use_gate": true', r"missing gate\.attention\.bias; missing gate\.attention\.weight"),
        ('"bottleneck_dim": 20', '"bottleneck_dim": 24', r"mis-shaped .*adapter\.down_layer"),
        ('"encoder_layers": 2', '"encoder_layers": 1', r"unexpected semantic\.layers\.1\."),
    ):
        text = (tmp_path / "config.json").read_text()
        assert before in text
        (tmp_path / "config.json").write_text(text.replace(before, after))
        with pytest.raises(CheckpointError, match=message):
            WavLLMForConditionalGeneration.from_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(text)


def test_the_second_stage_adds_a_gate_to_the_first(tmp_path: Path) -> None:
    model = tiny_wavllm(use_gate=False)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        before = model(ids).logits
        model.add_gate()
        assert isinstance(model.gate, PromptGate)
        gate = model.gate_for(ids, torch.ones_like(ids))
        assert gate is not None and 0.5 < gate.mean() < 1.5
        ones = torch.ones_like(gate) * model.config.lora_alpha / model.config.lora_rank
        torch.testing.assert_close(model(ids, gate=ones).logits, before, **LOGITS)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    inputs = given(tmp_path)
    with pytest.raises(InputError, match=r"prompt and audio take 20.. positions; the language model has 2048"):
        model()(torch.ones(1, 2060, dtype=torch.long), gate=torch.ones(1, 96))
    with pytest.raises(InputError, match="and the answer 2000; the language model has 2048"):
        model().generate(**inputs, max_new_tokens=2000)
    with pytest.raises(InputError, match="audio of 2 rows for 0 audio tokens"):
        model()(**inputs | {"input_ids": inputs["input_ids"].clamp(max=200)})
    twice = inputs["input_ids"].clone()
    twice[:, 0] = VOCAB
    with pytest.raises(InputError, match="2 audio tokens in one row"):
        model()(**inputs | {"input_ids": twice})
    with pytest.raises(InputError, match="instruction_ids: this model has a gate"):
        model()(torch.ones(1, 3, dtype=torch.long))
    with pytest.raises(InputError, match="2 rows; the published profile"):
        tiny_wavllm(profile="published")(**inputs)
    with pytest.raises(TypeError, match="unexpected arguments: loudness"):
        model()(**inputs, loudness=torch.ones(1))
    for name in ("profile", "windows", "gate_init", "gate_order", "lora_init", "loss_normaliser"):
        with pytest.raises(ValueError, match=f"{name}: 'other'; it is one of"):
            tiny_config(**{name: "other"})


@pytest.mark.parametrize("sampled", [False, True])
def test_answers_that_are_no_numbers_are_an_error(tmp_path: Path, sampled: bool) -> None:
    broken = tiny_wavllm()
    with torch.no_grad():
        broken.projection.bias[0] = math.nan
    with pytest.raises(CoreError, match="output is not finite"):
        broken.generate(**given(tmp_path), max_new_tokens=3, do_sample=sampled)


def test_sampling_repeats_with_its_seed(tmp_path: Path) -> None:
    inputs = given(tmp_path)

    def sample(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return model().generate(**inputs, max_new_tokens=8, do_sample=True, temperature=0.5, top_k=0).tolist()

    assert sample(1) == sample(1)
    beams = model().generate(**inputs, max_new_tokens=4, num_beams=3, do_sample=False)
    assert beams.shape[0] == 2
