"""Rolling encoders for many streams of audio: one step takes the next block of any of them.

The weights and the convolutions are those of `speech.SpeechEncoder`; a stream's convolution tails are stacked
for a step and taken apart again, and its keys and values stay where they are, in a store allocated once.
Equals `SpeechEncoder.encode` to float precision, whoever else is in the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wavllm_core.acoustic import AcousticLayer
from wavllm_core.adapter import AdapterState, PoolState
from wavllm_core.errors import CapacityError
from wavllm_core.features import LogMelState
from wavllm_core.layers import BlockAttention, ConvState
from wavllm_core.semantic import SemanticLayer
from wavllm_core.speech import SpeechEncoder

T = TypeVar("T")


@dataclass(frozen=True)
class Tails:
    """What everything but attention remembers of streams between two blocks; stacks along the batch."""

    log_mel: LogMelState
    semantic: tuple[ConvState, ConvState]
    acoustic: tuple[ConvState, ...]
    position: ConvState
    adapters: tuple[AdapterState, AdapterState]
    pool: PoolState


@dataclass(frozen=True)
class StreamState:
    """Where one stream is. To go back by one step, put the state before it in the stream's place."""

    tails: Tails
    frames: int = 0  # encoder frames so far


@dataclass(eq=False)
class Stream:
    """One stream's place among the others."""

    index: int
    state: StreamState
    origin: int = 0  # the frame whose keys stand first in the store


@dataclass(frozen=True)
class _Span:
    """One row's place in the store during a step."""

    index: int
    start: int  # first key that it sees
    at: int  # where its new keys go
    end: int  # behind its last real key


class RollingEncoders:
    """Both encoders and adapters, for at most `streams` utterances at a time."""

    def __init__(self, speech: SpeechEncoder, streams: int) -> None:
        config = speech.config
        self.speech, self.config, self.streams = speech, config, streams
        self.kept_frames = config.left_blocks * config.block_frames
        self.capacity = 2 * self.kept_frames + config.block_frames
        semantic, acoustic = config.semantic.transformer, config.acoustic.transformer
        self._stores = [
            speech.projection.weight.new_empty(
                streams, part.layers, 2, part.heads, self.capacity, part.dim // part.heads
            )
            for part in (semantic, acoustic)
        ]
        self._semantic_qkv = [_fuse(layer.self_attn) for layer in speech.semantic.layers]
        self._acoustic_qkv = [_fuse(layer.attention) for layer in speech.acoustic.layers]
        self._position_weight = speech.acoustic.position.conv.weight.detach()  # weight norm, worked out once
        query = torch.arange(config.block_frames, device=self._position_weight.device)
        key = torch.arange(-self.kept_frames, config.block_frames, device=self._position_weight.device)
        self._bias = speech.acoustic.relative_bias(key[None, :] - query[:, None])  # (heads, frames, keys)
        self._free = list(range(streams))[::-1]

    @property
    def open_streams(self) -> int:
        """How many there are now."""
        return self.streams - len(self._free)

    def open(self) -> Stream:
        """Begin an utterance. Raises CapacityError when all streams are open."""
        if not self._free:
            raise CapacityError(f"{self.streams} utterances are listened to already; more are not possible")
        speech = self.speech
        semantic, acoustic = speech.semantic, speech.acoustic
        tails = Tails(
            speech.log_mel.init_state(1),
            (semantic.conv1.init_state(1), semantic.conv2.init_state(1)),
            tuple(conv.conv.init_state(1) for conv in acoustic.convs),
            acoustic.position.init_state(1),
            (speech.semantic_adapter.init_state(1), speech.acoustic_adapter.init_state(1)),
            speech.speaker_head.init_state(1),
        )
        return Stream(self._free.pop(), StreamState(tails))

    def close(self, stream: Stream) -> None:
        """Forget a stream. Raises ValueError for one that is closed already."""
        if stream.index in self._free:
            raise ValueError(f"stream {stream.index} is closed")
        self._free.append(stream.index)

    def step(self, streams: Sequence[Stream], waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Take one block of each stream, each in its own place; an utterance may end with less than a block.

        waveforms: (samples,) each; what is less than a vector is padded with silence
        returns: (vectors, llm dim) for each
        Raises ValueError past the semantic encoder's window. When it raises, no stream has moved.
        """
        config = self.config
        vectors = [-(-len(waveform) // config.vector_samples) for waveform in waveforms]
        padded = torch.stack([F.pad(x, (0, max(vectors) * config.vector_samples - len(x))) for x in waveforms])
        padded = padded.to(self._position_weight)
        lengths = [count * config.frames_per_vector for count in vectors]
        for stream, length in zip(streams, lengths, strict=True):
            if stream.state.frames + length > self.speech.semantic.max_frames:
                raise ValueError(f"{stream.state.frames + length} frames in a window of {config.semantic.max_frames}")
        frames = max(lengths)
        spans = [self._span(*row, frames) for row in zip(streams, lengths, strict=True)]
        tails = _stack([stream.state.tails for stream in streams])
        starts = [stream.state.frames for stream in streams]
        tails, embeds = self._advance(tails, padded, spans, starts, torch.tensor(lengths, device=padded.device))
        for row, (stream, length) in enumerate(zip(streams, lengths, strict=True)):
            stream.state = StreamState(_take(tails, row), stream.state.frames + length)
        return [embeds[row, :count] for row, count in enumerate(vectors)]

    def speaker_vector(self, state: StreamState) -> Tensor:
        """Who speaks in an utterance so far, (vector dim,)."""
        return self.speech.speaker_head.vector(state.tails.pool)[0]

    def _span(self, stream: Stream, length: int, frames: int) -> _Span:
        at = stream.state.frames - stream.origin
        if at + frames > self.capacity:  # move what is still seen to the front
            for store in self._stores:
                store[stream.index, ..., : self.kept_frames, :] = store[
                    stream.index, ..., at - self.kept_frames : at, :
                ].clone()
            stream.origin += at - self.kept_frames
            at = self.kept_frames
        return _Span(stream.index, max(0, at - self.kept_frames), at, at + length)

    def _advance(
        self, tails: Tails, waveform: Tensor, spans: list[_Span], starts: list[int], lengths: Tensor
    ) -> tuple[Tails, Tensor]:
        speech = self.speech
        log_mel, mel_frames = speech.log_mel.step(tails.log_mel, waveform)
        semantic, said = self._semantic(tails, mel_frames, spans, starts)
        acoustic, position, voiced = self._acoustic(tails, waveform, spans)
        what_tail, what = speech.semantic_adapter.step(tails.adapters[0], said)
        how_tail, how = speech.acoustic_adapter.step(tails.adapters[1], voiced)
        pool = speech.speaker_head.step(tails.pool, speech.voice_frames(voiced, mel_frames), lengths)
        embeds = speech.projection(torch.cat([what, how], dim=-1))
        return Tails(log_mel, semantic, acoustic, position, (what_tail, how_tail), pool), embeds

    def _semantic(
        self, tails: Tails, mel_frames: Tensor, spans: list[_Span], starts: list[int]
    ) -> tuple[tuple[ConvState, ConvState], Tensor]:
        encoder = self.speech.semantic
        conv1, x = encoder.conv1.step(tails.semantic[0], mel_frames)
        conv2, x = encoder.conv2.step(tails.semantic[1], F.gelu(x))
        x = F.gelu(x).transpose(1, 2)
        places = torch.tensor(starts, device=x.device)[:, None] + torch.arange(x.shape[1], device=x.device)
        x = x + encoder.positions[places.clamp(max=encoder.max_frames - 1)]
        for i, layer in enumerate(encoder.layers):
            x = self._semantic_layer(layer, self._semantic_qkv[i], self._stores[0][:, i], x, spans)
        return (conv1, conv2), encoder.layer_norm(x)

    def _semantic_layer(
        self, layer: SemanticLayer, qkv: tuple[Tensor, Tensor], store: Tensor, x: Tensor, spans: list[_Span]
    ) -> Tensor:
        attended = _attend(F.linear(layer.self_attn_layer_norm(x), *qkv), store, spans)
        x = x + layer.self_attn.out_proj(attended)
        return x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))

    def _acoustic(
        self, tails: Tails, waveform: Tensor, spans: list[_Span]
    ) -> tuple[tuple[ConvState, ...], ConvState, Tensor]:
        encoder = self.speech.acoustic
        x, convs = waveform[:, None], []
        for conv, state in zip(encoder.convs, tails.acoustic, strict=True):
            state, x = conv.step(state, x)
            convs.append(state)
        x = encoder.feature_projection(encoder.feature_norm(x.transpose(1, 2)))
        window = torch.cat([tails.position.tail, x.transpose(1, 2)], dim=-1)
        position = ConvState(window[..., window.shape[-1] - encoder.position.overlap :])
        conv = encoder.position.conv
        x = x + F.gelu(F.conv1d(window, self._position_weight, conv.bias, groups=conv.groups)).transpose(1, 2)
        weights = encoder.mix.softmax(0)
        mixed = weights[0] * x
        for i, layer in enumerate(encoder.layers):
            x = self._acoustic_layer(layer, self._acoustic_qkv[i], self._stores[1][:, i], x, spans)
            mixed = mixed + weights[i + 1] * x
        return tuple(convs), position, encoder.layer_norm(mixed)

    def _acoustic_layer(
        self, layer: AcousticLayer, qkv: tuple[Tensor, Tensor], store: Tensor, x: Tensor, spans: list[_Span]
    ) -> Tensor:
        normed = layer.layer_norm(x)
        bias = layer.gated_bias(normed, self._bias[:, : x.shape[1]])
        attended = _attend(F.linear(normed, *qkv), store, spans, bias, self.kept_frames)
        x = x + layer.attention.out_proj(attended)
        return x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))


def _attend(qkv: Tensor, store: Tensor, spans: list[_Span], bias: Tensor | None = None, kept_frames: int = 0) -> Tensor:
    """Every row to its own past and its block, in place.

    qkv: (rows, frames, 3 dim); store: (streams, 2, heads, capacity, head_dim)
    bias: (rows, heads, frames, kept_frames + block) to add to the scores; with less past a row begins further on
    returns: (rows, frames, dim)
    """
    heads, frames = store.shape[2], qkv.shape[1]
    queries, keys, values = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    new = torch.stack([keys, values], dim=1)
    attended = []
    for row, span in enumerate(spans):
        own = store[span.index]
        own[:, :, span.at : span.at + frames] = new[row]
        seen = own[:, None, :, span.start : span.end]
        mask = None
        if bias is not None:
            first = kept_frames - (span.at - span.start)
            mask = bias[row : row + 1, ..., first : first + span.end - span.start]
        attended.append(F.scaled_dot_product_attention(queries[row : row + 1], seen[0], seen[1], attn_mask=mask))
    return torch.cat(attended).transpose(1, 2).flatten(2)


def _fuse(attention: BlockAttention) -> tuple[Tensor, Tensor]:
    """Weight and bias of q, k and v in one; Whisper's k has no bias."""
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [torch.zeros_like(part.weight[:, 0]) if part.bias is None else part.bias for part in parts]
    return torch.cat([part.weight for part in parts]), torch.cat(biases)


def _stack(states: Sequence[T]) -> T:
    """States of single streams to one with a row for each."""
    return _each(states, torch.cat)


def _take(state: T, row: int) -> T:
    """One row of a stacked state, still with a batch of one; owns its memory."""
    return _each([state], lambda tensors: tensors[0][row : row + 1].clone())


def _each(states: Sequence[Any], work: Any) -> Any:
    first = states[0]
    if isinstance(first, Tensor):
        return work(states)
    if isinstance(first, tuple):
        return tuple(_each(column, work) for column in zip(*states, strict=True))
    parts = {part.name: _each([getattr(state, part.name) for state in states], work) for part in fields(first)}
    return type(first)(**parts)
