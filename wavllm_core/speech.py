"""Both encoders and all that lies between them and the language model, rolling along with audio.

Needs torch alone, so that a server which only listens and decodes starts quickly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavllm_core.acoustic import AcousticEncoder, AcousticState
from wavllm_core.adapter import AdapterState, ModalityAdapter, PoolState, SpeakerHead
from wavllm_core.config import RollingConfig
from wavllm_core.features import LogMel, LogMelState
from wavllm_core.semantic import SemanticEncoder, SemanticState


@dataclass(frozen=True)
class Encoded:
    """What the encoders make of some audio."""

    speech_embeds: Tensor  # (batch, vectors, llm dim)
    semantic_frames: Tensor  # (batch, frames, semantic dim)
    pool: PoolState  # speaker statistics up to here
    vectors: Tensor | None = None  # (batch,) true vectors of padded rows


@dataclass(frozen=True)
class SpeechState:
    """One stream of audio: every part's state, and the samples that do not fill a block yet."""

    log_mel: LogMelState
    semantic: SemanticState
    semantic_adapter: AdapterState
    acoustic: AcousticState
    acoustic_adapter: AdapterState
    pool: PoolState
    pending: Tensor  # (batch, samples), less than a block


class SpeechEncoder(nn.Module):
    """Audio to vectors of the language model; `init_state / step / flush` roll along, `encode` takes all at once."""

    def __init__(self, config: RollingConfig) -> None:
        super().__init__()
        self.config = config
        blocks = (config.block_frames, config.left_blocks)
        self.log_mel = LogMel(config.semantic.mels, config.sample_rate, config.hop_samples)
        self.semantic = SemanticEncoder(config.semantic, *blocks)
        self.semantic_adapter = ModalityAdapter(config.semantic.transformer.dim, config.semantic_adapter)
        self.acoustic = AcousticEncoder(config.acoustic, *blocks)
        self.acoustic_adapter = ModalityAdapter(config.acoustic.transformer.dim, config.acoustic_adapter)
        joined = config.semantic_adapter.out_dim + config.acoustic_adapter.out_dim
        self.projection = nn.Linear(joined, config.llama["hidden_size"])
        self.speaker_head = SpeakerHead(config.voice_dim, config.speaker.vector_dim)

    def init_state(self, batch: int = 1) -> SpeechState:
        """The start of an utterance."""
        return SpeechState(
            self.log_mel.init_state(batch),
            self.semantic.init_state(batch),
            self.semantic_adapter.init_state(batch),
            self.acoustic.init_state(batch),
            self.acoustic_adapter.init_state(batch),
            self.speaker_head.init_state(batch),
            self.projection.weight.new_zeros(batch, 0),
        )

    def step(self, state: SpeechState, waveform: Tensor) -> tuple[SpeechState, Encoded | None]:
        """Take any amount of audio, (batch, samples); encodes what whole blocks it completes."""
        pending = torch.cat([state.pending, waveform], dim=-1)
        whole = pending.shape[-1] - pending.shape[-1] % self.config.block_samples
        if not whole:
            return SpeechState(**{**vars(state), "pending": pending}), None
        return self._advance(state, pending[:, :whole], pending[:, whole:], None)

    def flush(self, state: SpeechState) -> tuple[SpeechState, Encoded | None]:
        """Encode the rest of an utterance, padded with silence to a whole vector; nothing may follow."""
        rest = state.pending
        if not rest.shape[-1]:
            return state, None
        padded = F.pad(rest, (0, -rest.shape[-1] % self.config.vector_samples))
        return self._advance(state, padded, rest[:, :0], None)

    def encode(self, waveform: Tensor, samples: Tensor | None = None) -> Encoded:
        """Whole utterances at once, equal to `step` and `flush`.

        waveform: (batch, samples), right-padded with zeros; samples: (batch,) true lengths
        """
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % self.config.vector_samples))
        if samples is None:
            return self._advance(self.init_state(waveform.shape[0]), waveform, waveform[:, :0], None)[1]
        vectors = self.vectors_of(samples)
        encoded = self._advance(self.init_state(waveform.shape[0]), waveform, waveform[:, :0], vectors)[1]
        return Encoded(encoded.speech_embeds, encoded.semantic_frames, encoded.pool, vectors)

    def voice(self, waveform: Tensor, samples: Tensor | None = None) -> Tensor:
        """The speaker vector of whole utterances, (batch, vector_dim); arguments as for `encode`.

        Runs no semantic encoder and equals what `encode` pools.
        """
        return self.speaker_head.vector(self.pool(waveform, samples))

    def pool(self, waveform: Tensor, samples: Tensor | None = None) -> PoolState:
        """What `voice` projects."""
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % self.config.vector_samples))
        frames = None if samples is None else self.vectors_of(samples) * self.config.frames_per_vector
        voice_frames = self.voice_frames(self.acoustic(waveform, frames), self.log_mel(waveform))
        return self.speaker_head.step(self.speaker_head.init_state(waveform.shape[0]), voice_frames, frames)

    def voice_frames(self, voiced: Tensor, mel_frames: Tensor) -> Tensor:
        """What the speaker vector is pooled from: acoustic states and, where the configuration wants it, the sound.

        voiced: (batch, frames, acoustic dim); mel_frames: (batch, mels, mel frames)
        returns: (batch, frames, voice dim); of the log-mel frames behind each state the mean
        """
        if not self.config.speaker.log_mel:
            return voiced
        mel = mel_frames.unflatten(-1, (voiced.shape[1], -1)).mean(-1)
        return torch.cat([voiced, mel.transpose(1, 2)], dim=-1)

    def vectors_of(self, samples: Tensor) -> Tensor:
        """How many audio vectors come of so many samples."""
        whole = samples + self.config.vector_samples - 1
        return torch.div(whole, self.config.vector_samples, rounding_mode="floor")

    def _advance(
        self, state: SpeechState, waveform: Tensor, pending: Tensor, vectors: Tensor | None
    ) -> tuple[SpeechState, Encoded]:
        lengths = None if vectors is None else vectors * self.config.frames_per_vector
        log_mel, mel_frames = self.log_mel.step(state.log_mel, waveform)
        semantic, said = self.semantic.step(state.semantic, mel_frames, lengths)
        acoustic, voiced = self.acoustic.step(state.acoustic, waveform, lengths)
        semantic_adapter, what = self.semantic_adapter.step(state.semantic_adapter, said)
        acoustic_adapter, how = self.acoustic_adapter.step(state.acoustic_adapter, voiced)
        pool = self.speaker_head.step(state.pool, self.voice_frames(voiced, mel_frames), lengths)
        speech_embeds = self.projection(torch.cat([what, how], dim=-1))
        state = SpeechState(log_mel, semantic, semantic_adapter, acoustic, acoustic_adapter, pool, pending)
        return state, Encoded(speech_embeds, said, pool)
