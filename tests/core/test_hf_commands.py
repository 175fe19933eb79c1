"""The commands around models in Hugging Face form, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
from peft import PeftConfig
from transformers import GenerationConfig
from typer.testing import CliRunner, Result

from agent.__main__ import app
from tests.core.published import write_checkpoint
from tests.core.tiny_hf import noise, write_parts
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


LIST = """id\taudio\tprompt\ttgt_text\twith_speech
one\tone.wav\tbe short\tthree\tTrue
typed\t-\twhat did i order\tthree\tFalse
long\tlong.wav\tbe short\tthree\tTrue
"""


def test_assemble_infer_and_export_lora(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    done = wavllm("assemble", *parts, tmp_path / "stage1", "--no-gate", "--unpadded")
    config = json.loads((tmp_path / "stage1" / "config.json").read_text())
    assert done.exit_code == 0 and (config["use_gate"], config["windows"]) == (False, "unpadded")
    done = wavllm("assemble", *parts, tmp_path / "model")
    assert done.exit_code == 0 and "of them to be trained" in done.stdout
    soundfile.write(tmp_path / "one.wav", noise(0.5), 16_000)
    soundfile.write(tmp_path / "long.wav", noise(200.0)[::4], 4_000)
    (tmp_path / "list.tsv").write_text(LIST)
    GenerationConfig(max_new_tokens=4).save_pretrained(tmp_path / "model")
    done = wavllm(
        "infer", tmp_path / "list.tsv", "--model", tmp_path / "model", "--audio-root", tmp_path, "--task", "asr",
        "--out", tmp_path / "answers.jsonl",
    )  # fmt: skip
    assert done.exit_code == 1 and "2 of 3 rows answered, 1 failed" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [bool(row["problem"]) for row in rows] == [False, False, True]
    assert "200.0 s; at most 120 s are possible" in rows[2]["problem"]
    done = wavllm("export-lora", tmp_path / "model", tmp_path / "lora", "--instruction", "be short")
    assert done.exit_code == 0 and "adapter for 'be short'" in done.stdout
    assert PeftConfig.from_pretrained(str(tmp_path / "lora")).r == 32
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "wavllm"
