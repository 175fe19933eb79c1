"""The configuration of WavLLM in Hugging Face form: stock encoders, any causal language model, the parts between.

Defaults are the published sizes. Knows which choices exist, builds nothing.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from transformers import AutoConfig, PreTrainedConfig, WavLMConfig, WhisperConfig

from wavllm_core.config import LoraConfig

Profile = Literal["published", "corrected"]
Windows = Literal["padded", "unpadded"]
GateInit = Literal["ones", "linear"]
GateOrder = Literal["split", "interleaved"]
LoraInit = Literal["peft", "published"]
LossNormaliser = Literal["target", "labels"]

WINDOW_SECONDS = 30  # of a Whisper encoder
LLAMA_2_7B = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,  # the published code's; Llama 2 itself has 1e-5
    "pad_token_id": 0,
}
WHISPER_LARGE_V2 = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 80,
}


class WavLLMConfig(PreTrainedConfig):
    """Everything that decides shapes and arithmetic.

    profile: "published" repeats the released code, one row at a time: no padding masks, `<s>` right after the audio
        at inference, all vectors of the last 30 s window; "corrected" masks padding, keeps the true first token and
        gives the last window its own length
    windows: whether Whisper hears 30 s windows padded with silence, or windows as long as the audio
    gate_order: "interleaved" where the gate's channels stand in the released code's order for rotary positions
    gate_init: "ones" starts the gate near 1, which is plain LoRA; "linear" as the released code does, near 0
    lora_init: "published" starts A 1/sqrt(rank) wide, "peft" 1/sqrt(width)
    loss_normaliser: divide the summed loss by the target's tokens, or as published by the right prompt's too
    """

    model_type = "wavllm"
    sub_configs: ClassVar = {
        "semantic_config": WhisperConfig,
        "acoustic_config": WavLMConfig,
        "text_config": AutoConfig,
    }

    def __init__(
        self,
        semantic_config: WhisperConfig | dict[str, Any] | None = None,
        acoustic_config: WavLMConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        profile: Profile = "corrected",
        windows: Windows = "padded",
        semantic_conv_dims: tuple[int, int] = (1280, 2048),
        acoustic_conv_dims: tuple[int, int] = (512, 2048),
        bottleneck_dim: int = 512,
        adapter_dim: int = 2048,
        lora_rank: int = 32,
        lora_alpha: int = 32,
        lora_dropout: float = 0.1,
        lora_init: LoraInit = "peft",
        use_gate: bool = True,
        gate_dim: int = 1024,
        gate_max: float = 3.0,
        gate_init: GateInit = "ones",
        gate_order: GateOrder = "split",
        loss_normaliser: LossNormaliser = "target",
        audio_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.semantic_config = _sub_config(WhisperConfig, semantic_config, WHISPER_LARGE_V2)
        self.acoustic_config = _sub_config(WavLMConfig, acoustic_config, {})
        self.text_config = _sub_config(AutoConfig, text_config, LLAMA_2_7B)
        choices = (
            ("profile", profile, Profile),
            ("windows", windows, Windows),
            ("gate_init", gate_init, GateInit),
            ("gate_order", gate_order, GateOrder),
            ("lora_init", lora_init, LoraInit),
            ("loss_normaliser", loss_normaliser, LossNormaliser),
        )
        for name, value, kind in choices:
            if value not in get_args(kind):
                raise ValueError(f"{name}: {value!r}; it is one of {', '.join(get_args(kind))}")
            setattr(self, name, value)
        self.semantic_conv_dims, self.acoustic_conv_dims = list(semantic_conv_dims), list(acoustic_conv_dims)
        self.bottleneck_dim, self.adapter_dim = bottleneck_dim, adapter_dim
        self.lora_rank, self.lora_alpha, self.lora_dropout = lora_rank, lora_alpha, lora_dropout
        self.use_gate, self.gate_dim, self.gate_max = use_gate, gate_dim, gate_max
        # Stands in `input_ids` for the whole audio. Past the vocabulary, so that no text can hold it.
        self.audio_token_id = self.text_config.vocab_size if audio_token_id is None else audio_token_id
        kwargs.setdefault("tie_word_embeddings", False)  # of this wrapper; the language model has its own
        kwargs.setdefault("attn_implementation", self.text_config._attn_implementation)
        super().__init__(**kwargs)

    @property
    def lora(self) -> LoraConfig:
        """What the gate and LoRA are built from."""
        return LoraConfig(self.lora_rank, self.lora_alpha, self.lora_dropout, self.gate_dim, self.gate_max)


def _sub_config(kind: Any, given: Any, default: dict[str, Any]) -> Any:
    if given is not None and not isinstance(given, dict):
        return given
    values = dict(default if given is None else given)
    if kind is AutoConfig:
        return AutoConfig.for_model(values.pop("model_type"), **values)
    values.pop("model_type", None)
    return kind(**values)
