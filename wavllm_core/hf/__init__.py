"""WavLLM in Hugging Face form; importing this registers it with transformers' Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from wavllm_core.hf.config import WavLLMConfig
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.processor import WavLLMFeatureExtractor, WavLLMProcessor

__all__ = ["WavLLMConfig", "WavLLMFeatureExtractor", "WavLLMForConditionalGeneration", "WavLLMProcessor"]

AutoConfig.register(WavLLMConfig.model_type, WavLLMConfig)
AutoModel.register(WavLLMConfig, WavLLMForConditionalGeneration)
AutoModelForMultimodalLM.register(WavLLMConfig, WavLLMForConditionalGeneration)
AutoFeatureExtractor.register(WavLLMConfig, WavLLMFeatureExtractor)
AutoProcessor.register(WavLLMConfig, WavLLMProcessor)
