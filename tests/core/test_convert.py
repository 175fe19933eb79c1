"""Import of the published checkpoint: names, layouts and refusals. What it computes stands in test_golden.py."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.core.published import HEADS, REFERENCE, weights, write_checkpoint
from wavllm_core.errors import CheckpointError
from wavllm_core.hf.convert import Heads, convert
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.shards import ShardWriter

SHARD = 4 << 20


def tensors_of(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        found |= load_file(shard)
    return found


def test_sizes_follow_from_the_tensors(tmp_path: Path) -> None:
    config = convert(write_checkpoint(tmp_path / "final.pt"), tmp_path / "out", HEADS, SHARD)
    llama, whisper, wavlm = (REFERENCE[name] for name in ("llama", "whisper", "wavlm"))
    text = config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (llama["dim"], llama["n_layers"], 4)
    assert text.rms_norm_eps == 1e-6 and text.vocab_size == REFERENCE["vocab_size"]
    assert {name: getattr(config.semantic_config, name) for name in whisper} == whisper
    assert {name: getattr(config.acoustic_config, name) for name in wavlm} == wavlm
    assert (config.profile, config.lora_rank, config.gate_order) == ("published", REFERENCE["lora_r"], "interleaved")
    model = WavLLMForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.generation_config.suppress_tokens == [0]


def test_both_spellings_of_weight_norm(tmp_path: Path) -> None:
    new = weights()
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in new.items()
    }
    assert old.keys() != new.keys()
    for name, tensors in (("new", new), ("old", old)):
        convert(write_checkpoint(tmp_path / f"{name}.pt", tensors), tmp_path / name, HEADS, SHARD)
    one, other = tensors_of(tmp_path / "new"), tensors_of(tmp_path / "old")
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_dead_projection_may_be_missing(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in weights().items() if not name.startswith("audio_proj.")}
    convert(write_checkpoint(tmp_path / "final.pt", tensors), tmp_path / "out", HEADS)
    assert "projection.weight" in tensors_of(tmp_path / "out")


def test_a_first_stage_checkpoint_has_no_gate(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in weights().items() if ".scale_" not in name}
    config = convert(write_checkpoint(tmp_path / "final.pt", tensors), tmp_path / "out", HEADS)
    assert not config.use_gate
    model = WavLLMForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model(torch.ones(1, 3, dtype=torch.long)).logits.isfinite().all()


def test_every_misfit_is_listed_and_nothing_is_written(tmp_path: Path) -> None:
    tensors = weights()
    del tensors["wavlm_encoder.projector.bias"]
    del tensors["gpt_model.model_llama.layers.1.attention.wk_lora_B"]
    tensors["stranger"] = torch.zeros(1)
    tensors["audio_encoder.adapter.up_layer.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        convert(write_checkpoint(tmp_path / "final.pt", tensors), tmp_path / "out", HEADS)
    for part in (
        "missing acoustic_adapter.projector.bias",
        "missing llm.model.layers.1.self_attn.k_proj.lora_B.default.weight",
        "unexpected stranger",
        "audio_encoder.adapter.up_layer.bias: (3,), not (40,)",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    tensors = weights()
    tensors["wavlm_audio_proj.bias"][3] = torch.nan
    with pytest.raises(CheckpointError, match=r"wavlm_audio_proj\.bias: not finite"):
        convert(write_checkpoint(tmp_path / "final.pt", tensors), tmp_path / "out", HEADS)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "final.pt")
    whole = path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pt: cannot be read"):
        convert(tmp_path / "cut.pt", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"none\.pt: cannot be read"):
        convert(tmp_path / "none.pt", tmp_path / "out")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="`model` with its tensors is missing"):
        convert(tmp_path / "other.pt", tmp_path / "out")
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match=r"missing audio_encoder\.model\.conv1\.weight"):
        convert(tmp_path / "empty.pt", tmp_path / "out")


def test_code_is_never_unpickled(tmp_path: Path) -> None:
    torch.save({"model": weights(), "args": argparse.Namespace(lr=1)}, tmp_path / "final.pt")
    with pytest.raises(CheckpointError, match=r"holds more than tensors and plain values: .*"):
        convert(tmp_path / "final.pt", tmp_path / "out", HEADS)


def test_weights_that_are_there_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    """transformers prefers a single file to an index of shards, so that the old weights would be loaded."""
    path = write_checkpoint(tmp_path / "final.pt")
    convert(path, tmp_path / "out", HEADS)
    with pytest.raises(CheckpointError, match=r"out: holds weights already: model-00001-of-00001\.safetensors"):
        convert(path, tmp_path / "out", HEADS)


def test_heads_that_do_not_divide_are_named(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "final.pt")
    with pytest.raises(CheckpointError, match=r"32 channels are no heads of 64; say --semantic-head-dim"):
        convert(path, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"64 channels are no heads of 128; say --llm-head-dim"):
        convert(path, tmp_path / "out", Heads(semantic=16))


MEASURED = """
import re, sys
from pathlib import Path
from wavllm_core.hf.convert import Heads, convert

def peak_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

convert(Path(sys.argv[1]), Path(sys.argv[2]) / "warm", Heads(16, 16), 4 << 20)  # what a first call loads
Path("/proc/self/clear_refs").write_text("5")
before = peak_kib()
convert(Path(sys.argv[3]), Path(sys.argv[2]) / "out", Heads(16, 16), int(sys.argv[4]))
print((peak_kib() - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.timeout(60)  # a process of its own, which imports torch and transformers
def test_peak_memory_is_below_one_shard(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """A checkpoint of several shards: what it takes is bounded by the shard, not by the file."""
    tensors = weights()
    layer = "gpt_model.model_llama.layers.{}."
    for i in range(3, 40):
        for name in [name for name in tensors if name.startswith(layer.format(0))]:
            copy = tensors[name].clone()
            tensors[name.replace(layer.format(0), layer.format(i))] = copy
    for name in list(tensors):  # wider feed-forward, so that the file is large: 40 layers of 3 * 1.6 MB
        for part, axis in (("feed_forward.w1.", 0), ("feed_forward.w3.", 0), ("feed_forward.w2.", 1)):
            if part in name:
                tensors[name] = tensors[name].repeat_interleave(32, dim=axis)
    write_checkpoint(tmp_path / "large.pt", tensors)
    small, large = write_checkpoint(tmp_path / "small.pt"), tmp_path / "large.pt"
    shard = 32 << 20
    assert large.stat().st_size > 4 * shard
    run = [sys.executable, "-c", MEASURED, str(small), str(tmp_path), str(large), str(shard)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    largest = max(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) >= 4
    record_property("peak_per_shard", int(done.stdout) / largest)
    assert int(done.stdout) < 1.3 * largest


def test_tensors_come_in_the_order_that_was_announced(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 100, [("a", (2,), torch.float32), ("b", (3,), torch.bfloat16)])
    with pytest.raises(ValueError, match=r"b .* where a "):
        writer.write("b", torch.zeros(3, dtype=torch.bfloat16))
    with pytest.raises(CheckpointError, match=r"a: torch\.complex64 cannot be written"):
        ShardWriter(tmp_path, 100, [("a", (2,), torch.complex64)])
