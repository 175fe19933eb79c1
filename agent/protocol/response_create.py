"""What a client can ask of one response: everything its session says otherwise, and what it is an answer to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from agent.protocol.fields import MAX_TEXT_CHARS, Fields
from agent.protocol.formats import PCM_24_KHZ, AudioFormat
from agent.protocol.items import ItemReference, NewItem, read_input_item
from agent.protocol.settings import Modality, output_audio, output_modality, output_tokens
from agent.protocol.tools import FunctionTool, ToolChoice, read_tool_choice, read_tools

MAX_METADATA_PAIRS: Final = 16
MAX_INPUT_ITEMS: Final = 64


@dataclass(frozen=True, slots=True)
class ResponseCreate:
    """Answer now; whatever is None is as the session has it."""

    event_id: str | None = None
    instructions: str | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    output: Modality | None = None
    output_format: AudioFormat | None = None
    tools: tuple[FunctionTool, ...] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    out_of_band: bool = False  # it is no part of the conversation
    input: tuple[NewItem | ItemReference, ...] | None = None  # instead of the conversation
    say: str | None = None  # extension: this text, word for word, instead of an answer of the model


def read_response_create(event_id: str | None, fields: Fields) -> ResponseCreate:
    """Raises ProtocolError."""
    if fields.values.get("response") is None:
        return ResponseCreate(event_id)
    response = fields.object("response")
    conversation = "auto"
    if response.values.get("conversation") is not None:
        conversation = response.choice("conversation", ["auto", "none"])
    response.refuse("prompt", "this server keeps no prompt templates; send instructions")
    parallel = "parallel_tool_calls"
    return ResponseCreate(
        event_id,
        response.optional_text("instructions", MAX_TEXT_CHARS),
        output_tokens(response) if response.values.get("max_output_tokens") is not None else None,
        _metadata(response),
        output_modality(response),
        output_audio(response, PCM_24_KHZ)[0],
        read_tools(response),
        read_tool_choice(response),
        response.flag(parallel) if response.values.get(parallel) is not None else None,
        conversation == "none",
        _input(response),
        _say(response),
    )


def _input(response: Fields) -> tuple[NewItem | ItemReference, ...] | None:
    if response.values.get("input") is None:
        return None
    return tuple(read_input_item(item) for item in response.objects("input", MAX_INPUT_ITEMS))


def _say(response: Fields) -> str | None:
    text = response.optional_text("wavllm_say", MAX_TEXT_CHARS)
    if text is not None and not text.strip():
        raise response.wrong("wavllm_say", "something to say")
    return text


def _metadata(response: Fields) -> dict[str, str]:
    if response.values.get("metadata") is None:
        return {}
    pairs = response.object("metadata")
    if len(pairs.values) > MAX_METADATA_PAIRS or any(len(name) > 64 for name in pairs.values):
        limit = f"an object of at most {MAX_METADATA_PAIRS} keys of at most 64 characters"
        raise response.wrong("metadata", limit)
    return {name: pairs.text(name, max_chars=512) for name in pairs.values}
