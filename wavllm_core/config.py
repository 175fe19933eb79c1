"""Every width, rate and limit of a rolling WavLLM, frozen. Knows how sizes follow from each other, builds nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, field
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from wavllm_core.errors import CheckpointError

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class TransformerConfig:
    """The attention stack that both encoders have."""

    dim: int
    layers: int
    heads: int
    ffn_dim: int


@dataclass(frozen=True, config=_STRICT)
class SemanticConfig:
    """Whisper-type encoder: log-mel, two convolutions, pre-norm transformer."""

    transformer: TransformerConfig
    mels: int = 80
    conv_strides: tuple[int, int] = (1, 2)  # Whisper's; one mel frame is 10 ms
    max_frames: int = 1500  # positions; a window of audio is this many encoder frames long


@dataclass(frozen=True, config=_STRICT)
class AcousticConfig:
    """WavLM-type encoder: strided convolutions on the waveform, gated relative positions."""

    transformer: TransformerConfig
    conv_dims: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    conv_strides: tuple[int, ...]
    position_kernel: int = 128  # frames that the positional convolution looks back
    position_groups: int = 16
    relative_buckets: int = 320
    relative_max_distance: int = 800  # frames


@dataclass(frozen=True, config=_STRICT)
class AdapterConfig:
    """From encoder frames to vectors: two gated convolutions, a bottleneck, a projection."""

    conv_dims: tuple[int, int]  # channels of each convolution before its gate halves them
    conv_strides: tuple[int, int]
    bottleneck_dim: int
    out_dim: int


@dataclass(frozen=True, config=_STRICT)
class LoraConfig:
    """Low-rank adaptation of q, k, v, o, and the prompt-aware gate on its output."""

    rank: int = 32
    alpha: int = 32
    dropout: float = 0.0
    gate_dim: int = 64  # hidden width of the prompt adapter
    gate_max: float = 3.0


@dataclass(frozen=True, config=_STRICT)
class SpeakerConfig:
    """The speaker vector: statistics pooled over the acoustic states, then a projection."""

    vector_dim: int = 128
    log_mel: bool = False  # pool the log-mel frames beside them, see `wavllm fit-voices`


@dataclass(frozen=True, config=_STRICT)
class RollingConfig:
    """A whole model. `llama` holds keyword arguments of `transformers.LlamaConfig`."""

    semantic: SemanticConfig
    semantic_adapter: AdapterConfig
    acoustic: AcousticConfig
    acoustic_adapter: AdapterConfig
    lora: LoraConfig
    llama: dict[str, Any]
    speaker: SpeakerConfig = field(default_factory=SpeakerConfig)
    system_prompt: str = ""
    sample_rate: int = 16_000
    hop_samples: int = 160  # of one mel frame
    block_frames: int = 8  # encoder frames that see each other: the blocks of block-causal attention
    left_blocks: int = 48  # earlier blocks that stay visible
    max_context: int = 1024  # positions of the language model
    max_audio_seconds: float = 30.0  # of one utterance

    def __post_init__(self) -> None:
        strides = {
            "semantic": self.hop_samples * prod(self.semantic.conv_strides),
            "acoustic": prod(self.acoustic.conv_strides),
        }
        for name, stride in strides.items():
            if stride != self.frame_samples:
                raise ValueError(f"{name}: a frame is {stride} samples, not {self.frame_samples}")
        for name, adapter in (("semantic", self.semantic_adapter), ("acoustic", self.acoustic_adapter)):
            if prod(adapter.conv_strides) != self.frames_per_vector:
                raise ValueError(f"{name}_adapter.conv_strides: both adapters must subsample alike")
        if self.block_frames % self.frames_per_vector:
            raise ValueError(f"block_frames: {self.block_frames} is no multiple of {self.frames_per_vector}")

    @property
    def frame_samples(self) -> int:
        """Samples of one encoder frame."""
        return self.hop_samples * prod(self.semantic.conv_strides)

    @property
    def voice_dim(self) -> int:
        """Width of the frames that the speaker vector is pooled from."""
        return self.acoustic.transformer.dim + self.semantic.mels * self.speaker.log_mel

    @property
    def frames_per_vector(self) -> int:
        """Encoder frames behind one audio vector of the language model."""
        return prod(self.semantic_adapter.conv_strides)

    @property
    def vector_samples(self) -> int:
        """Samples behind one audio vector; audio is padded with silence to a multiple of this."""
        return self.frame_samples * self.frames_per_vector

    @property
    def block_samples(self) -> int:
        """Samples of one block: what a rolling encoder takes in one step."""
        return self.frame_samples * self.block_frames

    def to_json(self) -> str:
        """The form that `from_json` reads."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> RollingConfig:
        """Raises CheckpointError when the file is missing or names a key that does not exist."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise CheckpointError(f"{path}: {key}: {first['msg']}") from error
