"""From sound and words to the tensors that WavLLM takes: features of both encoders, prompts, targets.

Knows the published prompt template; knows no files (`wavllm_core.audio` reads them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin, WhisperFeatureExtractor

from wavllm_core.errors import InputError
from wavllm_core.hf.config import WINDOW_SECONDS, Profile, Windows
from wavllm_core.hf.log_mel import frames_of, log_mel
from wavllm_core.hf.splice import IGNORED

SYSTEM_PROMPT = (
    "As a helpful language and speech assistant, you are able to understand the speech content provided by the user, "
    "and assist the user with a variety of tasks using natural language."
)
Waveform = NDArray[np.float32]  # (samples,) in [-1, 1]


class WavLLMFeatureExtractor(WhisperFeatureExtractor):
    """Whisper's log-mel by windows of 30 s, and the waveform for WavLM.

    windows: "padded" with silence to 30 s as Whisper has it, or "unpadded"
    normalize_waveform: to mean 0 and variance 1, for a WavLM whose preprocessor says so (large does, base does not)
    """

    model_input_names: ClassVar = ["input_features", "segment_frames", "row_segments", "input_values", "samples"]

    def __init__(
        self,
        feature_size: int = 80,
        windows: Windows = "padded",
        normalize_waveform: bool = False,
        max_audio_seconds: float = 120.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_size=feature_size, **kwargs)
        self.windows, self.normalize_waveform = windows, normalize_waveform
        self.max_audio_seconds = max_audio_seconds

    def __call__(self, audio: Sequence[Waveform], sampling_rate: int, **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """Features of mono waveforms, see `WavLLMForConditionalGeneration.encode`.

        Raises InputError naming the clip and the limit.
        """
        waves = [self._checked(i, wave, sampling_rate) for i, wave in enumerate(audio)]
        window = WINDOW_SECONDS * self.sampling_rate
        cut = [[wave[at : at + window] for at in range(0, len(wave), window)] for wave in waves]
        mels = [self._log_mel(segment) for segments in cut for segment in segments]
        frames = [frames_of(len(segment)) for segments in cut for segment in segments]
        samples = torch.tensor([len(wave) for wave in waves])
        features = {
            "input_features": _padded([mel.T for mel in mels]).transpose(1, 2),
            "segment_frames": torch.tensor(frames),
            "row_segments": torch.tensor([len(segments) for segments in cut]),
            "input_values": _padded([torch.from_numpy(self._for_wavlm(wave)) for wave in waves]),
            "samples": samples,
        }
        return BatchFeature(features)

    def _checked(self, i: int, wave: Waveform, sampling_rate: int) -> Waveform:
        wave = np.asarray(wave, dtype=np.float32)
        if sampling_rate != self.sampling_rate:
            raise InputError(f"audio: sampling_rate {sampling_rate} Hz; {self.sampling_rate} Hz is needed")
        if wave.ndim != 1:
            raise InputError(f"audio {i}: shape {wave.shape}; one channel is needed, (samples,)")
        if len(wave) < self.n_fft:
            raise InputError(f"audio {i}: {len(wave)} samples; at least {self.n_fft} are needed")
        if len(wave) > self.max_audio_seconds * self.sampling_rate:
            seconds = len(wave) / self.sampling_rate
            raise InputError(f"audio {i}: {seconds:.1f} s; at most {self.max_audio_seconds:g} s are possible")
        if not np.isfinite(wave).all():
            raise InputError(f"audio {i}: samples that are no numbers")
        return wave

    def _log_mel(self, segment: Waveform) -> Tensor:
        """(mels, frames) of one window."""
        if self.windows == "padded":
            segment = np.pad(segment, (0, WINDOW_SECONDS * self.sampling_rate - len(segment)))
        return log_mel(torch.from_numpy(segment), torch.from_numpy(self.mel_filters))

    def _for_wavlm(self, wave: Waveform) -> Waveform:
        if not self.normalize_waveform:
            return wave
        return ((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)).astype(np.float32)


class WavLLMProcessor(ProcessorMixin):
    """Audio and instructions to tensors, by the template that WavLLM was trained with.

    profile: "published" puts `<s>` right after the audio at inference, as the released decoder does
    """

    def __init__(
        self,
        feature_extractor: WavLLMFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        profile: Profile = "corrected",
        system_prompt: str | None = None,
        audio_token_id: int | None = None,
        max_instruction_tokens: int = 1024,
        **kwargs: Any,
    ) -> None:
        self.profile, self.system_prompt = profile, SYSTEM_PROMPT if system_prompt is None else system_prompt
        self.audio_token_id = len(tokenizer) if audio_token_id is None else audio_token_id
        self.max_instruction_tokens = max_instruction_tokens
        super().__init__(feature_extractor, tokenizer, **kwargs)

    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str],
        audio: Waveform | Sequence[Waveform | None] | None = None,
        target: Sequence[str] | None = None,
        sampling_rate: int | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """The arguments of `forward`, or of `generate` where there is no `target`.

        text: an instruction for each row, possibly empty
        audio: a waveform for each row; None for a row that is text alone
        target: the answers to learn; `labels` are IGNORED elsewhere
        sampling_rate: of the audio, in Hz
        Raises InputError naming what is out of bounds.
        """
        instructions = [text] if isinstance(text, str) else list(text)
        waves = list(audio) if isinstance(audio, list | tuple) else [audio] * len(instructions)
        if len(waves) != len(instructions) or (target is not None and len(target) != len(instructions)):
            raise InputError(f"{len(instructions)} instructions, {len(waves)} audios, {len(target or [])} targets")
        rows, labels, read = [], [], []
        for i, (instruction, wave) in enumerate(zip(instructions, waves, strict=True)):
            prompt = self.prompt(instruction, spoken=wave is not None, learn=target is not None)
            reply = [] if target is None else [*self._ids(target[i]), self.tokenizer.eos_token_id]
            rows.append(prompt + reply)
            labels.append([IGNORED] * len(prompt) + reply)
            read.append(self.instruction_ids(instruction))
        data: dict[str, Tensor] = {}
        data["input_ids"], data["attention_mask"] = _rows(rows)
        data["instruction_ids"], data["instruction_mask"] = _rows(read)
        if target is not None:
            data["labels"] = _padded([torch.tensor(row) for row in labels], IGNORED)
        heard = [wave for wave in waves if wave is not None]
        if heard:
            if sampling_rate is None:
                raise InputError("sampling_rate: is needed with audio")
            data |= self.feature_extractor(heard, sampling_rate)
        return BatchFeature(data)

    def prompt(self, instruction: str, spoken: bool, learn: bool) -> list[int]:
        """Token ids of a whole prompt, one id in place of the audio; `learn`: a target will follow."""
        left = f"[INST]<<SYS>>\n{self.system_prompt}\n<</SYS>>\n\n"
        bos = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        if not spoken:
            return bos + self._ids(f"{left}{instruction} [/INST]")
        right = self._ids(f" </SPEECH> {instruction} [/INST]")
        if self.profile == "published" and not learn:
            right = bos + right[1:]
        return [*bos, *self._ids(left + "<SPEECH>"), self.audio_token_id, *right]

    def instruction_ids(self, instruction: str) -> list[int]:
        """What the gate reads: the instruction in double quotes, nothing else. Raises InputError when too long."""
        ids = self._ids(f'"{instruction}"')
        if len(ids) > self.max_instruction_tokens:
            raise InputError(f"instruction: {len(ids)} tokens; at most {self.max_instruction_tokens} are possible")
        return ids

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        """What a row of `generate` says."""
        kwargs.setdefault("skip_special_tokens", True)
        return str(self.tokenizer.decode(token_ids, **kwargs)).strip()

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _rows(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids padded on the right with 0, and which are real."""
    ids = _padded([torch.tensor(row) for row in rows])
    mask = _padded([torch.ones(len(row), dtype=torch.long) for row in rows])
    return ids, mask


def _padded(rows: Sequence[Tensor], value: int = 0) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
