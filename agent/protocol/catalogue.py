"""Every event of Realtime and of this server: what becomes of it, and why. `python -m agent.protocol.catalogue`
prints docs/protocol.md, which a test holds to this file, and this file to the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from agent.protocol.client_events import MAX_AUDIO_END_MS, NO_WEBRTC
from agent.protocol.fields import MAX_AUDIO_CHARS, MAX_DEPTH, MAX_ID_CHARS, MAX_MESSAGE_BYTES, MAX_TEXT_CHARS
from agent.protocol.interruption import MAX_BACK_CHANNEL_CHARS, MAX_BACK_CHANNELS, MAX_HOLD_MS
from agent.protocol.items import MAX_CONTENT_PARTS
from agent.protocol.legacy import EVENTS, NOT_TOLD
from agent.protocol.response_create import MAX_INPUT_ITEMS, MAX_METADATA_PAIRS
from agent.protocol.settings import MAX_OUTPUT_TOKENS
from agent.protocol.tools import MAX_TOOL_CHARS, MAX_TOOLS

Support = Literal["yes", "extension", "legacy names only", "refused", "never sent"]

NO_MCP: Final = "this server reaches no MCP servers; a tool of that type is refused"
NOT_OVER_WEBSOCKET: Final = "of WebRTC and SIP only"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event."""

    name: str
    support: Support
    note: str


CLIENT: Final = (
    Entry("session.update", "yes", "deep merge, read whole before anything changes; null is a value of its own"),
    Entry("input_audio_buffer.append", "yes", "not answered; binary frames say the same without base64"),
    Entry("input_audio_buffer.commit", "yes", "at least 100 ms; also ends a turn that the server follows"),
    Entry("input_audio_buffer.clear", "yes", ""),
    Entry("output_audio_buffer.clear", "refused", NO_WEBRTC),
    Entry("conversation.item.create", "yes", "messages in text or audio, function calls and their outputs"),
    Entry("conversation.item.retrieve", "yes", "with audio, of the newest items (4 MiB a session)"),
    Entry("conversation.item.delete", "yes", ""),
    Entry(
        "conversation.item.truncate",
        "yes",
        "of spoken replies: words that were not heard leave the history; ends one under way",
    ),
    Entry("response.create", "yes", "every override; out of band, up to 4 at a time; `input` and item references"),
    Entry(
        "response.cancel",
        "yes",
        "without response_id: the one in the conversation; no error after a truncation that ended it",
    ),
    Entry("wavllm.playback.ack", "extension", "how much of a spoken reply was played; answered by `wavllm.playback`"),
    Entry("wavllm.speaker.name", "extension", "call a numbered voice by name from now on, in this session"),
    Entry("wavllm.speaker.enrol", "extension", "the same, and know it in later ones, where the operator allows that"),
    Entry("transcription_session.update", "legacy names only", "session.update of a transcription session"),
)
SERVER: Final = (
    Entry("session.created", "yes", "with `wavllm`: version and extensions"),
    Entry("session.updated", "yes", "the whole effective session"),
    Entry("conversation.created", "never sent", "not part of the present protocol"),
    Entry("conversation.item.added", "yes", ""),
    Entry("conversation.item.done", "yes", ""),
    Entry("conversation.item.retrieved", "yes", ""),
    Entry("conversation.item.deleted", "yes", ""),
    Entry("conversation.item.truncated", "yes", "also by the server, where acknowledgements tell what was played"),
    Entry("conversation.item.input_audio_transcription.delta", "yes", ""),
    Entry("conversation.item.input_audio_transcription.segment", "yes", "one for a turn, with its speaker"),
    Entry("conversation.item.input_audio_transcription.completed", "yes", "usage by duration"),
    Entry("conversation.item.input_audio_transcription.failed", "yes", ""),
    Entry("input_audio_buffer.committed", "yes", ""),
    Entry("input_audio_buffer.cleared", "yes", "also when a new input format or turn detection drops audio"),
    Entry("input_audio_buffer.speech_started", "yes", ""),
    Entry("input_audio_buffer.speech_stopped", "yes", ""),
    Entry(
        "input_audio_buffer.timeout_triggered", "yes", "after `idle_timeout_ms` of silence; then the server speaks up"
    ),
    Entry("input_audio_buffer.dtmf_event_received", "never sent", "of SIP only"),
    Entry("output_audio_buffer.started", "never sent", NOT_OVER_WEBSOCKET),
    Entry("output_audio_buffer.stopped", "never sent", NOT_OVER_WEBSOCKET),
    Entry("output_audio_buffer.cleared", "never sent", NOT_OVER_WEBSOCKET),
    Entry("response.created", "yes", "with `wavllm_resumes`, where it goes on with a response that nothing broke off"),
    Entry("response.done", "yes", "with `wavllm_latency`"),
    Entry("response.output_item.added", "yes", ""),
    Entry("response.output_item.done", "yes", ""),
    Entry("response.content_part.added", "yes", ""),
    Entry("response.content_part.done", "yes", ""),
    Entry("response.output_text.delta", "yes", ""),
    Entry("response.output_text.done", "yes", ""),
    Entry("response.output_audio.delta", "yes", "paced: never far ahead of its playing"),
    Entry("response.output_audio.done", "yes", ""),
    Entry("response.output_audio_transcript.delta", "yes", "a sentence before its audio"),
    Entry("response.output_audio_transcript.done", "yes", ""),
    Entry("response.function_call_arguments.delta", "yes", "the arguments at once: they are checked first"),
    Entry("response.function_call_arguments.done", "yes", ""),
    Entry("mcp_list_tools.in_progress", "never sent", NO_MCP),
    Entry("mcp_list_tools.completed", "never sent", NO_MCP),
    Entry("mcp_list_tools.failed", "never sent", NO_MCP),
    Entry("response.mcp_call_arguments.delta", "never sent", NO_MCP),
    Entry("response.mcp_call_arguments.done", "never sent", NO_MCP),
    Entry("response.mcp_call.in_progress", "never sent", NO_MCP),
    Entry("response.mcp_call.completed", "never sent", NO_MCP),
    Entry("response.mcp_call.failed", "never sent", NO_MCP),
    Entry("rate_limits.updated", "yes", "at the beginning of a response"),
    Entry("error", "yes", "names code, message, param and the client's event_id; the session goes on"),
    Entry("wavllm.speaker", "extension", "who spoke: number in the session, name and id where known, confidence"),
    Entry("wavllm.speaker.named", "extension", "a voice has a name from now on; with `id`: also in later sessions"),
    Entry(
        "wavllm.function", "extension", "a call that the server answers: `in_progress`, then `completed` or `failed`"
    ),
    Entry("wavllm.timer", "extension", "a timer of the server was `set`, `cancelled`, or is `over`"),
    Entry("wavllm.playback", "extension", "of a spoken reply: ms generated, sent, played, and certain in the history"),
    Entry("wavllm.speech_ignored", "extension", "short speech into a reply, which goes on (`hold_ms`)"),
    Entry(
        "wavllm.turn_detection_degraded",
        "extension",
        "`semantic_vad` waits for a fixed silence: this model cannot tell; told once",
    ),
    *(Entry(old, "legacy names only", f"instead of `{new}`") for old, new in EVENTS.items()),
    Entry("transcription_session.created", "legacy names only", "instead of `session.created`"),
    Entry("transcription_session.updated", "legacy names only", "instead of `session.updated`"),
)
ERRORS: Final = {
    "invalid_json": "the message is not a JSON object",
    "unknown_event": "there is no event of this type",
    "unsupported_event": "there is, but not here; the message says why",
    "missing_required_parameter": "a field is missing",
    "invalid_value": "a field has a value it cannot have; the message says which it may",
    "invalid_type": "a member of a list is no object",
    "invalid_base64": "audio that cannot be decoded",
    "invalid_audio": "audio that ends within a sample",
    "string_above_max_length": "a text, a list of tools or audio beyond its limit",
    "message_too_large": "a message beyond its limit",
    "unsupported_parameter": "a field asks for something this server does not do",
    "immutable_parameter": "the model, or what kind of session it is, cannot change any more",
    "cannot_update_voice": "the voice was heard already",
    "item_not_found": "there is no item of this id",
    "invalid_tool_call_id": "there is no function call of this id, or the server answers it itself",
    "input_audio_buffer_commit_empty": "less than 100 ms were appended",
    "input_audio_buffer_full": "more was appended than one turn may have; the rest is dropped, and told once",
    "conversation_already_has_active_response": "cancel it first, or wait for `response.done`",
    "response_cancel_not_active": "there is nothing to cancel; harmless",
    "too_many_responses": "4 responses outside the conversation are under way",
    "session_expired": "the session has lasted as long as one may; the connection is closed with 1001",
    "server_full": "no room for one more session; the connection is closed with 1013",
    "rate_limit_exceeded": "more messages a second than a connection may send; they wait; told once",
    "speaker_not_found": "nobody has spoken under this number",
    "voice_failed": "replies go on in writing; told once",
}
FAILED_CALLS: Final = {
    "not_allowed": "whoever spoke may not have this function called, or nobody knows who it was",
    "invalid_arguments": "they do not fit the function's description; the message names the one",
    "timeout": "it took longer than the server allows",
    "too_large": "its output is beyond the limit",
    "interrupted": "the response ended before; it may have been done all the same",
    "too_many": "so many timers are running already",
    "exists": "there is a timer of this name",
    "unknown": "there is no timer of this name",
}
LIMITS: Final = {
    "message": f"{MAX_MESSAGE_BYTES // 2**20} MiB",
    "objects and lists in each other": f"{MAX_DEPTH} deep",
    "audio of one message": f"{MAX_AUDIO_CHARS // 2**20} MiB of base64",
    "instructions, or the text of one item": f"{MAX_TEXT_CHARS} characters",
    "ids and names": f"{MAX_ID_CHARS} characters",
    "content parts of an item": str(MAX_CONTENT_PARTS),
    "items of `input`": str(MAX_INPUT_ITEMS),
    "tools": f"{MAX_TOOLS}, each of {MAX_TOOL_CHARS} characters",
    "metadata": f"{MAX_METADATA_PAIRS} pairs",
    "max_output_tokens": f"{MAX_OUTPUT_TOKENS}, or what the server is configured for",
    "hold_ms, short_ms, unsure_ms": f"{MAX_HOLD_MS}",
    "back_channels": f"{MAX_BACK_CHANNELS} phrases of {MAX_BACK_CHANNEL_CHARS} characters",
    "audio_end_ms": f"{MAX_AUDIO_END_MS // 3_600_000} hours",
}
INTRODUCTION: Final = f"""\
# The protocol

OpenAI Realtime over a WebSocket at `/v1/realtime`, by the names of general availability. Printed by
`python -m agent.protocol.catalogue`; a test holds this page to the code.

- `?model=` may be any name: there is one model. `?intent=transcription` makes a session that only transcribes, as
  does `session.update` with `type: transcription` before anything was said.
- The header `OpenAI-Beta: realtime=v1` (or `server.legacy_events` in the configuration) asks for the names of the beta;
  then `{NOT_TOLD}` is not sent, and complaints still name fields as they are called today.
- Tools are offered to models whose own chat template shows how they are called (`<tool_call>` and JSON, as Hermes and
  Qwen have it); with any other they are refused. The shipped nano model writes no calls: the order that it confirms
  becomes one of `make_coffee`, where a client offers that function. With the former,
  `tool_choice` may be `required` or name a function, too: the reply is begun for the model as a call, and the response
  fails where what it writes is none. nano cannot be made to call.
- What speech into a reply does is set by `session.wavllm.interruption`. As it stands, the reply stops at once, as with
  OpenAI. When what stopped it turns out to be no words, or none but `back_channels`, the reply is taken up again where
  it was cut, in a response that names the one before (`wavllm_resumes`); the model has no part in that, and
  `resume: false` has such turns answered like any other. With `hold_ms` the reply goes on meanwhile: only so much
  voice, or words, stop it, and `speech_started` is sent then; what ends before is told as `wavllm.speech_ignored` and
  is no turn. Less voice than `short_ms` is no words, whatever it is taken for. Less than `unsure_ms` is no words where
  the model is not sure of them (`min_confidence`, against the geometric mean of its tokens' probabilities): its
  transcript is empty then, and where it is a turn it is answered by a response of no words, for which the model is not
  asked. `include: ["item.input_audio_transcription.logprobs"]` tells the probabilities.
- Functions of the server's own are named in `session.wavllm.functions`, and no client offers one of such a name. Calls
  of them, and calls that whoever spoke may not have made, are no output of the response: they are items of the
  conversation, each followed by its output, and the model goes on in the same response ([functions.md](functions.md)).
- Extensions are extra keys, and events that begin with `wavllm.`; `session.created` announces them. The events are
  sent to clients that have used the name themselves, if only by an empty `session.wavllm`: a strict client, such as
  that of OpenAI's Agents SDK, takes every event that it does not know for an error.
"""


def page() -> str:
    """docs/protocol.md."""
    return "\n".join(
        [
            INTRODUCTION,
            "## What a client may say\n",
            *_table(("event", "", ""), ((f"`{e.name}`", e.support, e.note) for e in CLIENT)),
            "\n## What the server says\n",
            *_table(("event", "", ""), ((f"`{e.name}`", e.support, e.note) for e in SERVER)),
            "\n## What is complained about\n",
            *_table(("code", "meaning"), ((f"`{code}`", meaning) for code, meaning in sorted(ERRORS.items()))),
            "\n## Why a call of `wavllm.function` has failed\n",
            *_table(("code", "meaning"), ((f"`{code}`", meaning) for code, meaning in sorted(FAILED_CALLS.items()))),
            "\n## Limits\n",
            *_table(("of", "at most"), LIMITS.items()),
            "",
        ]
    )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


if __name__ == "__main__":
    print(page(), end="")
