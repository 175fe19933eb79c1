"""The published implementation's own numbers: checkpoint imported, every stage, logits, loss and greedy tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.core.published import CASES, HEADS, golden, write_checkpoint
from wavllm_core.hf.convert import convert
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.processor import WavLLMFeatureExtractor
from wavllm_core.hf.splice import IGNORED

STAGE = {"rtol": 1e-5, "atol": 1e-5}
LOGITS = {"rtol": 1e-4, "atol": 1e-4}
LAST_TOKENS = 3
VOCAB_PART = 256


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WavLLMForConditionalGeneration:
    folder = tmp_path_factory.mktemp("golden")
    convert(write_checkpoint(folder / "final.pt"), folder / "hf", HEADS, max_shard_bytes=4 << 20)
    return WavLLMForConditionalGeneration.from_pretrained(folder / "hf").eval()


def audio(expected: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(WavLLMFeatureExtractor()([expected["waveform"][0].numpy()], 16_000))


def instruction(expected: dict[str, Tensor]) -> dict[str, Tensor]:
    ids = expected["orig_prompts"]
    return {"instruction_ids": ids, "instruction_mask": torch.ones_like(ids)}


def inputs(expected: dict[str, Tensor], model: WavLLMForConditionalGeneration, tokens: Tensor) -> Tensor:
    place = torch.tensor([[model.config.audio_token_id]])
    return torch.cat([expected["left_prompts"], place, tokens], dim=1)


@contextmanager
def outputs_of(**modules: nn.Module) -> Iterator[dict[str, Any]]:
    """What each module is given (`NAME_in`) and gives while inside."""
    seen: dict[str, Any] = {}
    hooks = []
    for name, module in modules.items():

        def keep(_: nn.Module, given: Any, made: Any, name: str = name) -> None:
            seen[name], seen[f"{name}_in"] = made, given[0]

        hooks.append(module.register_forward_hook(keep))
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("case", CASES)
def test_log_mel(case: str) -> None:
    expected = golden(case)
    torch.testing.assert_close(audio(expected)["input_features"][:, :, :400], expected["log_mel_frames_0_400"], **STAGE)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_every_stage_of_the_encoders(model: WavLLMForConditionalGeneration, case: str) -> None:
    expected, given = golden(case), audio(golden(case))
    with outputs_of(
        whisper=model.semantic,
        wavlm=model.acoustic,
        what_bottleneck=model.semantic_adapter.adapter,
        what=model.semantic_adapter,
        how_bottleneck=model.acoustic_adapter.adapter,
        how=model.acoustic_adapter,
    ) as seen:
        speech, lengths = model.encode(**given)
    frames = expected["hook_whisper_last_hidden"].shape[1]
    close = torch.testing.assert_close
    close(seen["whisper"][:, :frames], expected["hook_whisper_last_hidden"], **STAGE)
    close(seen["what_bottleneck_in"].transpose(0, 1), expected["hook_whisper_subsample_TBC"], **STAGE)
    close(seen["what_bottleneck"], expected["hook_whisper_adapter"], **STAGE)
    close(seen["what"], expected["hook_whisper_proj"], **STAGE)
    close(torch.stack(seen["wavlm"][0]), expected["hook_wavlm_hidden_states"], **STAGE)
    close(seen["how_bottleneck_in"].transpose(0, 1), expected["hook_wavlm_subsample_TBC"], **STAGE)
    close(seen["how_bottleneck"], expected["hook_wavlm_adapter"], **STAGE)
    close(seen["how"], expected["hook_wavlm_proj"], **STAGE)
    close(speech, expected["audio_embeds"], **STAGE)
    assert lengths.tolist() == [expected["audio_embeds"].shape[1]]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_gate(model: WavLLMForConditionalGeneration, case: str) -> None:
    expected = golden(case)
    with outputs_of(z=model.gate.fc_2) as seen:
        gate = model.gate_for(**instruction(expected))
    torch.testing.assert_close(seen["z"], expected["hook_scale_fc2_out"], **STAGE)
    torch.testing.assert_close(gate, expected["lora_scale"], **STAGE)


@pytest.mark.parametrize("style", ["train_style", "infer_style"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits(model: WavLLMForConditionalGeneration, case: str, style: str) -> None:
    expected = golden(case)
    tokens = expected[f"tokens_{style}"]
    with outputs_of(norm=model.llm.model.norm) as seen:
        out = model(inputs(expected, model, tokens), **instruction(expected), **audio(expected))
    text = out.logits[:, -tokens.shape[1] :]
    torch.testing.assert_close(seen["norm"], expected[f"final_norm_hidden_{style}"], **LOGITS)
    torch.testing.assert_close(text[..., :VOCAB_PART], expected[f"logits_vocab0_256_{style}"], **LOGITS)
    torch.testing.assert_close(text[:, -LAST_TOKENS:], expected[f"logits_last3_{style}"], **LOGITS)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_loss(model: WavLLMForConditionalGeneration, case: str) -> None:
    """The published normaliser counts every label token, those of the right prompt too."""
    expected = golden(case)
    tokens, targets = expected["tokens_train_style"], expected["target"]
    ids = torch.cat([inputs(expected, model, tokens), targets[:, -1:]], dim=1)
    wanted = torch.where(expected["target_masks"], targets, IGNORED)
    labels = torch.cat([torch.full((1, ids.shape[1] - wanted.shape[1]), IGNORED), wanted], dim=1)
    loss = model(ids, labels=labels, **instruction(expected), **audio(expected)).loss
    torch.testing.assert_close(loss.double() * targets.numel(), expected["nll_sum"], **LOGITS)


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens(model: WavLLMForConditionalGeneration, case: str) -> None:
    """The release starts its decoder with `<s>`, forces the right prompt, and forces an end at its last step."""
    expected = golden(case)
    prefix, greedy = expected["prefix_tokens"], expected["greedy_tokens"].tolist()
    ids = inputs(expected, model, torch.cat([torch.tensor([[1]]), prefix], dim=1))
    wanted = greedy[prefix.shape[1] : -1]
    given = model.generate(ids, **instruction(expected), **audio(expected), max_new_tokens=len(wanted), do_sample=False)
    assert greedy[: prefix.shape[1]] == prefix[0].tolist()
    assert given[0].tolist() == wanted


@torch.no_grad()
def test_long_audio_is_cut_as_published(model: WavLLMForConditionalGeneration) -> None:
    """Every 30 s window gives 375 vectors, the last one too; the WavLM side's length, 441 here, ends them."""
    waveform = torch.randn(564_320, generator=torch.Generator().manual_seed(0)).numpy() * 0.1
    given = dict(WavLLMFeatureExtractor()([waveform], 16_000))
    with outputs_of(what=model.semantic_adapter, how=model.acoustic_adapter) as seen:
        speech, lengths = model.encode(**given)
    assert seen["what"].shape[:2] == (2, 375)
    assert seen["how"].shape[1] == speech.shape[1] == 441
    assert lengths.tolist() == [441]


@torch.no_grad()
def test_the_imported_weights_in_the_corrected_profile(model: WavLLMForConditionalGeneration) -> None:
    """Both cases in one batch equal each alone; on a row of one window the profiles agree."""
    model.config.profile = "corrected"
    try:
        cases = [golden(case) for case in CASES]
        rows = [inputs(case, model, case["tokens_train_style"])[0] for case in cases]
        read = [case["orig_prompts"][0] for case in cases]
        together = model(
            **dict(WavLLMFeatureExtractor()([case["waveform"][0].numpy() for case in cases], 16_000)),
            **padded("input_ids", "attention_mask", rows),
            **padded("instruction_ids", "instruction_mask", read),
        )
        for i, case in enumerate(cases):
            alone = model(rows[i][None], **instruction(case), **audio(case))
            positions = alone.logits.shape[1]
            torch.testing.assert_close(together.logits[i, :positions], alone.logits[0], **LOGITS)
            torch.testing.assert_close(together.gate[i], case["lora_scale"][0], **STAGE)
            torch.testing.assert_close(alone.logits[:, -LAST_TOKENS:], case["logits_last3_train_style"], **LOGITS)
    finally:
        model.config.profile = "published"


def padded(ids: str, mask: str, rows: list[Tensor]) -> dict[str, Tensor]:
    pad = nn.utils.rnn.pad_sequence
    return {ids: pad(rows, batch_first=True), mask: pad([torch.ones_like(row) for row in rows], batch_first=True)}
