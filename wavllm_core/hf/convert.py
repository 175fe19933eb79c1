"""The published checkpoint, a fairseq `final.pt`, to the folder that `WavLLMForConditionalGeneration` loads.

Sizes follow from the tensors. The file is mapped into memory and copied tensor by tensor, so that the peak stays
below one shard. Names: the release's on the left of `RENAMED`, ours on the right.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from wavllm_core.errors import CheckpointError
from wavllm_core.hf.config import Profile, WavLLMConfig
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.parts import processor_of
from wavllm_core.hf.shards import ShardWriter
from wavllm_core.lora import halves_from_pairs

LLAMA = "gpt_model.model_llama."
DEAD = ("audio_proj.weight", "audio_proj.bias")  # in the release, never called
RENAMED: tuple[tuple[str, str], ...] = (
    (r"audio_encoder\.model\.(.*)", r"semantic.\1"),
    (r"audio_encoder\.subsample\.conv_layers\.0\.(.*)", r"semantic_adapter.conv1.conv.\1"),
    (r"audio_encoder\.subsample\.conv_layers\.1\.(.*)", r"semantic_adapter.conv2.conv.\1"),
    (r"audio_encoder\.(adapter|projector)\.(.*)", r"semantic_adapter.\1.\2"),
    (r"wavlm_encoder\.output_weights", r"layer_mix"),
    (r"wavlm_encoder\.model\.(.*\.conv\.)weight_g", r"acoustic.\1parametrizations.weight.original0"),
    (r"wavlm_encoder\.model\.(.*\.conv\.)weight_v", r"acoustic.\1parametrizations.weight.original1"),
    (r"wavlm_encoder\.model\.(.*)", r"acoustic.\1"),
    (r"wavlm_encoder\.subsample\.conv_layers\.0\.(.*)", r"acoustic_adapter.conv1.conv.\1"),
    (r"wavlm_encoder\.subsample\.conv_layers\.1\.(.*)", r"acoustic_adapter.conv2.conv.\1"),
    (r"wavlm_encoder\.(adapter|projector)\.(.*)", r"acoustic_adapter.\1.\2"),
    (r"wavlm_audio_proj\.(.*)", r"projection.\1"),
    (r"L\.scale_fc_([12])\.(.*)", r"gate.fc_\1.\2"),
    (r"L\.scale_weight_attention\.(.*)", r"gate.attention.\1"),
    (r"L\.tok_embeddings\.weight", r"llm.model.embed_tokens.weight"),
    (r"L\.norm\.weight", r"llm.model.norm.weight"),
    (r"L\.output\.weight", r"llm.lm_head.weight"),
    (r"L\.layers\.(\d+)\.attention_norm\.weight", r"llm.model.layers.\1.input_layernorm.weight"),
    (r"L\.layers\.(\d+)\.ffn_norm\.weight", r"llm.model.layers.\1.post_attention_layernorm.weight"),
    (r"L\.layers\.(\d+)\.feed_forward\.w1\.weight", r"llm.model.layers.\1.mlp.gate_proj.weight"),
    (r"L\.layers\.(\d+)\.feed_forward\.w2\.weight", r"llm.model.layers.\1.mlp.down_proj.weight"),
    (r"L\.layers\.(\d+)\.feed_forward\.w3\.weight", r"llm.model.layers.\1.mlp.up_proj.weight"),
    (r"L\.layers\.(\d+)\.attention\.w([qkvo])\.weight", r"llm.model.layers.\1.self_attn.\2_proj.base_layer.weight"),
    (
        r"L\.layers\.(\d+)\.attention\.w([qkvo])_lora_([AB])",
        r"llm.model.layers.\1.self_attn.\2_proj.lora_\3.default.weight",
    ),
)
_PATTERNS = [(re.compile(old.replace("L\\.", re.escape(LLAMA), 1)), new) for old, new in RENAMED]


@dataclass(frozen=True)
class Heads:
    """What no tensor tells: the width of a head. The published ones unless given."""

    semantic: int = 64
    llm: int = 128


def convert(
    source: Path,
    out: Path,
    heads: Heads | None = None,
    max_shard_bytes: int = 2 << 30,
    profile: Profile = "published",
    tokenizer: Path | None = None,
) -> WavLLMConfig:
    """Write configuration, sharded safetensors and, given a tokenizer, the processor to `out`.

    Returns the configuration. Raises CheckpointError for a file that is damaged, needs unpickling of code, or does
    not fit, in the last case listing every missing, unexpected and mis-shaped tensor, before anything is written;
    and for a folder that holds weights.
    """
    if old := sorted(out.glob("*.safetensors")):  # transformers might load those instead
        raise CheckpointError(f"{out}: holds weights already: {old[0].name}")
    checkpoint = PublishedCheckpoint(source, max_shard_bytes // 4)
    config = derive_config(checkpoint, heads or Heads(), profile)
    with torch.device("meta"):
        wanted = {n: tuple(p.shape) for n, p in WavLLMForConditionalGeneration(config).state_dict().items()}
    moves = plan(checkpoint, wanted, config)
    processor = processor_of(config, tokenizer) if tokenizer else None
    writer = ShardWriter(out, max_shard_bytes, [(name, wanted[name], move.dtype) for name, move in moves.items()])
    for name, move in moves.items():
        tensor = move.change(checkpoint.tensor(move.source))
        if not tensor.isfinite().all():
            writer.abandon()
            raise CheckpointError(f"{source}: {move.source}: not finite")
        writer.write(name, tensor)
    writer.finish()
    config.save_pretrained(out)
    if processor:
        processor.save_pretrained(out)
    # As the released decoder has it: greedy unless asked otherwise, an answer is never empty nor holds <unk>.
    GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0, min_new_tokens=1, suppress_tokens=[0]
    ).save_pretrained(out)
    return config


class PublishedCheckpoint:
    """The tensors of a fairseq checkpoint, mapped into memory and let go again before they fill it."""

    def __init__(self, path: Path, max_mapped_bytes: int) -> None:
        self.path, self.max_mapped_bytes = path, max_mapped_bytes
        self.tensors = self._map()
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        self.mapped_bytes = 0

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        if self.mapped_bytes > self.max_mapped_bytes:
            self.tensors, self.mapped_bytes = self._map(), 0
        self.mapped_bytes += self.tensors[name].nbytes
        return self.tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises CheckpointError for a tensor that is not there, without which the sizes are unknown."""
        if name not in self.shapes:
            raise CheckpointError(f"{self.path}: missing {name}: the sizes of the model cannot be known")
        return self.shapes[name]

    def count(self, pattern: str) -> int:
        """How many layers have names like `pattern`, in which {} stands for the number."""
        i = 0
        while pattern.format(i) in self.shapes:
            i += 1
        return i

    def _map(self) -> Mapping[str, Tensor]:
        try:
            saved = torch.load(self.path, map_location="cpu", mmap=True, weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{self.path}: holds more than tensors and plain values: {reason}") from error
        except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error}") from error
        model = saved.get("model") if isinstance(saved, dict) else None
        if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
            raise CheckpointError(f"{self.path}: no fairseq checkpoint: `model` with its tensors is missing")
        return model


def derive_config(checkpoint: PublishedCheckpoint, heads: Heads, profile: Profile) -> WavLLMConfig:
    """Every size from the tensors. Raises CheckpointError where a width cannot be split into heads."""
    shape = checkpoint.shape
    whisper, wavlm = "audio_encoder.model.", "wavlm_encoder.model."
    width, mels, _ = shape(f"{whisper}conv1.weight")
    vocab, dim = shape(f"{LLAMA}tok_embeddings.weight")
    attention = f"{LLAMA}layers.0.attention."
    rank = shape(f"{attention}wq_lora_A")[1]
    for name, size, head_dim in (("--semantic-head-dim", width, heads.semantic), ("--llm-head-dim", dim, heads.llm)):
        if size % head_dim:
            raise CheckpointError(f"{checkpoint.path}: {size} channels are no heads of {head_dim}; say {name}")
    use_gate = f"{LLAMA}scale_fc_1.weight" in checkpoint.shapes
    return WavLLMConfig(
        semantic_config={
            "d_model": width,
            "num_mel_bins": mels,
            "encoder_layers": checkpoint.count(whisper + "layers.{}.fc1.weight"),
            "encoder_attention_heads": width // heads.semantic,
            "encoder_ffn_dim": shape(f"{whisper}layers.0.fc1.weight")[0],
            "max_source_positions": shape(f"{whisper}embed_positions.weight")[0],
        },
        acoustic_config=_acoustic_config(checkpoint, wavlm),
        text_config={
            "model_type": "llama",
            "vocab_size": vocab,
            "hidden_size": dim,
            "intermediate_size": shape(f"{LLAMA}layers.0.feed_forward.w1.weight")[0],
            "num_hidden_layers": checkpoint.count(LLAMA + "layers.{}.ffn_norm.weight"),
            "num_attention_heads": dim // heads.llm,
            "num_key_value_heads": shape(f"{attention}wk.weight")[0] // heads.llm,
            "max_position_embeddings": 2048,  # the release's rotary table
            "rms_norm_eps": 1e-6,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        profile=profile,
        semantic_conv_dims=_conv_dims(checkpoint, "audio_encoder."),
        acoustic_conv_dims=_conv_dims(checkpoint, "wavlm_encoder."),
        bottleneck_dim=shape("audio_encoder.adapter.down_layer.weight")[0],
        adapter_dim=shape("audio_encoder.projector.weight")[0],
        lora_rank=rank,
        lora_alpha=rank,
        use_gate=use_gate,
        gate_dim=shape(f"{LLAMA}scale_fc_1.weight")[0] if use_gate else 1024,
        gate_order="interleaved",
        loss_normaliser="labels",
    )


def _acoustic_config(checkpoint: PublishedCheckpoint, prefix: str) -> dict[str, object]:
    shape, convs = checkpoint.shape, prefix + "feature_extractor.conv_layers.{}."
    count = checkpoint.count(convs + "conv.weight")
    kernels = [shape(convs.format(i) + "conv.weight") for i in range(count)]
    position = prefix + "encoder.pos_conv_embed.conv."
    spelled = "weight_v" if position + "weight_v" in checkpoint.shapes else "parametrizations.weight.original1"
    hidden, per_group, position_kernel = shape(position + spelled)
    layer_norm = convs.format(count - 1) + "layer_norm.weight" in checkpoint.shapes
    buckets, heads = shape(prefix + "encoder.layers.0.attention.rel_attn_embed.weight")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": checkpoint.count(prefix + "encoder.layers.{}.final_layer_norm.weight"),
        "num_attention_heads": heads,
        "intermediate_size": shape(prefix + "encoder.layers.0.feed_forward.intermediate_dense.weight")[0],
        "conv_dim": [out for out, _, _ in kernels],
        "conv_kernel": [kernel for _, _, kernel in kernels],
        "conv_stride": [5] + [2] * (count - 1),  # of every WavLM
        "conv_bias": convs.format(0) + "conv.bias" in checkpoint.shapes,
        "feat_extract_norm": "layer" if layer_norm else "group",
        "do_stable_layer_norm": layer_norm,  # large has both, base neither
        "num_conv_pos_embeddings": position_kernel,
        "num_conv_pos_embedding_groups": hidden // per_group,
        "num_buckets": buckets,
    }


def _conv_dims(checkpoint: PublishedCheckpoint, prefix: str) -> tuple[int, int]:
    first, second = (checkpoint.shape(f"{prefix}subsample.conv_layers.{i}.weight")[0] for i in (0, 1))
    return first, second


@dataclass(frozen=True)
class Move:
    """One tensor of the release, and what has to be done to it."""

    source: str
    dtype: torch.dtype
    change: Callable[[Tensor], Tensor]


def plan(
    checkpoint: PublishedCheckpoint, wanted: Mapping[str, tuple[int, ...]], config: WavLLMConfig
) -> dict[str, Move]:
    """Which tensor becomes which, by our names, in the order of `wanted`.

    Raises CheckpointError that lists what is missing, unexpected and mis-shaped.
    """
    head_dim = config.text_config.head_dim
    sources = {ours(name): name for name in checkpoint.shapes if name not in DEAD}
    moves, wrong = {}, []
    for name in sorted(sources.keys() - wanted.keys()):
        wrong.append(f"unexpected {sources[name]}")
    for name, shape in wanted.items():
        if name not in sources:
            wrong.append(f"missing {name}")
            continue
        source = sources[name]
        change = _change(source, head_dim)
        with torch.device("meta"):
            given = tuple(change(torch.empty(checkpoint.shapes[source])).shape)
        if given != shape:
            wrong.append(f"{source}: {given}, not {shape}")
        moves[name] = Move(source, checkpoint.tensors[source].dtype, change)
    if wrong:
        raise CheckpointError(f"{checkpoint.path}: does not fit: {'; '.join(wrong)}")
    return moves


def ours(name: str) -> str:
    """Our name for a tensor of the release; a name that is not of the release stays as it is."""
    for pattern, replacement in _PATTERNS:
        if found := pattern.fullmatch(name):
            return found.expand(replacement)
    return name


def _change(source: str, head_dim: int) -> Callable[[Tensor], Tensor]:
    """LoRA is stored transposed; rotary channels lie in pairs in the release, half a head apart in transformers."""
    rotary = re.search(r"attention\.w[qk](\.|_lora_B)", source)
    lora = "_lora_" in source

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.T if lora else tensor
        return halves_from_pairs(tensor, head_dim) if rotary else tensor

    return change
