"""Stock encoders while somebody speaks: the open turn is encoded again and again, its settled start committed.

Whisper and WavLM see the whole utterance, so no state of theirs can roll. Instead the turn so far is encoded anew at
every hop, without 30 s of padding, several turns of like length together. Vectors far enough from the end are
committed, so that a language model can read them; at the endpoint an exact pass replaces them all, or, when the
machine is busy, the committed ones stay and only the rest is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wavllm_core.audio import SAMPLE_RATE
from wavllm_core.errors import InputError
from wavllm_core.hf.config import WINDOW_SECONDS
from wavllm_core.hf.log_mel import WINDOW_SAMPLES, LiveLogMel
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.processor import WavLLMFeatureExtractor

VECTOR_SAMPLES = 1280  # 80 ms
MARGIN_SECONDS = 1.6  # WavLM's positional convolution looks 1.28 s ahead, the front ends a little further
BUCKET_SECONDS = (2, 4, 8, 15, 30, 60, 120)  # turns up to these are encoded together, and all that are longer


@dataclass(eq=False)
class OpenTurn:
    """One person's turn while it lasts."""

    windows: list[LiveLogMel] = field(default_factory=list)
    chunks: list[Tensor] = field(default_factory=list)  # (samples,) each
    samples: int = 0
    committed: Tensor | None = None  # (vectors, dim); a prefix that hops only lengthen

    @property
    def waveform(self) -> Tensor:
        """All audio so far, (samples,)."""
        if len(self.chunks) != 1:
            self.chunks = [torch.cat(self.chunks)]
        return self.chunks[0]


class LiveStockEncoders:
    """A model's encoders for any number of open turns; turns hold all state."""

    def __init__(
        self,
        model: WavLLMForConditionalGeneration,
        features: WavLLMFeatureExtractor,
        margin_seconds: float = MARGIN_SECONDS,
    ) -> None:
        """Raises ValueError for a model that pads windows or masks no padding: its vectors depend on company."""
        if model.config.windows != "unpadded" or model.config.profile != "corrected":
            raise ValueError("live encoding needs windows: unpadded and profile: corrected")
        self.model, self.features = model, features
        self.filters = torch.from_numpy(features.mel_filters)
        self.margin_samples = int(margin_seconds * SAMPLE_RATE)

    def push(self, turn: OpenTurn, waveform: Tensor) -> None:
        """More audio, (samples,) at 16 kHz. Raises InputError past the extractor's `max_audio_seconds`."""
        most = self.features.max_audio_seconds
        if turn.samples + len(waveform) > most * SAMPLE_RATE:
            raise InputError(f"an utterance of more than {most:g} s")
        turn.chunks.append(waveform)
        turn.samples += len(waveform)
        while len(waveform):
            if not turn.windows or turn.windows[-1].samples == WINDOW_SECONDS * SAMPLE_RATE:
                turn.windows.append(LiveLogMel(self.filters))
            room = WINDOW_SECONDS * SAMPLE_RATE - turn.windows[-1].samples
            turn.windows[-1].push(waveform[:room])
            waveform = waveform[room:]

    def hop(self, turns: Sequence[OpenTurn]) -> None:
        """Encode turns as they are now, and commit what lies further than the margin before their ends."""
        ready = [turn for turn in turns if self._settled(turn) > self._kept(turn)]
        for turn, vectors in zip(ready, self._encoded(ready), strict=True):
            kept = self._kept(turn)
            new = vectors[kept : self._settled(turn)]
            turn.committed = new if turn.committed is None else torch.cat([turn.committed, new])

    def finish(self, turns: Sequence[OpenTurn], exact: bool = True) -> list[Tensor]:
        """All vectors of turns that are over, (vectors, dim) each; the turns stay as they are.

        exact: as `model.encode` gives them for the whole utterance; else the committed ones, and the rest behind them
        Raises InputError for a turn of less than one analysis window.
        """
        for turn in turns:
            if turn.samples < WINDOW_SAMPLES:
                raise InputError(f"an utterance of {turn.samples} samples; at least {WINDOW_SAMPLES} are needed")
        every = self._encoded(turns)
        if exact:
            return every
        return [
            vectors if turn.committed is None else torch.cat([turn.committed, vectors[len(turn.committed) :]])
            for turn, vectors in zip(turns, every, strict=True)
        ]

    def _kept(self, turn: OpenTurn) -> int:
        return 0 if turn.committed is None else len(turn.committed)

    def _settled(self, turn: OpenTurn) -> int:
        return max(0, turn.samples - self.margin_samples) // VECTOR_SAMPLES

    @torch.inference_mode()
    def _encoded(self, turns: Sequence[OpenTurn]) -> list[Tensor]:
        """Vectors of each turn so far; turns of one bucket go through the encoders together."""
        buckets: dict[int, list[int]] = {}
        for i, turn in enumerate(turns):
            fits = (bucket for bucket in BUCKET_SECONDS if turn.samples <= bucket * SAMPLE_RATE)
            buckets.setdefault(next(fits, 0), []).append(i)
        vectors: dict[int, Tensor] = {}
        for members in buckets.values():
            speech, lengths = self.model.encode(**self._batch([turns[i] for i in members]))
            vectors |= {i: row[:n] for i, row, n in zip(members, speech, lengths.tolist(), strict=True)}
        return [vectors[i] for i in range(len(turns))]

    def _batch(self, turns: Sequence[OpenTurn]) -> dict[str, Tensor]:
        mels = [window.frames() for turn in turns for window in turn.windows]
        waves = [self._normalized(turn.waveform) for turn in turns]
        batch = {
            "input_features": pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2),
            "segment_frames": torch.tensor([mel.shape[1] for mel in mels]),
            "row_segments": torch.tensor([len(turn.windows) for turn in turns]),
            "input_values": pad_sequence(waves, batch_first=True),
            "samples": torch.tensor([len(wave) for wave in waves]),
        }
        like = self.model.projection.weight
        return {n: v.to(like) if v.is_floating_point() else v.to(like.device) for n, v in batch.items()}

    def _normalized(self, waveform: Tensor) -> Tensor:
        if not self.features.normalize_waveform:
            return waveform
        return (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-7).sqrt()
