"""WavLLM whole, in Hugging Face form: stock encoders, adapters, a causal language model with gated LoRA.

The exact counterpart of the rolling model (`wavllm_core/model.py`): whole utterances, any published part.
`from_pretrained` and `save_pretrained` are transformers' own; `parts.py` builds a model from others' checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from wavllm_core.adapter import ModalityAdapter
from wavllm_core.config import AdapterConfig
from wavllm_core.errors import CheckpointError, CoreError, InputError
from wavllm_core.gate import PromptGate
from wavllm_core.hf.config import WavLLMConfig
from wavllm_core.hf.splice import IGNORED, splice
from wavllm_core.hf.wavlm import WavLM
from wavllm_core.hf.whisper import WhisperEncoder
from wavllm_core.lora import gate_views, gated, inject_lora, lora_layers, lora_off

MAX_NEW_TOKENS = 512
TRAINED = ("semantic_adapter.", "acoustic_adapter.", "layer_mix", "projection.", "gate.")


@dataclass
class WavLLMOutput(ModelOutput):
    """What one pass gives; the audio stands in the positions of `logits` and `labels`."""

    loss: Tensor | None = None
    logits: Tensor | None = None  # (batch, positions, vocabulary)
    labels: Tensor | None = None  # (batch, positions), spread over the audio's positions
    past_key_values: Any = None
    gate: Tensor | None = None  # (batch, width)


class WavLLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Answers instructions about audio. `WavLLMProcessor` makes the arguments of `forward` and `generate`.

    In `input_ids` one `config.audio_token_id` stands for the whole audio; a row without one is text alone.
    """

    config_class = WavLLMConfig
    config: WavLLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: WavLLMConfig, llm: PreTrainedModel | None = None) -> None:
        """Random weights, but for a language model that is handed over."""
        super().__init__(config)
        dims = config.semantic_config.d_model, config.acoustic_config.hidden_size
        convs = config.semantic_conv_dims, config.acoustic_conv_dims
        shapes = [
            AdapterConfig((conv[0], conv[1]), (2, 2), config.bottleneck_dim, config.adapter_dim) for conv in convs
        ]
        self.semantic = WhisperEncoder(config.semantic_config)
        self.semantic_adapter = ModalityAdapter(dims[0], shapes[0])
        self.acoustic = WavLM(config.acoustic_config)
        self.layer_mix = nn.Parameter(torch.ones(config.acoustic_config.num_hidden_layers + 1))
        self.acoustic_adapter = ModalityAdapter(dims[1], shapes[1])
        self.llm = llm or AutoModelForCausalLM.from_config(config.text_config)
        inject_lora(self.llm, config.lora, config.lora_init == "published")
        llm_dim = self.llm.get_input_embeddings().embedding_dim
        self.projection = nn.Linear(2 * config.adapter_dim, llm_dim)
        if config.use_gate:
            self.add_gate()
        for _, layer in lora_layers(self.llm):
            for module in (*layer.lora_A.modules(), *layer.lora_B.modules()):
                module._is_hf_initialized = True  # peft's start, which the language model's own would overwrite
        self.post_init()
        self.freeze()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own, with the parts frozen that WavLLM does not train.

        Raises CheckpointError that lists what is missing, unexpected or mis-shaped: nothing is made up.
        """
        asked = kwargs.pop("output_loading_info", False)
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # to be refused below
        model, info = super().from_pretrained(*args, **kwargs)
        found = (("missing", "missing_keys"), ("unexpected", "unexpected_keys"), ("mis-shaped", "mismatched_keys"))
        if wrong := [f"{kind} {name}" for kind, key in found for name in sorted(map(str, info[key]))]:
            raise CheckpointError(f"{args[0] if args else ''}: does not fit its configuration: {'; '.join(wrong)}")
        model.freeze()
        return (model, info) if asked else model

    def add_gate(self) -> None:
        """Give a model of the first stage a gate, untrained and as `gate_init` says: the second stage begins."""
        self.config.use_gate = True
        weight = self.projection.weight
        self.gate = PromptGate(weight.shape[0], self.config.lora, self.gate_views()[0]).to(weight)
        if self.config.gate_init == "linear":
            self.gate.fc_2.reset_parameters()

    def _init_weights(self, module: nn.Module) -> None:
        """Every part draws its weights itself, and `from_pretrained` refuses to be without any."""

    def freeze(self) -> None:
        """Train what WavLLM trains: adapters, projections, layer weights, gate and LoRA; encoders and LLM stay."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(TRAINED) or ".lora_" in name)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return self.llm.get_output_embeddings()

    def encode(
        self,
        input_features: Tensor,
        segment_frames: Tensor,
        row_segments: Tensor,
        input_values: Tensor,
        samples: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Audio to vectors of the language model.

        input_features: (segments, mels, mel frames), the windows of all rows one after another
        segment_frames: (segments,) true mel frames; row_segments: (batch,) windows of each row
        input_values: (batch, samples), padded on the right; samples: (batch,) true lengths
        returns: (batch, vectors, dim), and (batch,) true vectors
        """
        published = self.config.profile == "published"
        frames = (segment_frames - 1) // 2 + 1
        unpadded = segment_frames if self.config.windows == "unpadded" and not published else None
        said = self.semantic(input_features, unpadded)[:, : int(frames.max())]
        what = self.semantic_adapter(said, None if published else frames)
        whole = torch.full_like(frames, said.shape[1]) if published else frames
        what_lengths = _halved(_halved(whole))
        states, voiced_frames = self.acoustic(input_values, None if published else samples)
        mixed = torch.einsum("l,lbtd->btd", self.layer_mix.softmax(0), torch.stack(states))
        how = self.acoustic_adapter(mixed, voiced_frames)
        if voiced_frames is None:
            voiced_frames = samples.new_full((len(how),), mixed.shape[1])
        rows = []
        pairs = zip(what, what_lengths.tolist(), strict=True)
        for row, (count, vectors) in enumerate(
            zip(row_segments.tolist(), _halved(_halved(voiced_frames)).tolist(), strict=True)
        ):
            joined = torch.cat([part[:length] for part, length in (next(pairs) for _ in range(count))])
            shorter = min(len(joined), vectors)  # the encoders may differ by one
            rows.append(torch.cat([joined[:shorter], how[row, :shorter]], dim=-1))
        lengths = torch.tensor([len(row) for row in rows], device=samples.device)
        return self.projection(nn.utils.rnn.pad_sequence(rows, batch_first=True)), lengths

    def gate_for(self, instruction_ids: Tensor, instruction_mask: Tensor | None = None) -> Tensor | None:
        """The gate of each row's instruction, (batch, tokens) -> (batch, width); None for a model without one.

        Reads the base model's states before its last norm, with LoRA off.
        """
        if not self.config.use_gate:
            return None
        if instruction_mask is None:
            instruction_mask = torch.ones_like(instruction_ids)
        states: list[Tensor] = []
        hook = self.llm.model.norm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
        try:
            with lora_off(self.llm):
                self.llm.model(input_ids=instruction_ids, attention_mask=instruction_mask.long(), use_cache=False)
        finally:
            hook.remove()
        return self.gate(states[0], instruction_mask.bool())

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        gate: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **audio: Tensor,
    ) -> WavLLMOutput:
        """Teacher forcing over whole rows.

        input_ids, attention_mask, labels: (batch, tokens); labels are IGNORED outside of the targets
        instruction_ids, instruction_mask: (batch, tokens), what the gate reads
        gate: instead of them; (batch, width), or (batch, positions, width) with the audio's positions counted
        audio: the arguments of `encode`, for the rows that have audio
        past_key_values: of earlier positions; `input_ids` then are the next ones
        Raises InputError for rows that do not fit the model.
        """
        embeds, mask, labels = self._spliced(input_ids, attention_mask, labels, audio, left=False)
        if gate is None and instruction_ids is not None:
            gate = self.gate_for(instruction_ids, instruction_mask)
        if past_key_values is not None:
            before = mask.new_ones(len(mask), past_key_values.get_seq_length())
            mask = torch.cat([before, mask], dim=1)
        self._require_room(mask.shape[1], 0)
        with self.gated_by(gate):
            out = self.llm(
                inputs_embeds=embeds,
                attention_mask=mask,
                past_key_values=past_key_values,
                use_cache=use_cache,
            )
        loss = None if labels is None else self._loss(out.logits, labels, input_ids, attention_mask)
        return WavLLMOutput(loss, out.logits, labels, out.past_key_values, gate)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        gate: Tensor | None = None,
        max_new_tokens: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """New tokens alone, (batch, tokens), by the language model's `generate`, which takes the other arguments.

        The gate is one vector a row here. Raises InputError for rows that do not fit, CoreError on logits that
        are no numbers.
        """
        audio = {name: kwargs.pop(name) for name in AUDIO_ARGUMENTS if name in kwargs}
        embeds, mask, _ = self._spliced(input_ids, attention_mask, None, audio, left=True)
        if gate is None and instruction_ids is not None:
            gate = self.gate_for(instruction_ids, instruction_mask)
        if gate is not None:
            gate = gate.repeat_interleave(self._rows_per_input(kwargs), dim=0)
        max_new_tokens = max_new_tokens or self.generation_config.max_new_tokens
        room = self._require_room(mask.shape[1], max_new_tokens or 1)
        if "generation_config" not in kwargs:
            kwargs = {**self.generation_config.to_diff_dict(), **kwargs}
        kwargs["max_new_tokens"] = max_new_tokens or min(room, MAX_NEW_TOKENS)
        with self.gated_by(gate), _finite(self.llm.get_output_embeddings()):
            return self.llm.generate(inputs_embeds=embeds, attention_mask=mask, **kwargs)

    def _rows_per_input(self, kwargs: dict[str, Any]) -> int:
        chosen = kwargs.get("generation_config") or self.generation_config
        asked = [kwargs.get(name) or getattr(chosen, name) or 1 for name in ("num_beams", "num_return_sequences")]
        return max(asked)

    def gate_views(self) -> tuple[int, dict[str, Tensor]]:
        """The width of the gate, and the channels that each projection takes; see `wavllm_core.lora.gate_views`."""
        text = self.config.text_config
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return gate_views(self.llm, head_dim if self.config.gate_order == "interleaved" else None)

    def gated_by(self, gate: Tensor | None) -> AbstractContextManager[None]:
        """The language model answers under this gate, (batch, width), while inside; None: plain LoRA.

        Raises InputError where a model with a gate is given none.
        """
        if gate is None:
            if self.config.use_gate:
                raise InputError("instruction_ids: this model has a gate, which reads the instruction")
            return nullcontext()
        return gated(self.llm, gate, self.gate_views()[1])

    def _require_room(self, positions: int, wanted: int) -> int:
        most = self.config.text_config.max_position_embeddings
        if positions + wanted > most:
            raise InputError(
                f"prompt and audio take {positions} positions"
                + (f" and the answer {wanted}" if wanted else "")
                + f"; the language model has {most}, an audio vector being 80 ms"
            )
        return most - positions

    def _spliced(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        audio: dict[str, Tensor],
        left: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Embeddings, mask and labels with the audio in its place; padding on the left or the right."""
        if unknown := set(audio) - set(AUDIO_ARGUMENTS):
            raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
        if self.config.profile == "published" and len(input_ids) > 1:
            raise InputError(f"{len(input_ids)} rows; the published profile masks no padding and takes one at a time")
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        here = (input_ids == self.config.audio_token_id) & real.bool()
        most = int(here.sum(1).max())
        if most > 1:
            raise InputError(f"{most} audio tokens in one row; one stands for the whole audio")
        speech = self._speech(audio, int(here.sum()))
        text = self.get_input_embeddings()(input_ids.masked_fill(here, 0))
        return splice(text, real.bool(), here, speech, labels, left)

    def _speech(self, audio: dict[str, Tensor], wanted: int) -> list[Tensor]:
        """The vectors of each row that has audio, (vectors, dim)."""
        given = len(audio["samples"]) if audio else 0
        if given != wanted:
            raise InputError(f"audio of {given} rows for {wanted} audio tokens")
        if not wanted:
            return []
        dtype = self.projection.weight.dtype
        speech, lengths = self.encode(**{n: v.to(dtype) if v.is_floating_point() else v for n, v in audio.items()})
        return [row[:length] for row, length in zip(speech, lengths.tolist(), strict=True)]

    def _loss(self, logits: Tensor, labels: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Cross-entropy over the targets; see `loss_normaliser`."""
        wanted = labels[:, 1:]
        if self.config.profile == "published":
            wanted = wanted.masked_fill(wanted == 0, IGNORED)  # id 0 is padding there, and <unk>
        logits = logits[:, :-1].float()
        total = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum")
        if self.config.loss_normaliser == "target":
            return total / (wanted != IGNORED).sum()
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        after = (input_ids == self.config.audio_token_id).cumsum(1).bool() & real.bool()
        # All that follows the audio token, but for the first of it: nothing predicts that one.
        return total / (after.sum(1) - 2).sum()


AUDIO_ARGUMENTS = ("input_features", "segment_frames", "row_segments", "input_values", "samples")


def _halved(lengths: Tensor) -> Tensor:
    return (lengths + 1) // 2


@contextmanager
def _finite(head: nn.Module) -> Iterator[None]:
    """Raise CoreError for logits that are no numbers while inside; sampling from them would not."""

    def check(_: nn.Module, __: Any, logits: Tensor) -> None:
        if not logits.isfinite().all():
            raise CoreError("the model's output is not finite")

    hook = head.register_forward_hook(check)
    try:
        yield
    finally:
        hook.remove()
