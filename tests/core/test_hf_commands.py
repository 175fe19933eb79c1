"""The commands around models in Hugging Face form, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peft import PeftConfig
from typer.testing import CliRunner, Result

from agent.__main__ import app
from tests.core.published import write_checkpoint
from tests.core.tiny_hf import write_parts
from wavllm_core.errors import CheckpointError
from wavllm_core.hf.model import WavLLMForConditionalGeneration


def wavllm(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_convert(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "final.pt")
    heads = ("--semantic-head-dim", "16", "--llm-head-dim", "16")
    done = wavllm("convert", tmp_path / "final.pt", tmp_path / "out", *heads, "--corrected", "--max-shard-mb", "4")
    assert done.exit_code == 0 and "corrected profile, 3 layers" in done.stdout
    assert "No tokenizer was given" in done.stderr
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    loaded = WavLLMForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert loaded.config.profile == "corrected"
    with pytest.raises(CheckpointError, match="32 channels are no heads of 64; say --semantic-head-dim"):
        wavllm("convert", tmp_path / "final.pt", tmp_path / "other")


def test_convert_refuses_a_tokenizer_of_another_vocabulary(tmp_path: Path) -> None:
    from tests.core.published import weights

    tensors = weights()
    for name in ("tok_embeddings", "output"):
        tensors[f"gpt_model.model_llama.{name}.weight"] = tensors[f"gpt_model.model_llama.{name}.weight"][:200].clone()
    write_checkpoint(tmp_path / "final.pt", tensors)
    tokenizer = write_parts(tmp_path / "parts")[2]
    heads = ("--semantic-head-dim", "16", "--llm-head-dim", "16")
    with pytest.raises(CheckpointError, match="a tokenizer with id 299 for a language model of 200 tokens"):
        wavllm("convert", tmp_path / "final.pt", tmp_path / "out", *heads, "--tokenizer", tokenizer)


def test_assemble_and_export_lora(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    done = wavllm("assemble", *parts, tmp_path / "model")
    assert done.exit_code == 0 and "of them to be trained" in done.stdout
    done = wavllm("export-lora", tmp_path / "model", tmp_path / "lora", "--instruction", "be short")
    assert done.exit_code == 0 and "adapter for 'be short'" in done.stdout
    assert PeftConfig.from_pretrained(str(tmp_path / "lora")).r == 32
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "wavllm"
